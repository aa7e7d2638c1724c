"""Options of the command line that are given as key=value."""

from __future__ import annotations

from medidiff.errors import ConfigError


def pairs(items: list[str] | None, option: str) -> dict[str, str]:
    """Key -> value.

    Errors: ConfigError for an item without a key, and for a key that is given twice.
    """
    pairs: dict[str, str] = {}
    for item in items or []:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise ConfigError(f"{option} {item}: write it as key=value")
        if key in pairs:
            raise ConfigError(f"{option} {item}: {key} is given twice ({pairs[key]} before)")
        pairs[key] = value
    return pairs
