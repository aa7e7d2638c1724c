"""A parent that is missing or another is told before any scan is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from medidiff import api, options
from medidiff.config import load_config
from medidiff.errors import ModelError

SMOKE = Path(__file__).resolve().parents[3] / "configs" / "smoke-2d.yaml"


def test_a_missing_parent_is_told_before_the_manifest_is_read(tmp_path: Path) -> None:
    changes = [f"data.manifest={tmp_path / 'no.csv'}", f"output={tmp_path / 'run'}"]
    with pytest.raises(ModelError, match="--from MODEL"):
        api.train(SMOKE, changes=[*changes, "diffusion.objective={kind: spread, source: sn}"])
    assert not (tmp_path / "run").exists()


def test_differences_name_each_key_with_both_values() -> None:
    old, new = load_config(SMOKE).config, load_config(SMOKE, ["train.batch=8"]).config
    (found,) = options.differences(options.tree(old), options.tree(new))
    assert (found.key, found.old, found.new) == ("train.batch", "4", "8")
