"""What is warned of is shown, and kept once each for who asks."""

from __future__ import annotations

import warnings

from medidiff.warned import kept_warnings, warn, warned_of, warnings_of


def test_a_warning_is_shown_where_its_caller_says_and_kept_once() -> None:
    with kept_warnings() as kept, warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        for message in ("one", "two", "one"):
            warn(message)
        assert warned_of() == ["one", "two"]
    assert kept == ["one", "two"]
    assert [str(each.message) for each in shown] == ["one", "two", "one"]
    assert {each.filename for each in shown} == {__file__}


def test_what_is_kept_within_is_kept_around_it_and_no_longer() -> None:
    with warnings.catch_warnings(), kept_warnings() as outer:
        warnings.simplefilter("ignore")
        warn("one")
        with kept_warnings() as inner:
            warn("one")
            warn("two")
    assert (outer, inner) == (["one", "two"], ["one", "two"])
    assert warned_of() == []


def test_one_that_is_never_shown_is_kept_all_the_same() -> None:
    with kept_warnings() as kept, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warn("one")
    assert kept == ["one"]


def test_of_several_inputs_each_is_warned_of_by_its_number_and_kept_without() -> None:
    with kept_warnings() as kept, warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        for row in (1, 2):
            with warnings_of(f"input {row}"):
                warn("much noise")
                warn(f"input {row} does not fit")
        warn("much noise")
    assert [str(each.message) for each in shown] == [
        "input 1: much noise",
        "input 1 does not fit",
        "input 2: much noise",
        "input 2 does not fit",
        "much noise",
    ]
    assert kept == ["much noise", "input 1 does not fit", "input 2 does not fit"]
