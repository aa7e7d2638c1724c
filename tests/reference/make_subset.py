"""A small folder of recordings from a large one: `make_subset.py SOURCE NAMES OUT`.

NAMES is a text file with a case a line (# begins a comment); "one" behind a name keeps the first
image of its batch only. A case keeps what replays read of it: arrays that nothing asks for are left
out, float64 stays float64, noise that numpy's generator draws from a seed is kept as that seed, and
of a list of states the middle one is kept where the replay takes a thinned list. Every case is
replayed from OUT at the end, and must give the verdict that it gives in SOURCE; exit 1 if one does
not.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medidiff.conformance.recordings import Case, read_cases
from medidiff.conformance.replay import replay, replay_case
from medidiff.types import Tensor

CALL_THINNING = 4
SEEDS = range(1000)
BATCHED = ("x_init", "x0", "x_adv", "p0_x", "data", "x")
"""Arrays whose first axis is the batch; the first one that a case has tells its length."""


class Asked(dict[str, Tensor]):
    """The arrays of a case, which remember what was asked for."""

    def __init__(self, arrays: dict[str, Tensor]) -> None:
        super().__init__(arrays)
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.names.add(name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self.names.add(str(name))
        return super().__contains__(name)

    def items(self) -> Any:
        """All of them, each asked for."""
        self.names |= set(self)
        return super().items()


@dataclass(frozen=True, eq=False)
class Watched(Case):
    """A case whose arrays, and its siblings', remember what was asked for."""

    seen: dict[str, Asked] = field(default_factory=dict)

    @cached_property
    def arrays(self) -> dict[str, Tensor]:
        """The arrays, under watch."""
        if self.name not in self.seen:
            self.seen[self.name] = Asked(_plain(self).arrays)
        return self.seen[self.name]

    def sibling(self, name: str) -> Case:
        """The sibling, under the same watch."""
        return _watched(super().sibling(name), self.seen)


def main(arguments: list[str]) -> int:
    if len(arguments) != 3:
        print("usage: make_subset.py SOURCE NAMES OUT", file=sys.stderr)
        return 2
    source, names, out = (Path(argument) for argument in arguments)
    wanted = read_names(names)
    cases = {case.name: case for case in read_cases(source)}
    if missing := sorted(wanted.keys() - cases.keys()):
        print(f"{source} does not hold {', '.join(missing)}", file=sys.stderr)
        return 1
    originals = {name: case for name, case in cases.items() if name in wanted}
    seen: dict[str, Asked] = {}
    verdicts = {name: replay_case(_watched(case, seen)).verdict for name, case in originals.items()}
    reduced = [
        reduced_case(case, seen, "one" in wanted[name])
        if verdicts[name] == "passed"
        else _with_arrays(case, {})  # named and counted, with nothing to compare
        for name, case in originals.items()
    ]
    write_folder(reduced, source, out)
    return int(not is_the_same(out, verdicts))


def read_names(file: Path) -> dict[str, list[str]]:
    """The names of a list, each with the words behind it."""
    lines = (line.split("#")[0].split() for line in file.read_text().splitlines())
    return {words[0]: words[1:] for words in lines if words}


def reduced_case(case: Case, seen: dict[str, Asked], only_one: bool) -> Case:
    """The case with the arrays that were read, thinned where its replay still passes."""
    names = seen[case.name].names if case.name in seen else set()
    if only_one:
        case = _first_image(case)
    case = _with_arrays(case, {name: case.arrays[name] for name in case.arrays if name in names})
    for smaller in (_seeded, _seeded_singly, _thinned):
        tried = smaller(case)
        case = tried if replay_case(tried).verdict == "passed" else case
    return case


def _seeded(case: Case) -> Case:
    """The case with the seed of its noise in the place of the noise, if it has one."""
    if "noise" not in case.arrays:
        return case
    noise = case.arrays["noise"].numpy()
    known = case.meta.get("noise_seed")
    for seed in [known] if isinstance(known, int) else SEEDS:
        first = np.random.default_rng(seed).standard_normal(noise[0].shape)
        if np.array_equal(first, noise[0]):
            rest = {name: array for name, array in case.arrays.items() if name != "noise"}
            return _with_arrays(replace(case, meta={**case.meta, "noise_seed": seed}), rest)
    return case


def _seeded_singly(case: Case) -> Case:
    """As `_seeded`, for draws of different shapes recorded one by one: noise_0, noise_1, ..."""
    count = sum(name.startswith("noise_") for name in case.arrays)
    draws = [case.arrays[f"noise_{index}"].numpy() for index in range(count)]
    for seed in SEEDS if draws else ():
        generator = np.random.default_rng(seed)
        if all(np.array_equal(generator.standard_normal(draw.shape), draw) for draw in draws):
            rest = {name: a for name, a in case.arrays.items() if not name.startswith("noise_")}
            return _with_arrays(replace(case, meta={**case.meta, "noise_seed": seed}), rest)
    return case


def _thinned(case: Case) -> Case:
    arrays, meta = dict(case.arrays), dict(case.meta)
    if "xs" in arrays:
        count = len(arrays["xs"])
        index = arrays.get("xs_index", torch.arange(count, dtype=torch.float64))
        chosen = [count // 2]  # the ends are x_init and x_final
        arrays["xs"], arrays["xs_index"] = arrays["xs"][chosen], index[chosen]
    if "call_x" in arrays and "call_x_thin" in meta:
        arrays["call_x"] = arrays["call_x"][::CALL_THINNING]
        meta["call_x_thin"] *= CALL_THINNING
    return _with_arrays(replace(case, meta=meta), arrays)


def _first_image(case: Case) -> Case:
    """The case for the first image of its batch."""
    image = next((case.arrays[name] for name in BATCHED if name in case.arrays), None)
    if image is None:
        raise ValueError(f"{case.name}: none of {', '.join(BATCHED)} tells the batch; drop 'one'")
    batch, shape = len(image), image.shape[1:]

    def cut(array: Tensor) -> Tensor:
        if array.ndim > len(shape) and array.shape[-len(shape) :] == shape:
            axis = array.ndim - len(shape) - 1
        else:
            axis = array.ndim - 1 if array.ndim and array.shape[-1] == batch else 0
        if array.ndim == 0 or array.shape[axis] != batch:
            return array
        return array.narrow(axis, 0, 1)

    return _with_arrays(case, {name: cut(array) for name, array in case.arrays.items()})


def _plain(case: Case) -> Case:
    return Case(case.folder, case.name, case.kind, case.sampler, case.meta, case.source)


def _watched(case: Case, seen: dict[str, Asked]) -> Watched:
    return Watched(case.folder, case.name, case.kind, case.sampler, case.meta, case.source, seen)


def _with_arrays(case: Case, arrays: dict[str, Tensor]) -> Case:
    copy = _plain(case)
    copy.__dict__["arrays"] = arrays
    return copy


def write_folder(cases: list[Case], source: Path, out: Path) -> None:
    """index.json and a compressed FAMILY.npz a family, in place of what was there."""
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("*.npz"):
        old.unlink()
    families: defaultdict[str, dict[str, np.ndarray]] = defaultdict(dict)
    entries = {entry["name"]: entry for entry in json.loads((source / "index.json").read_text())}
    index = []
    for case in cases:
        shapes = {name: list(array.shape) for name, array in case.arrays.items()}
        index.append({**entries[case.name], "meta": case.meta, "arrays": shapes})
        for name, array in case.arrays.items():
            families[case.family][f"{case.name}/{name}"] = array.numpy()
    for family, arrays in families.items():
        np.savez_compressed(out / f"{family}.npz", **arrays)
    (out / "index.json").write_text(json.dumps(index, indent=0) + "\n")


def is_the_same(out: Path, verdicts: dict[str, str]) -> bool:
    """Whether every case of `out` has its verdict; prints what does not, and the folder's size."""
    same = True
    for outcome in replay(out):
        if outcome.verdict != verdicts[outcome.case]:
            print(f"{outcome.case} is {outcome.verdict} in {out.name}: {outcome.reason}")
            same = False
    size = sum(file.stat().st_size for file in out.iterdir())
    print(f"{len(verdicts)} cases, {size / 1e6:.2f} MB in {out.name}")
    return same


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
