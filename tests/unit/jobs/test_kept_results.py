"""What of an earlier result stays beside a new one, and which run it is said to be of."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

SOURCE = {"commit": "1", "date": "d", "hardware": "h", "versions": {}}


def row(what: str, value: float = 1.0) -> dict[str, Any]:
    from record import Measured

    return asdict(Measured(what, value, "dB", "higher"))


def test_coverage_measured_anew_leaves_the_rest_of_its_setting(benchmarks: Path) -> None:
    from inverse_problems import BY_SETTING
    from record import kept_of

    names = ["a, PSNR in-head, n=55", "a, in-head, above b: reached", "a, spread over error"]
    first = [*map(row, names), row("b, PSNR in-head, n=55")]
    result = {**SOURCE, "facts": {}, "rows": first}
    anew = ["a, coverage of the central 90 %: calibrated", "b, PSNR in-head, n=54"]
    old, kept = kept_of(result, anew, BY_SETTING)
    assert [each["what"] for each in old] == names[:2]
    assert kept == [SOURCE | {"settings": ["a"]}]
    # once more, as a later run finds it
    later = SOURCE | {"commit": "2"}
    second = {**later, "facts": {"kept": kept}, "rows": [*map(row, anew), *old]}
    _, again = kept_of(second, ["c, PSNR in-head, n=55"], BY_SETTING)
    assert again == [*kept, later | {"settings": ["a, spread", "b"]}]


def test_a_row_stays_with_the_run_that_measured_it(benchmarks: Path, tmp_path: Path) -> None:
    from record import Measured, earlier_result, write_result

    for names in (("a", "b", "c"), ("b", "d"), ("c",)):
        rows = [Measured(name, float(len(names)), "s", "lower") for name in names]
        earlier = earlier_result("parts", tmp_path)
        write_result("parts", rows, facts={names[0]: 1}, folder=tmp_path, earlier=earlier)
    found = json.loads((tmp_path / "parts.json").read_text(encoding="utf-8"))
    values = {each["what"]: each["ours"] for each in found["rows"]}
    assert values == {"c": 1.0, "b": 2.0, "d": 2.0, "a": 3.0}
    facts = found["facts"]
    assert [run["rows"] for run in facts.pop("measured earlier")] == [["a"], ["b", "d"]]
    assert facts == {"a": 1, "b": 1, "c": 1}


def test_a_result_of_the_repository_goes_on_with_every_row_and_its_run(benchmarks: Path) -> None:
    from inverse_problems import BY_SETTING
    from record import earlier_result, kept_of

    result = earlier_result("inverse_problems")
    rows, runs = kept_of(result, [], BY_SETTING)
    assert rows == result["rows"]
    assert runs[:-1] == result["facts"]["kept"]
    named = [name for run in runs for name in run["settings"]]
    assert sorted(named) == sorted({BY_SETTING.about(each["what"]) for each in rows})
