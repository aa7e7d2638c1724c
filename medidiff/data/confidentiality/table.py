"""Table E.1-1 of DICOM PS3.15: what the basic profile does with each attribute.

The facts (tag, action, options) are those of edition 2026c; for attributes that joined the table
after 2023 the columns of the options are left empty, which keeps less.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, cast, get_args

EDITION = "PS3.15 2026c table E.1-1"
FILE = Path(__file__).with_name("table_e1_1.csv")

Action = Literal["D", "Z", "X", "K", "C", "U", "Z/D", "X/Z", "X/D", "X/Z/D", "X/Z/U*"]
Step = Literal["dummy", "empty", "remove", "keep", "clean", "uid", "items"]

STEPS: dict[Action, Step] = {
    "D": "dummy",
    "Z": "empty",
    "X": "remove",
    "K": "keep",
    "C": "clean",
    "U": "uid",
    # conditional on the attribute's type in the object; what suits every type keeps all conformant
    "Z/D": "dummy",
    "X/Z": "empty",
    "X/D": "dummy",
    "X/Z/D": "dummy",
    "X/Z/U*": "items",
}


@dataclass(frozen=True)
class Rule:
    """The action of the basic profile, and those of two options ("" where they say nothing)."""

    basic: Action
    device: Literal["", "K"] = ""
    patient: Literal["", "K", "C"] = ""


@cache
def rules() -> dict[int, Rule]:
    """Tag -> rule. Repeating groups (curves, overlays) are not in it: `profile` removes them."""
    found: dict[int, Rule] = {}
    with FILE.open(newline="", encoding="ascii") as file:
        for row in csv.DictReader(file):
            if row["basic"] not in get_args(Action):
                raise ValueError(f"{FILE.name}: unknown action {row['basic']!r}")
            if "x" in row["tag"]:
                continue
            group, element = row["tag"].split(",")
            found[int(group, 16) << 16 | int(element, 16)] = Rule(
                cast(Action, row["basic"]),
                cast('Literal["", "K"]', row["device"]),
                cast('Literal["", "K", "C"]', row["patient"]),
            )
    return found
