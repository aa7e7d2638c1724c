"""A proposed configuration as lines, each with its reason, and as the YAML that states them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

WIDTH = 110


@dataclass(frozen=True)
class Line:
    """One key of a configuration: its value and why."""

    key: str
    """Dotted, such as data.space.size."""
    value: Any
    why: str
    parts: Mapping[str, str] = field(default_factory=dict)
    """Why single keys of the value are as they are; told after `why`."""
    instead: tuple[Any, str] | None = None
    """Another value and what it would gain and cost: a comment below, for who wants to try it."""

    @property
    def reason(self) -> str:
        """All of it."""
        return "; ".join(filter(None, [self.why, *self.parts.values()]))

    def without(self, part: str, why: str) -> Line:
        """Without a key of the value; `why` is told in the place of that key's reason."""
        value = {key: each for key, each in self.value.items() if key != part}
        return replace(self, value=value, parts={**self.parts, part: why})


def tree_of(lines: Sequence[Line]) -> dict[str, Any]:
    """The plain tree that the lines describe."""
    tree: dict[str, Any] = {}
    for line in lines:
        *parents, last = line.key.split(".")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = line.value
    return tree


def to_yaml(lines: Sequence[Line], head: Sequence[str]) -> str:
    """YAML with `head` above as comments and each line's reason beside it."""
    text = [f"# {part}".rstrip() for line in head for part in textwrap.wrap(line, WIDTH) or [""]]
    return "\n".join([*text, *_rendered(lines)]) + "\n"


def _rendered(lines: Sequence[Line]) -> Iterator[str]:
    above: list[str] = []
    for line in lines:
        *parents, last = line.key.split(".")
        for depth, parent in enumerate(parents):
            if above[: depth + 1] != parents[: depth + 1]:
                above = parents[: depth + 1]
                yield f"{'  ' * depth}{parent}:"
        above = parents
        indent = "  " * len(parents)
        stated = f"{indent}{last}: {_value(line.value)}"
        yield f"{stated}  # {line.reason}" if line.reason else stated
        if line.instead is not None:
            value, why = line.instead
            yield f"{indent}# {last}: {_value(value)}  # {why}"


def _value(value: Any) -> str:
    dumped = yaml.safe_dump(
        value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10_000
    )
    return dumped.removesuffix("\n").removesuffix("\n...").strip()
