"""A run's folder: what is told of a run that is not the one to go on with."""

from __future__ import annotations

from pathlib import Path

import pytest

from medidiff.config import dump_config, load_config
from medidiff.errors import OutputError
from medidiff.jobs.folder import folder_to_resume

SMOKE = Path(__file__).resolve().parents[3] / "configs" / "smoke-2d.yaml"


def test_a_run_with_other_keys_names_each_with_both_values(tmp_path: Path) -> None:
    started = load_config(SMOKE, [f"data.manifest={tmp_path / 'manifest.csv'}"])
    (tmp_path / "config.yaml").write_text(dump_config(started.config))
    more = ["train.batch=8", "diffusion.schedule={kind: flow}", "train.minutes=3"]
    with pytest.raises(OutputError) as caught:
        folder_to_resume(
            tmp_path, load_config(SMOKE, [f"data.manifest={tmp_path / 'manifest.csv'}", *more])
        )
    told = str(caught.value).splitlines()
    assert "  train.batch: 4 when it was started, now 8" in told
    assert any(line.startswith('  diffusion.schedule: {"kind": "cosine"') for line in told)
    assert len(told) == 4, "train.minutes may differ"
    assert folder_to_resume(tmp_path, started).path == tmp_path
