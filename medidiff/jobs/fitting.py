"""Whether a training fits into a GPU, and which change makes it fit, each with its own need."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from medidiff.config import Config
from medidiff.errors import ConfigError
from medidiff.jobs.codecs import check_source
from medidiff.jobs.memory import GIB, SAMPLE_BATCH, MemoryPlan, Training, plan
from medidiff.jobs.models import model_folder
from medidiff.jobs.reporting import Reporter
from medidiff.jobs.step_memory import CONSTANTS
from medidiff.model_folder import read_spec
from medidiff.networks import (
    AutoencoderCodec,
    AutoencoderOptions,
    NetworkShape,
    UNetOptions,
    WaveletCodec,
)
from medidiff.networks.memory import Grid
from medidiff.training.objectives.alignment import Alignment
from medidiff.training.objectives.classifier import Classifier
from medidiff.training.objectives.consistency import ConsistencyTraining
from medidiff.training.objectives.spread import Spread

Progress = Callable[[int, int], None]
SMALLER = (3 / 4, 1 / 2, 3 / 8, 1 / 4)
"""Sizes of an image or patch that are tried, as shares of its own along each axis."""


@dataclass(frozen=True)
class Change:
    """A change of the configuration, and the memory that the training then needs."""

    keys: tuple[str, ...]
    """As `--change` takes them."""
    needed: int
    fits: bool


@dataclass(frozen=True)
class Fit:
    """Whether a training fits into so much memory, and what could be changed."""

    plan: MemoryPlan
    available: int
    changes: tuple[Change, ...]
    """Empty if it fits, or if the network is too large whatever else is changed."""

    @property
    def fits(self) -> bool:
        """Whether the memory is enough."""
        return self.plan.needed <= self.available

    @property
    def text(self) -> str:
        """For a person to read."""
        return "\n".join(_lines(self))


def check_gpu_memory(gib: float) -> None:
    """Errors: ConfigError for what is no amount of memory."""
    if not 0 < gib < math.inf:
        raise ConfigError(f"the memory of a GPU (--gpu-memory) is a number of GiB, not {gib:g}")


def fit(training: Training, gpu_memory: float, progress: Progress = lambda *_: None) -> Fit:
    """Whether a training fits into `gpu_memory` GiB, and what to change if it does not."""
    available, planned = int(gpu_memory * GIB), plan(training)
    if planned.needed <= available or planned.least > available:
        return Fit(planned, available, ())
    found: list[Change] = []
    for number, kind in enumerate(KINDS):
        progress(number, len(KINDS))
        tried = [*_until_it_fits(kind(training), available)]
        found += tried[-1:]  # the mildest that fits, or the strongest there is
    if not any(change.fits for change in found):
        found += _together(training, available)
    progress(len(KINDS), len(KINDS))
    return Fit(planned, available, tuple(found))


def fit_config(config: Config, shape: NetworkShape, gpu_memory: float, report: Reporter) -> Fit:
    """Whether the training of a configuration fits into `gpu_memory` GiB."""
    training = training_of(config, shape)
    return fit(
        training,
        gpu_memory,
        lambda done, total: report.progress("planning memory", done, total),
    )


def training_of(
    config: Config,
    shape: NetworkShape,
    coder: tuple[AutoencoderOptions, NetworkShape] | None = None,
) -> Training:
    """What decides how much memory the training of a configuration takes.

    `coder`: the autoencoder of its codec, where that is yet to be trained.
    """
    codec, space = config.codec, config.data.space.size
    coding = tile = None
    if isinstance(codec, WaveletCodec):
        space = tuple(-(-size // 2) for size in space)
    elif isinstance(codec, AutoencoderCodec):
        coding = _coder(codec, config) if coder is None else coder
        space = coding[0].latent_space(space)
        tile = None if codec.tiles is None else (codec.tiles.size,) * len(space)
    patch = None if config.data.patch is None else config.data.patch.size
    objective = config.diffusion.objective
    return Training(config.network, shape, space, config.train, patch, coding, objective, tile)


def _coder(codec: AutoencoderCodec, config: Config) -> tuple[AutoencoderOptions, NetworkShape]:
    known = read_spec(model_folder(codec.model))
    return check_source(known, config), known.shape


Step = tuple[tuple[str, ...], Training]
"""Changed keys and the training that they make."""


def _until_it_fits(steps: Iterator[Step], available: int) -> Iterator[Change]:
    for keys, training in steps:
        needed = plan(training).needed
        yield Change(keys, needed, needed <= available)
        if needed <= available:
            return


def _together(training: Training, available: int) -> Iterator[Change]:
    """The first that fits of one kind of change upon another, the mildest first; else nothing."""
    keys: tuple[str, ...] = ()
    for kind in (each for each in KINDS if each is not _in_another_space):
        strongest: Step | None = None
        for own, changed in kind(training):
            strongest = own, changed
            needed = plan(changed).needed
            if needed <= available:
                yield Change((*keys, *own), needed, fits=True)
                return
        if strongest is not None:
            keys, training = (*keys, *strongest[0]), strongest[1]


def _fewer_samples(training: Training) -> Iterator[Step]:
    if _worst_moment(training) == "drawing samples":
        yield from _halved(training, "sample_images", training.train.sample_images)


def _smaller_validation(training: Training) -> Iterator[Step]:
    """The validation loss is measured on as many images at a time as there are in a batch."""
    options = training.train
    if _worst_moment(training) == "validation":
        at_once = min(options.batch, options.validation_images)
        yield from _halved(training, "validation_images", at_once)


def _half_precision(training: Training) -> Iterator[Step]:
    if training.number == "fp32":
        yield _with(training, "precision", "bf16")


def _fused(training: Training) -> Iterator[Step]:
    if training.train.acceleration == "none":
        yield _with(training, "acceleration", "auto")


def _recomputed(training: Training) -> Iterator[Step]:
    """Gradient checkpointing of one level more, the finest first."""
    network = training.network
    if not isinstance(network, UNetOptions) or isinstance(training.objective, Spread):
        return
    count = len(network.channels)
    for levels in range(sum(network.checkpoint_levels) + 1, count + 1):
        chosen = tuple(level < levels for level in range(count))
        text = ", ".join(str(each).lower() for each in chosen)
        changed = replace(training, network=replace(network, checkpoint_levels=chosen))
        yield (f"network.checkpoint_levels=[{text}]",), changed


def _smaller_batch(training: Training) -> Iterator[Step]:
    least = 2 if isinstance(training.objective, Alignment) else 1
    return _halved(training, "batch", training.train.batch, least)


def _on_patches(training: Training) -> Iterator[Step]:
    """A prior validates and draws whole images all the same."""
    whole = isinstance(training.objective, ConsistencyTraining | Classifier | Alignment)
    if whole or (training.patch is None and _as_parent(training)):
        return
    plain = training.patch or isinstance(training.network, AutoencoderOptions)
    told = training.shape if plain else _told_where(training.shape)
    for patch in _smaller(training, training.patch or training.space):
        yield (
            (f"data.patch.size=[{_listed(patch)}]",),
            replace(training, patch=patch, shape=told),
        )


def _in_another_space(training: Training) -> Iterator[Step]:
    """Wavelet bands; or latents of an autoencoder that has yet to be trained."""
    elsewhere = training.coding is not None or training.patch is not None
    if elsewhere or not isinstance(training.network, UNetOptions) or _as_parent(training):
        return
    dims, channels = training.shape.dims, training.shape.in_channels
    halved = tuple(-(-size // 2) for size in training.space)
    yield ("codec.kind=wavelet",), _of_channels(training, channels * 2**dims, halved)
    coder = AutoencoderOptions()
    latents = _of_channels(training, coder.latent_channels, coder.latent_space(training.space))
    shape = NetworkShape(dims=dims, in_channels=channels, out_channels=channels)
    yield (
        ("codec.kind=autoencoder", "codec.model=AN_AUTOENCODER"),
        replace(latents, coding=(coder, shape)),
    )


def _smaller_images(training: Training) -> Iterator[Step]:
    if training.coding is None:
        for space in _smaller(training, training.space):
            yield (f"data.space.size=[{_listed(space)}]",), replace(training, space=space)


def _smaller(training: Training, space: Grid) -> Iterator[Grid]:
    """Grids that the network halves evenly."""
    multiple = 2 ** (len(training.network.channels) - 1)
    for share in SMALLER:
        yield tuple(max(multiple, int(size * share) // multiple * multiple) for size in space)


def _as_parent(training: Training) -> bool:
    """Whether a parent says what the network takes and gives."""
    objective = training.objective
    taught = isinstance(objective, ConsistencyTraining) and objective.teacher == "parent"
    return taught or isinstance(objective, Spread)


def _told_where(shape: NetworkShape) -> NetworkShape:
    return replace(shape, concat_channels=shape.concat_channels + shape.dims)


def _of_channels(training: Training, channels: int, space: Grid) -> Training:
    heads = training.shape.out_channels // training.shape.in_channels
    shape = replace(training.shape, in_channels=channels, out_channels=heads * channels)
    return replace(training, shape=shape, space=space)


def _listed(space: Grid) -> str:
    return ", ".join(map(str, space))


KINDS: tuple[Callable[[Training], Iterator[Step]], ...] = (
    _fewer_samples,
    _smaller_validation,
    _half_precision,
    _fused,
    _recomputed,
    _smaller_batch,
    _on_patches,
    _in_another_space,
    _smaller_images,
)
"""What may be changed, from what changes nothing of the model to what does."""


def _worst_moment(training: Training) -> str:
    moments = plan(training).moments
    return max(moments, key=lambda moment: moments[moment])


def _with(training: Training, name: str, value: object) -> Step:
    changed = replace(training.train, **{name: value})  # type: ignore[arg-type]
    return (f"train.{name}={value}",), replace(training, train=changed)


def _halved(training: Training, name: str, count: int, least: int = 1) -> Iterator[Step]:
    while count // 2 >= least:
        count //= 2
        yield _with(training, name, count)


def _lines(found: Fit) -> Iterator[str]:
    planned, step = found.plan, found.plan.step
    verdict = "it fits" if found.fits else "it does NOT fit"
    yield (
        f"memory: training needs {_gib(planned.needed)} of {_gib(found.available)} GiB: {verdict} "
        "(predicted)"
    )
    yield (
        f"  held throughout: weights {_gib(planned.weights)}, averaged weights "
        f"{_gib(planned.averages)}, optimiser {_gib(planned.optimiser)}, driver "
        f"{_gib(planned.needed - planned.peak)}"
    )
    if planned.steps.beside:
        yield f"  other networks of this objective: {_gib(planned.steps.beside)}"
    grids = {grid: size for grid, size in step.by_grid.items() if grid}
    levels = ", ".join(f"{' x '.join(map(str, grid))} {_gib(size)}" for grid, size in grids.items())
    yield f"  activations kept for the way back, by level: {levels}"
    yield f"  gradients {_gib(step.gradients)}, forward and back together {_gib(step.peak)}"
    moments = ", ".join(f"{name} {_gib(size)}" for name, size in planned.moments.items())
    yield f"  at most while {moments}"
    if planned.training.draws:
        yield (
            f"  drawing samples with the finished model, {SAMPLE_BATCH} at a time: "
            f"{_gib(planned.drawing)}"
        )
    empty = CONSTANTS.driver + CONSTANTS.workspace
    if empty > found.available:
        yield f"  the driver and its libraries alone take {_gib(empty)} GiB: no training fits"
    elif planned.least > found.available:
        yield (
            f"  the network alone needs {_gib(planned.least)} GiB: only a smaller one helps "
            "(network.channels, network.blocks)"
        )
    for change in found.changes:
        verdict = "fits" if change.fits else "does not fit"
        yield f"  {' '.join(f'-c {_quoted(key)}' for key in change.keys)}: " + (
            f"{_gib(change.needed)} GiB, {verdict}"
        )


def _quoted(key: str) -> str:
    return f"'{key}'" if "[" in key else key


def _gib(size: int) -> str:
    return f"{size / GIB:.{2 if size >= GIB / 10 else 3}f}"
