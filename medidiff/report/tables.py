"""Tables from per-subject rows: means with intervals over subjects, and paired differences.

A row is a mapping {"subject": pseudonym, "method": ..., "setting": ..., metric: number, ...}.
Several rows of one subject, method and setting (slices, seeds) are first averaged, so that the
subject stays the unit. A number may be missing from a row where the metric has no meaning; that a
subject then counts for one method and not for another is an error, not a smaller n.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from medidiff.evaluation.bootstrap import Interval, bootstrap_interval

Value = str | float | None
Row = Mapping[str, Value]
Better = Literal["higher", "lower"]

LEADING = ("subject", "setting", "method")
LEAST_IMAGES = 20  # a set; of fewer hardly any population lies outside the scatter of real sets


@dataclass(frozen=True)
class Summary:
    """One metric of one method in one setting, over subjects."""

    setting: str
    method: str
    metric: str
    interval: Interval


@dataclass(frozen=True)
class Difference:
    """Ours minus the best baseline, subject by subject, in one setting."""

    setting: str
    method: str
    baseline: str
    metric: str
    better: Better
    interval: Interval

    @property
    def verdict(self) -> Literal["better", "worse", "no clear difference"]:
        """What the whole interval says."""
        sign = 1 if self.better == "higher" else -1
        low, high = sorted((sign * self.interval.low, sign * self.interval.high))
        if low > 0:
            return "better"
        return "worse" if high < 0 else "no clear difference"


@dataclass(frozen=True)
class Reference:
    """One metric of a population beside what it is for two sets of real images of equal size."""

    metric: str
    method: str
    value: float
    images: int
    """Images in each set."""
    real_against_real: Interval
    """The mean over random sets of real images, and the middle 95 % of single ones."""

    @property
    def within(self) -> bool:
        """Whether the value lies in the scatter of real sets."""
        return self.real_against_real.low <= self.value <= self.real_against_real.high

    @property
    def verdict(self) -> str:
        """In words; of a few images no set can be told from another."""
        if self.within:
            few = self.images < LEAST_IMAGES
            return f"fewer than {LEAST_IMAGES} images: too few to tell" if few else "as real sets"
        return "outside the scatter of real sets"


@dataclass(frozen=True)
class Goal:
    """What was to be reached: ours minus the best of some baselines, by the interval's low end."""

    metric: str
    least: float
    difference: Difference

    @property
    def verdict(self) -> Literal["reached", "missed"]:
        """What the low end of the interval says."""
        return "reached" if self.difference.interval.low >= self.least else "missed"


@dataclass(frozen=True)
class Ceiling:
    """What a metric of ours alone was not to exceed, by the interval's high end."""

    most: float
    found: Summary

    @property
    def verdict(self) -> Literal["kept", "exceeded"]:
        """What the high end of the interval says."""
        return "kept" if self.found.interval.high <= self.most else "exceeded"


@dataclass(frozen=True)
class Spread:
    """Whether posterior samples differ as much as they err, in one setting."""

    setting: str
    kind: str
    noise: float
    coverage: Interval
    spread: Interval
    histogram: tuple[float, ...]
    """Of the truth's ranks among the samples, in as many equal parts: even if right."""
    draws: int
    verdict: str


def summarise(rows: Sequence[Row], metric: str, level: float = 0.95) -> list[Summary]:
    """The mean over subjects and its bootstrap interval, for each setting and method, in row order.

    Errors: ValueError for a row without subject, method or setting, an unknown metric, a value that
    is not a number, or methods of one setting that were measured on different subjects.
    """
    return [
        Summary(setting, method, metric, bootstrap_interval(list(values.values()), level))
        for (setting, method), values in _per_subject(rows, metric).items()
    ]


def paired_difference(
    rows: Sequence[Row],
    metric: str,
    *,
    ours: str,
    better: Better = "higher",
    baselines: Sequence[str] | None = None,
    level: float = 0.95,
) -> list[Difference]:
    """Ours minus the baseline of the best mean, with an interval over subjects, one a setting.

    `baselines` names the methods to choose from, all but ours unless given; leave out what is an
    upper bound and no rival.
    Errors: as `summarise`; ValueError where a setting lacks ours or any baseline.
    """
    cells = _per_subject(rows, metric)
    found = []
    for setting in dict.fromkeys(setting for setting, _ in cells):
        methods = {method: values for (where, method), values in cells.items() if where == setting}
        rivals = [m for m in methods if m != ours and (baselines is None or m in baselines)]
        if ours not in methods or not rivals:
            raise ValueError(
                f"{metric} in setting {setting!r}: a difference needs {ours!r} and a baseline; "
                f"found {sorted(methods)}"
            )
        sign = 1 if better == "higher" else -1
        best = max(rivals, key=lambda method: sign * _mean(methods[method]))
        pairs = [_minus(value, methods[best][key]) for key, value in methods[ours].items()]
        interval = bootstrap_interval(pairs, level)
        found.append(Difference(setting, ours, best, metric, better, interval))
    return found


def markdown(
    summary: Sequence[Summary],
    differences: Sequence[Difference] = (),
    references: Sequence[Reference] = (),
    goals: Sequence[Goal | Ceiling] = (),
    spreads: Sequence[Spread] = (),
) -> str:
    """The same as `plain_text` in Markdown; ends with a newline."""
    cells = _all_cells(summary, differences, references, goals, spreads)
    tables = [_markdown_table(*each) for each in cells]
    return "\n".join([*tables, _note(summary)])


def plain_text(
    summary: Sequence[Summary],
    differences: Sequence[Difference] = (),
    references: Sequence[Reference] = (),
    goals: Sequence[Goal | Ceiling] = (),
    spreads: Sequence[Spread] = (),
) -> str:
    """Methods by metrics with intervals and n, then the differences, then populations beside the
    scatter of real ones, goals and the spread of samples, in aligned columns."""
    cells = _all_cells(summary, differences, references, goals, spreads)
    tables = [_plain_table(*each) for each in cells]
    return "\n".join([*tables, _note(summary)])


def write_csv(path: str | os.PathLike[str], rows: Sequence[Row]) -> None:
    """A line a row; subject, setting and method first, other columns in order of appearance.

    Numbers are written in full, missing ones as empty cells.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    columns = [*(n for n in LEADING if n in names), *(n for n in names if n not in LEADING)]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    _write(path, text.getvalue())


def write_json(
    path: str | os.PathLike[str],
    rows: Sequence[Row],
    summary: Sequence[Summary] = (),
    differences: Sequence[Difference] = (),
    facts: Mapping[str, object] | None = None,
    references: Sequence[Reference] = (),
    goals: Sequence[Goal | Ceiling] = (),
    spreads: Sequence[Spread] = (),
) -> None:
    """Everything in one file: `facts` (versions, hardware, protocol), the tables and the rows.

    JSON has no infinity: such numbers are written as the strings "inf" and "-inf", nan as "nan".
    """
    tree = {
        "format": 1,
        "facts": facts or {},
        "summary": [asdict(item) for item in summary],
        "differences": [asdict(item) | {"verdict": item.verdict} for item in differences],
        "real_against_real": [
            asdict(item) | {"within": item.within, "verdict": item.verdict} for item in references
        ],
        "goals": [
            asdict(item) | {"verdict": item.verdict} for item in goals if isinstance(item, Goal)
        ],
        "limits": [
            asdict(item) | {"verdict": item.verdict} for item in goals if isinstance(item, Ceiling)
        ],
        "spreads": [asdict(item) for item in spreads],
        "rows": [dict(row) for row in rows],
    }
    _write(path, json.dumps(_finite(tree), indent=1, allow_nan=False) + "\n")


def _per_subject(rows: Sequence[Row], metric: str) -> dict[tuple[str, str], dict[str, float]]:
    """{(setting, method): {subject: mean of its rows}}, with the same subjects in a setting."""
    if rows and not any(metric in row for row in rows):
        raise ValueError(
            f"no row has the metric {metric!r}; there are {sorted(set().union(*rows))}"
        )
    gathered: dict[tuple[str, str], dict[str, list[float]]] = {}
    for number, row in enumerate(rows, start=1):
        missing = [name for name in LEADING if row.get(name) is None]
        if missing:
            raise ValueError(f"result row {number} has no {' and no '.join(missing)}")
        value = row.get(metric)
        if value is None:
            continue
        if isinstance(value, str) or math.isnan(value):
            raise ValueError(f"result row {number}: {metric} is {value!r}, not a number")
        cell = gathered.setdefault((str(row["setting"]), str(row["method"])), {})
        cell.setdefault(str(row["subject"]), []).append(float(value))
    cells = {key: {s: sum(v) / len(v) for s, v in cell.items()} for key, cell in gathered.items()}
    _check_same_subjects(cells, metric)
    return cells


def _check_same_subjects(cells: Mapping[tuple[str, str], Mapping[str, float]], metric: str) -> None:
    first: dict[str, tuple[str, set[str]]] = {}
    for (setting, method), values in cells.items():
        other, subjects = first.setdefault(setting, (method, set(values)))
        odd = sorted(subjects.symmetric_difference(values))
        if odd:
            raise ValueError(
                f"{metric} in setting {setting!r}: {method!r} and {other!r} were not measured on "
                f"the same subjects; {len(odd)} are in one only, e.g. {', '.join(odd[:3])}"
            )


def _mean(values: Mapping[str, float]) -> float:
    return sum(values.values()) / len(values)


def _minus(first: float, second: float) -> float:
    return 0.0 if first == second else first - second  # two infinite PSNRs do not differ


Cells = tuple[list[str], list[list[str]]]


def _all_cells(
    summary: Sequence[Summary],
    differences: Sequence[Difference],
    references: Sequence[Reference],
    goals: Sequence[Goal | Ceiling],
    spreads: Sequence[Spread],
) -> list[Cells]:
    tables = [_summary_cells(summary)]
    if differences:
        tables.append(_difference_cells(differences))
    if references:
        tables.append(_reference_cells(references))
    if goals:
        tables.append(_goal_cells(goals))
    if spreads:
        tables.append(_spread_cells(spreads))
    return tables


def _goal_cells(goals: Sequence[Goal | Ceiling]) -> Cells:
    header = ["setting", "metric", "target", "found", "against", "verdict", "n"]
    return header, [_goal_line(goal) for goal in goals]


def _goal_line(goal: Goal | Ceiling) -> list[str]:
    if isinstance(goal, Ceiling):
        one, interval = goal.found, goal.found.interval
        target, shown, rival = f"<= {goal.most:g}", _shown(interval), "none: of itself"
    else:
        one, interval = goal.difference, goal.difference.interval
        target, shown, rival = f">= {goal.least:+g}", _shown(interval, "+"), one.baseline
    return [one.setting, one.metric, target, shown, rival, goal.verdict, str(interval.n)]


def _spread_cells(spreads: Sequence[Spread]) -> Cells:
    header = ["setting", "noise", "coverage of 90 %", "spread over error", "first and last ranks"]
    header += ["draws", "verdict", "n"]
    body = [
        [
            item.setting,
            f"{item.noise:.4g}",
            _shown(item.coverage),
            _shown(item.spread),
            f"{item.histogram[0]:.3f}, {item.histogram[-1]:.3f} of {1 / len(item.histogram):.3f}",
            str(item.draws),
            item.verdict,
            str(item.coverage.n),
        ]
        for item in spreads
    ]
    return header, body


def _reference_cells(references: Sequence[Reference]) -> Cells:
    header = ["metric", "method", "value", "real against real", "verdict", "images"]
    body = [
        [
            item.metric,
            item.method,
            f"{item.value:.5g}",
            _shown(item.real_against_real),
            item.verdict,
            str(item.images),
        ]
        for item in references
    ]
    return header, body


def _summary_cells(summary: Sequence[Summary]) -> Cells:
    metrics = list(dict.fromkeys(item.metric for item in summary))
    lines: dict[tuple[str, str], dict[str, Interval]] = {}
    for item in summary:
        lines.setdefault((item.setting, item.method), {})[item.metric] = item.interval
    body = []
    for (setting, method), cells in lines.items():
        n = max(interval.n for interval in cells.values())
        shown = [_shown(cells[metric]) if metric in cells else "" for metric in metrics]
        body.append([setting, method, *shown, str(n)])
    return ["setting", "method", *metrics, "n"], body


def _difference_cells(differences: Sequence[Difference]) -> Cells:
    header = ["setting", "metric", "difference", "against", "verdict", "n"]
    body = [
        [d.setting, d.metric, _shown(d.interval, "+"), d.baseline, d.verdict, str(d.interval.n)]
        for d in differences
    ]
    return header, body


def _shown(interval: Interval, sign: str = "") -> str:
    """As 28.53 (27.91 to 29.10): digits by the size of the largest of the three; what was
    measured once has no interval."""
    size = max(abs(v) for v in (interval.mean, interval.low, interval.high))
    digits = 2 if not math.isfinite(size) or size >= 10 else 3 if size >= 0.1 else 5
    mean, low, high = (
        f"{value:{sign}.{digits}f}" for value in (interval.mean, interval.low, interval.high)
    )
    return mean if interval.n == 1 else f"{mean} ({low} to {high})"


def _note(summary: Sequence[Summary]) -> str:
    if summary and all(item.interval.n == 1 for item in summary):
        return "Measured once: no interval.\n"
    levels = {item.interval.level for item in summary}
    stated = " and ".join(f"{level:.0%}" for level in sorted(levels))
    return f"Mean over subjects ({stated} bootstrap interval over subjects).\n"


def _markdown_table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * len(header)
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in (header, rule, *body)]
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


def _plain_table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[i]) for line in (header, *body)) for i in range(len(header))]
    lines = [header, ["-" * width for width in widths], *body]
    return "".join(
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() + "\n"
        for line in lines
    )


def _finite(tree: object) -> object:
    match tree:
        case float() if not math.isfinite(tree):
            return str(tree)
        case Mapping():
            return {str(key): _finite(value) for key, value in tree.items()}
        case list() | tuple():
            return [_finite(value) for value in tree]
    return tree


def _write(path: str | os.PathLike[str], text: str) -> None:
    """Whole or not at all: a reader never finds half a table."""
    place = Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(f".{place.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(place)
