"""Frozen option dataclasses from plain trees (YAML, JSON) and back.

One dataclass is at once an algorithm's options and its entry in a configuration. Reading reports
every problem in one pass, with the dotted key, what was found and the nearest valid name; nothing
is executed.
"""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

import pydantic

from medidiff.option_problems import OptionProblem, members_of, nearest, problems_of, tag_of

T = TypeVar("T")

__all__ = [
    "Difference",
    "OptionError",
    "OptionProblem",
    "differences",
    "json_schema",
    "nearest",
    "read",
    "tree",
    "with_usual_kinds",
]


class OptionError(ValueError):
    """Problems found while reading options."""

    def __init__(self, problems: Sequence[OptionProblem]) -> None:
        self.problems = list(problems)
        super().__init__("; ".join(map(str, problems)))


@cache
def _reader(kind: Any) -> type[pydantic.BaseModel]:
    # A model around the dataclass: its configuration (no unknown keys) is inherited by all that is
    # nested.
    return pydantic.create_model(
        "Options",
        __config__=pydantic.ConfigDict(extra="forbid", arbitrary_types_allowed=True),
        value=(kind, ...),
    )


def read(kind: type[T] | Any, tree: object) -> T:
    """The options of type `kind` that `tree` describes.

    Errors: OptionError with every problem found.
    """
    try:
        found = typing.cast(Any, _reader(kind)(value=tree)).value
    except pydantic.ValidationError as error:
        raise OptionError(problems_of(kind, error.errors())) from None
    if nowhere := [OptionProblem(key, "must be a number (found nan)") for key in _nans(found)]:
        raise OptionError(nowhere)
    return found


def _nans(value: object, key: str = "") -> Iterator[str]:
    """The dotted keys of numbers that are none: no comparison of an option's own refuses them."""
    if isinstance(value, float) and math.isnan(value):
        yield key
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _nans(item, f"{key}.{name}" if key else str(name))


def tree(value: object) -> Any:
    """Plain dicts, lists and numbers that `read` turns back into `value`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: tree(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): tree(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [tree(item) for item in value]
    return value


def with_usual_kinds(kind: Any, tree: Mapping[str, object]) -> dict[str, object]:
    """`tree`, the options of a dataclass, with the `kind` of each section that has none and whose
    keys are all those of its default: {sigma: 1} of a measurement that is cartesian unless told."""
    hints = typing.get_type_hints(kind, include_extras=True)
    found = dict(tree)
    for field in dataclasses.fields(kind):
        section = found.get(field.name)
        if isinstance(section, Mapping):
            found[field.name] = _completed(members_of(hints[field.name]), field, section)
    return found


def _completed(
    members: tuple[Any, ...], field: dataclasses.Field[Any], section: Mapping[str, object]
) -> Mapping[str, object]:
    options = [member for member in members if dataclasses.is_dataclass(member)]
    if len(options) == 1:
        return with_usual_kinds(options[0], section)
    if "kind" not in section:
        section = _with_kind(field, section)
    named = [member for member in options if tag_of(member) == section.get("kind")]
    return with_usual_kinds(named[0], section) if named else section


def _with_kind(
    field: dataclasses.Field[Any], section: Mapping[str, object]
) -> Mapping[str, object]:
    usual: Any = field.default
    tag = tag_of(type(usual))
    if tag is None or not section.keys() <= {each.name for each in dataclasses.fields(usual)}:
        return section
    return {"kind": tag, **section}


@dataclasses.dataclass(frozen=True)
class Difference:
    """A dotted key that has two values, as they are written."""

    key: str
    old: str
    new: str


def differences(old: object, new: object, key: str = "") -> list[Difference]:
    """Each dotted key whose value differs between two trees."""
    if old == new:
        return []
    if isinstance(old, Mapping) and isinstance(new, Mapping) and old.keys() == new.keys():
        below = ((f"{key}.{name}" if key else str(name), name) for name in old)
        return [each for place, name in below for each in differences(old[name], new[name], place)]
    return [Difference(key, json.dumps(old), json.dumps(new))]


def json_schema(kind: type | Any) -> dict[str, Any]:
    """The JSON schema of `kind`, for editors."""
    schema = pydantic.TypeAdapter(kind).json_schema()
    for definition in [schema, *schema.get("$defs", {}).values()]:
        if definition.get("type") == "object":
            definition["additionalProperties"] = False
    return schema
