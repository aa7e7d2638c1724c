"""Reconstruction: images from what a scanner measures, k-space or sinograms, by the prior."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field

from medidiff.data.datasets import Case
from medidiff.data.raw import BESIDE
from medidiff.diffusion import KeyedNoise
from medidiff.errors import TaskError
from medidiff.model import Model
from medidiff.tasks.base import Bench, Benchmarked, Needs, Problem, Solution, Target
from medidiff.tasks.cartesian import Cartesian
from medidiff.tasks.classical import ONE_COIL, SEVERAL_COILS, SINOGRAM
from medidiff.tasks.defaults import Posterior
from medidiff.tasks.measured import check_image_space, solved
from medidiff.tasks.radon import Radon
from medidiff.tasks.restoration import RESTORATION_METRICS
from medidiff.tasks.settings import Setting, judged
from medidiff.tasks.simulate import SimulatedMRI, SimulatedRadon

MRI = {
    "mri 1 coil R=4": SimulatedMRI(4, 0.08),
    "mri 1 coil R=8": SimulatedMRI(8, 0.04),
    "mri 8 coils R=4": SimulatedMRI(4, 0.08, coils=8),
    "mri 8 coils R=8": SimulatedMRI(8, 0.04, coils=8),
    "mri 1 coil equispaced R=4": SimulatedMRI(4, 0.08, sampling="equispaced"),
    "mri 8 coils equispaced R=4": SimulatedMRI(4, 0.08, coils=8, sampling="equispaced"),
}
RADON = {
    "radon 60 views": SimulatedRadon(60),
    "radon 30 views": SimulatedRadon(30),
    "radon 90 degrees": SimulatedRadon(90, span=90.0),
}
SETTINGS = (*MRI, *RADON)
TV = "total variation"
PARALLEL = ("CG-SENSE", "l1-wavelet", TV)
TARGETS = (
    Target("mri 1 coil R=4", ("zero-filled",), 10.0),
    Target("mri 1 coil R=4", (TV,), 8.0),
    Target("mri 1 coil R=8", ("zero-filled",), 9.0),
    Target("mri 1 coil R=8", (TV,), 7.0),
    Target("mri 8 coils R=4", PARALLEL, 6.0),
    Target("mri 8 coils R=8", PARALLEL, 8.0),
    Target("radon 60 views", (TV,), 3.0),
    Target("radon 30 views", (TV,), 4.0),
    Target("radon 90 degrees", (TV,), 6.0),
)


@dataclass(frozen=True)
class Reconstruction:
    """Images from k-space or from sinograms."""

    kind: Literal["reconstruct"] = "reconstruct"
    measurement: Annotated[Cartesian | Radon, Field(discriminator="kind")] = Cartesian()
    """What was measured, and what is known of it."""
    posterior: Posterior | None = None
    """How samples are drawn; None: as validation subjects said."""
    result: Literal["all", "mean", "sample"] = "all"
    """The image with every sample, the image alone, or one sample in its place; maps come with
    n > 1."""
    settings: tuple[str, ...] | None = None
    """Of the benchmark: those to run, by name; all unless told."""
    noise_scale: float = 1.0
    """Of the benchmark: times the settings' own noise. Maps are called calibrated near a noise
    level that was judged."""

    def __post_init__(self) -> None:
        if not 0 < self.noise_scale < math.inf:
            raise ValueError(f"noise_scale must be above 0 (found {self.noise_scale})")
        unknown = [name for name in self.settings or () if name not in SETTINGS]
        if unknown:
            raise ValueError(f"settings has no {unknown[0]!r}; there are {', '.join(SETTINGS)}")

    def needs(self) -> Needs:
        return Needs(beside=BESIDE, measurement=self.measurement.kind)

    def prepare(self, cases: Sequence[Case], model: Model) -> Problem:
        """The measurement in model units; brightness, phase, coils and noise level from it alone
        where they are not given.

        Errors: TaskError for a model of several channels or behind a codec, and for a measurement
        that does not tell what is needed.
        """
        check_image_space(model, "reconstruction")
        if len(model.spec.images) != 1:
            raise TaskError(
                f"a measurement is of one image; {model.spec.name} is a model of "
                f"{len(model.spec.images)} ({', '.join(model.spec.images)})"
            )
        return self.measurement.problem(cases, model)

    def solve(self, problem: Problem, model: Model, n: int, seed: int) -> Solution:
        """Posterior samples on the model's grid."""
        return solved(self, problem, model, n, seed)

    def baselines(self) -> tuple[str, ...]:
        """Of all settings asked for; each has its own of them."""
        found = [rival.name for setting in self._settings() for rival in setting.rivals]
        return tuple(dict.fromkeys(found))

    def metrics(self) -> Mapping[str, str]:
        return RESTORATION_METRICS

    def benchmark(self, bench: Bench) -> Benchmarked:
        """Simulated MRI of one coil and of eight, and sinograms of the same slices (which are no
        CT), each noise level told to all methods."""
        return judged(self._settings(), bench)

    def simulate(self, cases: Sequence[Case], noise: KeyedNoise) -> list[Case]:
        """Clean cases as the first of the settings measures them."""
        return self._settings()[0].simulate(cases, noise)

    def _settings(self) -> list[Setting]:
        return [setting_of(name, self) for name in self.settings or SETTINGS]


def setting_of(name: str, head: Reconstruction) -> Setting:
    """One of `SETTINGS`, with what the head knows of k-space; a simulated sinogram says its own."""
    scanner = (MRI | RADON)[name].noisier(head.noise_scale)
    if isinstance(scanner, SimulatedMRI):
        known = head.measurement if isinstance(head.measurement, Cartesian) else Cartesian()
        rivals = ONE_COIL if scanner.coils == 1 else SEVERAL_COILS
    else:
        known = Radon(photons=scanner.photons, attenuation=(0.0, scanner.attenuation))
        rivals = SINOGRAM
    judge = replace(head, measurement=known, settings=None)
    if head.noise_scale == 1:
        targets = tuple(target for target in TARGETS if target.setting == name)
        return Setting(name, judge, scanner, rivals, targets)
    return Setting(f"{name} (noise x{head.noise_scale:g})", judge, scanner, rivals)
