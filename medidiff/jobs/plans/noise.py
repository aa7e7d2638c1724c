"""Noise levels and movements of a plan's training."""

from __future__ import annotations

import math
from collections.abc import Sequence

from medidiff.jobs.plans.lines import Line

REFERENCE = 64  # voxels along an axis for which the noise levels of a schedule were found
MEAN, STD = -1.2, 1.5  # Karras et al. 2022 have 1.2; wider, so that all tasks' levels are learned


def resolution_shift(grid: Sequence[int]) -> float:
    """How much larger the log of the noise ratio must be than on a grid of 64 voxels an axis.

    What a noise hides is told from the mean of neighbouring voxels, whose noise falls with the root
    of their number: (1/2) log(voxels / 64^dims), in 2-D log(d / 64) for d x d. Never below 0: the
    reference levels were found on 64 x 64 and smaller images alike.
    Source: Hoogeboom et al. 2023, simple diffusion (arXiv:2301.11093), where the log of the
    signal-to-noise ratio is shifted by 2 log(64 / d), -2 times this.
    """
    return max(0.0, 0.5 * math.log(math.prod(grid) / REFERENCE ** len(grid)))


SCANS = "root mean square of the scans on this grid, in the network's units"
STANDARD = "every channel of the codec is brought to unit variance"


def diffusion_lines(grid: Sequence[int], rms: float, of: str = SCANS) -> list[Line]:
    """Schedule, target and noise levels for images of this root mean square in model units; `of`
    says where it is from."""
    shift = resolution_shift(grid)
    mean = round(MEAN + shift, 2)
    shown = " x ".join(map(str, grid))
    why = (
        f"Karras et al. 2022 have -1.2, and {shift:.2f} more: {shown} voxels show through more "
        f"noise than {REFERENCE} an axis (Hoogeboom et al. 2023); lower for denoising alone"
        if shift
        else f"as Karras et al. 2022; no shift for a grid as small as {shown}"
    )
    return [
        Line(
            "diffusion.schedule", {"kind": "edm"}, "any noise level, so that all tasks find theirs"
        ),
        Line(
            "diffusion.target",
            {"kind": "edm", "data_std": round(rms, 2)},
            of,
        ),
        Line(
            "diffusion.times",
            {"kind": "log-normal-noise-ratio", "mean": mean, "std": STD},
            why,
        ),
    ]


def augment_lines(grid: Sequence[int], modality: str, hounsfield: bool, images: int) -> list[Line]:
    """Movements that leave anatomy legal."""
    few = images < 3_000
    shift = max(1, round(0.02 * min(grid))) if min(grid) > 8 else 0
    flat = min(grid) < 16
    value: dict[str, object] = {"shift_voxels": shift} if shift else {}
    if few:
        value |= {"rotate_degrees": 5} if not flat else {}
        value |= {"scale": 0.05} if not flat else {}
    if not hounsfield:
        value |= {"intensity": 0.1 if few else 0.05}
    value["until"] = 0.7
    parts = [
        "small movements, on what lies around the grid"
        if not flat
        else "so few slices are not turned",
        "no mirroring: left is not right",
        "Hounsfield units stay as they are" if hounsfield else "contrast as scanners differ",
    ]
    last = {"until": "the last 30 % of the training sees scans as they are"}
    return [Line("data.augment", value, "; ".join(parts), last)]
