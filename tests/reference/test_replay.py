"""Every recording is followed: the committed ones always, a folder of all of them on request."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from medidiff.conformance.families import FAMILIES
from medidiff.conformance.recordings import Case, read_cases
from medidiff.conformance.replay import Outcome, replay, replay_case

SUBSET = Path(__file__).parent / "data"
CASES = list(read_cases(SUBSET))
FULL = os.environ.get("MEDIDIFF_TRAJECTORIES")
NOTHING_TO_COMPARE = {"diffpure"}
"""Families of which every recording is unsupported."""
CAUGHT_BY_NO_LAW = {
    "gd_ddpm_linear_10_fixed_small": "noise at t = 0",
    "respacing": "truncation in place of rounding",
    "gd_ddpm_cosine_10_learned_range": "the ends of the learned range",
    "sde_vp_euler_maruyama_none_200": "a step of 1 / N, not of the grid",
    "sde_ve_reverse_diffusion_langevin_200": "alpha is 1 in a VE Langevin step",
    "sdg_sample_style_10": "the reference is noised too",
    "diffpure2_sde_t100_dt5e-3_randt": "purification's own noising level",
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_recording_is_followed(case: Case) -> None:
    outcome = replay_case(case)
    expected = "disowned" if case.kind == "disowned" else "passed"
    assert outcome.verdict == expected, outcome.reason


def test_every_kind_and_every_family_that_can_be_followed_is_committed() -> None:
    assert {case.family for case in CASES} >= set(FAMILIES) - NOTHING_TO_COMPARE
    assert {case.kind for case in CASES} == {
        "trajectory",
        "likelihood",
        "table",
        "loss",
        "guidance",
        "posterior",
        "disowned",
    }


def test_what_no_law_catches_is_committed() -> None:
    assert set(CAUGHT_BY_NO_LAW) <= {case.name for case in CASES}


def test_the_committed_folder_is_under_2_megabytes() -> None:
    assert sum(file.stat().st_size for file in SUBSET.iterdir()) < 2e6


def test_a_reference_that_differs_fails() -> None:
    case = next(case for case in CASES if case.name == "edm_heun_10")
    case.arrays["x_final"][0, 0, 0, 0] += 1e-5
    outcome = replay_case(case)
    case.arrays["x_final"][0, 0, 0, 0] -= 1e-5
    assert outcome.verdict == "failed"
    assert "result: differs by 1e-05" in outcome.reason


@pytest.mark.slow
@pytest.mark.skipif(FULL is None, reason="MEDIDIFF_TRAJECTORIES names no folder")
def test_no_recording_of_the_full_folder_fails() -> None:
    folder = Path(str(FULL))
    outcomes: list[Outcome] = list(replay(folder))
    failed = [f"{each.case}: {each.reason}" for each in outcomes if each.verdict == "failed"]
    assert failed == []
    assert len(outcomes) == len(json.loads((folder / "index.json").read_text()))
