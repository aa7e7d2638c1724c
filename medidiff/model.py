"""A model that explains itself: a folder from which a prior can be sampled with no further
parameter.

    model.safetensors   averaged weights
    heads.safetensors   those of the heads that learned a variance, where there are any
    model.json          everything else (`ModelSpec`)
    card.md             what it was trained on, what it is for
    codec.safetensors   weights of the autoencoder that a prior of latents works with
    SHA256SUMS          digests of all, checked on loading

Nothing in it is executed or unpickled.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor, nn

from medidiff import options
from medidiff.data.fitness import View
from medidiff.data.options import Space, letter_across
from medidiff.diffusion import (
    AnySampler,
    Counter,
    Denoise,
    Denoiser,
    Estimate,
    KeyedNoise,
    NoiseLevel,
    Sampler,
    centred,
    classifier_free,
    clipped,
    counted,
    interval,
    path,
    start,
    uncentred,
    walk,
    with_gamma,
)
from medidiff.errors import ModelError
from medidiff.model_folder import (
    CODEC,
    FILES,
    HEADS,
    check_folder,
    digest,
    folder_digest,
    read_spec,
    write_json,
)
from medidiff.model_weights import load_weights, save_weights
from medidiff.networks import (
    Acceleration,
    Autoencoder,
    FittedAutoencoder,
    Head,
    HeadedNetwork,
    Reach,
    Tiles,
    UNet,
    UNetOptions,
    WithCoordinates,
    accelerated,
    build,
    build_head,
    codec_of,
    encode_batch,
)
from medidiff.outputs import check_new_folder
from medidiff.samples import Samples
from medidiff.spec import (
    AnyNoise,
    ModelSpec,
    SamplingOptions,
    SpreadSource,
    check_prior,
    check_spread,
    check_student,
    describe,
    needed_spread,
    of_volumes,
)
from medidiff.steering import (
    AimName,
    Steering,
    towards_class,
    towards_reference,
)
from medidiff.warned import kept_warnings, warn, warned_of

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class CountedDenoise:
    """A `Denoise` that knows how often its networks were called for each image (NFE)."""

    denoise: Denoise
    networks: tuple[Counter, ...]

    def __call__(self, x: Tensor, level: NoiseLevel) -> Estimate:
        return self.denoise(x, level)

    @property
    def calls(self) -> int:
        """Network calls an image so far; guidance takes two a step."""
        return sum(network.calls for network in self.networks)


class Model:
    """A trained prior: its specification and its network.

    Shapes: images are (batch, channel, *space) on the grid `spec.space`.
    Range: model units (the intensity window maps to [-1, 1]); the network works in the space of the
    model's codec, which is that of the images unless the codec says otherwise.
    """

    def __init__(
        self,
        spec: ModelSpec,
        network: nn.Module,
        *,
        heads: Mapping[str, Head] | None = None,
        digest: str = "unsaved",
        folder: Path | None = None,
        acceleration: Acceleration = "auto",
        autoencoder: Autoencoder | None = None,
    ) -> None:
        """`autoencoder`: the network of a codec of that kind.

        Errors: ValueError if it is missing, or the heads are not those of `spec`.
        """
        told = sorted(head.source for head in spec.heads)
        if told != sorted(heads or {}):
            raise ValueError(f"{spec.name} has heads {told}, given were {sorted(heads or {})}")
        self.spec = spec
        self.network = network
        self.heads = dict(heads or {})
        """By source, those of `spec.heads`; they read the network's last field."""
        self.digest = digest
        self.folder = folder
        """Where the model was loaded from or saved to; None for one that was not yet."""
        self.autoencoder = autoencoder
        self.codec = codec_of(spec.codec, autoencoder, fused=acceleration == "auto")
        self.reach = Reach()
        """How the network goes over images that it cannot see at once (`reaching`)."""
        self._whole = self.codec.space(spec.space.size) if spec.coordinates else None
        self._bare = accelerated(network, acceleration)
        self._bare_headed = {
            source: accelerated(HeadedNetwork(cast(UNet, network), head), acceleration)
            for source, head in self.heads.items()
        }
        self._tell()

    def reaching(self, space: Space, reach: Reach, view: View | None = None) -> Model:
        """The same model on another grid, which its network goes over by tiles or slices.

        Networks and weights are shared. `view`: the fields of view that it then takes; its own if
        None. Coordinates that the network is told stay those of the model's own grid.
        Errors: ModelError for a model whose network cannot.
        """
        check_reach(self.spec, reach)
        other = copy.copy(self)
        spec = of_volumes(self.spec) if reach.thickness > 1 else self.spec
        other.spec = replace(spec, space=space, view=view or self.spec.view)
        other.reach = reach
        other._tell()
        return other

    def volumes(self, slices: int) -> Model:
        """A model of slabs as one of volumes of so many slices, for `sample`.

        Errors: ModelError for a model that does not know how slices fit together, or fewer slices
        than it sees at once.
        """
        own, space = self.spec.slices, self.spec.space
        if own is None or own.thickness == 1 or self.spec.step_mm is None:
            raise ModelError(
                f"{self.spec.name} knows nothing of neighbouring slices, so it draws no volumes: "
                "that takes a model trained with data.slices.thickness above 1"
            )
        if slices < own.thickness:
            raise ModelError(f"a volume has at least {own.thickness} slices here, not {slices}")
        spacing = space.spacing_mm
        if not isinstance(spacing, str):
            spacing = (*spacing, self.spec.step_mm[1])
        letters = space.orientation + letter_across(space.orientation)
        grid = Space(3, (*space.size, slices), spacing, letters)
        return self.reaching(grid, Reach(slices=(2,), thickness=own.thickness))

    def tiled(self, size: int, overlap: float = 0.25) -> Model:
        """The same model on its own grid, its network called on overlapping tiles: the memory of a
        call is that of a tile.

        `size`: voxels of the image along each axis of a tile; `overlap`: share of it over which
        tiles are blended.
        Errors: ModelError for a size or an overlap without meaning.
        """
        return self.reaching(self.spec.space, Reach(self.tiles(size, overlap)))

    def tiles(self, size: int, overlap: float) -> Tiles:
        """Tiles of so many voxels of the image, in the space of the network.

        Errors: ModelError for a size or an overlap without meaning.
        """
        space = self.spec.space.size
        voxels = round(max(n / m for n, m in zip(space, self.codec.space(space), strict=True)))
        if size < 2 * voxels or not 0 <= overlap < 1:
            raise ModelError(
                f"tiles of {size} voxels with an overlap of {overlap:g}: a tile has at least "
                f"{2 * voxels} voxels along each axis here, and tiles overlap by a share of 0 or "
                "more and below 1"
            )
        units = size // voxels
        # statistics of the whole would cost half a pass for each norm, at every step
        return Tiles(units, min(units - 1, round(overlap * units)), "tile")

    def open_above(self) -> Model:
        """The same model, whose estimates are held within the lower end of its range alone."""
        other, own = copy.copy(self), self.spec.intensity
        other.spec = replace(self.spec, intensity=replace(own, range=(own.range[0], math.inf)))
        return other

    def _tell(self) -> None:
        self._called = self._told(self._bare)
        self._headed = {source: self._told(each) for source, each in self._bare_headed.items()}

    @property
    def called(self) -> nn.Module:
        """The network as it is to be called: recorded and fused where a GPU allows it."""
        return self._called

    @property
    def plain(self) -> nn.Module:
        """The network in plain calls, told all that it needs beside the image."""
        return self._told(self.network)

    def _told(self, network: nn.Module) -> nn.Module:
        network = self.reach.of(network)
        if self._whole is not None:
            network = WithCoordinates(network, self._whole)
        return self.reach.over_slices(network)

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def to(self, device: str | torch.device) -> Model:
        """Move the networks; returns self."""
        for each in (self.network, *self.heads.values()):
            each.to(device)
        if self.autoencoder is not None:
            self.autoencoder.to(device)
        return self

    def condition(
        self, mapping: Mapping[str, str | float | None] | None, count: int
    ) -> Tensor | None:
        """The encoded condition (count, K) of one mapping, or None for a model without conditions.

        Errors: ModelError for a name or value that the model does not know.
        """
        known = self.spec.shape.conditions
        if not known:
            if mapping:
                raise ModelError(
                    f"condition {sorted(mapping)}: this model was trained without conditions"
                )
            return None
        try:
            return encode_batch(known, [mapping] * count).to(self.device)
        except ValueError as error:
            raise ModelError(f"condition: {error}") from None

    def denoiser(
        self,
        condition: Tensor | None = None,
        concat: Tensor | None = None,
        guidance: float = 1.0,
        guidance_interval: tuple[float, float] | None = None,
        spread: SpreadSource | None = None,
    ) -> CountedDenoise:
        """The clean estimate as a function of (x, level): network, then guidance, then clipping.

        `guidance` 1 is plain conditional sampling (Ho & Salimans 2022, arXiv:2207.12598).
        `guidance_interval`: the noise ratios (sigma / alpha; pure noise: inf) between which it is
        guided, all of them if None (Kynkaanniemi et al. 2024, arXiv:2404.07724).
        `spread`: what the estimate tells of the variance beside the clean image, by default what
        the model's own sampler needs; under guidance it is that of the conditional branch.
        Errors: ModelError for a model that is no prior, and for a spread that it has not learned;
        ValueError for an interval without low < high.
        """
        check_prior(self.spec)
        needed = needed_spread(self.spec.sampling.sampler) if spread is None else spread
        check_spread(self.spec, needed)
        target, network = self.spec.target, self._headed.get(needed, self._called)
        two = needed in self._headed or self.spec.spread != "none"
        networks = [counted(Denoiser(network, target, condition, concat, two))]
        denoise: Denoise = networks[0]
        if needed == "sn":  # guidance and clipping change the mean, not the variance
            denoise = centred(denoise)
        aimed = denoise
        if condition is not None and guidance != 1.0:
            unknown = torch.full_like(condition, float("nan"))
            networks.append(counted(Denoiser(network, target, unknown, concat, two)))
            denoise = classifier_free(aimed, networks[1], guidance)
            if guidance_interval is not None:
                denoise = interval(denoise, aimed, *guidance_interval)
        if needed == "gamma" and self.spec.gamma is not None:
            denoise = with_gamma(denoise, self.spec.gamma.table)
        clip = self.spec.sampling.clip
        if clip != "none":
            low, high = self.spec.intensity.range
            denoise = clipped(denoise, low, high, eps=clip)
        if needed == "sn":
            denoise = uncentred(denoise)
        return CountedDenoise(denoise, tuple(networks))

    def walk_down(
        self,
        denoise: CountedDenoise,
        x: Tensor,
        noise: KeyedNoise,
        *,
        sampling: SamplingOptions | None = None,
        begin: NoiseLevel | None = None,
        steering: Sequence[Steering] = (),
        progress: Progress | None = None,
    ) -> tuple[Tensor, int]:
        """Walk `x` at level `begin` (default: pure noise) to a clean image; returns (image,
        network calls). `steering` changes the sampler's steps, in turn.

        Shapes: x is (batch, channel, *space) in the network's space, the codec's.
        """
        sampling = sampling or self.spec.sampling
        levels = path(sampling.spacing, self.spec.schedule, sampling.steps, begin)
        before = denoise.calls
        sampler: Sampler = sampling.sampler
        called: Denoise = denoise
        for each in steering:
            sampler, called = each.steered(sampler, called)
        source = sampling.noise.of(noise)
        for index, state in walk(called, x, levels, sampler, source, self.spec.schedule):
            x = state
            if progress is not None:
                progress(index + 1, len(levels) - 1)
        return x, denoise.calls - before

    @kept_warnings()
    def sample(
        self,
        n: int = 1,
        *,
        condition: Mapping[str, str | float | None] | None = None,
        guidance: float = 1.0,
        guidance_interval: tuple[float, float] | None = None,
        classifier: Model | None = None,
        towards: Mapping[str, str] | None = None,
        classifier_scale: float = 1.0,
        encoder: Model | None = None,
        towards_image: Tensor | None = None,
        aim: AimName = "content",
        image_scale: float = 100.0,
        steps: int | None = None,
        sampler: AnySampler | None = None,
        noise: AnyNoise | None = None,
        seed: int = 0,
        batch: int = 16,
        progress: Progress | None = None,
    ) -> Samples:
        """Draw `n` synthetic images.

        `classifier`, a model of that role, moves them `towards` one of its classes, such as
        {"sex": "F"}, whether or not the prior knows the class; a `classifier_scale` of 0 is none.
        `encoder`, a model of that role, moves them towards what an image holds: `towards_image`,
        (channel, *space) in the intensity units of the training scans, by `aim` and `image_scale`;
        the sampler must be DDPM.

        Shapes: `.images` is (n, channel, *space) in the intensity units of the training scans.
        `guidance` and its interval of noise ratios are those of `denoiser`.
        Errors: ModelError for a condition that the model does not know, for guidance without a
        condition, for an interval without guidance or without low < high, and for a classifier or
        an encoder that does not fit the prior; ValueError if n < 1.
        Image i depends on (seed, i) only, not on n or batch.
        """
        if n < 1 or batch < 1:
            raise ValueError(f"n and batch must be at least 1, found {n} and {batch}")
        if guidance != 1.0 and not condition:
            raise ModelError(
                f"guidance={guidance:g} has nothing to guide towards: give a condition with it"
            )
        if guidance_interval is not None:
            check_guidance_interval(guidance, guidance_interval)
        if self.reach.tiles is not None and not self.spec.coordinates:
            warn(
                f"{self.spec.name} was trained on whole images: by tiles it draws anatomy that "
                "does not fit together. Draw whole, or train on patches (data.patch)",
                stacklevel=3,  # `kept_warnings` stands between
            )
        sampling = self.spec.sampling
        sampling = replace(
            sampling,
            steps=sampling.steps if steps is None else steps,
            sampler=sampler or sampling.sampler,
            noise=noise or sampling.noise,
        )
        first = path(sampling.spacing, self.spec.schedule, sampling.steps)[0]
        steering = [
            *towards_class(self.spec, classifier, towards, classifier_scale, first),
            *towards_reference(
                self.spec, encoder, towards_image, aim, image_scale, first, sampling.sampler
            ),
        ]
        for reader in (classifier, encoder):
            if reader is not None:
                reader.to(self.device).network.eval()
        check_student(self.spec, sampling.sampler)
        encoded, spread = self.condition(condition, 1), needed_spread(sampling.sampler)
        done: list[Tensor] = []
        nfe = 0
        for first in range(0, n, batch):
            numbers = range(first, min(n, first + batch))
            own = None if encoded is None else encoded.expand(len(numbers), -1)

            def advance(step: int, steps: int, numbers: range = numbers) -> None:
                if progress is not None:
                    progress(numbers.start * steps + step * len(numbers), n * steps)

            images, nfe = self._draw(
                KeyedNoise(seed, [("", number) for number in numbers]),
                self.denoiser(own, None, guidance, guidance_interval, spread),
                sampling,
                steering,
                advance,
            )
            done.append(self.spec.intensity.typical.inverse(images).cpu())
        return Samples(
            torch.cat(done),
            self.spec.space.affine(),
            nfe,
            self.provenance("SYNTHETIC", seed=seed, nfe=nfe, sampling=sampling)
            | {
                "condition": dict(condition or {}),
                "guidance": guidance,
                "guidance_interval": guidance_interval,
            }
            | {key: value for each in steering for key, value in each.provenance().items()},
        )

    def _draw(
        self,
        noise: KeyedNoise,
        denoise: CountedDenoise,
        sampling: SamplingOptions,
        steering: Sequence[Steering],
        progress: Progress,
    ) -> tuple[Tensor, int]:
        """One batch of images from pure noise, in model units, and the network calls of each."""
        size = self.spec.space.size
        shape = (len(noise.members), self.spec.shape.in_channels, *self.codec.space(size))
        begin = path(sampling.spacing, self.spec.schedule, sampling.steps)[0]
        with torch.no_grad(), evaluating(self.network):
            x = start(begin, noise, torch.zeros(shape, device=self.device))
            drawn, calls = self.walk_down(
                denoise,
                x,
                noise,
                sampling=sampling,
                begin=begin,
                steering=steering,
                progress=progress,
            )
            return self.codec.decode(drawn, size), calls

    def provenance(
        self, kind: str, *, seed: int, nfe: int, sampling: SamplingOptions | None
    ) -> dict[str, object]:
        """What a result must say about how it was made.

        `kind`: "SYNTHETIC" or "AI-PROCESSED". `sampling`: None where no sampler ran.
        """
        sampler: dict[str, object] = {"sampler": None}
        if sampling is not None:
            sampler = {
                "sampler": options.tree(sampling.sampler),
                "spacing": options.tree(sampling.spacing),
                "steps": sampling.steps,
                "noise": options.tree(sampling.noise),
            }
        return {
            "kind": kind,
            "notice": "Research only. Not for diagnosis.",
            "software": f"medidiff {_version()}",
            "model": self.spec.name,
            "model_digest": self.digest,
            "seed": seed,
            **sampler,
            **({} if self.reach == Reach() else {"reach": options.tree(self.reach)}),
            "network_calls": nfe,
            "warning": warned_of(),
        }

    def save(
        self,
        folder: str | os.PathLike[str],
        card: str | None = None,
        dtype: Literal["float32", "bfloat16"] = "float32",
    ) -> Path:
        """Write the model folder, its weights in `dtype`; returns it.

        Errors: OutputError if the folder already holds something, or cannot be made.
        """
        place = Path(folder)
        check_new_folder(place, "name another folder for the model")
        part = place.with_name(place.name + ".part")
        part.mkdir(parents=True, exist_ok=True)
        files = [*FILES]
        save_weights(self.network, part / "model.safetensors", dtype)
        if self.heads:
            save_weights(nn.ModuleDict(self.heads), part / HEADS, dtype)
            files.append(HEADS)
        if self.autoencoder is not None:
            save_weights(self.autoencoder, part / CODEC, dtype)
            files.append(CODEC)
        write_json(part / "model.json", options.tree(self.spec))
        (part / "card.md").write_text(card or describe(self.spec), encoding="utf-8")
        sums = "".join(f"{digest(part / name)}  {name}\n" for name in files)
        (part / "SHA256SUMS").write_text(sums, encoding="ascii")
        if place.exists():
            place.rmdir()
        part.replace(place)
        self.digest, self.folder = folder_digest(place), place
        return place

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        device: str | torch.device | None = None,
        acceleration: Acceleration = "auto",
    ) -> Model:
        """The model in `folder`, on `device` (default: a GPU when there is one).

        On a GPU with bfloat16 the weights are bfloat16, unless `acceleration` is "none".

        Errors: ModelError for a missing, altered or unknown file.
        """
        place = Path(folder)
        check_folder(place)
        spec = read_spec(place)
        device = torch.device(device or default_device())
        network = build(spec.network, spec.shape)
        heads = nn.ModuleDict(
            {each.source: build_head(cast(UNet, network), each.form) for each in spec.heads}
        )
        autoencoder = None
        if isinstance(spec.codec, FittedAutoencoder):
            autoencoder = build(spec.codec.network, spec.codec.shape)
            load_weights(autoencoder, place / CODEC, device, acceleration)
        if spec.heads:
            load_weights(heads, place / HEADS, device, acceleration)
        load_weights(network, place / "model.safetensors", device, acceleration)
        return cls(
            spec,
            network,
            heads=cast(Mapping[str, Head], heads),
            digest=folder_digest(place),
            folder=place,
            acceleration=acceleration,
            autoencoder=autoencoder,
        )


def check_reach(spec: ModelSpec, reach: Reach) -> None:
    """Errors: ModelError for a network that cannot go over an image by tiles or slices."""
    if isinstance(spec.network, UNetOptions) and spec.network.beside != "same-grid" and reach.tiles:
        raise ModelError(
            f"{spec.name} is given an image of another resolution beside, which cannot be cut into "
            "tiles"
        )
    if reach.slices and (spec.shape.dims != 2 or spec.codec.kind != "identity"):
        raise ModelError(
            f"{spec.name} cannot be called on a volume slice by slice: that needs a 2-D model that "
            f"works on the images themselves (it has {spec.shape.dims} axes and the codec "
            f"{spec.codec.kind!r}); give it single slices or slabs, or train one without codec"
        )


def check_guidance_interval(guidance: float, limits: tuple[float, float]) -> None:
    """Errors: ModelError for an interval that says nothing."""
    low, high = limits
    if guidance == 1.0:
        raise ModelError("an interval of guidance needs a guidance other than 1")
    if not low < high:
        raise ModelError(f"the interval of guidance needs low < high, found {low:g} and {high:g}")


def default_device() -> torch.device:
    """A GPU when there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class evaluating:  # noqa: N801 a context manager reads as a verb
    """The network in evaluation mode (no dropout), and back in the mode it was in."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.was_training = network.training

    def __enter__(self) -> None:
        self.network.eval()

    def __exit__(self, *_: object) -> None:
        self.network.train(self.was_training)


def _version() -> str:
    from importlib.metadata import version

    return version("medidiff")
