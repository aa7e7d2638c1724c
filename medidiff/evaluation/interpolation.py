"""What stands where nothing was measured, without a prior: interpolation."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from medidiff.types import Image


def cubic(coarse: Image, factor: tuple[int, ...]) -> Image:
    """Images on a grid `factor` times finer, by cubic splines between the middles of the voxels.

    Shapes: (batch, channel, *space) to (batch, channel, *(space * factor)).
    """
    from scipy import ndimage

    values = coarse.detach().cpu().double().numpy()
    fine = ndimage.zoom(values, (1, 1, *factor), order=3, mode="nearest", grid_mode=True)
    return torch.from_numpy(fine).to(coarse)


def biharmonic(images: Image, hole: Tensor) -> Image:
    """Images whose holes are filled by the smoothest surface (biharmonic) through what is around.

    Shapes: images (batch, channel, *space); hole (batch, 1, *space), boolean.
    Source: Damelin and Hoang 2018 (doi:10.1155/2018/3950312), as scikit-image has it.
    """
    from skimage.restoration import inpaint_biharmonic

    filled = [
        inpaint_biharmonic(np.moveaxis(image, 0, -1), missing[0], channel_axis=-1)
        for image, missing in zip(
            images.detach().cpu().double().numpy(), hole.cpu().numpy(), strict=True
        )
    ]
    return torch.from_numpy(np.stack([np.moveaxis(each, -1, 0) for each in filled])).to(images)
