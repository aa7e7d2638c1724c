"""What a bundle says of its images, and what has to be stated besides, as our specification."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

from medidiff import options
from medidiff.data.intensity import FittedIntensity
from medidiff.data.options import Space
from medidiff.errors import ModelError
from medidiff.jobs.bundles.configs import Bundle, Definition
from medidiff.jobs.bundles.schedulers import Meaning, scheduler_of
from medidiff.networks import NetworkShape, UNetOptions
from medidiff.spec import Lineage, ModelSpec, SamplingOptions


@dataclass(frozen=True)
class Stated:
    """What a bundle does not say, or says wrongly; None leaves it to the bundle."""

    modality: str | None = None
    """What the scanner was, such as MR."""
    size: tuple[int, ...] | None = None
    """Voxels of an image along each axis."""
    spacing_mm: tuple[float, ...] | Literal["as stored"] | None = None
    """Voxel size in mm, or "as stored"."""
    orientation: str | None = None
    """Direction in which each axis counts up, such as RAS, or "as stored"."""
    intensity: tuple[float, float] | None = None
    """The intensities of scans that become the ends of `value_range`."""
    value_range: tuple[float, float] | None = None
    """The values between which the network's images lie, such as 0 and 1."""
    images: tuple[str, ...] | None = None
    """Names of the channels."""
    name: str | None = None
    """Name of the model."""
    weights: str | None = None
    """File of the network's weights, relative to the bundle's models/."""
    autoencoder_weights: str | None = None
    """File of the autoencoder's, for a bundle that works on latents."""


def spec_of(
    bundle: Bundle,
    stated: Stated,
    network_options: UNetOptions,
    shape: NetworkShape,
    found: Meaning,
    autoencoder: Definition | None,
    scale: float | None,
) -> ModelSpec:
    own = _own(bundle)
    if own is None:
        channels = shape.in_channels
        if autoencoder is not None:
            channels = bundle.argument(autoencoder, "in_channels", 1)
        latent = autoencoder is not None
        stated = _completed(bundle, stated, shape.dims, channels, latent, scale)
        spec = _foreign_spec(bundle, stated, network_options, shape, channels)
    else:
        spec = _as_stated(own, stated)
    spec = dataclasses.replace(spec, network=network_options, shape=shape)
    if own is not None and _says_what_we_exported(bundle, own):
        return spec  # in our own words, of which MONAI's are an approximation
    # latents have no range: where theirs are clipped to [-1, 1], by default, that is an oversight
    clip = "keep" if found.clipped and autoencoder is None else "none"
    sampling = dataclasses.replace(spec.sampling, clip=clip)
    return dataclasses.replace(
        spec, schedule=found.schedule, target=found.target, sampling=sampling
    )


def _own(bundle: Bundle) -> ModelSpec | None:
    if bundle.own is None:
        return None
    try:
        return options.read(ModelSpec, dict(bundle.own))
    except options.OptionError as error:
        raise ModelError(f"{bundle.folder.name}/configs/medidiff.json: {error}") from None


def _says_what_we_exported(bundle: Bundle, own: ModelSpec) -> bool:
    """Whether the scheduler of a bundle of ours is still the one that it was exported with."""
    scheduler = bundle.part("scheduler")
    assert scheduler is not None
    exported = scheduler_of(own)
    exported.pop("_target_")
    return all(bundle.argument(scheduler, name) == value for name, value in exported.items())


def _completed(
    bundle: Bundle, stated: Stated, dims: int, channels: int, latent: bool, scale: float | None
) -> Stated:
    """What is stated and what the metadata says.

    Errors: ModelError naming all that nobody says.
    """
    image = _image_format(bundle, "autoencoder_data_format" if latent else "network_data_format")
    size, span = image.get("spatial_shape"), image.get("value_range")
    if stated.size is None and _numbers(size, dims):
        stated = dataclasses.replace(stated, size=tuple(int(each) for each in size))
    if stated.value_range is None and _numbers(span, 2):
        stated = dataclasses.replace(stated, value_range=(float(span[0]), float(span[1])))
    if stated.images is None and channels == 1:
        stated = dataclasses.replace(stated, images=("image",))
    examples = {
        "modality": "--modality MR (what the scanner was)",
        "size": "--size " + ",".join(["64"] * dims) + " (voxels along each axis)",
        "spacing_mm": '--spacing 1.1 (mm; one number, one for each axis, or "as stored")',
        "orientation": f'--orientation {"PL" if dims == 2 else "RAS"} (or "as stored")',
        "value_range": "--value-range 0 1 (between which values the network's images lie)",
        "intensity": "--intensity 0 1000 (the scans' intensities that become these values)",
        "images": f"--images t1,t2 (names of the {channels} channels)",
    }
    missing = [text for name, text in examples.items() if getattr(stated, name) is None]
    if latent and scale is None:
        missing.append("--change scale_factor=1 (what latents are multiplied by; 1 for nothing)")
    if missing:
        raise ModelError(
            f"{bundle.folder.name} does not say all that a model must know. State:\n  "
            + "\n  ".join(missing)
        )
    return stated


def _image_format(bundle: Bundle, name: str) -> Mapping[str, Any]:
    """What the metadata says of the images that come out."""
    outputs = bundle.metadata.get(name, {}).get("outputs", {})
    return next((each for each in outputs.values() if isinstance(each, dict)), {})


def _numbers(found: object, count: int) -> TypeGuard[list[float]]:
    return (
        isinstance(found, list)
        and len(found) == count
        and all(isinstance(each, int | float) and not isinstance(each, bool) for each in found)
    )


def _foreign_spec(
    bundle: Bundle,
    stated: Stated,
    network_options: UNetOptions,
    shape: NetworkShape,
    channels: int,
) -> ModelSpec:
    images = stated.images or ()
    if len(images) != channels:
        raise ModelError(f"--images names {len(images)} channels, the images have {channels}")
    spacing = stated.spacing_mm
    if isinstance(spacing, tuple) and len(spacing) == 1:
        spacing = spacing * shape.dims
    try:
        space = Space(shape.dims, stated.size or (), spacing or (), stated.orientation or "")
    except ValueError as error:
        raise ModelError(f"{bundle.folder.name}: {error}") from None
    return ModelSpec(
        name=stated.name or str(bundle.metadata.get("name") or bundle.folder.name),
        modality=stated.modality or "",
        images=images,
        space=space,
        intensity=_intensity(stated, len(images)),
        network=network_options,
        shape=shape,
        sampling=SamplingOptions(),
        lineage=Lineage(version=f"MONAI bundle {bundle.metadata.get('version', '')}".strip()),
    )


def _intensity(stated: Stated, channels: int) -> FittedIntensity:
    """Our window says which intensities are -1 and 1, whatever range their network's images have.

    Errors: ModelError for ends in the wrong order.
    """
    (low, high), (first, last) = stated.intensity or (0, 0), stated.value_range or (0, 0)
    if not (low < high and first < last):
        raise ModelError(
            f"--intensity and --value-range go from low to high, found {low} {high} and {first} "
            f"{last}"
        )
    unit = (high - low) / (last - first)  # intensity of one of the network's units
    ends = (low + (-1 - first) * unit, low + (1 - first) * unit)
    return FittedIntensity(
        (ends[0],) * channels, (ends[1],) * channels, "train", None, (first, last)
    )


def _as_stated(spec: ModelSpec, stated: Stated) -> ModelSpec:
    """Our own description with what was stated besides."""
    changed: dict[str, Any] = {
        name: getattr(stated, name)
        for name in ("modality", "images", "name")
        if getattr(stated, name) is not None
    }
    space = {
        name: getattr(stated, name)
        for name in ("size", "spacing_mm", "orientation")
        if getattr(stated, name) is not None
    }
    if space:
        changed["space"] = dataclasses.replace(spec.space, **space)
    if stated.intensity is not None:
        stated = dataclasses.replace(stated, value_range=stated.value_range or spec.intensity.range)
        changed["intensity"] = _intensity(stated, len(spec.images))
    return dataclasses.replace(spec, **changed)
