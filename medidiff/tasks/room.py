"""How many samples are drawn at once, and whether all that are asked for can be kept.

The noise of a sample is keyed by its own number, so that the images are the same, but for rounding,
however many are drawn at once: what differs is memory and speed. Samples drawn are kept in the
memory of the host.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import psutil
import torch
from torch import Tensor

from medidiff.errors import TaskError
from medidiff.model import Model
from medidiff.networks import UNetOptions
from medidiff.networks.bounds import call_bytes

MOST_AT_ONCE = 64  # images; more are drawn in turns
SHARE = 0.7  # of the free memory: what an allocator cannot use is not in the count
STATES = 24  # images that a sampler and a solver hold of each, with its noise in double precision
SIGNALS = 12  # times its measurement, where nothing of it is fitted on the way
BLENDED = 6  # whole images that a call by tiles or slices holds of each
RECORDED = 3  # a GPU's recorded call has memory of its own, and one of the rest may follow
FLOAT = 4
GIB = 2**30
SMALLER = "take the input by tiles (--tile 96, tile=96), or ask for fewer samples (--n)"
Member = TypeVar("Member")


def at_once(
    model: Model,
    image: Tensor,
    *,
    signal: int = 0,
    fit: int = 0,
    gradient: bool = False,
    chunk: int | None = None,
) -> int:
    """How many images to draw at once: a power of two up to `MOST_AT_ONCE` that the free memory of
    the model's device holds, and at least 1.

    Shapes: image (channel, *space), on the model's grid. `signal`: bytes of what was measured of
    it; `fit`: bytes that fitting what is estimated of its measurement holds; `gradient`: whether
    the sampler goes through the network's gradient; `chunk`: how many of the images the network
    sees at a time, if not all.
    """
    free = SHARE * free_memory(model.device)
    ways = [drawing_bytes(model, image, signal, gradient, size, fit) for size in {None, chunk}]
    fits = max(int((free - fixed) // each) for fixed, each in ways)
    return 1 if fits < 2 else min(MOST_AT_ONCE, 2 ** int(math.log2(fits)))


def parts_of(members: Sequence[Member], count: int) -> Iterator[Sequence[Member]]:
    """At most `count` of them at a time."""
    for first in range(0, len(members), count):
        yield members[first : first + count]


def drawing_bytes(
    model: Model,
    image: Tensor,
    signal: int,
    gradient: bool,
    chunk: int | None = None,
    fit: int = 0,
) -> tuple[int, int]:
    """(what drawing takes whatever the number of images, what it takes of each), at most."""
    whole, reach = FLOAT * image.numel(), model.reach
    each = STATES * whole + max(SIGNALS * signal, fit)
    call = _call_bytes(model, image.shape[1:], gradient)
    if reach.slices:
        return reach.at_once * call, each + BLENDED * whole
    each += 0 if reach.tiles is None else BLENDED * whole
    return (0, each + call) if chunk is None else (chunk * call, each)


def _call_bytes(model: Model, image_space: Sequence[int], gradient: bool) -> int:
    """Of one image, or of one of its tiles or slices."""
    network = model.spec.network
    if not isinstance(network, UNetOptions):
        return 0
    space = model.codec.space(image_space)
    if model.reach.slices:
        space = sorted(space)[1:]
    if model.reach.tiles is not None:
        space = [min(n, model.reach.tiles.size) for n in space]
    number = next(model.network.parameters()).element_size()
    found = call_bytes(network, space, number, gradient=gradient)
    return RECORDED * found if model.device.type == "cuda" and not gradient else found


def free_memory(device: torch.device) -> int:
    """Bytes that can be had on a device, those that this process's allocator keeps included."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min([psutil.virtual_memory().available, *_left_of_limits()])


def _left_of_limits() -> list[int]:
    """What the limits of a job or a container leave this process."""
    here = psutil.Process().memory_info().rss
    return [max(0, limit - here) for limit in map(_limit, _limit_files()) if limit is not None]


def _limit_files() -> Iterator[Path]:
    """The control groups of this process (version 2, then 1), from its own to the outermost."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    for line in lines:
        _, kinds, place = line.split(":", 2)
        if kinds in ("", "memory"):
            root = Path("/sys/fs/cgroup", kinds)
            name = "memory.limit_in_bytes" if kinds else "memory.max"
            inner = root / place.lstrip("/")
            groups = (each for each in (inner, *inner.parents) if each.is_relative_to(root))
            yield from (each / name for each in groups)


def _limit(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such group here, or "max"
        return None


def check_kept(n: int, count: int, on_grid: int, on_input: int, *, every: bool) -> None:
    """Whether `n` samples of `count` images (slices of one volume) can be held until the maps are
    made.

    `on_grid`: numbers of all images that are solved at a time, on the model's grid; `on_input`: of
    one image on its input's. `every`: whether the samples themselves are part of the result.
    Errors: TaskError, before any work is done, if they cannot.
    """
    if n == 1:
        return
    results = every * (count if count == 1 else 2 * count)  # slices, and the volume made of them
    one = FLOAT * (on_grid + results * on_input)
    free = SHARE * free_memory(torch.device("cpu"))
    if n * one <= free:
        return
    less = every and n * FLOAT * on_grid <= free
    alone = ", or keep the mean and the maps alone (--set result=mean)" if less else ""
    raise TaskError(
        f"{n} samples take {n * one / GIB:.3g} GiB to be kept until the maps are made, and "
        f"{free / GIB:.3g} GiB of this machine's memory can be had for them: ask for at most "
        f"{max(1, int(free // one))} (--n){alone}"
    )


@contextmanager
def memory_told() -> Iterator[None]:
    """What a head does, its running out of memory told as a TaskError."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise TaskError(
            f"the free memory of the GPU is not enough, even for few images at a time; {SMALLER}"
        ) from None
    except MemoryError:
        raise TaskError(f"the memory of this machine is not enough; {SMALLER}") from None
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise TaskError(f"the memory of this machine is not enough; {SMALLER}") from None
