"""Subjects are dealt whole, in the shares asked for, alike in every stratum."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from medidiff.data.manifest import read_manifest, read_table
from medidiff.data.manifest_files import with_splits
from medidiff.data.splitting import SplitOptions, assign_splits
from medidiff.errors import ConfigError, ManifestError
from medidiff.jobs.manifests import split


def manifest(folder: Path, count: int = 60) -> Path:
    lines = ["subject,image,site,sex:category,age:number"]
    for index in range(count):
        for visit in range(1 + index % 2):
            lines.append(
                f"s{index},scans/{index}-{visit}.nii,{'ABC'[index % 3]},"
                f"{'FM'[index // 3 % 2]},{index}"
            )
    path = folder / "m.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_shares_hold_over_all_and_in_every_stratum(tmp_path: Path) -> None:
    table = read_manifest(manifest(tmp_path))
    options = SplitOptions((("train", 0.7), ("val", 0.1), ("test", 0.2)), ("site", "sex", "age"))
    chosen = assign_splits(table, options)
    counts = Counter(chosen.values())
    assert counts == {"train": 42, "val": 6, "test": 12}
    for column in ("site", "sex"):
        strata = Counter(
            (row.text.get(column) or row.categories.get(column), chosen[row.subject])
            for row in {row.subject: row for row in table.rows}.values()
        )
        values = {value for value, _ in strata}
        shares = [
            strata[value, "train"] / sum(strata[value, s] for s in counts) for value in values
        ]
        assert max(shares) - min(shares) < 0.12


def test_the_seed_decides_and_nothing_else(tmp_path: Path) -> None:
    table = read_manifest(manifest(tmp_path))
    first = assign_splits(table, SplitOptions())
    assert first == assign_splits(table, SplitOptions())
    assert first != assign_splits(table, SplitOptions(seed=1))


def test_a_site_held_out_is_held_out_whole(tmp_path: Path) -> None:
    table = read_manifest(manifest(tmp_path))
    chosen = assign_splits(table, SplitOptions(hold_out=("B",)))
    sites = {(row.text["site"], chosen[row.subject]) for row in table.rows}
    assert {site for site, where in sites if where == "test"} == {"B"}
    assert ("B", "train") not in sites
    counts = Counter(chosen.values())
    assert counts == {"test": 20, "train": 36, "val": 4}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"stratify": ("sexx",)}, "no column 'sexx' to stratify by"),
        ({"hold_out": ("Secret Hospital",)}, "1 of the sites to hold out"),
        ({"hold_out": ("A",), "site_column": "place"}, "no column 'place'"),
    ],
)
def test_what_is_not_there_is_told_without_the_sites_names(
    options: dict, said: str, tmp_path: Path
) -> None:
    with pytest.raises(ManifestError, match=said) as caught:
        assign_splits(read_manifest(manifest(tmp_path)), SplitOptions(**options))
    assert "Secret" not in str(caught.value)


@pytest.mark.parametrize("shares", [(), (("a", 0.5),), (("a", 1.5), ("b", -0.5))])
def test_shares_that_do_not_add_up_are_refused(shares: tuple) -> None:
    with pytest.raises(ConfigError, match="add up to 1"):
        SplitOptions(shares)


def test_the_new_manifest_keeps_everything_and_finds_its_files(tmp_path: Path) -> None:
    path = manifest(tmp_path, 10)
    (tmp_path / "elsewhere").mkdir()
    out = tmp_path / "elsewhere" / "s.csv"
    said = split(path, out, SplitOptions())
    before, after = read_manifest(path), read_manifest(out)
    assert [c.name for c in after.columns] == [*(c.name for c in before.columns), "split"]
    for old, new in zip(before.rows, after.rows, strict=True):
        assert (old.subject, old.numbers, old.categories) == (
            new.subject,
            new.numbers,
            new.categories,
        )
        assert new.images["image"].resolve() == old.images["image"].resolve()
        assert new.split in ("train", "val", "test")
    assert "train: 8 subjects" in said


def test_a_json_manifest_is_written_as_csv(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(
        '{"format": 1, "columns": {"t1": "image", "age": "number"},'
        ' "rows": [{"subject": "a", "t1": "0.png", "age": 41.5}]}'
    )
    out = tmp_path / "m.csv"
    with_splits(read_table(path), path, out, {"a": "train"})
    assert out.read_text().splitlines() == [
        "t1:image,age:number,subject,split",
        "0.png,41.5,a,train",
    ]
