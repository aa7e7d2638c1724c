"""The list of mutations fits the code, and a mutation is made and noticed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

SPEC = importlib.util.spec_from_file_location("mutations", Path(__file__).with_name("mutations.py"))
assert SPEC is not None
assert SPEC.loader is not None
mutations = importlib.util.module_from_spec(SPEC)

sys.modules["mutations"] = mutations
SPEC.loader.exec_module(mutations)


def test_every_mutation_finds_the_text_that_it_replaces() -> None:
    for mutation in mutations.MUTATIONS:
        file = mutations.ROOT / "medidiff" / mutation.file
        assert mutation.old in file.read_text(), mutation.name


def test_a_mutation_is_caught() -> None:
    chosen = next(each for each in mutations.MUTATIONS if each.name == "respacing truncates")
    assert mutations.try_mutation(chosen).caught
