"""The region in which a result is judged."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from medidiff.types import Image


def head_region(clean: Image) -> Tensor:
    """The head (or other single body part) of each image: the region called "in-head".

    A smoothed, range-scaled image is cut at half of Otsu's threshold (the whole of it loses
    cerebrospinal fluid and bone), closed, its holes filled and its largest component kept. It is
    meant for clean images: from a noisy one the mask would depend on what is judged.

    Shapes: (batch, channel, *space) to boolean (batch, 1, *space); channels are averaged, each
    scaled by its own range.
    Errors: ValueError for a constant image.
    Source: Otsu 1979 (doi:10.1109/TSMC.1979.4310076) for the threshold.
    """
    masks = [_body(image) for image in clean.detach().cpu().double().numpy()]
    return torch.from_numpy(np.stack(masks))[:, None].to(clean.device)


def otsu_threshold(values: NDArray[np.floating]) -> float:
    """The cut that splits values into two classes of the largest variance between them."""
    counts, edges = np.histogram(values, bins=256)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    above = counts.sum() - below
    sums = np.cumsum(counts * centres)
    mean_below = sums[:-1] / np.maximum(below, 1)  # of a constant image all is in one bin
    mean_above = (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    return float(centres[:-1][np.argmax(below * above * (mean_below - mean_above) ** 2)])


def _body(image: NDArray[np.floating]) -> NDArray[np.bool_]:
    low = image.min(axis=tuple(range(1, image.ndim)), keepdims=True)
    span = image.max(axis=tuple(range(1, image.ndim)), keepdims=True) - low
    if not (span > 0).all():
        raise ValueError("a constant image has no head in it")
    grey = ((image - low) / span).mean(axis=0)
    # one voxel at 200: less than the partial volume of the skin at any size
    smooth = ndimage.gaussian_filter(grey, min(grey.shape) / 200)
    mask = smooth > otsu_threshold(smooth) / 2
    # closed by a fiftieth of the shortest side: bridges gaps in skin or rind, not the field of view
    radius = max(1, round(min(grey.shape) / 50))
    padded = np.pad(mask, radius)
    ball = ndimage.iterate_structure(ndimage.generate_binary_structure(mask.ndim, 1), radius)
    closed = ndimage.binary_closing(padded, ball)[tuple([slice(radius, -radius)] * mask.ndim)]
    # filled before the largest part is taken: the skin is apart from the brain, and holds it
    return _largest(np.asarray(ndimage.binary_fill_holes(closed), dtype=np.bool_))


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    labels = np.empty(mask.shape, dtype=np.int32)
    ndimage.label(mask, output=labels)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return labels == sizes.argmax()
