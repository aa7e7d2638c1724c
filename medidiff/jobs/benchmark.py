"""The verb `benchmark`: a head against its baselines on one split."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Literal

from medidiff import options
from medidiff.data.datasets import Case
from medidiff.data.file_names import is_kspace
from medidiff.data.manifest import read_manifest
from medidiff.data.rows import rows_listed
from medidiff.errors import OutputError, TaskError
from medidiff.jobs.cases import Mismatch, cases_of_split, check_cases, check_splits
from medidiff.jobs.reporting import Reporter
from medidiff.jobs.splits import Splits
from medidiff.model import Model
from medidiff.outputs import check_new_folder
from medidiff.report.accounts import account_lines, metric_lines
from medidiff.report.pictures import comparison
from medidiff.report.tables import (
    Better,
    Ceiling,
    Difference,
    Goal,
    Reference,
    Spread,
    Summary,
    markdown,
    paired_difference,
    plain_text,
    summarise,
    write_csv,
    write_json,
)
from medidiff.tasks.base import (
    OURS,
    Bench,
    Benchmarked,
    Calibrated,
    Head,
    Peer,
    Row,
    check_fit,
)
from medidiff.tasks.calibrated import keep

PathLike = str | os.PathLike[str]
SIMULATED = (
    "What is given is simulated from the split's images and its noise level told to all methods: "
    "how methods compare, not scanners."
)
LEAST_SUBJECTS = 20  # of fewer no map is called calibrated, whatever their coverage


@dataclass(frozen=True)
class Table:
    """What a benchmark found."""

    rows: Sequence[Row]
    summaries: Sequence[Summary]
    """Mean and 95 % interval over subjects, by metric, setting and method."""
    differences: Sequence[Difference]
    """Ours minus the best baseline, and minus each peer, paired by subject."""
    references: Sequence[Reference]
    """Metrics of our population beside two sets of real images of the same size."""
    goals: Sequence[Goal | Ceiling]
    """What was to be reached or not to be exceeded, and whether it was."""
    spreads: Sequence[Spread]
    """Whether posterior samples differ as much as they err."""
    text: str
    """The tables, to be printed."""

    def mean(self, metric: str, method: str) -> float:
        """The mean of a metric over subjects, over all settings."""
        found = [
            item.interval.mean
            for item in self.summaries
            if item.metric == metric and item.method == method
        ]
        return sum(found) / len(found)


def benchmark_head(
    head: Head,
    model: Model,
    manifest: PathLike,
    *,
    split: str,
    splits: Splits,
    out: Path | None,
    n: int,
    seed: int,
    limit: int | None,
    mismatch: Mismatch,
    report: Reporter,
    baselines: Literal["tuned", "none"] = "tuned",
    peers: Sequence[Peer] = (),
) -> Table:
    """Run `head` and its baselines on `split`; nothing is chosen on it.

    Errors: OutputError if `out` holds something; TaskError if head and model do not go together;
    ManifestError; DataError for scans that do not fit the model, if `mismatch` is "refuse".
    """
    if out is not None:
        check_new_folder(out, holds="results")
    if split == splits.validation:
        raise TaskError(
            f"the baselines would be tuned on {split!r}, the split that is reported; "
            "name two splits"
        )
    if n < 1 or (limit is not None and limit < 1):
        raise TaskError(f"the numbers of samples and of scans must be at least 1: {n}, {limit}")
    check_fit(head, model)
    check_splits(model, manifest, splits, split, splits.validation)
    if head.needs().measurement:
        warn_of_measurements(model, manifest, splits, split)
    check_peers(head, peers)
    if split == splits.train:
        warnings.warn(of_training(model, split), stacklevel=2)

    def cases(name: str) -> list[Case]:
        return cases_of_split(model, manifest, name, splits, report, limit)

    train = [] if head.needs().input_images else cases(splits.train)
    bench = Bench(
        model,
        train,
        cases(splits.validation),
        cases(split),
        seed=seed,
        samples=n,
        baselines=baselines,
        peers=peers,
        progress=lambda what, done, total: report.progress(what, done, total),
    )
    misfits = check_cases(model, manifest, [*train, *bench.validation, *bench.test], mismatch)
    found = head.benchmark(bench)
    if split == splits.train:
        found = replace(found, notes=[*found.notes, of_training(model, split)])
    if limit is not None:
        found = replace(found, notes=[*found.notes, of_some(limit, len(bench.test))])
    table = make_table(head, found, [peer.name for peer in peers])
    if out is not None:
        protocol = {
            "split": split,
            "seed": seed,
            "samples": n,
            "limit": limit,
            "rows_that_do_not_fit": misfits,
        }
        try:
            save_table(table, found, head, model, protocol, out)
        except OSError as error:  # hours of work are not lost for a full disk
            raise OutputError(
                f"{out}: the results cannot be written there ({error.strerror}). They are:\n\n"
                f"{table.text}"
            ) from None
    if split != splits.train:  # what the spread is worth, scans that were learned do not say
        keep_verdicts(model, found, split)
    return table


def of_training(model: Model, split: str) -> str:
    """What is said of figures on the split that priors are trained on."""
    return (
        f"scans of split {split!r} are what a prior is trained on: if {model.spec.name} was "
        "trained on these, its figures say nothing of new subjects"
    )


def of_some(limit: int, scans: int) -> str:
    """What is said of figures on part of a split."""
    return (
        f"at most {limit} rows of each split were read (--limit), {scans} scans of the one "
        "reported: a first look, not the figures of the split"
    )


def warn_of_measurements(model: Model, manifest: PathLike, splits: Splits, split: str) -> None:
    """A benchmark simulates what is measured from images: rows that were measured are not used as
    they are."""
    rows = [
        row.number
        for row in splits.rows(read_manifest(Path(manifest)), split)
        if any(is_kspace(row.images[name].name) for name in model.spec.columns)
    ]
    if rows:
        warnings.warn(
            f"{manifest}: {rows_listed(rows)} of split {split!r} hold k-space. The benchmark makes "
            "magnitude images of it and simulates measurements from these: their noise, phase and "
            "coils are not the scanner's. To reconstruct what was measured: medidiff run "
            "reconstruct MODEL FILE.h5 --out IMAGE.nii.gz",
            stacklevel=3,
        )


def check_peers(head: Head, peers: Sequence[Peer]) -> None:
    """Errors: TaskError for peers of a head that solves nothing, and for names that are taken."""
    if peers and not head.needs().input_images:
        raise TaskError(f"{head.kind} draws images and solves no problem: it has no peers")
    names = [OURS, *head.baselines(), *(peer.name for peer in peers)]
    taken = sorted({name for name in names if names.count(name) > 1})
    if taken:
        raise TaskError(f"the methods of a table need names of their own; found twice: {taken}")


def keep_verdicts(model: Model, found: Benchmarked, split: str) -> None:
    """Leave what was found of the spread with the model; warn where that cannot be: the table
    stands. What a few subjects say takes no verdict's place."""
    enough = [each for each in found.calibrated if each.found.coverage.n >= LEAST_SUBJECTS]
    try:
        keep(model, [verdict_of(each, split) for each in enough])
    except OutputError as error:
        warnings.warn(str(error), stacklevel=3)


def make_table(head: Head, found: Benchmarked, peers: Sequence[str] = ()) -> Table:
    """The rows of a benchmark, summarised over subjects and compared with the baselines and the
    peers that were run."""
    rows = found.rows
    run = {row["method"] for row in rows}
    baselines = [name for name in head.baselines() if name in run]
    summaries: list[Summary] = []
    differences: list[Difference] = []
    for metric, meaning in head.metrics().items():
        means = summarise(rows, metric)
        summaries += means
        if all(item.interval.n == 1 for item in means):
            continue  # a population is measured once: there is nothing to pair or to resample
        better: Better = "higher" if meaning.endswith("higher") else "lower"
        for rivals in (baselines, *([peer] for peer in peers)):
            differences += paired_difference(
                _where_run(rows, rivals), metric, ours=OURS, better=better, baselines=rivals
            )
    references = beside_real(found)
    goals = [*goals_of(head, found), *limits_of(found, summaries)]
    spreads = [spread_of(each) for each in found.calibrated]
    text = plain_text(summaries, differences, references, goals, spreads)
    text += "\n" + "".join(f"{line}\n" for line in said_of(head, found))
    text += "".join(f"\n{note}\n" for note in found.notes)
    return Table(rows, summaries, differences, references, goals, spreads, text)


def _where_run(rows: Sequence[Row], methods: Sequence[str]) -> list[Row]:
    """The rows of the settings in which one of the methods was run."""
    settings = {row["setting"] for row in rows if row["method"] in methods}
    return [row for row in rows if row["setting"] in settings]


def goals_of(head: Head, found: Benchmarked) -> list[Goal]:
    """Each target beside the difference that was measured, where its baselines were run."""
    goals = []
    for target in found.targets:
        rows = [row for row in found.rows if row["setting"] == target.setting]
        rivals = [name for name in target.against if any(row["method"] == name for row in rows)]
        if not rivals or not any(row["method"] == OURS for row in rows):
            continue
        better: Better = "higher" if head.metrics()[target.metric].endswith("higher") else "lower"
        (difference,) = paired_difference(
            rows, target.metric, ours=OURS, better=better, baselines=rivals
        )
        goals.append(Goal(target.metric, target.least, difference))
    return goals


def limits_of(found: Benchmarked, summaries: Sequence[Summary]) -> list[Ceiling]:
    """Each limit beside what was measured of ours."""
    return [
        Ceiling(limit.most, item)
        for limit in found.limits
        for item in summaries
        if (item.setting, item.metric, item.method) == (limit.setting, limit.metric, OURS)
    ]


def said_of(head: Head, found: Benchmarked) -> list[str]:
    """What the metrics are, and how the figures were made."""
    made = [SIMULATED] if head.needs().input_images else []
    return [*metric_lines(head.metrics()), *made, *account_lines(found.accounts)]


def spread_of(each: Calibrated) -> Spread:
    """A line of the table of spreads."""
    found = each.found
    verdict = found.verdict if found.coverage.n >= LEAST_SUBJECTS else "too few subjects"
    return Spread(
        each.setting,
        each.kind,
        each.noise,
        found.coverage,
        found.spread,
        found.histogram,
        found.draws,
        verdict,
    )


def verdict_of(each: Calibrated, split: str) -> dict[str, object]:
    """What is kept with the model: `run` reads it to call its maps calibrated or not."""
    found = each.found
    return {
        "kind": each.kind,
        "noise": each.noise,
        "posterior": options.tree(each.posterior),
        "calibrated": spread_of(each).verdict == "calibrated",
        "coverage": options.tree(found.coverage),
        "spread": options.tree(found.spread),
        "histogram": list(found.histogram),
        "draws": found.draws,
        "split": split,
    }


def beside_real(found: Benchmarked) -> list[Reference]:
    """Our population's metrics beside those of real sets."""
    return [
        Reference(metric, OURS, float(row[metric]), int(row["images"]), interval)
        for metric, interval in found.real_against_real.items()
        for row in found.rows
        if row["method"] == OURS and metric in row
    ]


def save_table(
    table: Table,
    found: Benchmarked,
    head: Head,
    model: Model,
    protocol: Mapping[str, object],
    out: Path,
) -> None:
    """Write table.md, summary.json, rows.csv and comparison.png. Subjects are pseudonyms."""
    facts = {
        "task": options.tree(head),
        "metrics": dict(head.metrics()),
        "model": model.spec.name,
        "model_digest": model.digest,
        "version": metadata.version("medidiff"),
        "accounts": [options.tree(each) for each in found.accounts],
        **protocol,
    }
    write_csv(out / "rows.csv", table.rows)
    write_json(
        out / "summary.json",
        table.rows,
        table.summaries,
        table.differences,
        facts,
        table.references,
        table.goals,
        table.spreads,
    )
    meanings = "".join(f"- {line}\n" for line in said_of(head, found))
    title = f"# {head.kind}: {model.spec.name} on {protocol['split']}\n\n"
    tables = markdown(
        table.summaries, table.differences, table.references, table.goals, table.spreads
    )
    notes = "".join(f"\n**{note}**\n" for note in found.notes)
    text = title + tables + "\n" + meanings + notes
    (out / "table.md").write_text(text, encoding="utf-8")
    if found.examples:
        comparison(
            found.examples,
            out / "comparison.png",
            window=(-1.0, 1.0),
            truth=found.truth,
            labels=found.labels or None,
            maps=found.maps,
            affine=model.spec.space.known_affine(),
            title=f"{head.kind}, {model.spec.name}, split {protocol['split']}",
        )
