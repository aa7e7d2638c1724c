"""What scans say of their modality, and how rows with one problem are told."""

from __future__ import annotations

from medidiff.data.modality import modality_notes
from medidiff.data.rows import told_together


def test_scans_that_agree_need_no_note() -> None:
    assert modality_notes({2: "MR", 3: "mr"}, "MR") == []


def test_scans_that_say_nothing_or_something_else_are_counted_and_named() -> None:
    (silent,) = modality_notes(dict.fromkeys(range(2, 12)), "MR")
    assert "no scan states its modality" in silent
    some, other = modality_notes({2: None, 3: "CT", 4: "MR"}, "MR")
    assert "1 of 3 scans state no modality (row 2)" in some
    assert "1 of 3 scans are CT (row 3), but the configuration calls them MR" in other


def test_a_problem_of_many_rows_is_told_once_with_their_count() -> None:
    told = told_together({row: ["it is CT"] for row in range(2, 12)} | {3: ["it is CT", "small"]})
    assert told == ["10 rows: it is CT (rows 2, 3, 4, 5, 6, 7 and 4 more)", "row 3: small"]
    assert told_together({2: ["a", "b"], 5: ["a"]}) == ["row 2: a; b", "row 5: a"]
