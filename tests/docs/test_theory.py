"""The derivations of docs/theory hold in numbers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

THEORY = Path(__file__).resolve().parents[2] / "docs" / "theory"
PAGES = sorted(THEORY.glob("[0-9]*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_check_of_a_derivation_holds(page: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks, f"{page.name} has no check"
    before = torch.get_rng_state()
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, page.name, "exec"), names)
    assert torch.equal(before, torch.get_rng_state()), "a check drew from the global generator"


def test_every_derivation_is_listed() -> None:
    index = (THEORY / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES] == re.findall(r"\(([0-9][^)]*\.md)\)", index)
