"""What a model says of itself beside its weights: all that sampling needs to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeAlias

import torch
from pydantic import Field

from medidiff.data.intensity import FittedIntensity
from medidiff.data.options import Space
from medidiff.diffusion import (
    AnySampler,
    AnySchedule,
    AnySpacing,
    AnyTarget,
    Cosine,
    DPMSolverPP,
    GammaTable,
    UniformLogSNR,
    V,
)
from medidiff.networks import (
    AnyFittedCodec,
    AnyNetwork,
    IdentityCodec,
    NetworkShape,
)

FORMAT = 1

Role: TypeAlias = Literal["prior", "classifier", "encoder", "autoencoder"]
"""What a model's network is: a denoiser, a classifier or an encoder of noisy images, a codec."""

CARD_NOTICE = (
    "A diffusion prior. **Research only**: not a medical device; not for diagnosis, triage or "
    "treatment. Its images are synthetic or altered and may show anatomy that no patient has."
)


@dataclass(frozen=True)
class SamplingOptions:
    """How a model is sampled unless a call says otherwise."""

    sampler: Annotated[AnySampler, Field(discriminator="kind")] = DPMSolverPP()
    spacing: Annotated[AnySpacing, Field(discriminator="kind")] = UniformLogSNR()
    """Where on the noise schedule the steps lie."""
    steps: int = 20
    clip: Literal["rederive", "keep", "none"] = "rederive"
    """Clip clean estimates to the range of the training images; eps is then re-derived or kept."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError("steps must be at least 1")


@dataclass(frozen=True)
class Lineage:
    """Where a model comes from. Subjects are counted, never named."""

    parent: str | None = None
    """Digest of the model this one was fine-tuned from."""
    run_id: str | None = None
    manifest_digest: str | None = None
    config_digest: str | None = None
    train_images: int = 0
    train_subjects: int = 0
    steps: int = 0
    train_split: str = "train"
    validation_split: str = "val"
    holdout: float = 0.0
    """Share of the train subjects that was held out for validation."""
    version: str = ""
    """medidiff's version at training."""


@dataclass(frozen=True)
class Gamma:
    """Mean square of a model's noise at some times, for `OptimalVariance` of source gamma.

    Source: Bao et al. 2022 (arXiv:2201.06503), eq. 8.
    """

    times: tuple[float, ...]
    """Rising."""
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not 0 < len(self.times) == len(self.values):
            raise ValueError(f"{len(self.times)} times and {len(self.values)} values of Gamma")

    @property
    def table(self) -> GammaTable:
        """The same, to be asked at any level."""
        return GammaTable(
            *(torch.tensor(x, dtype=torch.float64) for x in (self.times, self.values))
        )


@dataclass(frozen=True)
class ModelSpec:
    """All that sampling needs beside the weights."""

    name: str
    modality: str
    images: tuple[str, ...]
    """Names of the channels."""
    space: Space
    intensity: FittedIntensity
    network: Annotated[AnyNetwork, Field(discriminator="kind")]
    shape: NetworkShape
    role: Role = "prior"
    codec: Annotated[AnyFittedCodec, Field(discriminator="kind")] = IdentityCodec()
    """What leads from images to the space that the network works in; `shape` is of that space."""
    coordinates: bool = False
    """Whether the network is told where in the image each voxel lies (training on patches)."""
    schedule: Annotated[AnySchedule, Field(discriminator="kind")] = Cosine()
    target: Annotated[AnyTarget, Field(discriminator="kind")] = V()
    sampling: SamplingOptions = SamplingOptions()
    view: tuple[tuple[float, float], ...] | None = None
    """Smallest and largest field of view of the training scans along each axis (voxels or mm)."""
    spread: Literal["none", "learned", "learned-range"] = "none"
    """What the second half of the network's channels says of the variance of a hop."""
    gamma: Gamma | None = None
    """What the optimal variances need; measured by the verb `gamma`."""
    lineage: Lineage = field(default_factory=Lineage)
    metrics: dict[str, float] = field(default_factory=dict)
    format: Literal[1] = FORMAT

    @property
    def given_channels(self) -> int:
        """Channels of what is given beside the image, without the coordinates."""
        told = self.space.dims if self.coordinates else 0
        return self.shape.concat_channels - told


def describe(spec: ModelSpec) -> str:
    """The model card: facts of the specification in a page that a person reads."""
    conditions = ", ".join(condition.name for condition in spec.shape.conditions) or "none"
    lineage = spec.lineage
    facts = {
        "images": f"{spec.modality}, {', '.join(spec.images)}",
        "grid": " x ".join(map(str, spec.space.size)),
        "spacing (mm)": _shown(spec.space.spacing_mm),
        "orientation": spec.space.orientation,
        "trained on": f"{lineage.train_images} images of {lineage.train_subjects} subjects",
        "steps": lineage.steps,
        "conditions": conditions,
        "parent": lineage.parent or "none",
        "manifest digest": lineage.manifest_digest or "not recorded",
        "made with": f"medidiff {lineage.version}",
        **{name: f"{value:.4g}" for name, value in sorted(spec.metrics.items())},
    }
    table = [f"| {name} | {value} |" for name, value in facts.items()]
    lines = [f"# {spec.name}", "", CARD_NOTICE, "", "| | |", "| --- | --- |", *table]
    return "\n".join(lines) + "\n"


def _shown(spacing: Sequence[float] | str) -> str:
    return spacing if isinstance(spacing, str) else " x ".join(f"{value:g}" for value in spacing)
