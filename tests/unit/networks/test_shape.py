from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from medidiff.networks.conditions import ClassCondition, NumberCondition
from medidiff.networks.shape import NetworkShape


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"dims": 4}, "dims"),
        ({"in_channels": 0}, "in_channels must be at least 1"),
        ({"out_channels": 0}, "out_channels must be at least 1"),
        ({"concat_channels": -1}, "concat_channels"),
        ({"conditions": [{"kind": "number", "name": "a"}] * 2}, "different names"),
    ],
)
def test_a_shape_that_makes_no_sense_is_refused(tree: dict[str, object], message: str):
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(NetworkShape).validate_python(tree)


def test_a_shape_is_read_back_from_its_json():
    adapter = TypeAdapter(NetworkShape)
    conditions = (ClassCondition(name="sex", values=("F", "M")), NumberCondition(name="age"))
    shape = NetworkShape(dims=3, concat_channels=1, conditions=conditions)
    assert adapter.validate_json(adapter.dump_json(shape)) == shape
