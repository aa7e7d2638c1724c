"""Intensities to the model's range and back: straight lines fitted once, clipped only if asked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor

from medidiff.data.options import AnyIntensity, CTWindow, Window
from medidiff.errors import DataError

VOXELS_A_CHANNEL = (
    65536  # of each train image enter the percentiles: evenly spread, the same each time
)


@dataclass(frozen=True)
class Scale:
    """A straight line for each channel: `low` becomes -1, `high` becomes 1."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    clip: bool = False
    """Whether what lies beyond the ends becomes -1 or 1."""

    def normalise(self, x: Tensor, *, axis: int = 1, out: Tensor | None = None) -> Tensor:
        """Intensities to model units, in `out` if it is given. Channels lie along `axis`: 1 in a
        batch, 0 in one image."""
        low, high = self._along(x, axis)
        scaled = torch.sub(x, low, out=out).mul_(2 / (high - low)).sub_(1)
        return scaled.clamp_(-1, 1) if self.clip else scaled

    def repeated(self, times: int) -> Scale:
        """The same for channels that there are so many of, one after the other, each."""
        low, high = (_repeated(ends, times) for ends in (self.low, self.high))
        return Scale(low, high, self.clip)

    def inverse(self, x: Tensor, *, axis: int = 1) -> Tensor:
        """Model units to intensities. Channels lie along `axis`: 1 in a batch, 0 in one image."""
        low, high = self._along(x, axis)
        return (x + 1) * ((high - low) / 2) + low

    def _along(self, x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        if len(self.low) > 1 and x.shape[axis] != len(self.low):
            raise ValueError(
                f"axis {axis} of {tuple(x.shape)} does not hold {len(self.low)} channels"
            )
        shape = [1] * x.ndim
        shape[axis] = len(self.low)
        dtype = x.dtype if x.is_floating_point() else torch.float32
        low = torch.tensor(self.low, dtype=dtype, device=x.device).view(shape)
        return low, torch.tensor(self.high, dtype=dtype, device=x.device).view(shape)


def _repeated(values: tuple[float, ...], times: int) -> tuple[float, ...]:
    return tuple(value for value in values for _ in range(times))


IDENTITY_LOW, IDENTITY_HIGH = -1.0, 1.0


def unscaled(channels: int) -> Scale:
    """The line that changes nothing, for images kept in their own units."""
    return Scale((IDENTITY_LOW,) * channels, (IDENTITY_HIGH,) * channels)


@dataclass(frozen=True)
class FittedIntensity:
    """What was learnt of the train images' intensities; part of a model.

    Range: `range` is the smallest and largest normalised value of the train images, with the bright
    tail unless it was clipped.
    """

    low: tuple[float, ...]
    """Per channel, the intensity that becomes -1; with scope "image" the train images' median."""
    high: tuple[float, ...]
    """Per channel, the intensity that becomes 1; with scope "image" the train images' median."""
    scope: Literal["train", "image"]
    """"train": one line for all images. "image": each image's own percentiles."""
    percentiles: tuple[float, float] | None
    """Which percentiles `low` and `high` are; None for a fixed window."""
    range: tuple[float, float]
    clip: bool = False
    """Whether intensities beyond a fixed window become its ends."""

    @property
    def typical(self) -> Scale:
        """The line of a train image: for images that are made and have no percentiles of their
        own."""
        return Scale(self.low, self.high, self.clip)

    def repeated(self, times: int) -> FittedIntensity:
        """The same for channels that there are so many of, one after the other, each."""
        low, high = (_repeated(ends, times) for ends in (self.low, self.high))
        return replace(self, low=low, high=high)

    def thinned(self, times: int) -> FittedIntensity:
        """The way back from `repeated`."""
        return replace(self, low=self.low[::times], high=self.high[::times])

    def scale_of(self, image: Tensor) -> Scale:
        """The line that this image (channel, *space) is normalised with.

        Errors: DataError if the image's percentiles coincide (scope "image").
        """
        if image.shape[0] != len(self.low):
            raise DataError(
                f"{image.shape[0]} channels, but the intensities are of {len(self.low)}"
            )
        if self.scope == "train" or self.percentiles is None:
            return self.typical
        return _percentiles_of(_voxels(image), self.percentiles)

    def normalise(self, image: Tensor) -> tuple[Tensor, Scale]:
        """The image (channel, *space) in model units, and the line that leads back."""
        scale = self.scale_of(image)
        return scale.normalise(image, axis=0), scale


def scaled_batch(images: Sequence[Tensor], scales: Sequence[Scale]) -> Tensor:
    """Images (channel, *space) in model units, together: (batch, channel, *space)."""
    made = torch.empty((len(images), *images[0].shape))
    for place, image, scale in zip(made, images, scales, strict=True):
        scale.normalise(image, axis=0, out=place)
    return made


def fit(options: AnyIntensity, images: Iterable[Tensor]) -> FittedIntensity:
    """The intensities of the train images (channel, *space), as they lie on the model's grid.

    Percentiles are of whole images, background and padding included, each channel by itself, from
    up to 65536 evenly spread voxels an image.
    Errors: DataError if there are no images or a channel has the same value everywhere.
    """
    kept: list[tuple[np.ndarray, Tensor]] = []
    for image in images:
        extremes = torch.stack([image.flatten(1).amin(1), image.flatten(1).amax(1)])
        kept.append((_voxels(image), extremes))
    if not kept:
        raise DataError("there are no train images to fit intensities on")
    channels = kept[0][0].shape[0]
    if isinstance(options, Window | CTWindow):
        own = [Scale((options.low,) * channels, (options.high,) * channels, options.clip)]
        percentiles, scope = None, "train"
    elif options.scope == "train":
        percentiles, scope = (options.low, options.high), "train"
        own = [_percentiles_of(np.concatenate([voxels for voxels, _ in kept], axis=1), percentiles)]
    else:
        percentiles, scope = (options.low, options.high), "image"
        own = [_percentiles_of(voxels, percentiles) for voxels, _ in kept]
    lines = own if len(own) > 1 else own * len(kept)
    ends = [line.normalise(ends) for line, (_, ends) in zip(lines, kept, strict=True)]
    low, high = (
        tuple(float(value) for value in np.median([getattr(line, end) for line in own], axis=0))
        for end in ("low", "high")
    )
    span = (min(float(end.min()) for end in ends), max(float(end.max()) for end in ends))
    return FittedIntensity(
        low, high, cast(Literal["train", "image"], scope), percentiles, span, own[0].clip
    )


def _voxels(image: Tensor) -> np.ndarray:
    """(channel, voxel): at most 65536 voxels, evenly spread."""
    flat = image.detach().flatten(1)
    return flat[:, :: -(-flat.shape[1] // VOXELS_A_CHANNEL)].cpu().numpy()


def _percentiles_of(voxels: np.ndarray, percentiles: tuple[float, float]) -> Scale:
    low, high = np.percentile(voxels, percentiles, axis=1)
    flat = [str(channel + 1) for channel in range(len(low)) if not low[channel] < high[channel]]
    if flat:
        raise DataError(
            f"channel {', '.join(flat)} has the same value at the {percentiles[0]}th and "
            f"{percentiles[1]}th percentile; widen the percentiles or leave the image out"
        )
    return Scale(tuple(low.tolist()), tuple(high.tolist()))
