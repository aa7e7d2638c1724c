"""What a head is: one file that says what it needs of a prior, how it solves a case, and what it
must beat.

A head is a frozen dataclass of its options whose first field is `kind`. Everything that heads
share (batching, seeds, geometry, provenance, files, the benchmark's tables) is outside of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medidiff.data.datasets import Case
from medidiff.data.raw_checks import Kind
from medidiff.errors import TaskError
from medidiff.evaluation.bootstrap import Interval
from medidiff.evaluation.calibration import Calibration
from medidiff.inverse import AnyLikelihood, Gaussian, Refit
from medidiff.model import Model
from medidiff.physics import LinearOperator
from medidiff.spec import SamplingOptions

OURS = "medidiff"
"""Our method's name in every table."""

Row = dict[str, str | float]
"""One line of a benchmark: subject (a pseudonym), setting, method, then metrics by name."""

Progress = Callable[[str, int, int], None]
"""(what, done, total)."""


@dataclass(frozen=True)
class Needs:
    """What a head asks of a prior."""

    concat_channels: int = 0
    """Image channels that the network is conditioned on."""
    input_images: bool = True
    """Whether the head works on a given scan."""
    beside: tuple[str, ...] = ()
    """What may be given with a scan, by name: files or arrays, such as a mask."""
    coarser: int | tuple[int, ...] = 1
    """How many times larger than the model's the voxels of the given scan are, along each axis."""
    measurement: Kind | None = None
    """What is given where it is no image but what a scanner measures: k-space, or sinograms."""
    around: Literal["background", "scan"] = "background"
    """What a result holds where its input reaches beyond the model's grid."""


@dataclass(frozen=True, eq=False)
class Signal:
    """The same measurement as the scanner gave it, for methods that know no prior.

    Shapes: values (batch, ...) in units of the signal; noise_std (batch,).
    """

    operator: Callable[[Sequence[int]], LinearOperator]
    """On the measured grid; complex images where a phase is not known."""
    values: Tensor
    noise_std: Tensor


@dataclass(frozen=True, eq=False)
class Measurement:
    """y = A clean + noise, for each image of a batch, in model units.

    Shapes: values (batch, ...); noise_std and count (batch,), float64 on the CPU.
    """

    operator: Callable[[Sequence[int]], LinearOperator]
    """The operator of some members of the batch, each named once or several times."""
    values: Tensor
    noise_std: Tensor
    """Of each real number; of complex values, of the real and of the imaginary part."""
    count: Tensor
    """Real numbers that were measured of each image."""
    kinds: tuple[str, ...]
    """What was measured how, of each image, such as "mri 8 coils R=4, 1-D mask": what a calibration
    is of."""
    signal: Signal | None = None
    refined: Callable[[Tensor, float], Measurement] | None = None
    """(images, how far they may be off) -> the measurement with what was estimated of it (a phase)
    estimated anew."""
    refit: Callable[[Sequence[int]], Refit] | None = None
    """The same of some members, along their way from noise to image."""
    refit_bytes: int = 0
    """What that holds of each image at most."""
    likelihood: Callable[[Sequence[int]], AnyLikelihood] | None = None
    """The law of the noise of some members, where it is not Gaussian of `noise_std`."""
    brightness: Literal["known", "estimated"] = "known"
    """Estimated: what is brightest may lie above the model's range, and estimates are not held
    below its upper end."""

    @property
    def kind(self) -> str:
        """Of the batch: that of its images, or all that there are."""
        return " and ".join(dict.fromkeys(self.kinds))

    def law(self, members: Sequence[int]) -> AnyLikelihood:
        """Of the noise of some members."""
        if self.likelihood is None:
            return Gaussian(self.noise_std[[*members]])
        return self.likelihood(members)

    def residual(self, clean: Tensor, members: Sequence[int]) -> Tensor:
        """||A clean - y|| / (noise_std sqrt(count)) of images of some members, (images,) on the
        CPU; 1 for a result that leaves the noise and no more, 0 / 0 as 0."""
        chosen = [*members]
        apart = self.operator(chosen).forward(clean) - self.values[chosen]
        size = torch.linalg.vector_norm(apart.flatten(1), dim=1).cpu().double()
        expected = self.noise_std[chosen] * self.count[chosen].sqrt()
        return torch.where(expected > 0, size / expected, 0.0)


@dataclass(frozen=True)
class Problem:
    """A batch of cases made ready.

    Shapes: given is (batch, channel, *space), in model units.
    """

    given: Tensor
    cases: tuple[Case, ...]
    levels: tuple[float, ...] = ()
    """Noise level of each image in window widths, where the head has one; of line integrals in
    window widths times mm."""
    condition: Tensor | None = None
    measurement: Measurement | None = None
    """What was measured of each image, where that is not the image itself."""
    progress: Progress = lambda what, done, total: None
    """Told of the steps of long work."""

    @property
    def keys(self) -> list[str]:
        return [noise_key(case) for case in self.cases]


@dataclass(frozen=True, eq=False)
class Filled:
    """What of an input stays as it was.

    Shapes: `scan` (channel, *space) and `hole` (*space) on the input's grid.
    """

    scan: NDArray[np.float32]
    hole: NDArray[np.bool_]

    def __call__(self, made: NDArray[np.float32]) -> NDArray[np.float32]:
        """`made` in the hole, the scan elsewhere."""
        return np.where(self.hole, made, self.scan).astype(np.float32)


@dataclass(frozen=True)
class Solution:
    """What a head found, in model units.

    Shapes: point is (batch, channel, *space), where the problem lies; samples (n, batch, channel,
    *space) in the host's memory, or None.
    """

    point: Tensor
    nfe: int
    """Network calls per image."""
    samples: Tensor | None = None
    sampling: SamplingOptions | None = None
    """How the samples were drawn; None where no sampler ran."""
    facts: Mapping[str, object] = field(default_factory=dict)
    """What the provenance should say besides, such as the noise level used."""
    cost: float | None = None
    """Forward-equivalent network calls an image: a backward counts two. None: there was none."""
    filled: Sequence[Filled | None] = ()
    """Of each case, what its result leaves as it was; empty where that is nothing."""
    kept: Literal["all", "mean", "sample"] = "all"
    """Whether the result holds every sample, or its image and maps alone."""


@dataclass(frozen=True)
class Peer:
    """Another method that a benchmark compares a head with beside the head's own baselines, such
    as a network that was trained for one measurement."""

    name: str
    solve: Callable[[Problem], Tensor]
    """Images in the problem's model units, (batch, channel, *space)."""
    settings: tuple[str, ...] | None = None
    """The settings that it takes part in, by name; all unless told."""

    def takes_part(self, setting: str) -> bool:
        """Whether it is to solve a setting's problems."""
        return self.settings is None or setting in self.settings


@dataclass(frozen=True)
class Bench:
    """What a head's benchmark is given. Baselines are tuned on `validation` and reported on
    `test`."""

    model: Model
    train: Sequence[Case]
    validation: Sequence[Case]
    test: Sequence[Case]
    seed: int = 0
    batch: int = 16
    samples: int = 1
    baselines: Literal["tuned", "none"] = "tuned"
    """"none" leaves them out: their tuning costs minutes, the network's share seconds."""
    peers: Sequence[Peer] = ()
    """What else is compared; nothing of it is tuned."""
    progress: Progress = lambda what, done, total: None


@dataclass(frozen=True)
class Target:
    """What a benchmark was to reach: the lower bound of the interval of ours minus the best of
    `against`, subject by subject, is at least `least`."""

    setting: str
    against: tuple[str, ...]
    least: float
    metric: str = "psnr_head"


@dataclass(frozen=True)
class Limit:
    """What ours alone was to stay below: the upper bound of a metric's interval is at most
    `most`."""

    setting: str
    metric: str
    most: float


@dataclass(frozen=True)
class Account:
    """How the figures of one setting were made."""

    setting: str
    estimate: str
    """What of the posterior is judged, such as "the mean of 2 samples"."""
    images: int
    equivalents: float
    """Forward-equivalent network calls an image: a backward counts two."""
    seconds: float
    """An image, from the measurement to the result."""
    gib: float | None
    """The most memory that the device held at once; None where that is not counted."""
    hardware: str
    tuned: Mapping[str, str]
    """Of each baseline that has something to choose, what was chosen."""
    tuned_on: int
    """Validation scans that it was chosen on."""


@dataclass(frozen=True)
class Calibrated:
    """What a benchmark found of the spread of samples, and of what they were samples."""

    setting: str
    kind: str
    """Of the measurement."""
    noise: float
    """Mean level over subjects, in window widths; of line integrals, in window widths times mm."""
    posterior: Mapping[str, object]
    """The sampler's options."""
    found: Calibration


@dataclass(frozen=True)
class Benchmarked:
    """What a head's benchmark gives."""

    rows: list[Row]
    examples: Sequence[Mapping[str, Tensor]] = ()
    """Images of some test cases by method, for a picture: (channel, *space) in model units."""
    truth: str | None = None
    """Which of the examples' images is the truth, where there is one."""
    targets: Sequence[Target] = ()
    """What was to be reached, frozen before anything was measured."""
    limits: Sequence[Limit] = ()
    """The same of what was not to be exceeded."""
    accounts: Sequence[Account] = ()
    """Of each setting, how its figures were made."""
    calibrated: Sequence[Calibrated] = ()
    """Of each setting, what test subjects say of the samples' spread, where several were drawn."""
    labels: Sequence[str] = ()
    """Of each example, such as its setting."""
    maps: tuple[str, ...] = ()
    """Which of the examples' images are no estimates of the truth."""
    notes: Sequence[str] = ()
    """What a reader of the table must know, a line each, such as results that do not fit."""
    real_against_real: Mapping[str, Interval] = field(default_factory=dict)
    """Metric of a population -> what it is for two sets of real images of the same size: the mean
    over random sets and the middle 95 % of single ones."""


class Solves(Protocol):
    """What solves cases."""

    def prepare(self, cases: Sequence[Case], model: Model) -> Problem:
        """Cases -> problem."""
        ...

    def solve(self, problem: Problem, model: Model, n: int, seed: int) -> Solution:
        """The point estimate and, for n > 1, posterior samples. A batch equals its members one by
        one."""
        ...


class Head(Solves, Protocol):
    """One application of a prior."""

    @property
    def kind(self) -> str: ...

    def needs(self) -> Needs: ...

    def baselines(self) -> tuple[str, ...]:
        """Names of the methods that the benchmark compares with."""
        ...

    def metrics(self) -> Mapping[str, str]:
        """Metric -> what it is: region, data range, and "higher" or "lower" as its last word."""
        ...

    def benchmark(self, bench: Bench) -> Benchmarked:
        """Rows for this head and each of its baselines, by subject, and examples to look at."""
        ...


@runtime_checkable
class Doubting(Protocol):
    """A head that can tell when what was stated of an input speaks against the input itself."""

    def doubts(self, problem: Problem) -> Sequence[str | None]:
        """Of each case one line, or None. Asked of a person's inputs, not of a benchmark's, where
        all is as stated."""
        ...


def check_fit(head: Head, model: Model) -> None:
    """Errors: TaskError if the model is not the kind that the head needs."""
    wanted, found = head.needs().concat_channels, model.spec.given_channels
    if wanted != found:
        raise TaskError(
            f"{head.kind} needs a model conditioned on {wanted} image channels; "
            f"{model.spec.name} is conditioned on {found}"
        )
    if head.needs().input_images and model.spec.draws_only:
        raise TaskError(
            f"{head.kind} needs a model whose answer is the expected clean image; "
            f"{model.spec.name} is a consistency student, which only draws samples. Use its parent."
        )


def stack(cases: Sequence[Case], model: Model) -> Tensor:
    """The images of `cases` on the model's device: (batch, channel, *space), in model units."""
    return torch.stack([case.images for case in cases]).to(model.device)


def noise_key(case: Case) -> str:
    """What noise for a case is keyed by: its manifest row (and slice), or the content of a
    single input.

    Not the pseudonym, which differs from site to site.
    """
    if not case.row:
        return case.content
    return f"row {case.row}" if case.slice is None else f"row {case.row}, slice {case.slice}"
