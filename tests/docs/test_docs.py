"""What the documents say can be done."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *ROOT.glob("*/README.md")]
PAGES += sorted((ROOT / "data_manifests").glob("[a-z]*.md"))
GROUPS = "manifest|cache"  # verbs that have verbs


def commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for block in re.findall(r"```\w*\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
            pattern = rf"^\s*medidiff ((?:{GROUPS} )?[a-z-]+)( .*)?$"
            for match in re.finditer(pattern, block, re.MULTILINE):
                found.append((match[1], match[2] or ""))
    return sorted(set(found))


@pytest.mark.parametrize(("verb", "rest"), commands())
def test_every_command_in_the_documents_has_its_verb_and_options(verb: str, rest: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "medidiff", *verb.split(), "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0, f"there is no verb {verb!r}"
    for option in re.findall(r"(?<!\S)(--?[a-z][a-z-]*)", rest.split("#")[0]):
        assert option in done.stdout, f"medidiff {verb} has no {option}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_python_block_of_a_page_compiles(page: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        compile(block, str(page), "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_points_to_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (page.parent / target).exists(), f"{page.name} points to {target}"
