import csv
import json
import math
from dataclasses import replace

import pytest

from medidiff.evaluation.bootstrap import Interval
from medidiff.report.tables import (
    Reference,
    markdown,
    paired_difference,
    plain_text,
    summarise,
    write_csv,
    write_json,
)

SUBJECTS = [f"S-{index:012x}" for index in range(20)]


def rows(setting: str = "sigma .1", gain: float = 1.0) -> list[dict[str, str | float | None]]:
    """Subjects differ by far more than methods do; ours is better by `gain` on each."""
    made: list[dict[str, str | float | None]] = []
    for index, subject in enumerate(SUBJECTS):
        base = 20.0 + index + 0.1 * (index % 3)
        for method, value in (("noisy", base - 5), ("tv", base - gain), ("ours", base)):
            made.append({"subject": subject, "method": method, "setting": setting, "psnr": value})
    return made


def test_a_summary_has_one_line_a_setting_and_method_over_subjects():
    summary = summarise([*rows(), *rows("sigma .2")], "psnr")
    assert [(s.setting, s.method) for s in summary] == [
        (setting, method)
        for setting in ("sigma .1", "sigma .2")
        for method in ("noisy", "tv", "ours")
    ]
    ours = summary[2].interval
    assert ours.n == 20
    assert ours.mean == pytest.approx(29.595)
    assert ours.low < ours.mean < ours.high


def test_several_rows_of_a_subject_count_as_one():
    many = rows() + [row for row in rows() for _ in range(10) if row["subject"] == SUBJECTS[-1]]
    found, expected = summarise(many, "psnr")[0].interval, summarise(rows(), "psnr")[0].interval
    assert found.n == expected.n
    assert found.mean == pytest.approx(expected.mean)


def test_the_paired_difference_is_far_sharper_than_the_means():
    (difference,) = paired_difference(rows(), "psnr", ours="ours")
    assert difference.baseline == "tv"
    assert difference.interval.low == pytest.approx(1.0)
    assert difference.interval.high == pytest.approx(1.0)
    assert difference.verdict == "better"


def test_the_best_baseline_is_the_lowest_where_lower_is_better():
    (difference,) = paired_difference(rows(), "psnr", ours="ours", better="lower")
    assert difference.baseline == "noisy"
    assert difference.verdict == "worse"


def test_only_named_baselines_are_rivals():
    (difference,) = paired_difference(rows(), "psnr", ours="ours", baselines=["noisy"])
    assert difference.baseline == "noisy"
    with pytest.raises(ValueError, match="needs 'ours' and a baseline"):
        paired_difference(rows(), "psnr", ours="ours", baselines=["unheard of"])


def test_an_interval_that_holds_zero_shows_no_difference():
    mixed = rows()
    for index, row in enumerate(mixed):
        if row["method"] == "ours":
            row["psnr"] = float(mixed[index - 1]["psnr"] or 0) + (-1) ** (index // 3)
    (difference,) = paired_difference(mixed, "psnr", ours="ours")
    assert difference.verdict == "no clear difference"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"psnr": None}, "same subjects; 1 are in one only, e.g. S-000000000000"),
        ({"psnr": math.nan}, "row 1: psnr is nan"),
        ({"psnr": "28"}, "row 1: psnr is '28'"),
        ({"subject": None}, "row 1 has no subject"),
    ],
)
def test_a_dropped_case_is_an_error_and_not_a_smaller_n(change, message):
    spoilt = rows()
    spoilt[0] |= change
    with pytest.raises(ValueError, match=message):
        summarise(spoilt, "psnr")


def test_an_unknown_metric_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"no row has the metric 'ssim'.*psnr"):
        summarise(rows(), "ssim")


def test_two_infinite_values_do_not_differ():
    perfect = [row | {"psnr": math.inf} for row in rows()]
    (difference,) = paired_difference(perfect, "psnr", ours="ours")
    assert difference.interval.mean == 0


def test_texts_show_means_intervals_counts_and_verdicts():
    summary = summarise(rows(), "psnr")
    differences = paired_difference(rows(), "psnr", ours="ours")
    for text in (markdown(summary, differences), plain_text(summary, differences)):
        assert "29.59 (26.9" in text or "29.60 (26.9" in text or "29.59 (27.0" in text
        assert "+1.000 (+1.000 to +1.000)" in text
        assert "better" in text
        assert "95% bootstrap interval over subjects" in text
    lines = markdown(summary).splitlines()
    assert lines[0] == "| setting | method | psnr | n |"
    assert lines[1] == "| --- | --- | --- | --- |"
    assert len({line.count("|") for line in lines[:5]}) == 1


def test_one_subject_has_no_interval():
    one = [row for row in rows() if row["subject"] == rows()[0]["subject"]]
    text = plain_text(summarise(one, "psnr"))
    assert "Measured once: no interval." in text
    assert " to " not in text
    assert "bootstrap" not in text


def test_a_bar_in_a_name_does_not_break_the_table():
    barred = [row | {"setting": "a|b"} for row in rows()]
    assert "a\\|b" in markdown(summarise(barred, "psnr"))


def test_a_csv_has_a_line_a_row_in_full_precision(tmp_path):
    place = tmp_path / "new" / "rows.csv"
    write_csv(
        place, [{"psnr": 1 / 3, "method": "m", "subject": "S-1", "setting": "s"}, {"ssim": 1.0}]
    )
    with place.open() as lines:
        found = list(csv.DictReader(lines))
    assert list(found[0]) == ["subject", "setting", "method", "psnr", "ssim"]
    assert float(found[0]["psnr"]) == 1 / 3
    assert found[1]["subject"] == ""
    assert [file.name for file in place.parent.iterdir()] == ["rows.csv"]


def test_json_is_strict_and_holds_everything(tmp_path):
    perfect = [row | {"psnr": math.inf} if row["method"] == "tv" else row for row in rows()]
    summary = summarise(perfect, "psnr")
    differences = paired_difference(perfect, "psnr", ours="ours", baselines=["noisy"])
    write_json(tmp_path / "r.json", perfect, summary, differences, {"seed": 0})

    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is not JSON")

    tree = json.loads((tmp_path / "r.json").read_text(), parse_constant=refuse)
    assert tree["format"] == 1
    assert tree["facts"] == {"seed": 0}
    assert tree["summary"][1]["interval"]["mean"] == "inf"
    assert tree["differences"][0]["verdict"] == "better"
    assert tree["rows"][0] == perfect[0]


def test_a_reference_to_real_sets_stands_in_text_and_json(tmp_path):
    scatter = Interval(0.01, -0.02, 0.05, 20, 0.95)
    inside, outside = (
        Reference("kernel_distance", "ours", value, 64, scatter) for value in (0.03, 0.3)
    )
    text = plain_text(summarise(rows(), "psnr"), (), [inside, outside])
    assert "as real sets" in text
    few = [replace(each, images=19) for each in (inside, outside)]
    assert [each.verdict for each in few] == [
        "fewer than 20 images: too few to tell",
        "outside the scatter of real sets",
    ]
    assert "outside the scatter of real sets" in text
    assert "0.01000 (-0.02000 to 0.05000)" in text
    write_json(tmp_path / "s.json", [], references=[inside, outside])
    stored = json.loads((tmp_path / "s.json").read_text())["real_against_real"]
    assert [item["within"] for item in stored] == [True, False]
    assert stored[0]["images"] == 64
    assert stored[0]["real_against_real"]["low"] == -0.02
