"""The codec of a prior: its autoencoder fetched, its scale measured, its latents kept."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from medidiff.config import Config
from medidiff.data.options import AS_STORED, Augment, Slices
from medidiff.errors import ConfigError, DataError, ModelError
from medidiff.jobs.models import load_model, model_folder
from medidiff.jobs.reporting import Reporter
from medidiff.model import Model
from medidiff.model_folder import folder_digest, read_spec
from medidiff.networks import (
    AnyCodec,
    AnyFittedCodec,
    Autoencoder,
    AutoencoderCodec,
    AutoencoderOptions,
    FittedAutoencoder,
    FittedWavelet,
    IdentityCodec,
    LatentCodec,
    WaveletCodec,
    codec_of,
)
from medidiff.networks.codec import Standard, fit_wavelet, measured
from medidiff.networks.tiling import Tiles
from medidiff.spec import ModelSpec
from medidiff.training.batches import TrainingSet, augmented

PART = 4  # images encoded at a time,
VOXELS = 2**22  # or fewer, of more voxels together: a large volume goes alone
STILL = Augment()


@dataclass(frozen=True)
class ReadyCodec:
    """A codec as a prior is trained with it."""

    fitted: AnyFittedCodec
    autoencoder: Autoencoder | None = None
    digest: str | None = None
    """Of the model that the autoencoder comes from."""


def codec_channels(config: Config) -> int:
    """Channels of the space that the configuration's network works in.

    Errors: ModelError if the codec's model is not an autoencoder of these images.
    """
    images, dims = len(config.data.channels), config.data.space.dims
    if isinstance(config.codec, WaveletCodec):
        return images * 2**dims
    if isinstance(config.codec, AutoencoderCodec):
        return check_source(read_spec(model_folder(config.codec.model)), config).latent_channels
    return images


def check_source(spec: ModelSpec, config: Config) -> AutoencoderOptions:
    """The network of the autoencoder that a configuration names.

    Errors: ModelError if it is none, or one of other images or another grid.
    """
    if not isinstance(spec.network, AutoencoderOptions):
        raise ModelError(
            f"codec.model: {spec.name} is a model of role {spec.role!r}; name an autoencoder, "
            "trained with diffusion.objective of kind autoencoder"
        )
    space, theirs = config.data.space, spec.space
    pairs = {
        "data.images": (config.data.channels, spec.images),
        "modality": (config.modality, spec.modality),
        "data.space.dims": (space.dims, theirs.dims),
        "data.space.spacing_mm": (space.spacing_mm, theirs.spacing_mm),
        "data.space.orientation": (space.orientation, theirs.orientation),
        "data.slices": (config.data.slices is not None, spec.slices is not None),
    }
    if config.data.slices is not None and spec.slices is not None:
        pairs |= _planes(config.data.slices, space.orientation, spec)
    for name, (ours, its) in pairs.items():
        if ours != its:
            raise ModelError(
                f"codec.model: {spec.name} was trained with {name} {its!r}; found {ours!r}"
            )
    return spec.network


def _planes(slices: Slices, orientation: str, spec: ModelSpec) -> dict[str, tuple[object, object]]:
    """What is stated of the slices' plane beside the autoencoder's; what is found later is not
    compared."""
    assert spec.slices is not None
    named = spec.slices.plane if slices.plane == "thick" else slices.plane
    letters = spec.space.orientation if orientation == AS_STORED else orientation
    return {
        "data.slices.plane": (named, spec.slices.plane),
        "data.space.orientation": (letters, spec.space.orientation),
    }


def slab_notes(config: Config) -> list[str]:
    """What a model of slabs in a codec's space will not do, told before it is trained."""
    slices, kind = config.data.slices, config.codec.kind
    if slices is None or slices.thickness == 1 or kind == "identity":
        return []
    return [
        f"slabs of {slices.thickness} slices behind a codec ({kind}): the model draws slabs, but "
        "cannot be put to work on volumes (run, sample --slices); for that leave codec out, or "
        "data.slices.thickness"
    ]


def codec_source(config: Config, parent: Model | None) -> Model | None:
    """The autoencoder that the configuration names, checked; None where none is needed.

    A model that is fine-tuned brings its own.
    Errors: ConfigError if that is another one; ModelError for an autoencoder that does not fit.
    """
    if parent is not None:
        check_codec(config.codec, parent.spec)
        return None
    if not isinstance(config.codec, AutoencoderCodec):
        return None
    source = load_model(config.codec.model, "cpu", acceleration="none")
    check_source(source.spec, config)
    return source


def known_codec(
    config: Config, source: Model | None, parent: Model | None
) -> tuple[AnyFittedCodec | None, Autoencoder | None]:
    """A codec that needs no measuring, or None: of the parent, or the identity."""
    if parent is not None:
        return parent.spec.codec, copy.deepcopy(parent.autoencoder)
    if source is not None and isinstance(source.network, Autoencoder):
        return None, source.network
    return (IdentityCodec() if config.codec.kind == "identity" else None), None


def check_codec(codec: AnyCodec, parent: ModelSpec) -> None:
    """Errors: ConfigError if a fine-tuning asks for another codec than its parent has."""
    theirs = parent.codec
    pairs: dict[str, tuple[object, object]] = {"codec.kind": (codec.kind, theirs.kind)}
    if isinstance(codec, WaveletCodec) and isinstance(theirs, FittedWavelet):
        pairs["codec.scale"] = codec.scale, theirs.scale
    if isinstance(codec, AutoencoderCodec) and isinstance(theirs, FittedAutoencoder):
        digest = folder_digest(model_folder(codec.model))
        pairs["codec.model"] = f"of digest {digest}", f"of digest {theirs.source}"
        pairs["codec.tiles"] = _said(codec.tiles), _said(theirs.tiles)
    for name, (asked, its) in pairs.items():
        if asked != its:
            raise ConfigError(
                f"fine-tuning: {name} of the configuration is {asked}, that of {parent.name} is "
                f"{its}; write the same, or train without a parent"
            )


def _said(tiles: Tiles | None) -> str:
    if tiles is None:
        return "none"
    return f"{tiles.size} with an overlap of {tiles.overlap}, statistics of the {tiles.statistics}"


def fit_codec(
    config: Config,
    train: TrainingSet,
    source: Model | None,
    parent: Model | None,
    device: torch.device,
    report: Reporter,
) -> tuple[ReadyCodec, Tensor | None]:
    """The codec, its shift and scale measured on the whole train split, and the latents of the
    train images as they are, where they were made for it.

    Errors: DataError if a channel is constant.
    """
    known, network = known_codec(config, source, parent)
    if known is not None:
        return ReadyCodec(known, network), None
    images, dims = len(config.data.channels), config.data.space.dims
    try:
        if isinstance(config.codec, WaveletCodec):
            batches = _images(train, "measuring the wavelet's scale", report)
            return ReadyCodec(fit_wavelet(config.codec, batches, images, dims)), None
        assert isinstance(config.codec, AutoencoderCodec)
        assert source is not None
        assert network is not None  # its network, as it was checked
        return _fit_latents(config.codec, source, network, train, device, report)
    except ValueError as error:
        raise DataError(f"codec: {error}") from None


def _fit_latents(
    options: AutoencoderCodec,
    source: Model,
    network: Autoencoder,
    train: TrainingSet,
    device: torch.device,
    report: Reporter,
) -> tuple[ReadyCodec, Tensor]:
    count = network.options.latent_channels
    unscaled = FittedAutoencoder(
        network.options,
        network.shape,
        Standard((0.0,) * count, (1.0,) * count),
        source.digest,
        options.tiles,
    )
    codec = LatentCodec(unscaled, network.to(device))
    means = encoded(codec, _images(train, "encoding", report), device)
    standard = measured([means])
    return ReadyCodec(replace(unscaled, standard=standard), network), standard.applied(means)


@torch.no_grad()
def encoded(codec: LatentCodec, batches: Iterator[Tensor], device: torch.device) -> Tensor:
    """The latents of images, kept on the CPU: (images, channel, *space)."""
    return torch.cat([codec.encode(batch.to(device)).cpu() for batch in batches])


def latent_set(
    images: TrainingSet,
    ready: ReadyCodec,
    device: torch.device,
    report: Reporter,
    *,
    what: str,
    known: Tensor | None = None,
    versions: int = 1,
    moved: Augment = STILL,
    seed: int = 0,
) -> TrainingSet:
    """The latents' means of a set of images in its place, encoded once.

    `known` are those of the images as they are. Of each image there are `versions`: one of itself,
    the others of its augmentations, keyed by (seed, version, image).
    """
    codec = codec_of(ready.fitted, ready.autoencoder)
    assert isinstance(codec, LatentCodec)
    kept = [encoded(codec, _images(images, what, report), device) if known is None else known]
    for version in range(1, versions):
        name = f"{what}, version {version + 1} of {versions}"
        kept.append(encoded(codec, _moved(images, moved, seed, version, name, report), device))
    latents = torch.cat(kept)
    conditions = images.conditions
    return TrainingSet(
        lambda indices: latents[list(indices)],
        None if conditions is None else conditions.repeat(versions, 1),
        list(images.rows) * versions,
    )


def _images(images: TrainingSet, what: str, report: Reporter) -> Iterator[Tensor]:
    for places in _parts(images, what, report):
        yield images.images(places)


def _moved(
    images: TrainingSet, options: Augment, seed: int, version: int, what: str, report: Reporter
) -> Iterator[Tensor]:
    for places in _parts(images, what, report):
        batch = replace(images.batch(places, to_move=True), first=places.start)
        yield augmented(batch, options, seed, version, "latent version").clean


def _parts(images: TrainingSet, what: str, report: Reporter) -> Iterator[range]:
    voxels = images.images([0])[0, 0].numel()
    part = max(1, min(PART, VOXELS // voxels))
    for first in range(0, len(images), part):
        report.progress(what, first, len(images))
        yield range(first, min(first + part, len(images)))
    report.progress(what, len(images), len(images))


def said_of_seams(ready: ReadyCodec, train: TrainingSet, device: torch.device) -> str:
    """What tiles change, measured on the first train image; "" where there are none."""
    codec = codec_of(ready.fitted, ready.autoencoder)
    if not isinstance(codec, LatentCodec) or codec.fitted.tiles is None:
        return ""
    try:
        found = codec.seams(train.images([0]).to(device))
    except torch.OutOfMemoryError:
        return "the seams of the codec's tiles were not measured: an image does not fit whole"
    return (
        f"tiles against the whole, first train image: latents differ by {found.latents_rms:.3g} "
        f"(rms, in standard deviations), the decoded image by {found.image_rms:.3g} (rms) and at "
        f"most {found.image_largest:.3g} (the intensity window is 2 wide)"
    )
