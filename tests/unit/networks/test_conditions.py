from __future__ import annotations

import math

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from medidiff.networks.conditions import (
    AnyCondition,
    ClassCondition,
    NumberCondition,
    drop,
    encode,
    encode_batch,
)

SEX = ClassCondition(name="sex", values=("F", "M"))
AGE = NumberCondition(name="age", mean=50.0, std=10.0)


def test_a_class_becomes_its_index_and_a_number_its_distance_from_the_mean():
    assert encode((SEX, AGE), {"age": 65.0, "sex": "M"}).tolist() == [1.0, 1.5]


def test_what_is_missing_or_not_given_is_nan():
    codes = encode_batch((SEX, AGE), [{"sex": None, "age": 50}, {"sex": "F"}, {}, None])
    assert codes.dtype == torch.float32
    assert codes.isnan().tolist() == [[True, False], [False, True], [True, True], [True, True]]
    assert encode((AGE,), {"age": math.nan}).isnan().all()


def test_a_number_may_come_as_text():
    assert encode((AGE,), {"age": "40"}).item() == -1.0


@pytest.mark.parametrize("value", ["old", "inf", math.inf])
def test_a_number_must_be_finite(value: str | float):
    with pytest.raises(ValueError, match=r"'age' is .* finite number"):
        encode((AGE,), {"age": value})


def test_an_unknown_class_is_refused_with_the_classes_there_are():
    with pytest.raises(ValueError, match="'sex' is 'X'; it must be one of 'F', 'M'"):
        encode((SEX,), {"sex": "X"})


def test_an_unknown_name_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match="called 'agee'; this network knows 'sex', 'age'"):
        encode((SEX, AGE), {"agee": 3.0})
    with pytest.raises(ValueError, match="takes none"):
        encode((), {"age": 3.0})


def test_no_conditions_make_rows_of_no_numbers():
    assert encode_batch((), [None, {}]).shape == (2, 0)
    assert encode_batch((SEX, AGE), []).shape == (0, 2)


def test_dropping_makes_unknown_what_is_not_kept_and_leaves_the_input_alone():
    codes = torch.tensor([[0.0, 1.0], [1.0, 2.0]])
    dropped = drop(codes, torch.tensor([[True, False], [False, True]]))
    assert dropped.isnan().tolist() == [[False, True], [True, False]]
    assert dropped[0, 0] == 0
    assert dropped[1, 1] == 2
    assert not codes.isnan().any()
    assert drop(codes, torch.tensor([[True], [False]])).isnan().tolist() == [
        [False] * 2,
        [True] * 2,
    ]


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"kind": "class", "name": "sex", "values": []}, "no values"),
        ({"kind": "class", "name": "sex", "values": ["F", "F"]}, "twice"),
        ({"kind": "class", "name": "", "values": ["F"]}, "needs a name"),
        ({"kind": "number", "name": ""}, "needs a name"),
        ({"kind": "number", "name": "age", "std": 0.0}, "std must be above 0"),
        ({"kind": "number", "name": "age", "mean": math.inf}, "mean must be finite"),
    ],
)
def test_options_that_make_no_sense_are_refused(tree: dict[str, object], message: str):
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(AnyCondition).validate_python(tree)


def test_options_are_read_back_from_their_json():
    adapter = TypeAdapter(tuple[AnyCondition, ...])
    assert adapter.validate_json(adapter.dump_json((SEX, AGE))) == (SEX, AGE)
