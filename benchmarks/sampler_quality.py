"""How near do samplers come to the target with few calls, beside diffusers' and MONAI's?

One mixture of Gaussians whose exact denoiser is known, one table of 1000 betas, the same initial
noises for all, every count of calls from 5 to 50 (at eight of them every sampler, at the others
those that were among the first six of their side at one of the eight). The distance is the squared
sliced energy distance: the mean over directions of 2 int (F - F_target)^2, with the target's exact
distribution function.

Two things make small distances visible. The initial noises are scrambled Sobol points, one
independent scrambling a block: each point is a unit Gaussian, and together they fill the space, so
that a deterministic sampler's images vary little from block to block. And the square is made of
products of different blocks' F - F_target, so that its expectation is the distance of the sampler's
law and not of so many images: 0 for a perfect sampler, and below 0 by chance.

The best of each side is chosen on one half of the blocks and measured on the other; the 95 %
interval of their difference is by jackknife over blocks, with Student's factor.

    python benchmarks/sampler_quality.py              # diffusers and MONAI where they are at hand
    python benchmarks/sampler_quality.py --workers 12 # the same numbers in a twelfth of the time
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from own_samplers import Own, own
from peer_samplers import Peer, peers
from record import ROOT, Measured, write_result
from sampler_quality_page import page

from medidiff.conformance.oracles import Mixture
from medidiff.diffusion import CLEAN, RK45, Discrete, counted, sample
from medidiff.types import Image, Tensor

BLOCKS = 32
STUDENT = 2.131
"""The 97.5 % point of Student's t for the 15 degrees of freedom of half the blocks."""
DIRECTIONS = 16
FAULT_COUNTS = (3, 10, 50, 600, 1000)
COARSE = (5, 6, 8, 10, 15, 20, 30, 50)
"""Counts at which every sampler runs; between them run the finalists of both sides."""
FINALISTS = 6
LEAST = 5e-6
"""What the picture shows of smaller distances: they are within the luck of so many images."""
PLAIN_SPACINGS = (
    "uniform",
    "stages in log-snr",
    "trailing",
    "leading",
    "PNDM",
    "DDPM",
    "DDIM",
    "plms",
)
"""Whose samplers are searched for structural faults: each once, MONAI's as they come."""
ENOUGH = 50
"""Steps from which on nothing is excused as discretisation error."""

Each = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""`map`, in one process or in several."""


def mixture() -> Mixture:
    """Five modes of different weights and widths in images of 2 x 2 voxels."""
    generator = torch.Generator().manual_seed(11)
    means = torch.rand((5, 1, 2, 2), dtype=torch.float64, generator=generator) * 1.6 - 0.8
    widths = torch.tensor([0.05, 0.08, 0.12, 0.2, 0.3], dtype=torch.float64)
    weights = torch.tensor([0.3, 0.1, 0.25, 0.2, 0.15], dtype=torch.float64)
    return Mixture(weights, means, (widths**2)[:, None, None, None].expand_as(means))


def noises(each: int) -> Image:
    """Unit Gaussian images, `each` scrambled Sobol points a block, the blocks independent.

    Shapes: (BLOCKS * each, 1, 2, 2), block after block.
    """
    points = [
        torch.quasirandom.SobolEngine(4, scramble=True, seed=block).draw(each, dtype=torch.float64)
        for block in range(BLOCKS)
    ]
    inside = torch.cat(points).clamp(2.0**-32, 1 - 2.0**-32)
    return torch.special.ndtri(inside).reshape(-1, 1, 2, 2)


@dataclass(frozen=True, eq=False)
class Distance:
    """The squared sliced energy distance of a sampler's law to a mixture, by blocks of images.

    Shapes: directions (D, n), grid (G,), target (D, G): the mixture's distribution functions.
    """

    directions: Tensor
    grid: Tensor
    target: Tensor

    @staticmethod
    def to(data: Mixture) -> Distance:
        n = data.means[0].numel()
        generator = torch.Generator().manual_seed(5)
        drawn = torch.randn((DIRECTIONS, n), dtype=torch.float64, generator=generator)
        directions = drawn / drawn.norm(dim=1, keepdim=True)
        grid = torch.linspace(-4, 4, 401, dtype=torch.float64)
        places = data.means.flatten(1) @ directions.T
        widths = (data.variances.flatten(1) @ (directions**2).T).sqrt()
        z = (grid - places[..., None]) / widths[..., None]
        return Distance(
            directions, grid, (data.weights[:, None, None] * torch.special.ndtr(z)).sum(0)
        )

    def functions(self, images: Image) -> Tensor:
        """The empirical distribution function of each block, (BLOCKS, D, G).

        An image that is not finite counts as infinitely far to the right.
        """
        values = (images.flatten(1) @ self.directions.T).nan_to_num(math.inf)
        blocks = values.reshape(BLOCKS, -1, DIRECTIONS).transpose(1, 2)
        ordered = blocks.sort(-1).values.contiguous()
        places = self.grid.expand(BLOCKS, DIRECTIONS, -1).contiguous()
        return torch.searchsorted(ordered, places, right=True).double() / blocks.shape[-1]

    def __call__(self, functions: Tensor) -> float:
        """Without bias from some blocks' functions, (blocks, D, G): products of two blocks."""
        width, count = float(self.grid[1] - self.grid[0]), len(functions)
        off = functions - self.target
        products = (off.sum(0).square() - off.square().sum(0)).sum(-1) / (count * (count - 1))
        return 2 * width * float(products.mean())


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a sampler made with some calls: the functions of its blocks, and the calls it took."""

    name: str
    ours: bool
    calls: int
    functions: Tensor


def exact(data: Mixture, schedule: Discrete, noise: Image) -> Image:
    """The images of the exact flow, by an adaptive method of order 5."""
    top, low = (schedule(torch.tensor(t, dtype=torch.float64)) for t in (1.0, 1e-3))
    flow = RK45(relative=1e-6, absolute=1e-6)
    return sample(data, top.sigma * noise, [top, low, CLEAN], flow, None, schedule)


@dataclass(frozen=True, eq=False)
class Setting:
    """What all contestants share; each process makes it once."""

    data: Mixture
    distance: Distance
    noise: Image


@cache
def setting(images: int) -> Setting:
    """The same for everyone, by the number of images."""
    return Setting(mixture(), Distance.to(mixture()), noises(images // BLOCKS))


@dataclass(frozen=True)
class Run:
    """A contestant, the network calls it is allowed, and how many images it makes."""

    one: Own | Peer
    calls: int
    images: int


def run_one(run: Run) -> Outcome | None:
    """None where the sampler cannot do with so few calls or fails."""
    one, calls, shared = run.one, run.calls, setting(run.images)
    steps = one.steps_within(calls)
    if steps is None:
        return None
    oracle = counted(shared.data)
    try:
        images = one.run(oracle, Discrete(), shared.noise, steps)
    except (ValueError, IndexError):
        return None
    if oracle.calls > calls:
        raise AssertionError(f"{one.name} made {oracle.calls} calls, {calls} were allowed")
    functions = shared.distance.functions(images)
    return Outcome(one.name, isinstance(one, Own), oracle.calls, functions)


@contextmanager
def workers(count: int) -> Iterator[Each]:
    """`map` in this process, or in `count` others of one thread each; the order is kept."""
    quiet()
    if count == 1:
        yield map
        return
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, fresh, initializer=quiet) as pool:
        yield pool.map


def quiet() -> None:
    """One thread and no warnings in this process."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)


def compare(outcomes: Sequence[Outcome], distance: Distance) -> dict[str, object]:
    """The best of each side, chosen on the even blocks and measured on the odd ones."""
    sides = {}
    for ours in (True, False):
        side = [each for each in outcomes if each.ours == ours]
        if side:
            sides[ours] = min(side, key=lambda each: distance(each.functions[0::2]))
    best = {ours: each.functions[1::2] for ours, each in sides.items()}
    found: dict[str, object] = {
        ("ours" if ours else "theirs"): {
            "name": sides[ours].name,
            "distance": distance(functions),
            "calls": sides[ours].calls,
        }
        for ours, functions in best.items()
    }
    if len(best) == 2:
        found["difference"] = distance(best[True]) - distance(best[False])
        found["half_interval"] = STUDENT * _jackknife(best[True], best[False], distance)
    return found


def first_few(outcomes: Sequence[Outcome], distance: Distance) -> set[str]:
    """The names of the best `FINALISTS` of each side."""
    found: set[str] = set()
    for ours in (True, False):
        side = [each for each in outcomes if each.ours == ours]
        side.sort(key=lambda each: distance(each.functions[0::2]))
        found |= {each.name for each in side[:FINALISTS]}
    return found


def _jackknife(ours: Tensor, theirs: Tensor, distance: Distance) -> float:
    """The standard error of the difference of two distances over the same blocks."""
    count = len(ours)
    left = []
    for out in range(count):
        rest = [index for index in range(count) if index != out]
        left.append(distance(ours[rest]) - distance(theirs[rest]))
    values = torch.tensor(left, dtype=torch.float64)
    return math.sqrt((count - 1) / count * float((values - values.mean()).square().sum()))


@dataclass(frozen=True)
class Faults:
    """What is wrong with a sampler, by its number of steps."""

    structural: dict[int, str]
    coarse: dict[int, str]
    """What is gone from 50 steps on: discretisation error."""
    warned: dict[int, str]
    """What the sampler itself warned of, where something is wrong."""


def faults(one: Own | Peer) -> Faults:
    """What is wrong with N(0.5, 0.2^2) at counts that do and do not divide the table: structurally,
    and by discretisation.

    Wrong is residual noise (a deviation above the target's by more than 10 %), a shifted mean,
    numbers that are not finite, or an error. Noise or a shift that is gone from 50 steps on is
    discretisation error and not structural, nor is too small a deviation at few steps: that is what
    a narrow target does to any method.
    """
    ones = torch.ones((1, 1, 1, 1), dtype=torch.float64)
    data = Mixture(torch.ones(1, dtype=torch.float64), 0.5 * ones, 0.04 * ones)
    broken, off, warned = {}, {}, {}
    for steps in FAULT_COUNTS:
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", UserWarning)
                images = one.run(data, Discrete(), wide_noise(), steps)
        except Exception as error:  # what a peer raises is what is reported
            broken[steps] = f"{type(error).__name__}"
            continue
        if caught:
            warned[steps] = str(caught[0].message)
        mean, deviation = float(images.mean()), float(images.std())
        if not math.isfinite(mean + deviation):
            broken[steps] = f"{mean:.3f} / {deviation:.3f}"
        elif deviation > 0.22 or abs(mean - 0.5) > 0.02:
            off[steps] = f"{mean:.3f} / {deviation:.3f}"
    told = {steps: text for steps, text in warned.items() if steps in broken or steps in off}
    if any(steps >= ENOUGH for steps in off):
        return Faults(dict(sorted({**broken, **off}.items())), {}, told)
    return Faults(broken, off, told)


@cache
def wide_noise() -> Image:
    """8 x 8 voxels: a Langevin corrector sizes its step by norms, which one voxel does not have."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn((32, 1, 8, 8), dtype=torch.float64, generator=generator)


def plot(
    series: dict[str, dict[int, float]], best: dict[int, dict], floor: float, picture: Path
) -> None:
    """Every sampler as a thin line, the best of each side as a thick one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    colours = {"diffusers": "tab:orange", "monai": "tab:red"}
    for axis, ours in ((left, True), (right, False)):
        for name, values in series.items():
            package = name.split()[0]
            if ours != (package not in colours):
                continue
            colour = colours.get(package, "tab:blue")
            shown = [max(value, LEAST) for value in values.values()]
            axis.plot(list(values), shown, color=colour, alpha=0.3, linewidth=0.7)
        for side, colour, label in (
            ("ours", "navy", "our best"),
            ("theirs", "saddlebrown", "the best of diffusers and MONAI"),
        ):
            line = {c: max(row[side]["distance"], LEAST) for c, row in best.items() if side in row}
            axis.plot(list(line), list(line.values()), color=colour, linewidth=2, label=label)
        axis.axhline(max(abs(floor), LEAST), color="black", linestyle=":", label="exact flow")
        axis.set(
            xscale="log", yscale="log", xlabel="network calls", title="ours" if ours else "theirs"
        )
        axis.set_xticks([5, 10, 20, 50], ["5", "10", "20", "50"])
        axis.set_xticks([], minor=True)
    left.set_ylim(LEAST / 1.5, 1)
    left.set_ylabel("squared sliced energy distance to the mixture")
    left.legend(loc="upper right")
    figure.suptitle("thin: every sampler and spacing (orange diffusers, red MONAI)")
    figure.savefig(picture, dpi=100)


@dataclass(eq=False)
class Report:
    """What has been found so far; written after every count, so that a stopped run is a result."""

    images: int
    floor: float
    missing: list[str]
    folder: Path
    series: dict[str, dict[int, float]] = field(default_factory=dict)
    best: dict[int, dict] = field(default_factory=dict)
    checked: list[str] = field(default_factory=list)
    wrong: dict[str, dict[int, str]] = field(default_factory=dict)
    coarse: dict[str, dict[int, str]] = field(default_factory=dict)
    warned: dict[str, dict[int, str]] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)

    def measured(self, calls: int, outcomes: Sequence[Outcome], distance: Distance) -> None:
        """What the samplers made with so many calls."""
        for outcome in outcomes:
            self.series[outcome.name][calls] = distance(outcome.functions[1::2])
        self.best[calls] = compare(outcomes, distance)
        print(calls, self.best[calls], f"{time.perf_counter() - self.began:.0f} s", flush=True)
        self.write()

    def searched(self, name: str, found: Faults) -> None:
        """What is wrong with a sampler."""
        self.checked.append(name)
        kept = ((self.wrong, found.structural), (self.coarse, found.coarse))
        for place, part in (*kept, (self.warned, found.warned)):
            if part:
                place[name] = part
        if found.structural:
            print("structural:", name, found.structural, *found.warned.values(), flush=True)

    def write(self) -> None:
        best = dict(sorted(self.best.items()))
        series = {name: dict(sorted(values.items())) for name, values in self.series.items()}
        facts = {
            "images": self.images,
            "exact flow": self.floor,
            "ours farther by more than the interval at": _beyond(best, 1),
            "theirs farther by more than the interval at": _beyond(best, -1),
            "missing": self.missing,
            "every sampler at": [calls for calls in best if calls in COARSE],
            "best": best,
            "searched for structural faults": self.checked,
            "structural faults (mean / deviation, target 0.500 / 0.200)": self.wrong,
            "discretisation below 50 steps (mean / deviation)": self.coarse,
            "of which the sampler itself warned": self.warned,
            "distances": {
                name: {calls: float(f"{value:.4g}") for calls, value in values.items()}
                for name, values in series.items()
            },
            "seconds": round(time.perf_counter() - self.began),
        }
        rows = [_row(calls, row) for calls, row in best.items()]
        write_result("sampler_quality", rows, facts=facts, folder=self.folder)
        plot(series, best, self.floor, self.folder / "sampler_quality.png")
        text = page(best, self.wrong, self.warned)
        (self.folder / "sampler_quality.md").write_text(text, encoding="utf-8")


def _beyond(best: dict[int, dict], side: int) -> list[int]:
    """The counts at which ours (side 1) or theirs (-1) is farther by more than the interval."""
    return [
        calls
        for calls, row in best.items()
        if "difference" in row and side * row["difference"] > row["half_interval"]
    ]


def _row(calls: int, row: dict) -> Measured:
    """Ours is to be no farther than theirs by more than the interval."""
    theirs = row.get("theirs")
    return Measured(
        f"best at {calls} calls",
        row["ours"]["distance"],
        "squared sliced energy distance",
        "lower",
        {theirs["name"]: theirs["distance"]} if theirs else {},
        theirs["distance"] + row["half_interval"] if theirs else None,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=BLOCKS * 256, help=f"a multiple of {BLOCKS}")
    parser.add_argument("--counts", type=int, nargs="+", default=list(range(5, 51)))
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args()
    theirs, missing = peers()
    for line in missing:
        print(line)
    with workers(options.workers) as each:
        run(options, [*own(), *theirs], missing, each)


def run(
    options: argparse.Namespace, everyone: Sequence[Own | Peer], missing: list[str], each: Each
) -> None:
    """All counts and the search for faults; several workers have all that can be begun at once."""
    shared, images = setting(options.images), options.images
    distance = shared.distance
    flow = distance.functions(exact(shared.data, Discrete(), shared.noise))
    report = Report(images, distance(flow[1::2]), missing, options.out)
    report.series = {one.name: {} for one in everyone}
    suspects = [one for one in everyone if one.name.endswith(PLAIN_SPACINGS)]
    searches = each(faults, suspects)

    def outcomes(contestants: Sequence[Own | Peer], calls: int) -> Iterator[Outcome]:
        found = each(run_one, [Run(one, calls, images) for one in contestants])
        return (outcome for outcome in found if outcome is not None)

    finalists: set[str] = set()
    coarse = {calls: outcomes(everyone, calls) for calls in options.counts if calls in COARSE}
    for calls, found in coarse.items():
        done = list(found)
        report.measured(calls, done, distance)
        finalists |= first_few(done, distance)
    for one, found in zip(suspects, searches, strict=True):
        report.searched(one.name, found)
    report.write()
    last = [one for one in everyone if one.name in finalists]
    fine = {calls: outcomes(last, calls) for calls in options.counts if calls not in COARSE}
    for calls, found in fine.items():
        report.measured(calls, list(found), distance)


if __name__ == "__main__":
    main()
