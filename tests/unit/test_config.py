"""Configurations: errors before the queue, nothing executed, what is saved reads back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medidiff.config import dump_config, load_config, schema
from medidiff.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
SHORT = """
name: a
modality: MR
output: runs/a
data:
  manifest: scans.csv
  space: {dims: 2, size: [32, 32]}
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "config.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_short_file_takes_the_defaults_and_reads_back_from_its_dump(tmp_path: Path) -> None:
    loaded = load_config(write(tmp_path, SHORT))
    assert loaded.manifest == tmp_path / "scans.csv"
    again = load_config(write(tmp_path, dump_config(loaded.config)))
    assert again.config == loaded.config


def test_a_change_reaches_the_key_that_it_names(tmp_path: Path) -> None:
    loaded = load_config(
        write(tmp_path, SHORT), ["train.steps=7", "diffusion.schedule={kind: flow}"]
    )
    assert loaded.config.train.steps == 7
    assert loaded.config.diffusion.schedule.kind == "flow"


def test_a_manifest_in_a_change_is_found_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "here"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    file = write(tmp_path, SHORT)
    assert load_config(file).manifest.parent == tmp_path
    changed = load_config(file, ["data.manifest=scans.csv"])
    assert changed.manifest == elsewhere / "scans.csv"


def test_a_misspelt_key_is_named_with_its_file_and_the_nearest_key(tmp_path: Path) -> None:
    file = write(tmp_path, SHORT + "train: {step: 5, lerning_rate: 1}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    text = str(caught.value)
    assert str(file) in text
    assert "2 problems" in text
    assert "train.step: unknown key; did you mean 'steps'?" in text
    assert "train.lerning_rate: unknown key; did you mean 'learning_rate'?" in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
        ("name: a\nname: b\n", "given twice"),
        ("- 1\n", "expected keys and values"),
    ],
)
def test_what_is_not_plain_yaml_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config(write(tmp_path, text))


def test_a_change_reaches_into_a_section_that_a_run_s_own_file_has_as_null(tmp_path: Path) -> None:
    whole = tmp_path / "whole.yaml"
    whole.write_text(dump_config(load_config(write(tmp_path, SHORT)).config))
    assert "patch: null" in whole.read_text()
    patch = load_config(whole, ["data.patch.size=[16, 16]"]).config.data.patch
    assert patch is not None
    assert tuple(patch.size) == (16, 16)


@pytest.mark.parametrize("change", ["train.steps", "=5", "name.x=1"])
def test_a_change_that_cannot_be_applied_says_how_to_write_it(tmp_path: Path, change: str) -> None:
    with pytest.raises(ConfigError, match="--change"):
        load_config(write(tmp_path, SHORT), [change])


def test_the_schema_in_the_repository_is_the_one_that_the_code_makes() -> None:
    kept = json.loads((ROOT / "configs" / "schema.json").read_text(encoding="utf-8"))
    assert kept == json.loads(json.dumps(schema())), "run: medidiff schema > configs/schema.json"


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_every_configuration_in_the_repository_is_sound(file: Path) -> None:
    load_config(file)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("diffusion.target={kind: eps}", "diffusion.target 'eps' cannot be read where alpha = 0"),
        ("diffusion.schedule.offset=0.1", "diffusion.schedule.kind: this key is needed .*cosine"),
        ("data.workers=0", r"data\.workers must be at least 1 \(found 0\)"),
    ],
)
def test_what_would_fail_later_fails_when_it_is_read(
    tmp_path: Path, change: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config(write(tmp_path, SHORT), [change])


@pytest.mark.parametrize("name", ["brain-t1-2d", "hippocampus-3d"])
def test_a_student_s_configuration_goes_with_its_parent_s(name: str) -> None:
    parent, student = (
        load_config(ROOT / "configs" / f"{each}.yaml").config for each in (name, f"{name}-student")
    )
    assert (student.data, student.network) == (parent.data, parent.network)
    for part in ("schedule", "target"):
        assert getattr(student.diffusion, part) == getattr(parent.diffusion, part)
    assert student.diffusion.objective.kind == "consistency"
