"""A change to a configuration as it is typed, key=value with a YAML value; light to import."""

from __future__ import annotations

from typing import Any

import yaml

from medidiff.errors import ConfigError

MANIFEST = "data.manifest"


def parse_change(change: str) -> tuple[str, Any]:
    """The dotted key and the value of a change such as "train.steps=500".

    Errors: ConfigError.
    """
    key, equals, text = change.partition("=")
    if not equals or not key:
        raise ConfigError(f"--change {change}: write it as key=value, e.g. train.steps=500")
    try:
        return key, yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"--change {change}: the value is not valid YAML") from None
