"""Runs: opened, logged to, ended with the right status, resumed, and sent later if need be."""

from __future__ import annotations

import os
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from medidiff.errors import OutputError, RegistryError
from medidiff.tracking.delivery import Courier, log
from medidiff.tracking.guard import Guard, flat, key_of, text_of
from medidiff.tracking.journal import Journal, now_ms
from medidiff.tracking.process import this_process
from medidiff.tracking.record import RunRecord, read_record, write_record
from medidiff.tracking.sender import Sender, within
from medidiff.tracking.store import UnavailableError
from medidiff.tracking.system import SystemMetrics

Ending = Literal["FINISHED", "FAILED", "KILLED"]

START_LIMIT_S = 30.0
FINISH_LIMIT_S = 600.0
KILL_LIMIT_S = 10.0
"""A cluster sends SIGKILL some 30 s after SIGTERM, of which the checkpoint needs its part."""


class Run:
    """An open run, made by `open_run`. All of it works whether or not the store answers."""

    def __init__(self, folder: Path, journal: Journal, guard: Guard) -> None:
        self.folder = folder
        self._journal = journal
        self._guard = guard
        self._metrics: dict[str, str] = {}
        self._courier = Courier(folder, journal)
        self._sender = Sender(self._courier)
        created_ms = self._record.created_ms
        self._system = SystemMetrics(
            # seconds since the run was made: goes on by itself when the run is resumed
            lambda values: self._write_metrics(values, (now_ms() - created_ms) // 1000)
        )

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None while no store has answered."""
        return self._record.run_id

    @property
    def key(self) -> str:
        """Our own id of the run, known from the start (tag `medidiff.key`)."""
        return self._record.key

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log numbers at `step`. Returns at once; nan and infinity are kept."""
        named = {self._metric(key): float(value) for key, value in metrics.items()}
        self._write_metrics(named, step)

    def picture(self, path: str | os.PathLike[str], name: str, step: int) -> None:
        """Log a picture of synthetic or public images as `pictures/NAME/STEP.png`."""
        target = f"pictures/{self._file(name)}/{step:08d}{Path(path).suffix}"
        self._write_file("picture", path, target)

    def artifact(self, path: str | os.PathLike[str], name: str | None = None) -> None:
        """Log a file or folder as `name` (default: its own name); `fetch` looks for `model`.

        The journal holds where it is, not what is in it: leave it there until it is delivered.
        """
        self._write_file("artifact", path, self._file(name or Path(path).name))

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags, such as a digest or a version."""
        self._guard.check_values("tag", tags)
        self._journal.append("tags", {"tags": {key_of(key): value for key, value in tags.items()}})

    def flush(self, limit_s: float = 60.0) -> bool:
        """Deliver what is pending now; True if the store has everything."""
        return self._sender.flush(limit_s)

    def start(self) -> None:
        """Begin to deliver, and to measure the load of the machine."""
        self._sender.start(START_LIMIT_S)
        self._system.start()

    def close(self, status: Ending) -> None:
        """Write how the run ended and give the store time to learn it."""
        moment = now_ms()
        self._system.stop()
        self._journal.append("status", {"status": status}, time_ms=moment)
        if status != "FINISHED":
            # first of all: whatever else is pending may take longer than there is
            within(KILL_LIMIT_S, lambda: self._courier.set_status(status, moment))
        self._sender.flush(FINISH_LIMIT_S if status == "FINISHED" else KILL_LIMIT_S)
        self._sender.stop()
        self._journal.close()

    @property
    def _record(self) -> RunRecord:
        record = read_record(self.folder)
        if record is None:
            raise OutputError(f"{self.folder}/run.json was removed while the run went on")
        return record

    def _metric(self, key: str) -> str:
        if key not in self._metrics:  # checked once, not at every step
            self._guard.check("the name of a metric", key)
            self._metrics[key] = key_of(key)
        return self._metrics[key]

    def _file(self, name: str) -> str:
        self._guard.check_file("the name of a file", name)
        return key_of(name)

    def _write_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self._journal.append("metrics", {"metrics": dict(metrics), "step": step})

    def _write_file(
        self, kind: Literal["picture", "artifact"], path: str | os.PathLike[str], target: str
    ) -> None:
        source = Path(path).absolute()
        if not source.exists():
            raise FileNotFoundError(f"{target}: there is no file {source} to log")
        inside = source.is_relative_to(self.folder)
        # relative, so that the folder may be moved before it is synchronised
        stored = source.relative_to(self.folder) if inside else source
        self._journal.append(kind, {"path": str(stored), "name": target})


@contextmanager
def open_run(
    folder: str | os.PathLike[str],
    *,
    name: str,
    experiment: str,
    params: Mapping[str, Any],
    tags: Mapping[str, str] | None = None,
    resume: bool = False,
    subjects: Collection[str] = (),
) -> Iterator[Run]:
    """A run of `experiment`, kept in `folder`, for the length of a `with` block.

    Ends as FINISHED; KILLED on KeyboardInterrupt and on errors with `killed = True`; else FAILED.
    `params` may be nested. `resume` goes on with the run in `folder` under its id, if there is one.
    `subjects`: names that must not be logged, such as those of the manifest.
    Errors: OutputError if the folder holds a run (and not `resume`), or a process is writing to it;
    PrivacyError for params or tags that may name a patient.
    """
    place = Path(folder).absolute()
    guard = Guard(subjects)
    flat_params, own_tags = flat(params), {**_software(), **(tags or {})}
    guard.check_values("param", flat_params)
    guard.check_values("tag", own_tags)
    guard.check("the name of the run", name)
    guard.check("the name of the experiment", experiment)
    resumed = _take(place, name, experiment, resume)
    journal = Journal(place)
    texts = {key: text_of(value) for key, value in flat_params.items()}
    if resumed:
        journal.append("status", {"status": "RUNNING"})
        texts, changed = _unchanged(journal, texts)
        own_tags |= {f"changed.{key}": value for key, value in changed.items()}
    journal.append("params", {"params": texts})
    journal.append("tags", {"tags": {key_of(key): value for key, value in own_tags.items()}})
    run = Run(place, journal, guard)
    run.start()
    try:
        yield run
    except BaseException as error:
        # the class only: the text of an error may name a file
        journal.append("tags", {"tags": {"medidiff.error": type(error).__name__}})
        run.close(_ending(error))
        raise
    run.close("FINISHED")


def sync(folder: str | os.PathLike[str]) -> int:
    """Send what is pending in `folder` and in every run below it; returns how many events.

    Runs that a process of this host is writing are left to that process.
    Errors: RegistryError if the store cannot be used; OutputError if there is no run.
    """
    place = Path(folder).absolute()
    runs = sorted(file.parent for file in place.rglob("run.json"))
    if not runs:
        raise OutputError(f"{place} holds no run: there is no run.json in it or below it")
    return sum(_sync_one(run) for run in runs)


def close_lost(folder: str | os.PathLike[str]) -> bool:
    """Mark the run in `folder` KILLED if its process died without a word; True if it was so.

    Runs of another host are left alone: nothing is known of their process here.
    """
    place = Path(folder).absolute()
    record = read_record(place)
    if record is None or not record.process.is_gone():
        return False
    if _status(place) not in (None, "RUNNING"):
        return False
    _end(place, record, "KILLED")
    return True


def is_broken_off(folder: str | os.PathLike[str]) -> bool:
    """Whether `folder` holds a run that has not FINISHED and whose process surely is gone."""
    place = Path(folder).absolute()
    record = read_record(place)
    return record is not None and record.process.is_gone() and _status(place) != "FINISHED"


def complete(
    folder: str | os.PathLike[str], model: str | os.PathLike[str], tags: Mapping[str, str]
) -> bool:
    """End the run in `folder` as FINISHED with its `model`, if its process did not come to it.

    True if it was so; False if the run had ended well, or there is none.
    Errors: OutputError if a process of this host is writing it.
    """
    place = Path(folder).absolute()
    record = read_record(place)
    if record is None or _status(place) == "FINISHED":
        return False
    _check_idle(place, record)
    Guard().check_values("tag", tags)
    journal = Journal(place)
    stored = Path(model).absolute().relative_to(place)
    journal.append("artifact", {"path": str(stored), "name": "model"})
    journal.append("tags", {"tags": {key_of(key): value for key, value in tags.items()}})
    _end(place, record, "FINISHED")
    return True


def _status(place: Path) -> str | None:
    """What the run said last of itself."""
    said = [event.body["status"] for event in Journal(place).events() if event.kind == "status"]
    return said[-1] if said else None


def _end(place: Path, record: RunRecord, status: Ending) -> None:
    """Write how a run ended that cannot write it any more, and send it if there is a store."""
    journal = Journal(place)
    events = journal.events()
    moment = events[-1].time_ms if events else record.created_ms
    journal.append("status", {"status": status}, time_ms=moment)
    journal.close()
    try:
        Courier(place, journal).deliver()
    except UnavailableError as error:
        log.warning("MLflow cannot be used: %s. `medidiff sync %s` sends it later", error, place)


def _check_idle(place: Path, record: RunRecord) -> None:
    """Errors: OutputError if another process of this host is writing the run."""
    if record.process.is_here() and record.process != this_process():
        raise OutputError(
            f"{place}: process {record.process.pid} of this host is writing this run; "
            "wait for it or stop it"
        )


def _sync_one(place: Path) -> int:
    record = read_record(place)
    if record is None or (record.process.is_here() and record.process != this_process()):
        return 0
    try:
        return Courier(place, Journal(place)).deliver()
    except UnavailableError as error:
        raise RegistryError(
            f"{place}: nothing was lost, but MLflow cannot be used: {error}"
        ) from error


def _take(place: Path, name: str, experiment: str, resume: bool) -> bool:
    """Make the folder this process's; True if it goes on with a run that is there."""
    me = this_process()
    found = read_record(place)
    if found is None:
        place.mkdir(parents=True, exist_ok=True)
        write_record(place, RunRecord(uuid.uuid4().hex, name, experiment, now_ms(), me))
        return False
    if not resume:
        raise OutputError(f"{place} already holds a run; resume it or name another folder")
    _check_idle(place, found)
    write_record(place, replace(found, process=me))
    return True


def _unchanged(journal: Journal, texts: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Params as before, and those that differ: MLflow lets nobody change a param."""
    before: dict[str, str] = {}
    for event in journal.events():
        if event.kind == "params":
            before |= event.body["params"]
    changed = {key: text for key, text in texts.items() if before.get(key, text) != text}
    return {key: text for key, text in texts.items() if key not in changed}, changed


def _software() -> dict[str, str]:
    found = {"medidiff.version": metadata.version("medidiff")}
    job = os.environ.get("SLURM_JOB_ID")
    return found | ({"slurm.job_id": job} if job else {})


def _ending(error: BaseException) -> Ending:
    if isinstance(error, KeyboardInterrupt) or getattr(error, "killed", False) is True:
        return "KILLED"
    if isinstance(error, SystemExit) and not error.code:
        return "FINISHED"
    return "FAILED"
