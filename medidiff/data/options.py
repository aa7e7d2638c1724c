"""The choices about images that a configuration may make; imports neither torch nor MONAI."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

AS_STORED = "as stored"
AXES = {"L": (0, -1), "R": (0, 1), "P": (1, -1), "A": (1, 1), "I": (2, -1), "S": (2, 1)}
Field = tuple[tuple[int, int], ...]
"""First and one past last voxel of a grid that a scan fills, along each axis; else padding."""


@dataclass(frozen=True)
class Space:
    """The grid that every image is brought to: how many voxels, how large, which way round."""

    dims: Literal[2, 3]
    """2 for slices and pictures, 3 for volumes."""
    size: tuple[int, ...]
    """Voxels along each axis; images are centred, then cropped or padded with their minimum."""
    spacing_mm: tuple[float, ...] | Literal["as stored"] = "as stored"
    """Voxel size along each axis in mm; "as stored" never resamples. For pictures without geometry
    (PNG, JPEG) it declares the size of their pixels."""
    orientation: str = "as stored"
    """Direction in which each axis counts up, such as RAS, or PL for two axes; "as stored" keeps
    it."""

    def __post_init__(self) -> None:
        if self.dims not in (2, 3):
            raise ValueError(f"dims is 2 or 3, not {self.dims}")
        if len(self.size) != self.dims or min(self.size) < 1:
            raise ValueError(f"size has {self.dims} positive numbers, not {self.size}")
        if self.spacing_mm != AS_STORED:
            _check_spacing(self.spacing_mm, self.dims)
        if self.orientation != AS_STORED:
            _check_orientation(self.orientation, self.dims)

    def affine(self) -> NDArray[np.float64]:
        """The affine (4 x 4, RAS+, mm) of an image made on this grid, its centre at the origin.

        What is "as stored" is unknown for a made image: 1 mm and the axes P, L (2-D) or S, P, L
        (3-D), the order in which pictures are shown, take its place.
        """
        known = self.orientation != AS_STORED
        letters = self.orientation if known else ("PL" if self.dims == 2 else "SPL")
        spacing = (1.0,) * self.dims if isinstance(self.spacing_mm, str) else self.spacing_mm
        affine = np.zeros((4, 4))
        for axis, (letter, step_mm) in enumerate(zip(letters, spacing, strict=True)):
            direction, sign = AXES[letter]
            affine[direction, axis] = sign * step_mm
        if (
            self.dims == 2
        ):  # a slice is as thick as its pixels are wide; the third axis is the free one
            free = ({0, 1, 2} - {AXES[letter][0] for letter in letters}).pop()
            affine[free, 2] = spacing[0]
        centre = (np.array([*self.size, 1, 1])[:3] - 1) / 2
        affine[:3, 3] = -affine[:3, :3] @ centre
        affine[3, 3] = 1.0
        return affine

    def known_affine(self) -> NDArray[np.float64] | None:
        """`affine`, or None where the orientation is "as stored" and so not known: for pictures,
        which must name no plane then."""
        return None if self.orientation == AS_STORED else self.affine()


def _check_spacing(spacing_mm: tuple[float, ...] | str, dims: int) -> None:
    if isinstance(spacing_mm, str):
        raise ValueError(f'spacing_mm is {dims} numbers or "as stored", not {spacing_mm!r}')
    if len(spacing_mm) != dims or not all(0 < step < 1000 for step in spacing_mm):
        raise ValueError(f"spacing_mm has {dims} positive numbers of mm, not {spacing_mm}")


def _check_orientation(letters: str, dims: int) -> None:
    directions = [AXES[letter][0] for letter in letters if letter in AXES]
    if len(letters) != dims or len(set(directions)) != dims:
        example = "PL" if dims == 2 else "RAS"
        raise ValueError(
            f"orientation has {dims} letters, one of each pair R/L, A/P, S/I, such as {example}, "
            f'or is "as stored"; not {letters!r}'
        )


PlaneName = Literal["axial", "coronal", "sagittal"]
PLANES: dict[PlaneName, str] = {"axial": "PL", "coronal": "IL", "sagittal": "IP"}
"""How the rows and columns of a plane count up, as radiologists look at it."""


@dataclass(frozen=True)
class Slices:
    """Which slices of volumes a 2-D model is trained on; a volume's intensities are judged whole.

    Each slice is a case of its volume's subject. Nothing is resampled between slices.
    """

    plane: Literal["axial", "coronal", "sagittal", "thick"] = "thick"
    """The plane of the slices. "thick": across the coarsest spacing, as they were acquired, which
    must be one plane for all volumes. With the orientation "as stored", rows and columns count up
    as radiologists look at them: axial PL, coronal IL, sagittal IP."""
    every: int = 1
    """Every so many of the slices that are not too empty; 1 takes all."""
    foreground: float = 0.1
    """Slices with less foreground than this share of the fullest slice of their volume are left
    out; 0 takes all."""
    thickness: int = 1
    """Neighbouring slices that the network sees at once, as channels: an odd number. On a volume
    the answers of all slabs that hold a slice are averaged."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"slices.every is at least 1, not {self.every}")
        if self.thickness < 1 or self.thickness % 2 == 0:
            raise ValueError(
                f"slices.thickness is an odd number (a slice and its neighbours), not "
                f"{self.thickness}"
            )
        if not 0 <= self.foreground <= 1:
            raise ValueError(f"slices.foreground is a share from 0 to 1, not {self.foreground}")

    def channels(self, images: tuple[str, ...]) -> tuple[str, ...]:
        """The channels of these images: each slice of a slab, from the lowest to the highest."""
        reach = self.thickness // 2
        steps = range(-reach, reach + 1)
        return tuple(f"{name}{step:+d}" if step else name for name in images for step in steps)

    def columns(self, channels: tuple[str, ...]) -> tuple[str, ...]:
        """The images that these are the channels of."""
        return channels[self.thickness // 2 :: self.thickness]

    def check(self, space: Space) -> None:
        """Errors: ValueError for a grid that is not one of these slices."""
        if space.dims != 2:
            raise ValueError(
                "slices are cut for a 2-D model: space.dims must be 2, or leave slices out to "
                "train on whole volumes"
            )
        if self.plane == "thick" or space.orientation == AS_STORED:
            return
        if plane_of(space.orientation) != self.plane:
            raise ValueError(
                f"space.orientation {space.orientation} is {plane_of(space.orientation)}, and "
                f"slices.plane {self.plane}: write {PLANES[self.plane]}, or leave one of them out"
            )


def letter_across(letters: str) -> str:
    """The direction, R, A or S, in which slices with these rows and columns are counted."""
    return "RAS"[({0, 1, 2} - {AXES[letter][0] for letter in letters}).pop()]


def plane_of(letters: str) -> PlaneName:
    """The plane in which rows and columns run along these directions."""
    axes = {AXES[letter][0] for letter in letters}
    return next(n for n, own in PLANES.items() if {AXES[letter][0] for letter in own} == axes)


@dataclass(frozen=True)
class Window:
    """A fixed window of intensities is mapped to [-1, 1], such as -1000..1000 HU."""

    kind: Literal["window"] = "window"
    low: float = -1000.0
    """Intensity that becomes -1."""
    high: float = 1000.0
    """Intensity that becomes 1."""
    clip: bool = False
    """Whether intensities beyond the window become its ends, for good: no result has them."""

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, not {self.low} and {self.high}")


CTWindowName = Literal["full", "brain", "subdural", "soft-tissue", "mediastinum", "lung", "bone"]
CT_WINDOWS: dict[CTWindowName, tuple[float, float]] = {
    "full": (-1024.0, 3071.0),
    "brain": (0.0, 80.0),
    "subdural": (-20.0, 180.0),
    "soft-tissue": (-150.0, 250.0),
    "mediastinum": (-125.0, 225.0),
    "lung": (-1350.0, 150.0),
    "bone": (-500.0, 1300.0),
}
"""Hounsfield units from low to high, as radiologists set them (level 40 and width 80 for the brain,
80/200, 50/400, 50/350, -600/1500, 400/1800); full is what 12 bits hold."""


@dataclass(frozen=True)
class CTWindow:
    """A window of Hounsfield units that radiologists use is mapped to [-1, 1]."""

    kind: Literal["ct-window"] = "ct-window"
    window: CTWindowName = "full"
    """full -1024..3071 HU, brain 0..80, subdural -20..180, soft-tissue -150..250, mediastinum
    -125..225, lung -1350..150, bone -500..1300."""
    clip: bool = True
    """Whether Hounsfield units beyond the window become its ends, for good: no result has them.
    Without it bone is 25 times as bright as the brain's window."""

    @property
    def low(self) -> float:
        """Hounsfield units that become -1."""
        return CT_WINDOWS[self.window][0]

    @property
    def high(self) -> float:
        """Hounsfield units that become 1."""
        return CT_WINDOWS[self.window][1]


@dataclass(frozen=True)
class Percentile:
    """Two percentiles of whole images, background included, become -1 and 1; not clipped."""

    kind: Literal["percentile"] = "percentile"
    low: float = 0.5
    """Percentile that becomes -1."""
    high: float = 99.5
    """Percentile that becomes 1."""
    scope: Literal["train", "image"] = "train"
    """"train": one window, from the train images together. "image": each image's own percentiles,
    for modalities whose scale means nothing between scans."""

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 100:
            raise ValueError(f"percentiles: 0 <= low < high <= 100, not {self.low} and {self.high}")


AnyIntensity = Window | CTWindow | Percentile


@dataclass(frozen=True)
class Augment:
    """How far training images may be moved and changed at random; the defaults change nothing.

    Draws are uniform within plus and minus each limit. No axis is mirrored unless it is asked for:
    left and right are different in a body.
    """

    shift_voxels: float = 0.0
    """Largest shift along each axis."""
    rotate_degrees: float = 0.0
    """Largest turn; in 3-D about each axis."""
    scale: float = 0.0
    """Largest relative change of size, 0.1 = 10 %."""
    intensity: float = 0.0
    """Largest relative change of contrast above the window's lower end."""
    flip_axes: tuple[int, ...] = ()
    """Axes mirrored in half of the images, counted from 0."""
    until: float = 1.0
    """Share of the training that is augmented; the rest sees the images as they are, so that what
    the model draws is as the images are, not as they are moved."""

    DRAWS: ClassVar[int] = 11
    """Uniform numbers an image takes: 3 shifts, 3 turns, size, contrast, 3 mirrors (2-D too)."""

    def __post_init__(self) -> None:
        limits = (self.shift_voxels, self.rotate_degrees, self.scale, self.intensity)
        if min(limits) < 0 or self.scale >= 1 or self.intensity >= 1:
            raise ValueError("augmentation limits are 0 or more, scale and intensity below 1")
        if not 0 <= self.until <= 1:
            raise ValueError(f"augment.until is a share from 0 to 1, not {self.until}")
        if any(axis not in (0, 1, 2) for axis in self.flip_axes):
            raise ValueError(f"flip_axes are 0, 1 or 2, not {self.flip_axes}")
        if any(a == b for a, b in itertools.combinations(self.flip_axes, 2)):
            raise ValueError(f"flip_axes names an axis twice: {self.flip_axes}")
