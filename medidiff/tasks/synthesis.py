"""Synthesis: new images from noise, judged as a population."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from medidiff.data.datasets import Case
from medidiff.errors import TaskError
from medidiff.evaluation.classical import PCAGaussian
from medidiff.evaluation.features import FeatureScale, random_features
from medidiff.evaluation.fidelity import (
    copied_share,
    coverage,
    density,
    kernel_distance,
    kernel_test,
    memorisation_ratio,
    nearest_distances,
    pairwise_similarity,
    precision,
    real_against_real,
    recall,
)
from medidiff.model import Model
from medidiff.tasks.base import OURS, Bench, Benchmarked, Needs, Problem, Row, Solution

EXAMPLES = 8  # rows of the picture
Measure = Callable[[Tensor, Tensor], float]
"""(features of real images, features of others) -> a number."""


@dataclass(frozen=True)
class Synthesis:
    """Draw new images; the benchmark compares them with real ones and with a Gaussian of the
    training images."""

    kind: Literal["synthesis"] = "synthesis"
    images: int = 64
    """Images that the benchmark draws from each method."""
    neighbours: int = 3
    """Neighbours that make up the manifold of precision and recall."""

    def __post_init__(self) -> None:
        if self.images < 2 or self.neighbours < 1:
            raise ValueError("images must be at least 2 and neighbours at least 1")

    def needs(self) -> Needs:
        return Needs(input_images=False)

    def prepare(self, cases: Sequence[Case], model: Model) -> Problem:
        """Errors: TaskError if images are given."""
        if cases:
            raise TaskError("synthesis takes no input images")
        return Problem(torch.empty(0, *_shape(model), device=model.device), ())

    def solve(self, problem: Problem, model: Model, n: int, seed: int) -> Solution:
        """`n` images as the batch of the point estimate, in model units."""
        drawn = model.sample(n, seed=seed)
        return Solution(model.spec.intensity.typical.normalise(drawn.images), drawn.nfe)

    def baselines(self) -> tuple[str, ...]:
        return ("PCA Gaussian",)

    def metrics(self) -> Mapping[str, str]:
        return {
            "kernel_distance": "unbiased MMD^2 of fixed random features to the real images; lower",
            "kernel_p": "share of random relabellings of real and made images with that kernel "
            "distance or a larger one (permutation test); higher",
            "precision": "share of images inside the manifold of the real ones; higher",
            "recall": "share of real images inside the manifold of the images; higher",
            "density": "real neighbourhoods that hold an image, in units of k; higher",
            "coverage": "share of real neighbourhoods that hold an image; higher",
            "similarity": "mean SSIM between pairs of images, data range 2; lower",
            "memorisation_ratio": "median feature distance to training images over that of unseen "
            "real ones, well below 1 for copies; higher",
            "copied_share": "share of images nearer to training than 99 % of the unseen "
            "real ones; lower",
        }

    def benchmark(self, bench: Bench) -> Benchmarked:
        """One row a method over the whole population, and for each real image its distance to the
        nearest made one."""
        model = bench.model
        # sets of one size: every one of these measures depends on n
        n = min(self.images, len(bench.test), len(bench.validation))
        if n < 2 or len(bench.train) < 2:
            raise TaskError(
                f"synthesis is judged by populations: {len(bench.train)} training, "
                f"{len(bench.validation)} validation and {len(bench.test)} test images are too few"
            )
        drawn = model.sample(
            n,
            seed=bench.seed,
            batch=bench.batch,
            progress=lambda done, total: bench.progress("sampling", done, total),
        )
        made = model.spec.intensity.typical.normalise(drawn.images)
        train = torch.stack([case.images for case in bench.train])
        real = torch.stack([case.images for case in bench.test[:n]])
        validation = torch.stack([case.images for case in bench.validation[:n]])
        methods = {"real": validation}
        if bench.baselines == "tuned":
            methods["PCA Gaussian"] = PCAGaussian.fit(train).sample(n, seed=bench.seed)
        methods[OURS] = made
        scale = FeatureScale.fit(random_features(train))
        seen, unseen = scale(random_features(train)), scale(random_features(real))
        rows: list[Row] = []
        for index, (method, images) in enumerate(methods.items()):
            ours = scale(random_features(images))
            rows.append(self._population(method, images, ours, unseen, seen))
            rows += _by_case(bench.test[:n], unseen, ours, method)
            bench.progress("comparing", index + 1, len(methods))
        examples = [
            {method: images[index] for method, images in methods.items()}
            for index in range(min(EXAMPLES, n))
        ]
        both = torch.cat([unseen, scale(random_features(validation))])
        floor = {
            name: real_against_real(measure, both, n, seed=bench.seed)
            for name, measure in self._measures(n, seen).items()
        }
        return Benchmarked(rows, examples, real_against_real=floor)

    def _population(
        self, method: str, images: Tensor, features: Tensor, real: Tensor, train: Tensor
    ) -> Row:
        measures = self._measures(len(real), train)
        test = kernel_test(real, features)
        return {
            "subject": "population",
            "setting": "population",
            "images": len(images),
            "method": method,
            **{name: measure(real, features) for name, measure in measures.items()},
            "kernel_p": test.p,
            "kernel_relabelled_low": test.relabelled[0],
            "kernel_relabelled_high": test.relabelled[1],
            "similarity": pairwise_similarity(images, data_range=2.0),
        }

    def _measures(self, n: int, train: Tensor) -> dict[str, Measure]:
        """The metrics that compare `n` images with `n` real ones by their features."""
        k = min(self.neighbours, n - 1)
        return {
            "kernel_distance": kernel_distance,
            "precision": lambda real, made: precision(real, made, k),
            "recall": lambda real, made: recall(real, made, k),
            "density": lambda real, made: density(real, made, k),
            "coverage": lambda real, made: coverage(real, made, k),
            "memorisation_ratio": lambda real, made: memorisation_ratio(made, train, real),
            "copied_share": lambda real, made: copied_share(made, train, real),
        }


def _by_case(cases: Sequence[Case], real: Tensor, made: Tensor, method: str) -> list[Row]:
    distances = nearest_distances(real, made)
    return [
        {
            "subject": case.subject,
            **case.listed,
            "setting": "nearest image",
            "method": method,
            "distance": float(distance),
        }
        for case, distance in zip(cases, distances, strict=True)
    ]


def _shape(model: Model) -> tuple[int, ...]:
    return (len(model.spec.images), *model.spec.space.size)
