"""What must not be imported before it is needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "monai", "mlflow", "pydantic", "numpy", "matplotlib")


def modules_after(code: str) -> set[str]:
    text = f"{code}\nimport sys; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import medidiff; medidiff.__version__",
        "import medidiff.cli",
        "import sys; sys.argv = ['medidiff', '--help']\n"
        "import medidiff.cli, contextlib, io\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    medidiff.cli.main()",
    ],
    ids=["import", "cli", "help"],
)
def test_nothing_heavy_is_imported_before_a_verb_runs(code: str) -> None:
    assert not modules_after(code) & set(HEAVY)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["plan", "gone.csv"], "gone.csv: there is no such manifest"),
        (["benchmark", "denoise", "m", "--manifest", "gone.csv"], "gone.csv: there is no such man"),
        (["manifest", "check", "gone.csv"], "gone.csv: there is no such manifest"),
        (["manifest", "build", "gone", "--out", "m.csv"], "gone: there is no such folder"),
        (["train", "gone.yaml"], "gone.yaml: there is no such configuration"),
        (["check", "here.yaml"], "there/gone.csv: there is no such manifest"),
        (["train", "here.yaml", "-c", "data.manifest=a.csv"], "a.csv: there is no such manifest"),
        (["run", "denoise", "m", "a.nii[2],a.h5", "--out", "o"], "a.h5: there is no such folder"),
        (["find-phi", "gone"], "gone: there is no such folder"),
    ],
)
def test_what_is_not_there_is_told_before_anything_heavy_is_imported(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.nii").touch()
    (tmp_path / "here.yaml").write_text("data: {manifest: there/gone.csv}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDIDIFF_HOME", str(tmp_path / "home"))
    code = (
        f"import sys; sys.argv = ['medidiff', *{words}]\n"
        "import medidiff.cli, contextlib, io\n"
        "with contextlib.redirect_stderr(io.StringIO()) as told, "
        "contextlib.suppress(SystemExit):\n"
        "    medidiff.cli.main()\n"
        f"assert {said!r} in told.getvalue(), told.getvalue()"
    )
    ours = set(HEAVY) - {"pydantic"}  # which Typer reads arguments with
    assert not modules_after(code) & ours


@pytest.mark.parametrize("typed", ["{}", "'{}'", '"{}"', " {}", "{} # of today"])
def test_a_typed_manifest_is_read_as_the_configuration_reads_it(typed: str, tmp_path: Path) -> None:
    from medidiff.cli_paths import check_config
    from medidiff.errors import ManifestError

    (file := tmp_path / "here.yaml").write_text("data: {manifest: gone.csv}\n")
    (manifest := tmp_path / "m.csv").touch()
    change = "data.manifest=" + typed.format(manifest)
    check_config(file, ["data.manifest=gone.csv", change])
    manifest.unlink()
    with pytest.raises(ManifestError, match=r"m\.csv: there is no such manifest"):
        check_config(file, [change])


def test_every_public_name_can_be_had_from_the_package() -> None:
    import medidiff

    for name in medidiff.__all__:
        assert getattr(medidiff, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = medidiff.trian  # type: ignore[attr-defined]
