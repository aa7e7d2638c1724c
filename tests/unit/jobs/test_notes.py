"""What a user is told before work starts, and how warnings look on the command line."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

from medidiff import cli
from medidiff.config import load_config
from medidiff.jobs.benchmark import warn_of_measurements
from medidiff.jobs.codecs import slab_notes
from medidiff.jobs.splits import Splits

SMOKE = Path(__file__).resolve().parents[3] / "configs" / "smoke-2d.yaml"


def test_slabs_behind_a_codec_are_told_of_before_they_are_trained() -> None:
    slab = "data.slices={plane: axial, thickness: 3}"
    assert slab_notes(load_config(SMOKE, [slab]).config) == []
    (note,) = slab_notes(load_config(SMOKE, [slab, "codec={kind: wavelet}"]).config)
    assert "slabs of 3 slices behind a codec (wavelet)" in note


def test_a_benchmark_of_measured_rows_says_that_it_simulates_them(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("subject,image,split\na,a.nii.gz,val\nb,b.h5,test\n")
    model = SimpleNamespace(spec=SimpleNamespace(columns=("image",)))
    with pytest.warns(UserWarning, match="row 3 of split 'test' hold k-space"):
        warn_of_measurements(model, manifest, Splits(), "test")  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_measurements(model, manifest, Splits(), "val")  # type: ignore[arg-type]


def test_a_command_that_is_interrupted_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise SystemExit(130)

    monkeypatch.setattr(cli, "app", interrupted)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    with pytest.raises(SystemExit):
        cli.main()
    assert "stopped (Ctrl-C)" in capsys.readouterr().err


def test_a_warning_of_ours_shows_no_source_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    left: list[object] = []
    monkeypatch.setattr(warnings, "showwarning", lambda *told: left.append(told[0]))
    cli._tell_warnings()
    for _ in range(2):  # each is told once
        warnings.showwarning("look", UserWarning, cli.__file__, 1)
    warnings.showwarning("theirs", UserWarning, "/elsewhere/torch.py", 7)
    assert capsys.readouterr().err == "medidiff: warning: look\n"
    assert left == ["theirs"]
