"""Sections of options that leave out which kind they are of, where that can only be the one that
stands without them."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from medidiff.option_problems import members_of, tag_of


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
