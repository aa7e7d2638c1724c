"""What a model says of itself beside its weights: all that sampling needs to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, TypeAlias

import torch
from pydantic import Field

from medidiff.data.intensity import FittedIntensity
from medidiff.data.options import Slices, Space
from medidiff.diffusion import (
    DDIM,
    DDPM,
    TCD,
    AnySampler,
    AnySchedule,
    AnySpacing,
    AnyTarget,
    BrownianNoise,
    Consistency,
    ConsistencyTarget,
    Cosine,
    DPMSolverPP,
    GammaTable,
    KeyedNoise,
    NoiseSource,
    OptimalVariance,
    UniformLogSNR,
    V,
)
from medidiff.errors import ModelError
from medidiff.networks import (
    AnyFittedCodec,
    AnyNetwork,
    ClassCondition,
    IdentityCodec,
    NetworkShape,
    SpreadHead,
)

FORMAT = 1

Role: TypeAlias = Literal["prior", "classifier", "encoder", "autoencoder"]
"""What a model's network is: a denoiser, a classifier or an encoder of noisy images, a codec."""

SpreadSource: TypeAlias = Literal["none", "learned", "learned-range", "gamma", "sn", "npr"]
"""What a sampler's variance needs to know of the model beside its clean estimate."""

CARD_NOTICE = (
    "A diffusion prior. **Research only**: not a medical device; not for diagnosis, triage or "
    "treatment. Its images are synthetic or altered and may show anatomy that no patient has."
)
READER_NOTICE = (
    "A network that reads noisy images, made to guide the samples of a diffusion prior. **Research "
    "only**: not a medical device; what it says of a scan is no diagnosis."
)


@dataclass(frozen=True)
class KeyedNoiseOptions:
    """A field of its own for each hop: another number of steps has other noise."""

    kind: Literal["keyed"] = "keyed"

    def of(self, noise: KeyedNoise) -> NoiseSource:
        """The source for the images of `noise`."""
        return noise


@dataclass(frozen=True)
class BrownianNoiseOptions:
    """The increments of one Brownian path, whatever the steps: with a sampler of eta 1 the image
    converges to one as the steps grow (see `BrownianNoise`)."""

    kind: Literal["brownian"] = "brownian"

    def of(self, noise: KeyedNoise) -> NoiseSource:
        """The source for the images of `noise`, each with a path of its own."""
        return BrownianNoise(noise.seed, noise.members)


AnyNoise: TypeAlias = KeyedNoiseOptions | BrownianNoiseOptions


@dataclass(frozen=True)
class SamplingOptions:
    """How a model is sampled unless a call says otherwise."""

    sampler: Annotated[AnySampler, Field(discriminator="kind")] = DPMSolverPP()
    spacing: Annotated[AnySpacing, Field(discriminator="kind")] = UniformLogSNR()
    """Where on the noise schedule the steps lie."""
    steps: int = 20
    clip: Literal["rederive", "keep", "none"] = "rederive"
    """Clip clean estimates to the range of the training images; eps is then re-derived or kept."""
    noise: Annotated[AnyNoise, Field(discriminator="kind")] = KeyedNoiseOptions()
    """What a stochastic sampler adds. The image that sampling starts from does not depend on it."""

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
    slices: Slices | None = None
    """Which slices of volumes the model was trained on; None: images as they were given."""
    step_mm: tuple[float, float, float] | None = None
    """How far these slices lay apart: least, median and most of the train volumes."""
    role: Role = "prior"
    codec: Annotated[AnyFittedCodec, Field(discriminator="kind")] = IdentityCodec()
    """What leads from images to the space that the network works in; `shape` is of that space."""
    coordinates: bool = False
    """Whether the network is told where in the image each voxel lies (training on patches)."""
    schedule: Annotated[AnySchedule, Field(discriminator="kind")] = Cosine()
    target: Annotated[AnyTarget | ConsistencyTarget, Field(discriminator="kind")] = V()
    """How the network is read; a consistency model's answer is the end of the flow, not a mean."""
    sampling: SamplingOptions = SamplingOptions()
    view: tuple[tuple[float, float], ...] | None = None
    """Smallest and largest field of view of the training scans along each axis (voxels or mm)."""
    spread: Literal["none", "learned", "learned-range"] = "none"
    """What the second half of the network's channels says of the variance of a hop."""
    gamma: Gamma | None = None
    """What the optimal variances need; measured by the verb `gamma`."""
    heads: tuple[SpreadHead, ...] = ()
    """Heads that learned a variance on the frozen network, their weights in heads.safetensors."""
    label: ClassCondition | None = None
    """What a classifier finds."""
    lineage: Lineage = field(default_factory=Lineage)
    metrics: dict[str, float] = field(default_factory=dict)
    format: Literal[1] = FORMAT

    @property
    def columns(self) -> tuple[str, ...]:
        """The images of a case: the channels, but one for all slices of a slab."""
        return self.images if self.slices is None else self.slices.columns(self.images)

    @property
    def draws_only(self) -> bool:
        """Whether the model's answer is the end of the flow and not the expected clean image: a
        consistency student draws samples, and nothing that reads a mean or a score may ask it."""
        return isinstance(self.target, ConsistencyTarget)

    @property
    def given_channels(self) -> int:
        """Channels of what is given beside the image, without the coordinates."""
        told = self.shape.dims if self.coordinates else 0
        return self.shape.concat_channels - told


def of_volumes(spec: ModelSpec) -> ModelSpec:
    """That of a model of slabs as one of volumes: a channel for all slices of a slab."""
    assert spec.slices is not None
    thickness, shape = spec.slices.thickness, spec.shape
    fewer = replace(
        shape,
        in_channels=shape.in_channels // thickness,
        out_channels=shape.out_channels // thickness,
    )
    intensity = spec.intensity.thinned(thickness)
    return replace(spec, images=spec.columns, intensity=intensity, shape=fewer, slices=None)


def needed_spread(sampler: AnySampler) -> SpreadSource:
    """What the variance of a sampler must be told by the model."""
    variance = sampler.variance if isinstance(sampler, DDPM | DDIM) else None
    if isinstance(variance, OptimalVariance):
        return "none" if variance.source == "heuristic" else variance.source
    return variance if variance in ("learned", "learned-range") else "none"


def check_prior(spec: ModelSpec) -> None:
    """Errors: ModelError for a model that is no denoiser."""
    if spec.role != "prior":
        raise ModelError(
            f"{spec.name} is a model of role {spec.role!r}, which draws and denoises nothing; "
            "give a prior"
        )


def check_student(spec: ModelSpec, sampler: AnySampler) -> None:
    """Errors: ModelError for a consistency student with a sampler that walks along a flow."""
    if spec.draws_only and not isinstance(sampler, Consistency | TCD):
        raise ModelError(
            f"{spec.name} is a consistency student, which says at once where the flow ends: "
            f"sampler {sampler.kind!r} would ask it for a step on the way; use 'consistency' or "
            "'tcd'"
        )


def check_spread(spec: ModelSpec, needed: SpreadSource) -> None:
    """Errors: ModelError if the model does not know what a sampler's variance needs."""
    known = {spec.spread, *(head.source for head in spec.heads)}
    known |= {"none"} if spec.gamma is None else {"none", "gamma"}
    if needed in known:
        return
    remedies = {
        "gamma": "measure it (medidiff gamma MODEL --manifest ... --out ...)",
        "sn": "train its head (diffusion.objective {kind: spread, source: sn}, --from MODEL)",
        "npr": "train its head (diffusion.objective {kind: spread, source: npr}, --from MODEL)",
    }
    train = f"train with diffusion.objective {{kind: hybrid, variance: {needed}}}"
    raise ModelError(
        f"{spec.name}: the sampler's variance needs {needed!r}, which this model has not learned "
        f"(it knows: {', '.join(sorted(known - {'none'})) or 'none'}); "
        f"{remedies.get(needed, train)}"
    )


def describe(spec: ModelSpec) -> str:
    """The model card: facts of the specification in a page that a person reads."""
    conditions = ", ".join(condition.name for condition in spec.shape.conditions) or "none"
    lineage = spec.lineage
    facts = {
        "images": f"{spec.modality}, {', '.join(spec.images)}",
        "grid": " x ".join(map(str, spec.space.size)),
        "spacing (mm)": _shown(spec.space.spacing_mm),
        "orientation": spec.space.orientation,
        **({"slices of volumes": spec.slices.plane} if spec.slices else {}),
        "trained on": f"{lineage.train_images} images of {lineage.train_subjects} subjects",
        "steps": lineage.steps,
        "conditions": conditions,
        "sampled by": f"{spec.sampling.sampler.kind}, {spec.sampling.steps} steps",
        "variance": _known_variance(spec),
        **({"finds": _shown_label(spec.label)} if spec.label else {}),
        "parent": lineage.parent or "none",
        "manifest digest": lineage.manifest_digest or "not recorded",
        "made with": f"medidiff {lineage.version}",
        **{name: f"{value:.4g}" for name, value in sorted(spec.metrics.items())},
    }
    table = [f"| {name} | {value} |" for name, value in facts.items()]
    notice = READER_NOTICE if spec.role in ("classifier", "encoder") else CARD_NOTICE
    lines = [f"# {spec.name}", "", notice, "", "| | |", "| --- | --- |", *table]
    return "\n".join(lines) + "\n"


def _shown_label(label: ClassCondition) -> str:
    return f"{label.name} ({', '.join(label.values)})"


def _known_variance(spec: ModelSpec) -> str:
    learned = [] if spec.spread == "none" else [spec.spread]
    measured = [] if spec.gamma is None else ["Gamma table"]
    return ", ".join([*learned, *measured, *(f"{head.source} head" for head in spec.heads)]) or (
        "fixed by the sampler"
    )


def _shown(spacing: Sequence[float] | str) -> str:
    return spacing if isinstance(spacing, str) else " x ".join(f"{value:g}" for value in spacing)
