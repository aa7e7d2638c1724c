"""Frozen option dataclasses from plain trees (YAML, JSON) and back.

One dataclass is at once an algorithm's options and its entry in a configuration. Reading reports
every problem in one pass, with the dotted key, what was found and the nearest valid name; nothing
is executed.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, TypeVar, Union

import pydantic

T = TypeVar("T")


class OptionError(ValueError):
    """Problems found while reading options: (dotted key, message) pairs."""

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        self.problems = list(problems)
        super().__init__("; ".join(f"{key}: {message}" for key, message in problems))


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
        return typing.cast(Any, _reader(kind)(value=tree)).value
    except pydantic.ValidationError as error:
        problems = [_problem(kind, dict(item)) for item in error.errors()]
        raise OptionError(list(dict.fromkeys(problems))) from None


def tree(value: object) -> Any:
    """Plain dicts, lists and numbers that `read` turns back into `value`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: tree(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): tree(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [tree(item) for item in value]
    return value


def json_schema(kind: type | Any) -> dict[str, Any]:
    """The JSON schema of `kind`, for editors."""
    schema = pydantic.TypeAdapter(kind).json_schema()
    for definition in [schema, *schema.get("$defs", {}).values()]:
        if definition.get("type") == "object":
            definition["additionalProperties"] = False
    return schema


def nearest(name: str, names: Sequence[str]) -> str:
    """ " Did you mean 'x'?" for the nearest of `names`, else the list of them."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(sorted(names))}"


def _problem(kind: Any, error: dict[str, Any]) -> tuple[str, str]:
    path = list(error["loc"])[1:]
    key = ".".join(str(part) for part in _without_tags(kind, path)) or "(top)"
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = _names(_descend(kind, path[:-1]))
        return key, f"unknown key; {nearest(str(path[-1]), known)}"
    if error["type"] in ("missing", "missing_argument"):
        return key, "this key is needed and is not given"
    if error["type"] == "union_tag_not_found":
        tags = [str(_tag(member)) for member in _members(_descend(kind, path))]
        return f"{key}.kind", f"this key is needed and is not given; {nearest('', tags)}"
    if error["type"] == "union_tag_invalid":
        tags = [tag.strip(" '") for tag in error["ctx"]["expected_tags"].split(",")]
        return (
            f"{key}.kind",
            f"unknown kind {error['ctx']['tag']!r}; {nearest(error['ctx']['tag'], tags)}",
        )
    message = error["msg"].removeprefix("Value error, ")
    found = error.get("input")
    shown = f" (found {found!r})" if isinstance(found, str | int | float | bool) else ""
    return key, message[:1].lower() + message[1:] + shown


def _bare(kind: Any) -> Any:
    return typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind


def _members(kind: Any) -> tuple[Any, ...]:
    kind = _bare(kind)
    if typing.get_origin(kind) in (Union, types.UnionType):
        return tuple(_bare(member) for member in typing.get_args(kind))
    return (kind,)


def _tag(member: Any) -> str | None:
    if not dataclasses.is_dataclass(member):
        return None
    for field in dataclasses.fields(member):
        if field.name == "kind":
            return typing.cast(str, field.default)
    return None


def _names(kind: Any) -> list[str]:
    return [
        field.name
        for member in _members(kind)
        if dataclasses.is_dataclass(member)
        for field in dataclasses.fields(member)
    ]


def _steps(kind: Any, path: Sequence[Any]) -> Iterator[tuple[Any, Any, bool]]:
    """Walk `path` through the type: (part, type after it, whether the part is a union's tag)."""
    for part in path:
        members = _members(kind)
        tagged = [member for member in members if part is not None and _tag(member) == part]
        if tagged and len(members) > 1:
            kind = tagged[0]
            yield part, kind, True
            continue
        inner: Any = object
        for member in members:
            if dataclasses.is_dataclass(member) and isinstance(part, str):
                inner = typing.get_type_hints(member, include_extras=True).get(part, inner)
            elif isinstance(part, int) and typing.get_args(member):
                inner = typing.get_args(member)[0]
        kind = inner
        yield part, kind, False


def _descend(kind: Any, path: Sequence[Any]) -> Any:
    found = kind
    for _, found, _ in _steps(kind, path):  # noqa: B007 the last one is what is wanted
        pass
    return found


def _without_tags(kind: Any, path: Sequence[Any]) -> list[Any]:
    return [part for part, _, tagged in _steps(kind, path) if not tagged]
