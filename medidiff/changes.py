"""Options that are typed as key=value, where the value may be YAML and the key dotted; light to
import."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medidiff.errors import ConfigError

MANIFEST = "data.manifest"


def split_pair(item: str, option: str, example: str = "key=value") -> tuple[str, str]:
    """The key and the text behind the first "=" of one item of `option`.

    Errors: ConfigError that names the option and shows how it is written.
    """
    key, equals, text = item.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"{option} {item}: write it as {example}")
    return key, text


def pairs(items: Sequence[str] | None, option: str, example: str = "key=value") -> dict[str, str]:
    """Key -> text of all items of an option.

    Errors: ConfigError for an item without a key, and for a key that is given twice.
    """
    found: dict[str, str] = {}
    for item in items or []:
        key, text = split_pair(item, option, example)
        if key in found:
            raise ConfigError(f"{option} {item}: {key} is given twice ({found[key]} before)")
        found[key] = text
    return found


def parse_value(text: str, item: str, option: str) -> Any:
    """The YAML value of `text`, a part of an `item` of `option`.

    Errors: ConfigError.
    """
    import yaml  # not before a value is there to be read: `--help` answers at once

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(
            f"{option} {item}: the value is not valid YAML; put text with signs such as : or [ in "
            "quotes"
        ) from None


def parse_change(change: str) -> tuple[str, Any]:
    """The dotted key and the value of a change such as "train.steps=500".

    Errors: ConfigError.
    """
    key, text = split_pair(change, "--change", "key=value, e.g. train.steps=500")
    return key, parse_value(text, change, "--change")


def put(tree: dict[str, Any], key: str, value: Any, change: str, option: str = "--change") -> None:
    """Write `value` at the dotted `key` of a tree, making sections that are left out.

    Errors: ConfigError if a part of the key is a value and no section.
    """
    *parents, last = key.split(".")
    place = tree
    for parent in parents:
        if place.get(parent) is None:  # left out, or null as a run's own file spells it
            place[parent] = {}
        place = place[parent]
        if not isinstance(place, dict):
            raise ConfigError(f"{option} {change}: {parent!r} is not a section")
    place[last] = value
