"""The network and the training of a plan: as large as the data bears and the GPU holds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from medidiff.jobs.plans.lines import Line
from medidiff.networks import AutoencoderOptions

Method = Literal["whole", "wavelet", "patch", "latents"]
FEW = 100  # subjects: fewer than this are easily learned by heart
ATTENDED = 4096  # voxels of a grid that attention is worth its memory on
SEEN = 900  # times that each image is trained on, as in the project's own priors
STEPS = (2_000, 100_000)
SHARES = (3 / 4, 1 / 2)
"""Of an image along each axis, that patches of it have; of less, far parts do not fit together,"""
SMALLEST = 3 / 8  # which one may ask for all the same
CODER = AutoencoderOptions()
"""The autoencoder of latents: 32, 64, 128 channels; 4 latent channels for 4 voxels an axis."""
HALVINGS = {"wavelet": 1, "latents": len(CODER.channels) - 1}
"""How often the grid that the network works on is half that of the images."""
LATENT_BASE, LATENT_FACTORS = 64, (1, 2, 4, 4, 4)
TILES = (None, 32, 16)


@dataclass(frozen=True)
class Size:
    """A tier of networks, for so many images at least."""

    images: int
    base: int
    factors: tuple[float, ...]
    rate: float
    batch: int


SIZES = (
    Size(30_000, 128, (1, 1, 2, 3, 4), 1e-4, 64),
    Size(3_000, 64, (1, 2, 3, 4, 4), 2e-4, 64),
    Size(300, 32, (1, 1.5, 2, 2.5, 3), 4e-4, 32),
    Size(0, 24, (1, 4 / 3, 4 / 3, 5 / 3, 2), 4e-4, 16),
)


@dataclass(frozen=True)
class Attempt:
    """A way to train that may or may not fit."""

    method: Method
    batch: int
    checkpointed: int = 0
    """Levels that compute their activations again, the finest first."""
    patch: tuple[int, ...] | None = None
    samples: int = 4
    tile: int | None = None
    """Latents along each axis of what is decoded at a time; None decodes whole."""


@dataclass(frozen=True)
class Scope:
    """What decides the network's size."""

    images: int
    subjects: int
    grid: tuple[int, ...]
    levels: int

    @property
    def size(self) -> Size:
        """The tier."""
        return next(size for size in SIZES if self.images >= size.images)

    @property
    def dims(self) -> int:
        """2 or 3."""
        return len(self.grid)


def attempts(scope: Scope, asked: Method | None) -> Iterator[list[Attempt]]:
    """Ways to train, the best first, each from the best to the one that needs least: the whole
    image, its wavelet's bands, patches of it that are large enough to tell how its parts fit
    together, an autoencoder's latents."""
    for method in ("whole", "wavelet", "patch", "latents") if asked is None else (asked,):
        first = Attempt(method, _batch(scope))
        shares = SHARES if asked is None else (*SHARES, SMALLEST)
        for patch in _patches(scope, shares) if method == "patch" else (None,):
            for tile in TILES if method == "latents" else (None,):
                yield [*_smaller(scope, replace(first, patch=patch, tile=tile))]


def _batch(scope: Scope) -> int:
    most = scope.size.batch if scope.dims == 2 else min(scope.size.batch, 16)
    return max(1, min(most, 2 ** int(math.log2(max(1, scope.images)))))


def _smaller(scope: Scope, first: Attempt) -> Iterator[Attempt]:
    least = min(8 if scope.dims == 2 else 4, first.batch)
    for levels in (0, 1, 2):
        batch = first.batch
        while batch >= least and levels <= scope.levels:
            yield replace(first, batch=batch, checkpointed=levels, samples=min(4, batch))
            batch //= 2
    yield replace(first, batch=max(1, least // 2), checkpointed=min(2, scope.levels), samples=1)


def _patches(scope: Scope, shares: Sequence[float]) -> Iterator[tuple[int, ...]]:
    even = 2 ** (scope.levels - 1)
    for share in shares:
        yield tuple(max(even, int(n * share) // even * even) for n in scope.grid)


def network_lines(scope: Scope, attempt: Attempt) -> list[Line]:
    """The network section."""
    size, levels = scope.size, _levels(scope, attempt)
    base = _base(scope, attempt)
    factors = LATENT_FACTORS if attempt.method == "latents" else size.factors
    channels = [8 * round(base * factor / 8) for factor in factors[:levels]]
    coarsest = math.prod(-(-n // 2 ** (levels - 1)) for n in working_grid(scope, attempt))
    attends = coarsest <= ATTENDED and levels > 1
    shown = " x ".join(str(-(-n // 2 ** (levels - 1))) for n in working_grid(scope, attempt))
    small = (
        f"; small: {scope.subjects} subjects are soon learned by heart"
        if scope.subjects < FEW
        else ""
    )
    lines = [
        Line("network.kind", "unet", ""),
        Line(
            "network.channels",
            channels,
            f"{levels} levels, the coarsest {shown}; {base} channels for "
            f"{scope.images} images{small}",
        ),
        Line(
            "network.attention",
            [*[False] * (levels - 1), attends],
            "the coarsest level sees the whole image" if attends else "its grid is too large",
        ),
        Line(
            "network.blocks",
            2 if scope.dims == 2 else 1,
            "one is enough in 3-D" if scope.dims == 3 else "",
        ),
    ]
    if attempt.checkpointed:
        chosen = [level < attempt.checkpointed for level in range(levels)]
        why = "activations of these levels are computed again instead of kept: it fits then"
        lines.append(Line("network.checkpoint_levels", chosen, why))
    return lines


def _base(scope: Scope, attempt: Attempt) -> int:
    """Channels of the finest level; so coarse a grid as that of latents bears more."""
    return max(scope.size.base, LATENT_BASE if attempt.method == "latents" else 0)


def working_grid(scope: Scope, attempt: Attempt) -> tuple[int, ...]:
    """The grid that the network works on, whole."""
    halvings = HALVINGS.get(attempt.method, 0)
    return tuple(-(-n // 2**halvings) for n in scope.grid)


def _levels(scope: Scope, attempt: Attempt) -> int:
    return max(1, scope.levels - HALVINGS.get(attempt.method, 0))


def space_lines(scope: Scope, attempt: Attempt, asked: Method | None) -> list[Line]:
    """The codec or patch section, where there is one."""
    whole = " x ".join(map(str, scope.grid))
    cause = "as asked" if asked else f"images of {whole} do not fit whole"
    if attempt.method == "wavelet":
        why = f"{cause}; the Haar wavelet's bands halve the grid, and lose nothing"
        return [Line("codec", {"kind": "wavelet"}, why)]
    if attempt.patch is not None:
        why = f"{cause}; the network is told where each patch lies"
        return [Line("data.patch", {"size": list(attempt.patch)}, why)]
    return []


def train_lines(scope: Scope, attempt: Attempt, gpu_memory: float, needed: float) -> list[Line]:
    """The train section."""
    base = _base(scope, attempt)
    rate = min(size.rate for size in SIZES if size.base <= base)
    wanted = SEEN * scope.images / attempt.batch
    steps = int(min(max(wanted, STEPS[0]), STEPS[1])) // 500 * 500
    seen = steps * attempt.batch / scope.images
    validate = max(100, steps // 24 // 100 * 100)
    every: dict[str, Any] = {
        "validate_every": (validate, "about 24 times; the best of them becomes the model"),
        "save_every": (validate, "what an interruption costs at most"),
        "sample_every": (steps // 2, ""),
        "sample_images": (attempt.samples, "of a sample grid; whole images, without a patch"),
        "validation_images": (max(attempt.batch, min(64, scope.images)), "of each split"),
    }
    return [
        Line(
            "train.steps",
            steps,
            f"each image is seen {seen:.0f} times; ends early if it begins to learn them by heart",
        ),
        Line("train.batch", attempt.batch, f"predicted need {needed:.1f} of {gpu_memory:g} GiB"),
        Line("train.learning_rate", rate, f"for networks of {base} channels"),
        Line("train.warmup_steps", min(500, steps // 20), ""),
        Line(
            "train.ema",
            {"kind": "power"},
            "the length of the average is chosen when the training is done",
        ),
        *(Line(f"train.{name}", value, why) for name, (value, why) in every.items()),
    ]
