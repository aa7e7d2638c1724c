"""Options from trees: every problem in one pass, with a suggestion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
from pydantic import Field

from medidiff import options


@dataclass(frozen=True)
class Square:
    kind: Literal["square"] = "square"
    side_mm: float = 1.0

    def __post_init__(self) -> None:
        if self.side_mm <= 0:
            raise ValueError("side_mm must be above 0")


@dataclass(frozen=True)
class Circle:
    kind: Literal["circle"] = "circle"
    radius_mm: float = 1.0


AnyShape = Annotated[Square | Circle, Field(discriminator="kind")]


@dataclass(frozen=True)
class Drawing:
    name: str
    shape: AnyShape = Square()
    sizes: tuple[int, ...] = (1, 2)
    spacing_mm: tuple[float, ...] | Literal["as stored"] = "as stored"
    fill: Literal["none", "solid"] | Circle = "none"

    def __post_init__(self) -> None:
        if len(self.sizes) > 3:
            raise ValueError("a drawing of this name has fewer sizes")


def problems(tree: object) -> dict[str, str]:
    with pytest.raises(options.OptionError) as caught:
        options.read(Drawing, tree)
    return {problem.key: problem.message for problem in caught.value.problems}


def test_a_tree_reads_back_to_what_was_written() -> None:
    drawing = Drawing("a", Circle(radius_mm=2.5), (4, 5, 6))
    assert options.read(Drawing, options.tree(drawing)) == drawing


@pytest.mark.parametrize("nothing", [float("nan"), "nan"])
def test_what_is_no_number_is_an_error_wherever_it_stands(nothing: object) -> None:
    tree = {"name": "a", "shape": {"kind": "circle", "radius_mm": nothing}}
    found = problems({**tree, "spacing_mm": [1.0, nothing]})
    assert found == dict.fromkeys(
        ("shape.radius_mm", "spacing_mm.1"), "must be a number (found nan)"
    )


def test_an_unknown_key_is_an_error_that_suggests_the_nearest_one() -> None:
    found = problems({"name": "a", "shape": {"kind": "circle", "radus_mm": 1}})
    assert found == {"shape.radus_mm": "unknown key; did you mean 'radius_mm'?"}


def test_all_problems_are_reported_in_one_pass() -> None:
    found = problems({"nam": "a", "shape": {"kind": "sqare"}, "sizes": ["x"]})
    assert set(found) == {"name", "nam", "shape.kind", "sizes.0"}
    assert "did you mean 'square'" in found["shape.kind"]


def test_the_check_of_a_dataclass_speaks_in_its_own_words() -> None:
    found = problems({"name": "a", "shape": {"kind": "square", "side_mm": -1}})
    assert list(found.values()) == ["shape.side_mm must be above 0 (found -1)"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"spacing_mm": "banana"}, "spacing_mm: expected a list of numbers, such as [1, 0.5] or "
         "'as stored', found 'banana'"),
        ({"spacing_mm": [1, "banana"]}, "spacing_mm.1: expected a number, found 'banana'"),
        ({"fill": "banana"}, "fill: expected 'none' or 'solid' or a section with the keys kind, "
         "radius_mm, found 'banana'"),
        ({"fill": {"radus_mm": 1}}, "fill.radus_mm: unknown key; did you mean 'radius_mm'?"),
        ({"shape": "circle"}, "shape: found 'circle' where a section of keys is expected: write "
         "{kind: circle}"),
        ({"shape": {"kind": "circle", "radius_mm": [1]}},
         "shape.radius_mm: expected a number, found a list"),
        ({"sizes": 3}, "sizes: expected a list of whole numbers, such as [1, 2], found 3"),
        ({"name": 3}, "name: expected text, found 3 (write it in quotes)"),
        ({"sizes": [1, 2, 3, 4]}, "a drawing of this name has fewer sizes"),
    ],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
def test_a_problem_is_told_once_with_the_key_as_it_is_typed(
    given: dict[str, object], told: str
) -> None:
    with pytest.raises(options.OptionError) as caught:
        options.read(Drawing, {"name": "a", **given})
    assert list(map(str, caught.value.problems)) == [told]


def test_the_schema_knows_keys_and_their_kinds() -> None:
    schema = options.json_schema(Drawing)
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == {"name", "shape", "sizes", "spacing_mm", "fill"}


@dataclass(frozen=True)
class Page:
    drawing: Drawing | None = None
    frame: AnyShape = Circle()


@pytest.mark.parametrize(
    ("given", "completed"),
    [
        ({"shape": {"side_mm": 2}}, {"shape": {"kind": "square", "side_mm": 2}}),
        ({"shape": {}}, {"shape": {"kind": "square"}}),
        ({"shape": {"radius_mm": 2}}, {"shape": {"radius_mm": 2}}),  # of another kind: to be said
        ({"shape": {"kind": "circle"}}, {"shape": {"kind": "circle"}}),
        ({"shape": "circle", "fill": {"radius_mm": 1}}, {"shape": "circle",
         "fill": {"radius_mm": 1}}),
        ({"name": "a", "sides": {}}, {"name": "a", "sides": {}}),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_a_section_without_a_kind_is_of_the_usual_one(
    given: dict[str, object], completed: dict[str, object]
) -> None:
    assert options.with_usual_kinds(Drawing, given) == completed
    below = {"drawing": given, "frame": {"radius_mm": 3}}
    assert options.with_usual_kinds(Page, below) == {
        "drawing": completed,
        "frame": {"kind": "circle", "radius_mm": 3},
    }
