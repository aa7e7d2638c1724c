"""What supervised networks are trained for: measurements of training scans by the simulators of the
heads' benchmarks, a batch at once where the network lies, and of validation scans as there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from supervised_peers import RICIAN, denoised
from torch import Tensor

from medidiff.data.augment import augment, surroundings
from medidiff.data.datasets import Case
from medidiff.data.options import Augment
from medidiff.diffusion import KeyedNoise, training_uniforms
from medidiff.evaluation.distortion import psnr
from medidiff.evaluation.regions import head_region
from medidiff.model import Model
from medidiff.physics import CartesianMRI, ConjugateGradients
from medidiff.tasks.base import Problem, noise_key
from medidiff.tasks.denoise import Denoising
from medidiff.tasks.magnitudes import noisy_magnitude
from medidiff.tasks.reconstruct import MRI, Reconstruction, setting_of
from medidiff.tasks.restoration import WINDOW
from medidiff.tasks.settings import as_the_truth, simulated

AUGMENT = Augment(shift_voxels=4, rotate_degrees=5, scale=0.05, until=0.8)
"""As configs/brain-t1-2d-benchmark.yaml."""
SIGMAS = (0.02, 0.25)  # window widths
VALIDATED_SIGMAS = (0.05, 0.1, 0.2)
MASKS = 2000  # drawn beforehand
STEPS = ConjugateGradients(tolerance=1e-4, steps=12)  # of a turn in training
UNIT = 1e-3  # squared error in squared window widths that a loss of 1 is: 30 dB
LEVEL = 0.1  # window widths: a denoiser's errors count by this level over their own


@dataclass(frozen=True, eq=False)
class Clean:
    """Scans where the network lies, and the ends of their windows.

    Shapes: images (batch, 1, *space) in model units; low and high (batch,).
    """

    images: Tensor
    low: Tensor
    high: Tensor

    @property
    def widths(self) -> Tensor:
        """Of the windows, (batch,)."""
        return self.high - self.low

    @property
    def zero(self) -> Tensor:
        """No signal, in model units: (batch, 1, ...)."""
        return _column(-2 * self.low / self.widths - 1, self.images)

    @property
    def signal(self) -> Tensor:
        """In units of the scans."""
        return (self.images + 1) / WINDOW * _column(self.widths, self.images) + _column(
            self.low, self.images
        )


class Scans:
    """All training scans with what lies around them, on the device."""

    def __init__(self, cases: Sequence[Case], size: tuple[int, ...], device: torch.device) -> None:
        fields, spacings = [case.field for case in cases], [case.spacing for case in cases]
        around = surroundings([case.around for case in cases], fields, size, spacings)
        self.around = around.to(device)
        self.low, self.high = (
            torch.tensor([ends[0] for ends in pair], device=device)
            for pair in zip(*((case.scale.low, case.scale.high) for case in cases), strict=True)
        )

    def batch(self, step: int, size: int, seed: int, *, moved: bool) -> Clean:
        """Some of them at random, moved as training scans are."""
        draws = training_uniforms(seed, step, range(size), "which")[:, 0]
        chosen = (draws * len(self.low)).long().to(self.low.device)
        around, some = self.around, self.around.images[chosen]
        if moved:
            how = training_uniforms(seed, step, range(size), "augment", Augment.DRAWS)
            spacing, field = around.spacing[chosen], around.field[chosen]
            some = augment(some, AUGMENT, how, field=field, size=around.size, spacing=spacing)
        else:
            some = replace(around, images=some).on_grid
        return Clean(some, self.low[chosen], self.high[chosen])


Network = Callable[..., Tensor]


class Task(Protocol):
    """What a network is trained for."""

    def loss(self, network: Network, clean: Clean, noise: KeyedNoise, draws: Tensor) -> Tensor:
        """Of a batch, about 1; `draws` (batch,) are uniform in (0, 1)."""
        ...

    def validation(self, cases: Sequence[Case], model: Model) -> Iterator[Checked]:
        """The same measurements as the benchmark's, of validation scans."""
        ...


@dataclass(frozen=True, eq=False)
class Checked:
    """Some scans, measured."""

    setting: str
    """As the benchmark calls it."""
    problem: Problem
    given: Sequence[Case]
    clean: Tensor
    region: Tensor

    def estimate(self, solve: Callable[[Problem], Tensor]) -> Tensor:
        """Of what solves the problem, in the units of `clean`."""
        return as_the_truth(solve(self.problem), self.problem, self.given)

    def psnr(self, solve: Callable[[Problem], Tensor]) -> list[float]:
        """Of what solves the problem, in-head."""
        found = self.estimate(solve)
        return psnr(found, self.clean, data_range=WINDOW, region=self.region).tolist()


def as_benchmarked(name: str, cases: Sequence[Case], model: Model) -> Iterator[Checked]:
    """What the heads' benchmarks measure of the scans: noise of each level (`RICIAN`), or one of
    the settings of MRI."""
    clean = torch.stack([case.images for case in cases])
    region = head_region(clean)
    if name != RICIAN:
        setting = setting_of(name, Reconstruction())
        given = simulated(setting, cases, seed=0)
        yield Checked(name, setting.head.prepare(given, model), given, clean, region)
        return
    noise = KeyedNoise(0, [(f"degradation {noise_key(case)}", 0) for case in cases])
    for sigma in VALIDATED_SIGMAS:
        head = Denoising(noise="rician", sigma=sigma)
        noisy = head.corrupt(clean, cases, noise)
        given = [replace(case, images=x) for case, x in zip(cases, noisy, strict=True)]
        yield Checked(f"rician {sigma:g}", head.prepare(given, model), given, clean, region)


class Rician:
    """Magnitudes of noisy complex values, of any level."""

    def loss(self, network: Network, clean: Clean, noise: KeyedNoise, draws: Tensor) -> Tensor:
        low, high = SIGMAS
        sigma = (low * (high / low) ** draws).to(clean.images)
        spread = WINDOW * _column(sigma, clean.images)
        noisy = noisy_magnitude(clean.images, clean.zero, spread, noise)
        error = (denoised(network, noisy, sigma) - clean.images) / WINDOW
        # squared errors grow about as the level does: so none of them outweighs the others
        return (error.square() * LEVEL / _column(sigma, error)).mean() / UNIT

    def validation(self, cases: Sequence[Case], model: Model) -> Iterator[Checked]:
        return as_benchmarked(RICIAN, cases, model)


class Scanner:
    """Undersampled k-space of one of the heads' settings, another mask and phase each time."""

    def __init__(self, setting: str, space: tuple[int, ...], device: torch.device) -> None:
        self.setting, self.scanner = setting, MRI[setting]
        masks = [self.scanner.mask(space, seed).bool() for seed in range(MASKS)]
        self.masks = torch.stack(masks).to(device)

    def loss(self, network: Network, clean: Clean, noise: KeyedNoise, draws: Tensor) -> Tensor:
        whole = self.scanner.whole(clean.signal, clean.widths, noise)
        mask = self.masks[(draws * len(self.masks)).long().to(self.masks.device)].float()
        found = network(CartesianMRI(mask, whole.coils, None, STEPS), whole.kspace * mask)
        truth = torch.polar(clean.signal, whole.phase)
        error, width = found - truth, _column(clean.widths, clean.images)
        shade = found.abs() - clean.signal  # by which it is judged
        return ((error / width).abs().square() + (shade / width).square()).mean() / (2 * UNIT)

    def validation(self, cases: Sequence[Case], model: Model) -> Iterator[Checked]:
        return as_benchmarked(self.setting, cases, model)


def task_of(setting: str, model: Model, device: torch.device) -> Task:
    """By the name of what is measured."""
    return Rician() if setting == RICIAN else Scanner(setting, model.spec.space.size, device)


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like).view(-1, *[1] * (like.ndim - 1))
