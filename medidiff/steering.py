"""A prior's samples steered by a network that reads noisy images: towards a class, or an image.

The reader was trained on levels of its own schedule. It is asked at the prior's by noise ratio: the
image is scaled to the power that the reader knows at that ratio.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, cast

import torch
from torch import Tensor, nn

from medidiff import options
from medidiff.diffusion import (
    DDPM,
    AnySchedule,
    Denoise,
    NoiseLevel,
    Sampler,
    classifier_gradient,
    classifier_guided,
    scale,
)
from medidiff.diffusion.denoiser import predict
from medidiff.diffusion.samplers.classifier_guided import ClassifierGuided
from medidiff.diffusion.semantic import (
    Aim,
    Guided,
    NoisyEncoder,
    content,
    large_variance,
    small_variance,
    structure,
    style,
)
from medidiff.errors import ModelError
from medidiff.networks import Encoder
from medidiff.spec import ModelSpec, Role

AimName: TypeAlias = Literal["content", "structure", "style"]
AIMS = {"content": content, "structure": structure, "style": style}
ALL_NOISE = 20.0
"""The noise ratio from which an image is noise to a reader, and further noise is nothing new."""
UNITS = 0.01  # of the window: how far two fits of the same intensities may lie apart


class Reader(Protocol):
    """A model whose network reads noisy images."""

    spec: ModelSpec
    network: nn.Module
    digest: str

    @property
    def called(self) -> nn.Module: ...


class Steering(Protocol):
    """What changes a walk: the sampler's step, or the estimate."""

    def steered(self, sampler: Sampler, denoise: Denoise) -> tuple[Sampler, Denoise]: ...

    def provenance(self) -> dict[str, object]: ...


@dataclass(frozen=True, eq=False)
class TowardsClass:
    """Classifier guidance. Dhariwal & Nichol 2021 (arXiv:2105.05233), algorithms 1 and 2.

    DDPM's mean is moved (algorithm 1); every other sampler is given a moved estimate (algorithm 2).
    """

    classifier: Reader
    towards: Mapping[str, str]
    guidance_scale: float
    """0 is none, 1 the classifier's own gradient."""

    def steered(self, sampler: Sampler, denoise: Denoise) -> tuple[Sampler, Denoise]:
        """The sampler and the denoiser to walk with."""
        gradient = classifier_gradient(self.log_probability)
        if isinstance(sampler, DDPM):
            return ClassifierGuided(gradient, self.guidance_scale, sampler), denoise
        return sampler, classifier_guided(denoise, gradient, self.guidance_scale)

    def log_probability(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """log p(class | x) of each image at the prior's level, (batch,)."""
        label = self.classifier.spec.label
        if label is None:
            raise ModelError(f"{self.classifier.spec.name} names no classes")
        (value,) = self.towards.values()
        logits = _asked(self.classifier, self.classifier.called, x, level)
        return logits.float().log_softmax(1)[:, int(label.code(value))]

    def provenance(self) -> dict[str, object]:
        """The classifier and what it was asked for."""
        return {
            "classifier": self.classifier.spec.name,
            "classifier_digest": self.classifier.digest,
            "towards": dict(self.towards),
            "classifier_scale": self.guidance_scale,
        }


@dataclass(frozen=True, eq=False)
class TowardsImage:
    """Semantic guidance towards what an image holds. Liu et al. 2023 (arXiv:2112.05744)."""

    encoder: Reader
    reference: Tensor
    """(1, channel, *space) in model units."""
    aim: AimName
    guidance_scale: float
    """What the aim is multiplied by; the authors' code has 100 for content."""

    def steered(self, sampler: Sampler, denoise: Denoise) -> tuple[Sampler, Denoise]:
        """The sampler and the denoiser to walk with."""
        name = options.tree(sampler).get("variance")
        variance = large_variance if name == "large" else small_variance
        device = next(self.encoder.network.parameters()).device
        return Guided(sampler, self._weighted(), self.reference.to(device), variance), denoise

    def _weighted(self) -> Aim:
        aim = AIMS[self.aim](noisy_encoder(self.encoder))
        return lambda x, level, noised: self.guidance_scale * aim(x, level, noised)

    def provenance(self) -> dict[str, object]:
        """The encoder and the aim; never the image."""
        return {
            "encoder": self.encoder.spec.name,
            "encoder_digest": self.encoder.digest,
            "aim": self.aim,
            "image_scale": self.guidance_scale,
        }


def towards_class(
    prior: ModelSpec,
    classifier: Reader | None,
    towards: Mapping[str, str] | None,
    guidance_scale: float,
    noisiest: NoiseLevel,
) -> list[Steering]:
    """Nothing, or a prior's steering towards a class, from that level on.

    Errors: ModelError for a classifier that does not fit the prior or does not find the class.
    """
    if classifier is None:
        if towards:
            raise ModelError(f"towards {', '.join(towards)}: name the classifier that finds it")
        return []
    check_reader(classifier.spec, prior, "classifier", noisiest)
    check_towards(classifier.spec, towards or {})
    return [TowardsClass(classifier, towards or {}, guidance_scale)]


def towards_reference(
    prior: ModelSpec,
    encoder: Reader | None,
    image: Tensor | None,
    aim: AimName,
    guidance_scale: float,
    noisiest: NoiseLevel,
    sampler: Sampler,
) -> list[Steering]:
    """Nothing, or a prior's steering towards an image (channel, *space) in intensity units.

    Errors: ModelError for an encoder or an image that does not fit the prior, and for a sampler
    other than DDPM.
    """
    if encoder is None and image is None:
        return []
    if encoder is None or image is None:
        raise ModelError("guidance towards an image needs both: an encoder and the image")
    if not isinstance(sampler, DDPM):
        raise ModelError(
            "guidance towards an image moves the mean of DDPM: give that sampler "
            f"(found {options.tree(sampler)['kind']!r})"
        )
    check_reader(encoder.spec, prior, "encoder", noisiest)
    wanted = (len(prior.images), *prior.space.size)
    if tuple(image.shape) != wanted:
        raise ModelError(f"towards_image must be {wanted}, found {tuple(image.shape)}")
    reference = prior.intensity.normalise(image.float())[0][None]
    return [TowardsImage(encoder, reference, aim, guidance_scale)]


def noisy_encoder(reader: Reader) -> NoisyEncoder:
    """An encoder model as semantic guidance calls it: (x, level) -> maps and embedding.

    Errors: ModelError for a model of another role.
    """
    if reader.spec.role != "encoder":
        raise ModelError(
            f"{reader.spec.name} is a model of role {reader.spec.role!r}; semantic guidance needs "
            "an encoder (diffusion.objective of kind 'alignment')"
        )
    network = cast(Encoder, reader.network)

    def encode(x: Tensor, level: NoiseLevel) -> tuple[Sequence[Tensor], Tensor]:
        maps: list[Tensor] = []

        def read(inputs: Tensor, label: Tensor, condition: None, concat: None) -> Tensor:
            found, vector = network.read(inputs.to(dtype), label)
            maps.extend(each.to(x.dtype) for each in found)
            return vector.to(x.dtype)

        dtype = next(network.parameters()).dtype
        embedding = _asked(reader, cast(nn.Module, read), x, level)
        return maps, embedding

    return encode


def reading_level(schedule: AnySchedule, x: Tensor, level: NoiseLevel) -> tuple[Tensor, NoiseLevel]:
    """The image and the level of `schedule` that have the noise ratio of `level`.

    x = alpha clean + sigma eps times a number is an image of any schedule with that sigma / alpha.
    Beyond the schedule's noisiest and cleanest levels these are taken.
    """
    low, high = half_log_snr_range(schedule)
    own = schedule(schedule.time_of(level.half_log_snr.clamp(low, high)))
    powers = ((each.alpha**2 + each.sigma**2).sqrt() for each in (own, level))
    ours, theirs = powers
    return scale(ours / theirs, x) * x, own


def half_log_snr_range(schedule: AnySchedule) -> tuple[float, float]:
    """The half-log-SNR of a schedule's noisiest and cleanest levels, finite."""
    ends = (torch.tensor(time, dtype=torch.float64) for time in (schedule.t_max, schedule.t_min))
    low, high = (float(schedule(time).half_log_snr.clamp(-20, 20)) for time in ends)
    return low, high


def check_reader(reader: ModelSpec, prior: ModelSpec, role: Role, noisiest: NoiseLevel) -> None:
    """Errors: ModelError with every reason why a reader cannot guide a prior from that level."""
    if reader.role != role:
        raise ModelError(
            f"{reader.name} is a model of role {reader.role!r}, not {role!r}; train one with "
            f"diffusion.objective of kind {'classifier' if role == 'classifier' else 'alignment'!r}"
        )
    pairs = {
        "modality": (reader.modality, prior.modality),
        "images": (reader.images, prior.images),
        "space": (reader.space, prior.space),
    }
    problems = [
        f"its {name} is {options.tree(theirs)}, the prior's {options.tree(ours)}"
        for name, (theirs, ours) in pairs.items()
        if theirs != ours
    ]
    if prior.codec.kind != "identity":
        problems.append(
            f"it reads images, and the prior works behind a codec ({prior.codec.kind}); guide a "
            "prior of images"
        )
    if not problems and not _same_units(reader, prior):
        problems.append(
            "its intensities are in other units than the prior's (give both trainings the same "
            "data.intensity, or a window in numbers)"
        )
    most = float(torch.tensor(-half_log_snr_range(reader.schedule)[0]).exp())
    asked = float(noisiest.noise_ratio)
    if most < min(asked, ALL_NOISE) * (1 - 1e-6):
        problems.append(
            f"it knows noise up to {most:.3g} times the signal, and sampling begins at {asked:.3g}"
        )
    if problems:
        raise ModelError(f"{reader.name} does not fit {prior.name}: {'; '.join(problems)}")


def check_towards(reader: ModelSpec, towards: Mapping[str, str]) -> None:
    """Errors: ModelError unless `towards` is one class that the classifier finds."""
    label = reader.label
    known = "nothing" if label is None else f"{label.name} ({', '.join(label.values)})"
    if label is None or [*towards] != [label.name]:
        raise ModelError(
            f"{reader.name} finds {known}, and is asked for {', '.join(towards) or 'nothing'}; "
            "name one of its classes, such as "
            + (f"{label.name}={label.values[0]}" if label else "sex=F")
        )
    try:
        label.code(towards[label.name])
    except ValueError as error:
        raise ModelError(f"{reader.name}: {error}") from None


def _asked(reader: Reader, network: nn.Module, x: Tensor, level: NoiseLevel) -> Tensor:
    spec = reader.spec
    seen, own = reading_level(spec.schedule, x, level)
    return predict(network, spec.target, seen, own, None, None)


def _same_units(one: ModelSpec, other: ModelSpec) -> bool:
    ours, theirs = one.intensity, other.intensity
    if (ours.scope, ours.percentiles) != (theirs.scope, theirs.percentiles):
        return False
    if ours.scope == "image" and ours.percentiles is not None:
        return True
    pairs = zip(ours.low + ours.high, theirs.low + theirs.high, strict=True)
    width = min(high - low for low, high in zip(theirs.low, theirs.high, strict=True))
    return all(abs(a - b) <= UNITS * width for a, b in pairs)
