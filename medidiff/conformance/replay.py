"""Replay a folder of recordings through our samplers, losses, tables and bounds.

Every case is counted once: passed, failed, unsupported (nothing of ours to compare, with the
reason) or disowned (a known fault of the source, not to be matched).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medidiff.conformance.families import FAMILIES
from medidiff.conformance.recordings import Case, Unsupported, read_cases

Verdict = Literal["passed", "failed", "unsupported", "disowned"]
VERDICTS: tuple[Verdict, ...] = ("passed", "failed", "unsupported", "disowned")


@dataclass(frozen=True)
class Outcome:
    """What became of one case; `reason` is empty where it passed."""

    case: str
    family: str
    verdict: Verdict
    reason: str = ""


def replay(folder: Path, chosen: Callable[[Case], bool] = lambda case: True) -> Iterator[Outcome]:
    """The outcome of every chosen case of a folder, as it comes."""
    for case in read_cases(folder):
        if chosen(case):
            yield replay_case(case)


def replay_case(case: Case) -> Outcome:
    """One case through its family's file. A fault in our code counts as failed, with its text."""
    if case.kind == "disowned":
        return Outcome(case.name, case.family, "disowned", "a fault of the source")
    family = FAMILIES.get(case.family)
    if family is None:
        return Outcome(case.name, case.family, "unsupported", "no family file")
    try:
        family(case)
    except Unsupported as why:
        return Outcome(case.name, case.family, "unsupported", str(why))
    except Exception as why:  # any fault is this case's failure, the others go on
        return Outcome(case.name, case.family, "failed", f"{type(why).__name__}: {why}")
    return Outcome(case.name, case.family, "passed")


def summary(outcomes: Iterable[Outcome]) -> list[str]:
    """A line a family, then the total, then what failed or is unsupported with its reason."""
    outcomes = list(outcomes)
    families: dict[str, Counter[Verdict]] = {}
    for outcome in outcomes:
        families.setdefault(outcome.family, Counter())[outcome.verdict] += 1
    lines = [f"{name:<12} {_counts(count)}" for name, count in sorted(families.items())]
    lines.append(_counts(Counter(outcome.verdict for outcome in outcomes)))
    for verdict in ("failed", "unsupported"):
        for outcome in outcomes:
            if outcome.verdict == verdict:
                lines.append(f"{verdict}: {outcome.case}: {outcome.reason}")
    return lines


def _counts(count: Counter[Verdict]) -> str:
    return ", ".join(f"{verdict} {count[verdict]}" for verdict in VERDICTS)
