"""A stated level of noise that the image speaks against is told, and no other."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from medidiff.data.intensity import Scale
from medidiff.diffusion import KeyedNoise
from medidiff.jobs.reporting import Quiet
from medidiff.jobs.run import run_head
from medidiff.tasks.base import Problem
from medidiff.tasks.denoise import LEVELS, Denoising
from medidiff.types import Tensor

from .test_room import case, tiny

SIZE = 64
ROWS, COLUMNS = torch.meshgrid(*2 * [torch.linspace(-1, 1, SIZE)], indexing="ij")
CLEAN = torch.where(
    torch.hypot(ROWS, COLUMNS) < 0.8, 0.3 * torch.cos(4 * ROWS) * COLUMNS + 0.1, -1.0
)[None]
CASE = replace(case(SIZE, SIZE), scale=Scale((0.0,), (1.0,)))
noises = pytest.mark.parametrize("noise", [*LEVELS])


def stated(noise: Any, sigma: float) -> Denoising:
    law = Denoising(noise=noise).noise_law
    return Denoising(noise=noise, **{law.stated_by: law.stated(sigma)})  # type: ignore[arg-type]


def doubt(head: Denoising, image: Tensor) -> str | None:
    (said,) = head.doubts(Problem(image[None], (CASE,)))
    return said


@noises
def test_a_level_far_from_the_image_is_told_with_what_to_do(noise: str) -> None:
    for level in LEVELS[noise]:
        sigma = Denoising(noise=noise).noise_law.sigma(level)  # type: ignore[arg-type]
        head = stated(noise, sigma)
        noisy = head.corrupt(CLEAN[None], [CASE], KeyedNoise(0, [("a", 0)]))[0]
        padded = torch.full_like(noisy, -1.0)
        padded[:, 12:-12] = noisy[:, 12:-12]
        for image in (noisy, padded):
            assert doubt(head, image) is None
            assert doubt(stated(noise, 1.5 * sigma), image) is None
            too_high = doubt(stated(noise, 3 * sigma), image)
            assert too_high is not None
            assert f"Leave {head.noise_law.stated_by} out" in too_high
            assert f"sigma={3 * sigma:.2g}" in too_high
    too_low = doubt(stated(noise, sigma / 4), noisy)  # of the strongest noise
    assert too_low is not None
    assert "noise that is left for structure" in too_low


@noises
def test_structure_is_not_taken_for_noise_and_an_even_image_says_nothing(noise: str) -> None:
    edges = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))
    blocks = 0.3 * edges.repeat_interleave(8, 1).repeat_interleave(8, 2) - 0.6
    assert doubt(stated(noise, 0.002), blocks) is None
    assert doubt(stated(noise, 0.1), torch.full((1, SIZE, SIZE), -0.2)) is None
    assert doubt(Denoising(noise=noise), blocks) is None  # type: ignore[arg-type]


def test_it_is_warned_of_once_kept_with_the_result_and_its_maps_are_not_called_calibrated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medidiff.tasks.denoise.verdict", lambda *told: "calibrated")
    file = tmp_path / "scan.nii.gz"
    unit = torch.randn(1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    scan = (CLEAN + 2 * 0.01 * unit)[0].numpy()
    nibabel.save(nibabel.Nifti1Image(scan[..., None], np.eye(4)), file)  # type: ignore[attr-defined]
    found = {}
    for before, sigma in enumerate((0.01, 0.1)):
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            (found[sigma],) = run_head(
                Denoising(sigma=sigma, steps=1), tiny(SIZE, SIZE), [[file]],
                n=2, seed=0, mismatch="warn", report=Quiet(), before=before,
            )  # fmt: skip
        said = [str(each.message) for each in warned if "was stated" in str(each.message)]
        assert len(said) == (sigma == 0.1)
        assert all(each.startswith("input 2: gaussian noise: sigma=0.1 was") for each in said)
        kept = [each for each in found[sigma].provenance["warning"] if "was stated" in each]
        assert kept == said
    assert found[0.1].provenance["uncertainty"] == "uncalibrated"
