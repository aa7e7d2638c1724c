"""Manifests made, dealt into splits, and checked for leaks."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medidiff.data.build import BuildOptions, Built, build_rows
from medidiff.data.manifest import check_manifest, read_manifest, read_table
from medidiff.data.manifest_files import check_place, with_splits, write_csv
from medidiff.data.privacy import keep_private
from medidiff.data.rows import Progress
from medidiff.data.splitting import SplitOptions, assign_splits
from medidiff.errors import ManifestError
from medidiff.jobs.reporting import Reporter

REASONS_SHOWN = 12


@dataclass(frozen=True)
class ManifestMade:
    """A manifest that was written. `text` names no file and no subject."""

    path: Path
    images: int
    subjects: int
    skipped: int
    text: str


def build(folder: Path, out: Path, options: BuildOptions, report: Reporter) -> ManifestMade:
    """Write the manifest of a tree of scans.

    Errors: OutputError for a place that cannot be used; ManifestError if no image can be.
    """
    check_place(out)
    lists = out.absolute().with_suffix(".series")
    check_no_lists(lists)

    def told(what: str) -> Progress:
        return lambda done, total: report.progress(what, done, total)

    try:
        built = build_rows(folder.absolute(), lists, options, progress=told)
        if not built.rows:
            why = "" if built.skipped else f": there is no scan and no picture in {folder}"
            raise ManifestError(
                "\n".join([f"{out}: no image can be used{why}", *_reasons(built)]),
                private=_names(built) if built.skipped else None,
            )
        rows = [_relative(row, out.absolute().parent) for row in built.rows]
        write_csv(out, built.columns, rows)
    except BaseException:
        shutil.rmtree(lists, ignore_errors=True)
        raise
    return _made(out, built)


def check_no_lists(lists: Path) -> None:
    """Errors: ManifestError if a folder of series lists is there, which another manifest needs."""
    if lists.exists():
        raise ManifestError(
            f"{lists} is there already: another manifest's series lists; choose another name"
        )


def _relative(row: dict[str, str], folder: Path) -> dict[str, str]:
    return {
        name: os.path.relpath(cell, folder) if os.path.isabs(cell) else cell
        for name, cell in row.items()
    }


def _made(out: Path, built: Built) -> ManifestMade:
    images = sum(
        1
        for row in built.rows
        for name, cell in row.items()
        if cell and (name == "image" or name.endswith(":image"))
    )
    subjects = len({row["subject"] for row in built.rows})
    lines = [f"{out}: {images} images of {subjects} subjects"]
    if built.duplicates:
        lines.append(f"{built.duplicates} DICOM files are there more than once; one counts")
    if built.others:
        lines.append(f"other files, neither scans nor pictures: {built.others}")
    if built.dims[2] and built.dims[3]:
        lines.append(
            f"2-D and 3-D are mixed: {built.dims[2]} slices or pictures, {built.dims[3]} volumes; "
            "a manifest holds one kind: delete the rows of the other, or build from its own folder"
        )
    if built.skipped:
        lines += [f"{len(built.skipped)} files or series left out:", *_reasons(built)]
        lines.append(f"which they are stands in {keep_private(_names(built))}")
    return ManifestMade(out, images, subjects, len(built.skipped), "\n".join(lines))


def _reasons(built: Built) -> list[str]:
    counts = Counter(one.text for one in built.skipped)
    lines = [f"  {count} x {text}" for text, count in counts.most_common(REASONS_SHOWN)]
    rest = len(counts) - len(lines)
    return [*lines, *([f"  and {rest} other reasons"] if rest > 0 else [])]


def _names(built: Built) -> str:
    return "\n".join(
        ["left out of the manifest", *(f"  {s.names}: {s.text}" for s in built.skipped)]
    )


def split(manifest_file: Path, out: Path, options: SplitOptions) -> str:
    """Write a manifest again with its subjects dealt to splits; gives a table of what is where.

    Errors: OutputError, ManifestError, ConfigError.
    """
    check_place(out)
    manifest = read_manifest(manifest_file)
    chosen = assign_splits(manifest, options)
    with_splits(read_table(manifest_file), manifest_file, out, chosen)
    rows = Counter(chosen[row.subject] for row in manifest.rows)
    subjects = Counter(chosen.values())
    lines = [f"{name}: {subjects[name]} subjects, {rows[name]} rows" for name in sorted(subjects)]
    wanted = [name for name, share in options.shares if share > 0]
    lines += [f"{name}: NO subject; there are too few" for name in wanted if not subjects[name]]
    return "\n".join([f"{out}: {len(chosen)} subjects", *lines])


def check(
    manifest_file: Path,
    report: Reporter,
    *,
    images: Sequence[str] | None = None,
    missing: Literal["refused", "allowed"] = "refused",
) -> str:
    """Check every image of a manifest, and look for what would leak between its splits.

    Errors: ManifestError with every problem.
    """
    manifest = read_manifest(manifest_file)
    check_manifest(
        manifest,
        images=images,
        missing=missing,
        leakage="near",
        progress=lambda done, total: report.progress("checking scans", done, total),
    )
    splits = manifest.splits_shown()
    count = len({row.subject for row in manifest.rows})
    return (
        f"{manifest_file}: sound. {len(manifest.rows)} rows of {count} subjects; splits: {splits}. "
        "No subject, image or piece of one scan was found in two places."
    )
