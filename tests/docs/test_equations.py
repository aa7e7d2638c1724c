"""docs/equations.md names what is there, and all of it."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

import medidiff.diffusion as core
from medidiff import inverse, physics

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "medidiff"
PAGE = (ROOT / "docs" / "equations.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading, without its head."""
    below = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in below.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def defined_names() -> set[str]:
    """Every class, function, argument, field and variable of the package."""
    found: set[str] = set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                found.add(node.name)
            elif isinstance(node, ast.arg):
                found.add(node.arg)
            elif isinstance(node, ast.Name):
                found.add(node.id)
    return found


def resolves(name: str) -> bool:
    """Whether module.attribute.attribute exists in medidiff.diffusion or medidiff."""
    parts = name.split(".")
    for prefix in ("medidiff.diffusion", "medidiff"):
        for cut in range(len(parts), -1, -1):
            try:
                place: object = importlib.import_module(".".join([prefix, *parts[:cut]]))
            except ImportError:
                continue
            for index, part in enumerate(parts[cut:], cut):
                fields = getattr(place, "__dataclass_fields__", {})
                if part in fields and index == len(parts) - 1:
                    return True
                place = getattr(place, part, None)
            if place is not None:
                return True
    return False


def functions() -> list[str]:
    """The names of the formulae's last column, each with the module that its row has named."""
    found = []
    for cells in rows("Formulae"):
        module = ""
        for token in quoted(cells[-1]):
            name = re.split(r"[(=]", token)[0]
            if "/" in name:
                module = name.removesuffix(".py").replace("/", ".") + "."
            elif name.startswith(("schedule.", ".")):  # `schedule.drift(t)`, `.diffusion`
                found.append(f"schedules.Schedule.{name.rsplit('.', 1)[1]}")
            elif "." in name and not name[0].isupper():
                module = name.rsplit(".", 1)[0] + "."
                found.append(name)
            else:
                found.append(module + name if not resolves(name) else name)
    return found


def test_no_row_of_a_table_has_a_cell_too_many() -> None:
    for heading in ("Symbols", "Formulae", "What carries them"):
        assert {len(cells) for cells in rows(heading)} == {3}, heading


@pytest.mark.parametrize("name", functions())
def test_the_function_of_a_formula_exists(name: str) -> None:
    if "*" in name:
        module, _, ending = name.partition(".*")
        place = importlib.import_module(f"medidiff.diffusion.{module}")
        assert any(each.endswith(ending) for each in vars(place))
        return
    assert resolves(name), f"docs/equations.md names {name}"


def test_every_name_of_a_symbol_is_defined() -> None:
    known = defined_names()
    for cells in rows("Symbols") + rows("What carries them"):
        for token in quoted(cells[1]):
            for word in re.findall(r"[A-Za-z_][A-Za-z_0-9]*", token):
                assert word in known, f"docs/equations.md names {token}, there is no {word}"


def test_every_file_of_a_symbol_is_there() -> None:
    for cells in rows("Symbols") + rows("What carries them"):
        for token in quoted(cells[-1]):
            if "/" in token:
                assert (PACKAGE / token).exists(), f"docs/equations.md points to {token}"


def test_every_public_name_of_the_core_has_its_place() -> None:
    words = set(re.findall(r"[A-Za-z_][A-Za-z_0-9]*", " ".join(quoted(PAGE))))
    public = [*core.__all__, *inverse.__all__, *physics.__all__]
    missing = [name for name in public if name not in words]
    assert not missing, f"docs/equations.md does not name {missing}"
