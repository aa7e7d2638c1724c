"""A run's folder: what lies where, and that nothing in it is overwritten.

config.yaml       the resolved configuration
origin.json       digests of the scans and the parent that it was started with
run.json          MLflow run, process (see tracking)
journal.jsonl     all that was logged, also where no server is reached
checkpoints/      what a resumed run needs
snapshots/        averaged weights of some steps, where the length is chosen afterwards
samples/          sample grids during training
model/            the finished model
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from medidiff import options
from medidiff.config import Config, Loaded, dump_config, load_config
from medidiff.data.rows import first_problems
from medidiff.errors import ModelError, OutputError
from medidiff.model_folder import check_folder, folder_digest, write_json
from medidiff.networks import FittedAutoencoder
from medidiff.outputs import check_new_folder
from medidiff.spec import ModelSpec
from medidiff.tracking import close_lost, complete, is_broken_off
from medidiff.training.checkpoint import ended


@dataclass(frozen=True)
class RunFolder:
    """The places in a run's folder."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def origin(self) -> Path:
        return self.path / "origin.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def snapshots(self) -> Path:
        return self.path / "snapshots"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def model(self) -> Path:
        return self.path / "model"


def check_new(path: Path) -> None:
    """Errors: OutputError if the folder already holds results."""
    advice = "name another folder (--change output=...), or go on with that run by adding --resume"
    check_new_folder(path, advice, "results")


def new_folder(run: RunFolder, loaded: Loaded, spec: ModelSpec) -> None:
    """Make the folder of a new run: its configuration with every default, and its origin."""
    run.path.mkdir(parents=True, exist_ok=True)
    run.config.write_text(dump_config(_placed(loaded)), encoding="utf-8")
    write_json(run.origin, _origin(spec))


def check_origin(run: RunFolder, spec: ModelSpec) -> None:
    """Errors: OutputError if the run was started from other scans or another parent."""
    before = json.loads(run.origin.read_text(encoding="utf-8"))
    now = _origin(spec)
    changed = [name.replace("_", " ") for name in before if before[name] != now[name]]
    if changed:
        raise OutputError(
            f"{run.path} was started with another {' and another '.join(changed)}. Resume it with "
            "what it was started with (also --from), or start a new run in another folder."
        )


def _origin(spec: ModelSpec) -> dict[str, str | None]:
    codec = spec.codec.source if isinstance(spec.codec, FittedAutoencoder) else None
    return {
        "manifest": spec.lineage.manifest_digest,
        "parent_model": spec.lineage.parent,
        "autoencoder": codec,
    }


def folder_to_resume(path: Path, loaded: Loaded) -> RunFolder:
    """The folder of a run with the same configuration.

    Errors: OutputError if there is no run, or it was started with another configuration.
    """
    run = RunFolder(path)
    if not run.config.is_file():
        raise OutputError(f"{path} holds no run to resume; start it without --resume")
    before, now = _fixed(load_config(run.config).config), _fixed(_placed(loaded))
    changed = [
        f"{each.key}: {each.old} when it was started, now {each.new}"
        for each in options.differences(before, now)
    ]
    if changed:
        told = [
            f"{path} was started with another configuration. What differs:",
            *first_problems(changed),
            "Resume with the same file and changes, or start a new run in another folder (--change "
            "output=...). Only train.minutes may differ.",
        ]
        raise OutputError("\n".join(told))
    return run


def close_interrupted(path: Path) -> bool:
    """Give the run in `path` the end that its process did not come to; True if it thereby FINISHED.

    A run whose model lies in its folder is done, though it may have died before the model was
    logged: that is made up for. One without a model is KILLED. Nothing happens while its process
    may live, or where there is no run.
    """
    run = RunFolder(path)
    if is_broken_off(path) and _is_whole(run.model):
        return deliver_model(run)
    close_lost(path)
    return False


def _is_whole(model: Path) -> bool:
    try:
        check_folder(model)
    except ModelError:
        return False
    return True


def deliver_model(run: RunFolder) -> bool:
    """Log the model of a run that was interrupted after saving it; False if that was done before.

    Errors: ModelError if the model is not whole; OutputError if a process is writing the run.
    """
    check_folder(run.model)
    tags = {"model_digest": folder_digest(run.model), "ended": ended(run.checkpoints)}
    return complete(run.path, run.model, tags)


def _placed(loaded: Loaded) -> Config:
    """The configuration with its manifest's place made independent of the file's."""
    data = dataclasses.replace(loaded.config.data, manifest=str(loaded.manifest.resolve()))
    return dataclasses.replace(loaded.config, data=data)


def _fixed(config: Config) -> object:
    """What may not change while a training goes on."""
    free = dataclasses.replace(config.train, minutes=None)
    return options.tree(dataclasses.replace(config, train=free))
