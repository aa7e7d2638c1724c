"""The level of an image's noise: stated, or estimated, or stated so that the image speaks against
it."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from medidiff.data.datasets import Case
from medidiff.errors import TaskError
from medidiff.tasks.noises import Noise

LEAST = 1e-6  # window widths; an image that is even has the noise of its rounding
FAR = 2.0
"""Times that a stated level may be off. With noise of .02 to .3 of the window estimates of brain
slices were .99 to 1.12 of it, of radiographs of 64 x 64 .91 to 1.3, never below .9."""

Level = float | Literal["estimate"]


def level_of(noise: Noise, stated: Level, image: Tensor, case: Case) -> float:
    """The level of an image's noise: what is stated, or else what is estimated.

    Errors: TaskError where it cannot be estimated.
    """
    if stated != "estimate":
        return noise.sigma(float(stated))
    state = f"state it with {noise.stated_by}"
    try:
        found = noise.level(image, case)
    except ValueError as error:  # of an image that is even, or too small
        raise TaskError(
            f"the noise level of this image cannot be estimated ({error}); {state}"
        ) from None
    if not LEAST < found < 10:
        raise TaskError(
            f"the noise level of this image was estimated as {found:g} of the intensity window, "
            f"which cannot be right (masked or denoised already?); {state}"
        )
    return found


def doubted(noise: Noise, stated: float, image: Tensor, case: Case) -> str | None:
    """One line where the stated level of an image's noise is far from the estimated one; None where
    it is not, or where the estimate does not tell.

    Structure raises an estimate and nothing lowers it but noise that is not white: one below what
    was stated is always trusted, one above it where it is more than structure.
    """
    try:
        found = level_of(noise, "estimate", image, case)
    except TaskError:
        return None
    told = noise.sigma(stated)
    if told > FAR * found:
        advice = (
            "the model takes fine structure for noise, and knows no image so clean at that level: "
            f"expect grain, and a bright rim of its grid. Leave {noise.stated_by} out to use the "
            "estimate. (Noise that was smoothed or interpolated is not in it; the model does not "
            "know such noise either.)"
        )
    elif found > max(FAR * told, noise.structure):
        advice = (
            "the model takes the noise that is left for structure. Leave "
            f"{noise.stated_by} out to use the estimate"
        )
    else:
        return None
    return (
        f"{noise.name} noise: {_said(noise, told)} was stated, {_said(noise, found)} is estimated "
        f"of the image (sigma: a share of the intensity window): {advice}"
    )


def _said(noise: Noise, sigma: float) -> str:
    share = f"sigma={sigma:.2g}"
    if noise.stated_by == "sigma":
        return share
    return f"counts={float(f'{noise.stated(sigma):.3g}'):g} ({share})"
