"""Which places of k-space are sampled, at a stated acceleration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch.nn import functional

from medidiff.types import Tensor

DENSITY_WIDTH = 0.15  # standard deviation of the Gaussian density, as a share of each axis
DISC_GROWTH = 3.0  # a Poisson disc at the end of k-space over one in the middle
BISECTIONS = 14
FEWEST = 12  # samples outside of the middle that tell an even pattern from an uneven one
APART = 2.0  # samples by which parts of an even pattern differ from its mean, its gaps being whole

SamplingKind: TypeAlias = Literal["gaussian", "uniform", "equispaced", "poisson-disc"]


@dataclass(frozen=True)
class Sampling:
    """A pattern of Cartesian sampling; `mask(shape, seed)` draws one.

    acceleration: voxels of k-space over samples, those of the autocalibration region counted.
    centre_fraction: the share of each undersampled axis that is sampled fully, in the middle.
    axes: which axes are undersampled (phase encoding), the last alone by default; the others are
    sampled fully. One axis gives lines, two points or lines of a volume.
    Errors: ValueError for options that contradict each other, also when a mask is drawn.
    """

    kind: SamplingKind = "gaussian"
    acceleration: float = 4.0
    centre_fraction: float = 0.08
    axes: tuple[int, ...] = (-1,)

    def __post_init__(self) -> None:
        known = self.kind in get_args(SamplingKind)
        if not (known and self.acceleration >= 1 and 0 <= self.centre_fraction <= 1 and self.axes):
            raise ValueError(
                f"a sampling needs a kind of {', '.join(get_args(SamplingKind))}, an acceleration "
                "of at least 1, a centre fraction in [0, 1] and an axis; found "
                f"{self.kind}, {self.acceleration}, {self.centre_fraction}, {self.axes}"
            )

    def mask(self, shape: tuple[int, ...], seed: int = 0) -> Tensor:
        """0 and 1 over the space `shape`, on the CPU; the same seed gives the same mask."""
        axes = sorted({axis % len(shape) for axis in self.axes})
        if len(axes) != len(self.axes) or not all(-len(shape) <= a < len(shape) for a in self.axes):
            raise ValueError(
                f"the axes of a mask over {len(shape)} axes are each one of them, once; "
                f"found {self.axes}"
            )
        sizes = tuple(shape[axis] for axis in axes)
        drawn = self._drawn(sizes, torch.Generator().manual_seed(seed))
        placed = [size if axis in axes else 1 for axis, size in enumerate(shape)]
        return drawn.float().reshape(placed).expand(shape).contiguous()

    def _drawn(self, sizes: tuple[int, ...], generator: torch.Generator) -> Tensor:
        centre = _centre(sizes, self.centre_fraction)
        total = round(math.prod(sizes) / self.acceleration)
        left = total - int(centre.sum())
        if left < 0:
            raise ValueError(
                f"the autocalibration region holds {int(centre.sum())} of {math.prod(sizes)} "
                f"places, more than an acceleration of {self.acceleration:g} allows ({total}): "
                "lower centre_fraction or acceleration"
            )
        if left == 0:
            return centre
        match self.kind:
            case "gaussian":
                order = _weighted_order(-0.5 * (_distance(sizes) / DENSITY_WIDTH) ** 2, generator)
            case "uniform":
                order = _weighted_order(torch.zeros(sizes, dtype=torch.float64), generator)
            case "equispaced":
                order = _lattice_order(
                    sizes, (math.prod(sizes) - int(centre.sum())) / left, generator
                )
            case "poisson-disc":
                order = _disc_order(centre, left, generator)
        first = order.masked_fill(centre, math.inf).flatten().argsort(stable=True)[:left]
        return centre.flatten().index_fill(0, first, True).reshape(sizes)


def is_equispaced(line: Tensor, middle: int) -> bool:
    """Whether the samples of one axis lie evenly outside of the `middle` places around n // 2.

    Shapes: line (n,), above 0 where sampled. No stretch has two samples more, or fewer, than an
    even pattern would; of random patterns as dense that was never seen in thousands.
    """
    start = len(line) // 2 - middle // 2
    outside = torch.cat([line[:start], line[start + middle :]]).double() > 0
    count = int(outside.sum())
    even = torch.arange(1, len(outside) + 1, device=line.device) * (count / max(len(outside), 1))
    ahead = functional.pad(outside.cumsum(0) - even, (1, 0))
    return count >= FEWEST and float(ahead.max() - ahead.min()) < APART


def _centre(sizes: tuple[int, ...], fraction: float) -> Tensor:
    """The box of autocalibration samples around zero frequency (n // 2)."""
    inside = torch.ones(sizes, dtype=torch.bool)
    for axis, size in enumerate(sizes):
        lines, places = round(size * fraction), torch.arange(size)
        start = size // 2 - lines // 2
        along = (places >= start) & (places < start + lines)
        inside &= along.reshape([-1 if each == axis else 1 for each in range(len(sizes))])
    return inside


def _distance(sizes: tuple[int, ...]) -> Tensor:
    """From zero frequency, in shares of each axis: 1/2 at the end of an axis."""
    squares = torch.zeros(sizes, dtype=torch.float64)
    for axis, size in enumerate(sizes):
        along = (torch.arange(size, dtype=torch.float64) - size // 2) / size
        squares += along.reshape([-1 if each == axis else 1 for each in range(len(sizes))]) ** 2
    return squares.sqrt()


def _weighted_order(log_density: Tensor, generator: torch.Generator) -> Tensor:
    """Keys whose smallest are a draw without replacement by density.

    Source: Efraimidis and Spirakis 2006 (doi:10.1016/j.ipl.2005.11.003), in the logarithm.
    """
    uniform = torch.rand(log_density.shape, generator=generator, dtype=torch.float64)
    return (-uniform.log()).log() - log_density


def _lattice_order(sizes: tuple[int, ...], spacing: float, generator: torch.Generator) -> Tensor:
    """The phase of a lattice with one point in `spacing` places, sheared from line to line.

    Sheared, as neighbouring lines would otherwise fold the same voxels onto each other (CAIPI).
    """
    shear, step = max(1, round(math.sqrt(spacing))), 1
    phase = torch.rand(1, generator=generator, dtype=torch.float64) * spacing
    for axis in reversed(range(len(sizes))):
        along = step * torch.arange(sizes[axis], dtype=torch.float64)
        phase = phase + along.reshape([-1 if each == axis else 1 for each in range(len(sizes))])
        step *= shear
    return phase.remainder(spacing)


def _disc_order(centre: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Keys whose `count` smallest keep a distance that grows away from the middle.

    The distance is the largest at which a random order still fills enough places.
    Source: Bridson 2007 (doi:10.1145/1278780.1278807) for the discs, Lustig et al. 2007
    (doi:10.1002/mrm.21391) for the density that falls away from the middle.
    Differs: each place of the grid once, in a random order, in place of darts until many miss.
    """
    sizes = tuple(centre.shape)
    order = torch.rand(sizes, generator=generator, dtype=torch.float64)
    growth = 1 + (DISC_GROWTH - 1) * 2 * _distance(sizes)
    low, high = 0.0, 2.0 * math.prod(sizes) ** (1 / len(sizes)) / count ** (1 / len(sizes))
    kept = torch.ones(sizes, dtype=torch.bool)
    for _ in range(BISECTIONS):
        radius = (low + high) / 2
        found = _apart(order, radius * growth, centre, count)
        if int((found & ~centre).sum()) >= count:
            low, kept = radius, found
        else:
            high = radius
    return order + (~kept).double()


def _apart(order: Tensor, radius: Tensor, centre: Tensor, count: int) -> Tensor:
    """Places in their order, each kept if none that was kept is within its radius, and those of the
    middle before; the first `count` of them."""
    reach = [min(math.ceil(float(radius.max())), size) for size in order.shape]
    near = _lengths(reach)
    wide = functional.pad(radius, [each for each in reversed(reach) for _ in range(2)])
    # Python looks up a byte faster than an element of a tensor
    closed = bytearray(wide.numel())
    shut = torch.frombuffer(closed, dtype=torch.bool)
    size, stride = near.shape, wide.stride()
    places = torch.cat((centre.nonzero(), _in_order(order, centre)))
    first = (places * torch.tensor(stride)).sum(1).tolist()  # of the box around each place
    middle = sum(map(math.prod, zip(reach, stride, strict=True)))
    of_middle = int(centre.sum())
    kept: list[int] = []
    for index, corner in enumerate(first):
        if closed[corner + middle] and index >= of_middle:
            continue
        kept.append(index)
        inside = near < wide.as_strided(size, stride, corner)
        shut.as_strided(size, stride, corner).logical_or_(inside)
        if len(kept) == of_middle + count:
            break
    found = torch.zeros_like(centre)
    found[tuple(places[kept].T)] = True
    return found


def _lengths(reach: Sequence[int]) -> Tensor:
    """Of the steps to the places around one, up to `reach` along each axis."""
    along = [torch.arange(-each, each + 1, dtype=torch.float64) for each in reach]
    return torch.stack(torch.meshgrid(*along, indexing="ij"), -1).norm(dim=-1)


def _in_order(order: Tensor, centre: Tensor) -> Tensor:
    """The places outside of the middle, (places, axes), by their order."""
    places = (~centre).nonzero()
    return places[order[~centre].argsort()]
