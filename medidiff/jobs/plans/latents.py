"""Two trainings for volumes that fit neither whole nor by patches: an autoencoder on patches, then
a prior of its latents. Sizes are those of the project's own (configs/lgg-autoencoder.yaml and
configs/lgg-latents.yaml)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from medidiff.jobs.memory import GIB
from medidiff.jobs.plans.lines import Line
from medidiff.jobs.plans.network import CODER, Scope

PATCHES = (128, 96, 64)
BATCHES = (4, 2, 1)
SEEN = 250  # times that each scan is looked at by the autoencoder, a patch of it at a time
STEPS = (2_000, 30_000)
KEPT = 8 * GIB  # of memory that the latents of all versions of all scans may take
VERSIONS = 8


@dataclass(frozen=True)
class CoderAttempt:
    """A way to train the autoencoder that may or may not fit."""

    batch: int
    patch: tuple[int, ...] | None
    samples: int


def coder_attempts(scope: Scope) -> Iterator[CoderAttempt]:
    """The largest patches and batches first; whole scans where they are as small as a patch."""
    for most in PATCHES:
        patch = tuple(min(n, most) // CODER.reduction * CODER.reduction for n in scope.grid)
        cut = None if min(patch) < 1 or patch == scope.grid else patch
        for batch in BATCHES:
            for samples in (2, 1, 0):
                yield CoderAttempt(batch, cut, samples)


def coder_lines(
    scope: Scope, attempt: CoderAttempt, gpu_memory: float, needed: float
) -> tuple[list[Line], list[Line]]:
    """The autoencoder's own lines: those of the data, and the rest."""
    data = []
    if attempt.patch is not None:
        why = "what an autoencoder learns is local; it is validated on patches, too"
        data.append(Line("data.patch", {"size": list(attempt.patch)}, why))
    wanted = SEEN * scope.images / attempt.batch
    steps = int(min(max(wanted, STEPS[0]), STEPS[1])) // 500 * 500
    every = max(100, steps // 12 // 100 * 100)
    critic = {"start": steps // 4}
    latents = " x ".join(map(str, latent_grid(scope.grid)))
    draws = (
        ("of scans beside their reconstruction, whole: look at them", steps // 3)
        if attempt.samples
        else ("none are drawn: a whole scan does not fit", 0)
    )
    return data, [
        Line("network.kind", "autoencoder", ""),
        Line(
            "network.channels",
            list(CODER.channels),
            f"a latent for {CODER.reduction} voxels along each axis: {latents} of a scan",
        ),
        Line("network.latent_channels", CODER.latent_channels, ""),
        Line(
            "diffusion.objective",
            {"kind": "autoencoder", "kl_weight": 1e-4, "adversary": critic},
            "the discriminator begins when there is something to judge",
        ),
        Line(
            "train.steps", steps, f"{steps * attempt.batch / scope.images:.0f} views of each scan"
        ),
        Line("train.batch", attempt.batch, f"predicted need {needed:.1f} of {gpu_memory:g} GiB"),
        Line("train.learning_rate", 3e-4, ""),
        Line("train.warmup_steps", 100, ""),
        Line("train.ema", {"kind": "exponential", "decay": 0.995}, ""),
        Line("train.validate_every", every, "PSNR and L1; the best becomes the model"),
        Line("train.save_every", every, "what an interruption costs at most"),
        Line("train.sample_every", draws[1], draws[0]),
        Line("train.sample_images", max(1, attempt.samples), ""),
        Line("train.validation_images", min(16, max(attempt.batch, scope.images)), ""),
    ]


def latent_grid(grid: Sequence[int]) -> tuple[int, ...]:
    """The grid of the latents."""
    return CODER.latent_space(grid)


def codec_lines(
    scope: Scope, model: str, augment: Sequence[Line], tile: int | None, cause: str
) -> list[Line]:
    """Augmentation and codec of the prior: latents are made and moved before it begins."""
    bytes_each = 4 * CODER.latent_channels * math.prod(latent_grid(scope.grid))
    versions = min(VERSIONS, KEPT // (bytes_each * scope.images))
    value: dict[str, object] = {"kind": "autoencoder", "model": model}
    why = f"{cause}; that of the first training"
    moved: list[Line] = []
    if versions > 1:
        value["versions"] = versions
        size = versions * bytes_each * scope.images / GIB
        why += f"; {versions} versions of each scan's latents take {size:.2g} GiB of memory"
        # from first to last: an augmentation of latents knows no end
        moved = [line.without("until", "before they become latents") for line in augment]
    if tile is not None:
        value["tiles"] = {"size": tile, "overlap": tile // 4}
        why += f"; tiles of {tile} latents, as a whole scan does not fit to be decoded"
    return [*moved, Line("codec", value, why)]
