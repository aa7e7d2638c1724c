"""The verbs for an installation: shown, examined, its caches cleared."""

from __future__ import annotations

from pathlib import Path

from medidiff.api.calls import PathLike, Progress, reporting
from medidiff.jobs.caches import CacheName, Kept
from medidiff.jobs.caches import clear as clear_one
from medidiff.jobs.caches import kept as kept_caches
from medidiff.jobs.demo import DemoResult, run_demo
from medidiff.jobs.doctor import Diagnosis, diagnose


def demo(folder: PathLike = "medidiff-demo", *, progress: Progress = "none") -> DemoResult:
    """The main job on generated head phantoms: train, sample, denoise, register, load back."""
    with reporting(progress) as report:
        return run_demo(Path(folder), report)


def doctor(*, json_file: PathLike | None = None, progress: Progress = "none") -> Diagnosis:
    """Whether the installed package is right: its samplers on exactly solvable data, recordings of
    the authors' own code, and what this machine has. `faults` is empty if all is well.

    Errors: OutputError if `json_file` cannot be written.
    """
    with reporting(progress) as report:
        return diagnose(None if json_file is None else Path(json_file), report)


def caches() -> list[Kept]:
    """What is kept on this machine to save time: prepared images, facts of files, DICOM headers."""
    return kept_caches()


def clear_cache(name: CacheName, *, unused_days: float = 0.0) -> tuple[int, int]:
    """Remove one of `caches()`, or images not used for so many days; gives files and bytes.

    Nothing is lost but time.
    Errors: ConfigError for days of another cache than images.
    """
    return clear_one(name, unused_days)
