"""Cases: images on a model's grid and in its units, with what is known of the subject."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from medidiff.data.augment import middle
from medidiff.data.image_cache import Grid
from medidiff.data.images import Original, Volume, load_image
from medidiff.data.intensity import FittedIntensity, Scale, unscaled
from medidiff.data.options import Field
from medidiff.data.placing import Placed, place, place_row
from medidiff.data.prepared import PreparedImages
from medidiff.data.privacy import SiteKey
from medidiff.data.rows import Progress, Row, first_problems
from medidiff.data.transforms import Kind, Space, inside_space, put_back
from medidiff.errors import DataError

CacheKind = Literal["memory", "disk", "none"]


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
    """The cases of some rows of a manifest.

    With cache "memory" all are loaded at once and kept; with "disk" they are prepared at once,
    unless they have been before, and kept in a folder that all processes of the machine map into
    their memory; with "none" they are loaded when they are asked for. In each case `workers`
    threads load them. `progress(done, total)` is called as they are loaded or prepared at once.
    With a `margin` in voxels a case keeps what its scan has around the grid, for augmentation to
    draw on.
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
    ) -> None:
        self.rows = tuple(rows)
        self.images = tuple(images)
        self.space = space
        self.intensity = intensity
        self.label = label
        self.key = key or SiteKey.load()
        self.workers = workers
        self.margin = margin
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="scans")
        self._placed = partial(
            place_row, columns=self.images, label=label, space=space, margin=margin
        )
        if cache == "disk":
            kept = PreparedImages(self.rows, self._placed, self.images, label, Grid(space, margin))
            _raise_all(kept.prepare(self._pool, progress))
            self._placed = kept.of
        self._cases = self._load_all(progress) if cache == "memory" else None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Case:
        return self._load(self.rows[index]) if self._cases is None else self._cases[index]

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
                self._cases[index] = _scaled(case, intensity)
            except DataError as error:
                problems.append(DataError(f"row {case.row}: {error}"))
        _raise_all(problems)
        self.intensity = intensity

    def _load_all(self, progress: Progress | None) -> list[Case]:
        found: list[Case | DataError] = []
        for case in self._pool.map(self._tried, self.rows):
            found.append(case)
            if progress is not None:
                progress(len(found), len(self.rows))
        _raise_all([error for error in found if isinstance(error, DataError)])
        return [case for case in found if isinstance(case, Case)]

    def _tried(self, row: Row) -> Case | DataError:
        try:
            return self._load(row)
        except DataError as error:
            return error

    def _load(self, row: Row) -> Case:
        placed = self._placed(row)
        try:
            return _case(
                placed,
                self.intensity,
                subject=self.key.pseudonym(row.subject),
                row=row.number,
                conditions=row.conditions,
                modality=row.text.get("modality"),
            )
        except DataError as error:
            where = ", ".join(str(row.images.get(name)) for name in self.images)
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
) -> Case:
    """The case in one input file, or in several that are its channels.

    `subject`: whose images they are; without it the case is named by the content of its files.
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
            place(channels, None, space),
            intensity,
            subject=pseudonym,
            row=0,
            conditions=conditions or {},
            modality=None,
        )
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
    intensity: FittedIntensity | None,
    *,
    subject: str,
    row: int,
    conditions: Mapping[str, str | float],
    modality: str | None,
) -> Case:
    images, wide = placed.images, placed.wide
    known = placed.original.modality or modality  # what the file says counts for more
    original = replace(placed.original, modality=known)
    units = unscaled(len(wide))
    case = Case(
        subject, row, images, dict(conditions), placed.label, units, placed.affine, original
    )
    beyond = wide.shape[1:] != placed.size
    case = replace(case, wide=wide if beyond else None, field=placed.field)
    return case if intensity is None else _scaled(case, intensity)


def _scaled(case: Case, intensity: FittedIntensity) -> Case:
    """A case in its own units, in model units."""
    scale = intensity.scale_of(case.images)
    around = scale.normalise(case.around, axis=0)
    images = middle(around, case.images.shape[1:])
    return replace(case, images=images, wide=None if case.wide is None else around, scale=scale)


def _bytes(image: Volume) -> bytes:
    return image.as_tensor().numpy().tobytes()
