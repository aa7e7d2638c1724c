"""Every committed recording of a family that has its file, replayed from its description."""

from __future__ import annotations

from pathlib import Path

import pytest

from medidiff.conformance.families import FAMILIES
from medidiff.conformance.recordings import Case, read_cases
from medidiff.conformance.replay import replay_case

SUBSET = Path(__file__).parent / "data"
CASES = [case for case in read_cases(SUBSET) if case.family in FAMILIES]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_recording_is_followed(case: Case) -> None:
    outcome = replay_case(case)
    assert outcome.verdict != "failed", outcome.reason


def test_the_subset_holds_every_family_of_k_diffusion_and_its_relatives() -> None:
    assert {"kd", "edm", "df"} <= {case.family for case in CASES}
