"""Cases: images on a model's grid and in its units, with what is known of the subject."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from medidiff.data.augment import middle
from medidiff.data.cropping import Cropped
from medidiff.data.image_cache import Grid
from medidiff.data.images import Original, Volume, load_image
from medidiff.data.intensity import FittedIntensity, Scale, unscaled
from medidiff.data.options import Field, Slices
from medidiff.data.placing import Placed, cut, place, place_row
from medidiff.data.prepared import PreparedImages
from medidiff.data.privacy import SiteKey
from medidiff.data.rows import Progress, Row, first_problems
from medidiff.data.slices import chosen
from medidiff.data.transforms import Kind, Space, inside_space, put_back
from medidiff.errors import DataError

CacheKind = Literal["memory", "disk", "none"]
Item = tuple[int, int | None]
"""A case: which of the rows, and which slice of its volume as the model's grid counts them."""
Made = TypeVar("Made")


@dataclass(frozen=True)
class Case:
    """One subject's images at one time, ready for a network, with the way back.

    Shapes: `images` is (channel, *space); `label` is (*space), int64. Range: model units, or the
    scan's own where no intensities were given. Units: `affine` is the model grid's, 4 x 4, RAS+,
    mm.
    """

    subject: str
    """A pseudonym."""
    row: int
    """The row of the manifest, 0 for a single input."""
    images: Tensor
    conditions: Mapping[str, str | float]
    label: Tensor | None
    scale: Scale
    """Leads from model units to intensities; changes nothing where no intensities were given."""
    affine: NDArray[np.float64]
    original: Original
    """The grid of the input."""
    content: str = ""
    """SHA-256 of the voxels of a single input; the same at every site, unlike the pseudonym."""
    beside: Mapping[str, Tensor] = field(default_factory=dict)
    """What was given with the images, by name: a mask on their grid, k-space and its coil maps."""
    wide: Tensor | None = None
    """`images` and what lies around them, (channel, *wide), where a margin was asked for."""
    field: Field = ()
    """Which voxels of `around` the scan fills."""
    slice: int | None = None
    """Of a slice of a volume: its number along the volume's own axis, counted from 0."""
    volume: Tensor | None = None
    """Of a slice of a volume: all of its slices on the grid, (channel, slice, *space), in the
    volume's own intensities."""
    cropped: Cropped = Cropped()
    """What of the scan lies beyond the grid; of a slice, of its volume."""

    @property
    def member(self) -> tuple[str, int]:
        """What tells the case from all others of a manifest; noise is keyed by it."""
        return (self.subject if self.slice is None else f"{self.subject}/{self.slice}", self.row)

    @property
    def listed(self) -> dict[str, int]:
        """Where the case is found in a table of results: its row, and its slice where it is one."""
        return {"row": self.row} if self.slice is None else {"row": self.row, "slice": self.slice}

    @property
    def measured(self) -> Tensor:
        """What intensities are fitted on: the whole volume of a slice, or the images."""
        return self.images if self.volume is None else self.volume

    @property
    def spacing(self) -> tuple[float, ...]:
        """Voxel size along each axis of the grid: mm, or 1 where the input has no geometry."""
        lengths = np.linalg.norm(self.affine[:3, :3], axis=0)
        return tuple(float(step) for step in lengths[: self.images.ndim - 1])

    @property
    def around(self) -> Tensor:
        """The images with what lies around them, as far as that is known."""
        return self.images if self.wide is None else self.wide


class CaseSet:
    """The cases of some rows of a manifest: one a row, or with `slices` those of its volumes.

    With cache "memory" all are loaded at once and kept; with "disk" they are prepared at once,
    unless they have been before, and kept in a folder that all processes of the machine map into
    their memory; with "none" they are loaded when they are asked for. In each case `workers`
    threads load them. `progress(done, total)` is called as they are loaded or prepared at once.
    With a `margin` in voxels a case keeps what its scan has around the grid, for augmentation to
    draw on. With `slices` the grid is theirs, its orientation stated; intensities are those of the
    whole volume.
    Errors: DataError naming the manifest's row and column, all of them with cache "memory" and
    "disk"; the files are in `.private` only.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        images: Sequence[str],
        space: Space,
        intensity: FittedIntensity | None = None,
        *,
        label: str | None = None,
        cache: CacheKind = "memory",
        workers: int = 2,
        key: SiteKey | None = None,
        progress: Progress | None = None,
        margin: Sequence[int] | None = None,
        slices: Slices | None = None,
    ) -> None:
        self.rows = tuple(rows)
        self.images = tuple(images)
        self.space = space
        self.intensity = intensity
        self.label = label
        self.key = key or SiteKey.load()
        self.workers = workers
        self.margin = margin
        self.slices = slices
        self.cropped: dict[int, Cropped] = {}
        """What of the scans that were looked at so far lies beyond the grid, by row."""
        self._scales: dict[tuple[int, FittedIntensity], Scale] = {}
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="scans")
        columns, known = self.images, self.cropped

        def read(row: Row) -> Placed:
            return place_row(
                row,
                columns,
                label,
                space,
                margin,
                stacked=slices is not None,
                known=known.get(row.number),
            )

        self._placed: Callable[[Row], Placed] = read
        if cache == "disk":
            grid = Grid(space, margin, slices is not None)
            kept = PreparedImages(self.rows, self._placed, self.images, label, grid)
            _raise_all(kept.prepare(self._pool, progress))
            self._placed = kept.of
        self._cases: list[Case] | None = None
        self.items: Sequence[Item] = [(place, None) for place in range(len(self.rows))]
        if slices is not None:
            told = None if cache == "disk" else progress
            self.items = self._slices(slices, cache == "memory", told)
        elif cache == "memory":
            self._cases = self._each(partial(self._load, place=None), progress)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Case:
        if self._cases is not None:
            return self._cases[index]
        number, place = self.items[index]
        return self._load(self.rows[number], place)

    def __iter__(self) -> Iterator[Case]:
        for first in range(0, len(self), self.workers):  # read on demand, no more than needed
            yield from self.at(range(first, min(first + self.workers, len(self))))

    def at(self, indices: Sequence[int]) -> list[Case]:
        """Some of the cases, in the order asked for."""
        if self._cases is not None:
            return [self._cases[index] for index in indices]
        return list(self._pool.map(self.__getitem__, indices))

    def keep_scaled(self, intensity: FittedIntensity) -> None:
        """With cache "memory", the kept cases brought to model units once and for all, each in the
        place of its own; this set gives them so from now on. Otherwise nothing: what is not kept is
        scaled when it is used.

        Errors: DataError naming the rows that cannot be scaled; ValueError if they are in the units
        of another model already.
        """
        if self.intensity == intensity or self._cases is None:
            return
        if self.intensity is not None:
            raise ValueError("the cases are in other units already")
        problems: list[DataError] = []
        for index, case in enumerate(self._cases):
            try:
                with _naming(self.rows[index], self.images):
                    self._cases[index] = _normalised(case, intensity.scale_of(case.images))
            except DataError as error:
                problems.append(error)
        _raise_all(problems)
        self.intensity = intensity

    def one_a_row(self) -> Iterator[Case]:
        """A case of each row, such as a slice of each volume, in the rows' order."""
        first = {number: index for index, (number, _) in reversed([*enumerate(self.items)])}
        wanted = [first[number] for number in range(len(self.rows))]
        for start in range(0, len(wanted), self.workers):
            yield from self.at(wanted[start : start + self.workers])

    def scale_of(self, case: Case, intensity: FittedIntensity) -> Scale:
        """The line that one of these cases is normalised with; of a slice that of its volume, which
        is looked at once."""
        if case.volume is None:
            return intensity.scale_of(case.images)
        known = self._scales.get((case.row, intensity))
        if known is None:
            thickness = 1 if self.slices is None else self.slices.thickness
            known = intensity.thinned(thickness).scale_of(case.volume).repeated(thickness)
            self._scales[case.row, intensity] = known
        return known

    def _slices(self, slices: Slices, keep: bool, progress: Progress | None) -> list[Item]:
        """Every slice that is a case; if `keep`, the volumes stay in memory."""
        stacks: dict[int, Placed] = {}

        def look(row: Row) -> list[int]:
            stack = self._place(row)
            if keep:
                stacks[row.number] = stack
            with _naming(row, self.images):
                return chosen(stack.filled, slices)

        found = self._each(look, progress)
        if keep:
            self._placed = lambda row: stacks[row.number]
        return [(number, place) for number, places in enumerate(found) for place in places]

    def _each(self, make: Callable[[Row], Made], progress: Progress | None) -> list[Made]:
        """Something of each row, in threads. Errors: one DataError of all rows' problems."""

        def tried(row: Row) -> tuple[Made | None, DataError | None]:
            try:
                return make(row), None
            except DataError as error:
                return None, error

        found = []
        for each in self._pool.map(tried, self.rows):
            found.append(each)
            if progress is not None:
                progress(len(found), len(self.rows))
        _raise_all([error for _, error in found if error is not None])
        return [cast(Made, made) for made, _ in found]

    def _place(self, row: Row) -> Placed:
        placed = self._placed(row)
        self.cropped[row.number] = placed.cropped
        return placed

    def _load(self, row: Row, place: int | None) -> Case:
        placed, number, volume = self._place(row), None, None
        if place is not None and self.slices is not None:
            volume = placed.images
            placed, number = cut(placed, self.space.orientation, place, self.slices.thickness)
        with _naming(row, self.images):
            case = _case(
                placed,
                subject=self.key.pseudonym(row.subject),
                row=row.number,
                conditions=row.conditions,
                modality=row.word("modality"),
            )
            case = replace(case, slice=number, volume=volume)
            if self.intensity is None:
                return case
            return _normalised(case, self.scale_of(case, self.intensity))


@contextlib.contextmanager
def _naming(row: Row, columns: Sequence[str]) -> Iterator[None]:
    """Errors: DataError that names the row, and its files in `.private`."""
    try:
        yield
    except DataError as error:
        where = ", ".join(str(row.images.get(name)) for name in columns)
        raise DataError(f"row {row.number}: {error}", private=f"{where}: {error}") from error


def _raise_all(problems: Sequence[DataError]) -> None:
    """One DataError for all rows that cannot be used, if there are any."""
    if len(problems) == 1:
        raise problems[0]
    if problems:
        told = [f"{len(problems)} rows cannot be used", *first_problems([*map(str, problems)])]
        named = [error.private for error in problems if error.private]
        raise DataError("\n".join(told), private="\n".join(named) or None)


def load_case(
    path_or_paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    space: Space,
    intensity: FittedIntensity | None,
    *,
    subject: str = "",
    conditions: Mapping[str, str | float] | None = None,
    key: SiteKey | None = None,
    modality: str = "",
) -> Case:
    """The case in one input file, or in several that are its channels.

    `subject`: whose images they are; without it the case is named by the content of its files.
    `modality`: what tells air from tissue in files that do not say theirs.
    Errors: DataError without file names in its text.
    """
    single = isinstance(path_or_paths, str | os.PathLike)
    paths = [Path(path_or_paths)] if single else [Path(path) for path in path_or_paths]
    if not paths:
        raise DataError("no input file was named")
    channels = [load_image(path) for path in paths]
    content = hashlib.sha256(b"".join(_bytes(image) for image in channels)).hexdigest()
    pseudonym = (key or SiteKey.load()).pseudonym(subject or content)
    try:
        case = _case(
            place(channels, None, space, modality=modality),
            subject=pseudonym,
            row=0,
            conditions=conditions or {},
            modality=None,
        )
        if intensity is not None:
            case = _normalised(case, intensity.scale_of(case.images))
        return replace(case, content=content)
    except DataError as error:
        where = ", ".join(map(str, paths))
        raise DataError(str(error), private=f"{where}: {error}") from error


def restore(
    case: Case, array: Tensor, kind: Kind = "image"
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """A result (channel, *space) in intensity units, back on the grid of the case's input.

    Gives array and affine, for `save_image`. Outside the model's field of view stand the input's
    smallest values (0 for a label); `inside` says where that is.
    """
    back, affine = put_back(array, case.affine, case.original, kind)
    return back.numpy(), affine


def inside(case: Case) -> NDArray[np.bool_]:
    """Which voxels of the input's grid the model saw."""
    seen = inside_space(tuple(case.images.shape[1:]), case.affine, case.original)
    return seen.numpy()


def keyed_batches(
    n: int, batch: int, seed: int, start: int, stop: int
) -> Iterator[tuple[int, list[int]]]:
    """(step, indices) for the steps from `start` up to `stop`: a function of the step.

    Every epoch is a permutation of 0..n-1 keyed by (seed, epoch); batches run on across epochs, so
    each index is used once before any is used again.
    Errors: ValueError if n or batch is below 1.
    """
    if n < 1 or batch < 1:
        raise ValueError(f"batches of {batch} from {n} items")
    epoch_order = lru_cache(maxsize=2 + batch // n)(partial(_permutation, n, seed))
    for step in range(start, stop):
        places = range(step * batch, (step + 1) * batch)
        yield step, [int(epoch_order(place // n)[place % n]) for place in places]


def _permutation(n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    # NumPy promises the stream of raw bits to stay as it is, but not that of `permutation`.
    digest = hashlib.blake2b(f"{seed}/epoch/{epoch}".encode(), digest_size=16).digest()
    bits = np.random.Philox(key=int.from_bytes(digest, "little")).random_raw(n)
    return np.argsort(bits, kind="stable")


def _case(
    placed: Placed,
    *,
    subject: str,
    row: int,
    conditions: Mapping[str, str | float],
    modality: str | None,
) -> Case:
    """A case in its own intensities."""
    wide = placed.wide
    known = placed.original.modality or modality  # what the file says counts for more
    original = replace(placed.original, modality=known)
    return Case(
        subject,
        row,
        placed.images,
        dict(conditions),
        placed.label,
        unscaled(len(wide)),
        placed.affine,
        original,
        wide=wide if wide.shape[1:] != placed.size else None,
        field=placed.field,
        cropped=placed.cropped,
    )


def _normalised(case: Case, scale: Scale) -> Case:
    """A case in model units."""
    wide = scale.normalise(case.around, axis=0)
    images = middle(wide, case.images.shape[1:])
    return replace(case, images=images, scale=scale, wide=None if case.wide is None else wide)


def _bytes(image: Volume) -> bytes:
    return image.as_tensor().numpy().tobytes()
