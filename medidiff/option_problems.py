"""What is wrong with options, in the words of who typed them: key, what was found, what is allowed.

Pydantic names the branches of a union and its own types; here each of its errors becomes a dotted
key as it is typed and a sentence.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Union

WRONG_TYPE = ("_type", "_parsing", "_error", "_from_float")
SHOWN = 60  # characters of a value that was found
WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    type(None): "null",
}


@dataclasses.dataclass(frozen=True)
class OptionProblem:
    """One problem. `key` is dotted and as it is typed; "" for what concerns several keys at once,
    which `message` then names."""

    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.key}: {self.message}" if self.key else self.message


def problems_of(kind: Any, errors: Sequence[Mapping[str, Any]]) -> list[OptionProblem]:
    """The problems in pydantic's `errors` of reading a value of type `kind`, each once."""
    paths = [_Path(kind, list(error["loc"])[1:]) for error in errors]
    deepest: dict[str, int] = {}
    for path in paths:
        if path.union is not None:
            deepest[path.union] = max(deepest.get(path.union, 0), len(path.typed))
    found = [
        _problem(path, error)
        for path, error in zip(paths, errors, strict=True)
        # of a union's branches the one that was meant got furthest
        if path.union is None or len(path.typed) == deepest[path.union]
    ]
    return list(dict.fromkeys(found))


def nearest(name: str, names: Sequence[str]) -> str:
    """ " Did you mean 'x'?" for the nearest of `names`, else the list of them."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(sorted(names))}"


def shown(value: object) -> str:
    """A value as it would be typed, shortened; of a list or a section only that it is one."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        text = repr(value)
        return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
    if isinstance(value, Mapping):
        return "a section of keys"
    return "a list" if isinstance(value, Sequence) else type(value).__name__


class _Path:
    """Where an error lies: `typed` are the keys that a user types, without pydantic's names of a
    union's branches; `kind` is the type there, `outer` the one around it."""

    def __init__(self, kind: Any, parts: Sequence[Any]) -> None:
        self.typed: list[Any] = []
        self.union: str | None = None
        self.outer = self.kind = self.allowed = kind
        for part, after, branch in _steps(kind, parts):
            self.outer, self.kind = self.kind, after
            if branch == "untagged":
                self.union = self.key
                continue
            self.allowed = after  # of a union: any of its branches
            if branch == "no":
                self.typed.append(part)

    @property
    def key(self) -> str:
        return ".".join(map(str, self.typed))

    def below(self, name: str) -> str:
        return ".".join(map(str, [*self.typed, name]))


def _problem(path: _Path, error: Mapping[str, Any]) -> OptionProblem:
    what, given = error["type"], error.get("input")
    if what in ("unexpected_keyword_argument", "extra_forbidden"):
        known = _names(path.outer)
        return OptionProblem(path.key, f"unknown key; {nearest(str(path.typed[-1]), known)}")
    if what in ("missing", "missing_argument"):
        return OptionProblem(path.key, "this key is needed and is not given")
    if what == "union_tag_not_found":
        tags = [str(tag_of(member)) for member in members_of(path.kind)]
        message = f"this key is needed and is not given; {nearest('', tags)}"
        return OptionProblem(path.below("kind"), message)
    if what == "union_tag_invalid":
        tags = [tag.strip(" '") for tag in error["ctx"]["expected_tags"].split(",")]
        tag = error["ctx"]["tag"]
        return OptionProblem(path.below("kind"), f"unknown kind {tag!r}; {nearest(tag, tags)}")
    if what == "value_error":
        return _own_check(path, error["msg"].removeprefix("Value error, "), given)
    if what.endswith(WRONG_TYPE):
        return OptionProblem(path.key, _wrong_type(path.allowed, given))
    message = error["msg"][:1].lower() + error["msg"][1:]
    return OptionProblem(path.key, f"{message} (found {shown(given)})")


def _own_check(path: _Path, message: str, given: object) -> OptionProblem:
    """What a dataclass says of itself; it begins with the name of the field that is meant, or
    speaks of several."""
    name, _, _ = message.partition(" ")
    if name not in _names(path.kind):
        return OptionProblem(path.key, message)
    value = given.get(name) if isinstance(given, Mapping) else None
    said = "found" in message or message.endswith(".") or str(value) in message
    plain = isinstance(value, str | int | float) and not said
    found = f" (found {shown(value)})" if plain else ""
    return OptionProblem("", f"{path.below(message)}{found}")


def _wrong_type(kind: Any, given: object) -> str:
    members = [member for member in members_of(kind) if member is not type(None)]
    tags = [tag for tag in map(tag_of, members) if tag is not None]
    if given in tags:
        return f"found {shown(given)} where a section of keys is expected: write {{kind: {given}}}"
    if len(tags) > 1 and len(tags) == len(members):
        expected = f"a section of keys, such as {{kind: {tags[0]}}} (kinds: {', '.join(tags)})"
    else:
        expected = " or ".join(dict.fromkeys(map(_word, members)))
    quotes = " (write it in quotes)" if members == [str] and isinstance(given, int | float) else ""
    return f"expected {expected}, found {shown(given)}{quotes}"


def _word(member: Any) -> str:
    origin, inner = typing.get_origin(member), typing.get_args(member)
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if origin in (tuple, list) and inner:
        return f"a list of {_plural(inner[0])}"
    if dataclasses.is_dataclass(member):
        return f"a section with the keys {', '.join(_names(member))}"
    if origin is dict:
        return "a section of keys"
    return WORDS.get(member, getattr(member, "__name__", str(member)))


def _plural(kind: Any) -> str:
    numbers = {int: "whole numbers, such as [1, 2]", float: "numbers, such as [1, 0.5]"}
    lists = {bool: "true or false, such as [true, false]", str: "names, such as [a, b]"}
    return {**numbers, **lists}.get(_bare(kind), "values")


def _bare(kind: Any) -> Any:
    return typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind


def members_of(kind: Any) -> tuple[Any, ...]:
    """The types that a union, and the unions in it, is of; of another type, that type."""
    kind = _bare(kind)
    if typing.get_origin(kind) in (Union, types.UnionType):
        return tuple(each for member in typing.get_args(kind) for each in members_of(member))
    return (kind,)


def tag_of(member: Any) -> str | None:
    """The `kind` that names a dataclass in a union."""
    if not dataclasses.is_dataclass(member):
        return None
    for field in dataclasses.fields(member):
        if field.name == "kind":
            return typing.cast(str, field.default)
    return None


def _names(kind: Any) -> list[str]:
    return [
        field.name
        for member in members_of(kind)
        if dataclasses.is_dataclass(member)
        for field in dataclasses.fields(member)
    ]


def _steps(
    kind: Any, path: Sequence[Any]
) -> Iterator[tuple[Any, Any, Literal["no", "tagged", "untagged"]]]:
    """Walk `path` through the type: (part, type after it, whether it is a branch of a union)."""
    for part in path:
        members = members_of(kind)
        tagged = [member for member in members if part is not None and tag_of(member) == part]
        if tagged and len(members) > 1:
            kind = tagged[0]
            yield part, kind, "tagged"
            continue
        if isinstance(part, str) and (branch := _branch(part, members)) is not None:
            kind = kind if branch is Any else branch
            yield part, kind, "untagged"
            continue
        inner: Any = object
        for member in members:
            if dataclasses.is_dataclass(member) and isinstance(part, str):
                inner = typing.get_type_hints(member, include_extras=True).get(part, inner)
            elif isinstance(part, int) and typing.get_origin(member) in (tuple, list):
                inner = typing.get_args(member)[0]
        kind = inner
        yield part, kind, "no"


def _branch(part: str, members: Sequence[Any]) -> Any:
    """The member of a union without tags that pydantic calls `part`, Any if it is no dataclass;
    None if it is a key."""
    if len(members) < 2:
        return None
    classes = {str(m.__name__): m for m in members if isinstance(m, type)}
    if dataclasses.is_dataclass(classes.get(part)):
        return classes[part]
    plain = [m for m in members if not dataclasses.is_dataclass(m) and m is not type(None)]
    keys = [name for member in members for name in _names(member)]
    return Any if plain and part not in keys else None
