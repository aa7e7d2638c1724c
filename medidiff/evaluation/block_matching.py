"""Denoising by collaborative filtering of similar blocks, the strongest classical method here.

Source: Dabov et al. 2007 (doi:10.1109/TIP.2007.901238), sections III-IV, numbers from table I but
for these.
Differs: DCT in both steps; groups of fixed size (the threshold or Wiener weights take care of poor
matches), 16 in the second step too, and a threshold of 3 in the group, which with the DCT and such
groups are better than table I's 32 and 2.7 by .1 to .2 dB on brain slices; blocks are always
compared after the coefficient threshold that the paper keeps for strong noise; a search window of
33 instead of 39 pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft, linalg
from torch import Tensor

Array = NDArray[np.floating]

SIDE = 8
STRIDE = 3
REACH = 16  # the search goes this far in each direction
FIRST_GROUP, SECOND_GROUP = 16, 16
FLAT_THRESHOLD, GROUP_THRESHOLD = 2.0, 3.0  # in sigmas: before matching, and in the group
KAISER = 2.0


def match_blocks(noisy: Array, sigma: float) -> Array:
    """A picture with its white Gaussian noise of `sigma` taken out, in float64.

    Shapes: (rows, columns).
    Errors: ValueError for another number of axes or sides under 16 pixels.
    """
    if noisy.ndim != 2 or min(noisy.shape) < 2 * SIDE:
        raise ValueError(f"blocks are matched in pictures of 16 x 16 or more, not {noisy.shape}")
    picture = torch.from_numpy(np.ascontiguousarray(noisy, dtype=np.float32))
    grid = _Grid.over(picture)
    spectra = _spectra(picture)
    flat = torch.where(spectra.abs() > FLAT_THRESHOLD * sigma, spectra, 0)
    basic = _threshold_step(spectra, _matches(flat, grid, FIRST_GROUP), grid, sigma)
    guide = _spectra(basic)
    final = _wiener_step(spectra, guide, _matches(guide, grid, SECOND_GROUP), grid, sigma)
    return final.double().numpy()


@dataclass(frozen=True)
class _Grid:
    """Where blocks may lie (the number of rows and columns) and which of them are references."""

    rows: int
    columns: int
    reference_rows: Tensor
    reference_columns: Tensor

    @staticmethod
    def over(picture: Tensor) -> _Grid:
        rows, columns = (side - SIDE + 1 for side in picture.shape)
        first, second = torch.meshgrid(_strided(rows), _strided(columns), indexing="ij")
        return _Grid(rows, columns, first.flatten(), second.flatten())


def _strided(count: int) -> Tensor:
    """Every third place and always the last one, so that all pixels are covered."""
    return torch.unique(torch.cat([torch.arange(0, count, STRIDE), torch.tensor([count - 1])]))


def _spectra(picture: Tensor) -> Tensor:
    """The DCT of the block at every place: (places, 64)."""
    transform = torch.from_numpy(fft.dct(np.eye(SIDE), axis=0, norm="ortho")).float()
    blocks = picture.unfold(0, SIDE, 1).unfold(1, SIDE, 1)
    return (transform @ blocks @ transform.T).reshape(-1, SIDE * SIDE)


def _matches(spectra: Tensor, grid: _Grid, size: int) -> Tensor:
    """The places of the blocks most like each reference, itself first: (references, size)."""
    here = spectra[grid.reference_rows * grid.columns + grid.reference_columns]
    distances, places = [], []
    for down in range(-REACH, REACH + 1):
        rows = grid.reference_rows + down
        valid_rows = (rows >= 0) & (rows < grid.rows)
        for right in range(-REACH, REACH + 1):
            columns = grid.reference_columns + right
            valid = valid_rows & (columns >= 0) & (columns < grid.columns)
            place = torch.where(valid, rows * grid.columns + columns, 0)
            distance = (spectra[place] - here).square_().sum(1)
            if down == right == 0:
                distance.fill_(-1)  # a reference leads its group, also among equal blocks
            distances.append(distance.masked_fill_(~valid, torch.inf))
            places.append(place)
    nearest = torch.stack(distances, 1).topk(size, dim=1, largest=False).indices
    return torch.stack(places, 1).gather(1, nearest)


def _threshold_step(spectra: Tensor, matches: Tensor, grid: _Grid, sigma: float) -> Tensor:
    along = _hadamard(matches.shape[1])
    groups = torch.einsum("ij,rjk->rik", along, spectra[matches])
    kept = groups.abs() > GROUP_THRESHOLD * sigma
    weight = 1 / kept.flatten(1).sum(1).clamp_min(1)
    filtered = torch.einsum("ij,rik->rjk", along, groups * kept)
    return _aggregate(filtered, weight, matches, grid)


def _wiener_step(
    spectra: Tensor, guide: Tensor, matches: Tensor, grid: _Grid, sigma: float
) -> Tensor:
    along = _hadamard(matches.shape[1])
    power = torch.einsum("ij,rjk->rik", along, guide[matches]).square_()
    shrink = power / (power + sigma**2)
    groups = torch.einsum("ij,rjk->rik", along, spectra[matches])
    weight = 1 / shrink.square().flatten(1).sum(1).clamp_min(1e-6)
    filtered = torch.einsum("ij,rik->rjk", along, groups * shrink)
    return _aggregate(filtered, weight, matches, grid)


def _hadamard(size: int) -> Tensor:
    return torch.from_numpy(linalg.hadamard(size) / np.sqrt(size)).float()


def _aggregate(filtered: Tensor, weight: Tensor, matches: Tensor, grid: _Grid) -> Tensor:
    """The weighted mean, at each pixel, of all filtered blocks that hold it."""
    transform = torch.from_numpy(fft.dct(np.eye(SIDE), axis=0, norm="ortho")).float()
    blocks = transform.T @ filtered.unflatten(2, (SIDE, SIDE)) @ transform
    kaiser = torch.from_numpy(np.kaiser(SIDE, KAISER)).float()
    window = torch.outer(kaiser, kaiser) * weight[:, None, None, None]
    width = grid.columns + SIDE - 1
    corner = matches // grid.columns * width + matches % grid.columns
    inside = (torch.arange(SIDE)[:, None] * width + torch.arange(SIDE)).flatten()
    pixel = (corner[..., None] + inside).flatten()
    shape = (grid.rows + SIDE - 1, width)
    window = window.expand_as(blocks)
    total = torch.zeros(shape).flatten().index_add_(0, pixel, (blocks * window).flatten())
    norm = torch.zeros(shape).flatten().index_add_(0, pixel, window.flatten())
    return (total / norm).view(shape)
