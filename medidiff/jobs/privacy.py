"""The verbs `deidentify` and `find-phi`: a tree without what identifies, and what does in one."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medidiff.data.confidentiality.finding_phi import CATEGORIES
from medidiff.data.confidentiality.folders import Done, deidentify_tree
from medidiff.data.confidentiality.phi_files import UNKNOWN, Looked, look_through
from medidiff.data.confidentiality.profile import Confidentiality
from medidiff.data.privacy import SiteKey, keep_private
from medidiff.errors import ConfigError, DataError, OutputError
from medidiff.jobs.reporting import Reporter
from medidiff.outputs import check_new_folder

SHOWN = 8


@dataclass(frozen=True)
class PhiReport:
    """What was found in a tree, counted by files; it holds no value and no name."""

    files: int
    formats: dict[str, int]
    counts: dict[str, dict[str, int]]
    """Category -> attribute or field -> files that have it."""
    unreadable: int
    """Damaged, locked, or too large to be looked at."""
    unknown: int
    """Of kinds that are not known, and no text: looked at by name alone."""
    text: str

    @property
    def clean(self) -> bool:
        """Whether nothing was found, and everything was read."""
        return not any(self.counts.values()) and not self.unreadable and not self.unknown


def deidentify(
    folder: Path,
    out: Path,
    options: Confidentiality,
    burnt_in: Literal["leave-out", "keep"],
    report: Reporter,
) -> str:
    """Write the DICOM images of a tree again, their attributes de-identified; gives what was done.

    Errors: DataError without such a folder or any image in it; OutputError for `out`; ConfigError.
    """
    check_tree(folder)
    check_private(options)
    check_new_folder(out)
    done = deidentify_tree(
        folder,
        out,
        options,
        burnt_in=burnt_in,
        key=SiteKey.load(),
        progress=lambda count, total: report.progress("de-identifying", count, total),
    )
    if not done.written:
        raise DataError(
            "\n".join(["no DICOM image was written", *_reasons(done.left_out)]),
            private="\n".join(["not de-identified", *done.names]),
        )
    return _said(done, out)


def check_tree(folder: Path) -> None:
    """Errors: DataError."""
    if not folder.exists():
        raise DataError("there is no such folder or file", private=str(folder))


def check_private(options: Confidentiality) -> None:
    """Errors: ConfigError for a safe private attribute that is not written as it must be."""
    for item in options.private:
        parts = item.split(",", 2)
        try:
            group, element = int(parts[0], 16), int(parts[1], 16)
        except (ValueError, IndexError):
            group = element = 0
        if len(parts) != 3 or group % 2 == 0 or element > 0xFF or not parts[2].strip():
            raise ConfigError(
                f"{item}: write a private attribute as GROUP,ELEMENT,CREATOR with the element's "
                'last two digits, e.g. "0019,0c,SIEMENS MR HEADER"'
            )


def _said(done: Done, out: Path) -> str:
    lines = [f"{out}: {done.written} DICOM images of {len(done.subjects)} subjects"]
    if done.left_out:
        lines += [f"{done.left_out.total()} files left out:", *_reasons(done.left_out)]
        log = keep_private("\n".join(["not de-identified", *done.names]))
        lines.append(f"which they are stands in {log}")
    lines.append(
        "Attributes only (DICOM PS3.15 table E.1-1): the pixels were not looked at, "
        "and text burnt into them is still there."
    )
    if done.at_risk:
        lines.append(f"WARNING: in {done.at_risk} of them text may be burnt into the pixels.")
    if done.heads:
        lines.append(
            f"WARNING: {len(done.heads)} series show heads. A face can be rebuilt from a head "
            "volume and recognised; see medidiff deface."
        )
    return "\n".join(lines)


def _reasons(counts: Counter[str]) -> list[str]:
    return [f"  {count} x {text}" for text, count in counts.most_common(SHOWN)]


def find_phi(folder: Path, out: Path | None, pixels: bool, report: Reporter) -> PhiReport:
    """Look through a tree for what identifies; values go to the private log alone.

    `out`: a JSON file for the counts.
    Errors: DataError without such a folder; OutputError for `out`.
    """
    check_tree(folder)
    if out is not None and (out.exists() or not out.absolute().parent.is_dir()):
        raise OutputError(f"{out} is there already, or its folder is not")
    seen: list[Looked] = []
    counts: dict[str, Counter[str]] = {category: Counter() for category in CATEGORIES}
    files: Counter[str] = Counter()
    names: list[str] = []
    for one in look_through(
        folder,
        pixels=pixels,
        progress=lambda count, total: report.progress("looking through files", count, total),
    ):
        seen.append(one)
        for category, where in {(found.category, found.where) for found in one.found}:
            counts[category][where] += 1
        for category in {found.category for found in one.found}:
            files[category] += 1
        names += _named(one)
    formats = Counter(one.format for one in seen)
    bad = sum(bool(one.problem) for one in seen)
    plain = {category: dict(counter.most_common()) for category, counter in counts.items()}
    log = keep_private("\n".join(["found by find-phi", *names])) if names else ""
    unknown = formats[UNKNOWN]
    text = _table(len(seen), files, plain, bad, unknown, log)
    found = PhiReport(len(seen), dict(formats), plain, bad, unknown, text)
    if out is not None:
        content = {
            "files": len(seen),
            "formats": dict(formats),
            "unreadable": bad,
            "unknown": unknown,
            "found": plain,
        }
        out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return found


def _named(one: Looked) -> list[str]:
    lines = [f"  {found.category}: {found.where}: {found.value[:200]}" for found in one.found]
    if one.problem:
        lines.append(f"  cannot be read ({one.problem})")
    if one.format == UNKNOWN:
        lines.append("  of an unknown kind: looked at by name alone")
    return [one.name, *lines] if lines else []


def _table(
    total: int,
    files: Counter[str],
    counts: dict[str, dict[str, int]],
    bad: int,
    unknown: int,
    log: str,
) -> str:
    lines = [f"{total} files looked at; found in how many of them:"]
    for category, found in counts.items():
        lines.append(f"  {category}: {files[category]}")
        for where, count in list(found.items())[:SHOWN]:
            lines.append(f"      {where}: {count}")
        if len(found) > SHOWN:
            lines.append(f"      and {len(found) - SHOWN} others")
    if bad:
        lines.append(f"  not readable or too large, so not looked at: {bad}")
    if unknown:
        lines.append(f"  of unknown kinds, looked at by name alone: {unknown}")
    if log:
        lines.append(f"values and file names are in {log}")
    lines.append("Patterns were looked for, not people: an empty list is no proof.")
    return "\n".join(lines)
