"""key=value as it is typed: one reader for --change, --set, --condition and --share."""

from __future__ import annotations

import pytest

from medidiff.changes import pairs, parse_change, put
from medidiff.cli_options import settings_of
from medidiff.errors import ConfigError


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("train.steps", "--change train.steps: write it as key=value, e.g. train.steps=500"),
        ("=5", "write it as key=value"),
        ("a={b", "--change a={b: the value is not valid YAML"),
    ],
)
def test_what_is_no_change_is_shown_how_to_be_one(item: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_change(item)


def test_a_key_given_twice_is_an_error() -> None:
    assert pairs(["sex=F", "note=a=b"], "--condition") == {"sex": "F", "note": "a=b"}
    with pytest.raises(ConfigError, match="sex is given twice"):
        pairs(["sex=F", "sex=M"], "--condition")


def test_a_change_makes_the_sections_that_are_left_out_but_no_value_into_one() -> None:
    tree: dict[str, object] = {"train": None, "name": "a"}
    put(tree, "train.ema.kind", "power", "train.ema.kind=power")
    assert tree == {"train": {"ema": {"kind": "power"}}, "name": "a"}
    with pytest.raises(ConfigError, match="'name' is not a section"):
        put(tree, "name.first", 1, "name.first=1")


def test_options_of_a_task_have_dotted_keys_as_their_errors_do() -> None:
    typed = [
        "sigma=0.1",
        "posterior.method.kind=ddrm",
        "posterior.steps=9",
        "posterior.method.eta=1",
    ]
    found = settings_of(typed)
    assert found["posterior"] == {"method": {"kind": "ddrm", "eta": 1}, "steps": 9}
    assert found["sigma"] == 0.1
    assert settings_of(["posterior={steps: 3, draws: 1}", "posterior.steps=4"]) == {
        "posterior": {"steps": 4, "draws": 1}
    }
    with pytest.raises(ConfigError, match=r"--set sigma\.low=1: 'sigma' is not a section"):
        settings_of(["sigma=0.1", "sigma.low=1"])
    with pytest.raises(ConfigError, match="no option of a task"):
        settings_of(["seed.low=1"])
