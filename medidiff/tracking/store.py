"""The way to MLflow: which store, without telemetry, and whether it answers.

MLflow takes seconds to import and may be absent, so it is imported inside functions only.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

CONNECT_S = 3.0
ANSWER_S = 10.0

# What the store will refuse again however often it is asked (MLflow's error codes).
_REFUSALS = frozenset(
    {
        "BAD_REQUEST",
        "INVALID_PARAMETER_VALUE",
        "INVALID_STATE",
        "RESOURCE_ALREADY_EXISTS",
        "RESOURCE_DOES_NOT_EXIST",
    }
)

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    # the journal waits better than MLflow does: its 7 retries take four minutes
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    # a command's output is its own
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}

# A first sqlite store tells of each of its 50 migrations, a registration that it may take 300 s.
_CHATTY = ("alembic", "mlflow.store.db.utils", "mlflow.store.model_registry.abstract_store")


class UnavailableError(Exception):
    """The store cannot be used now: no MLflow here, no answer, or no permission."""


def connect(uri: str) -> MlflowClient:
    """A client of the store at `uri`, after a sign of life from it.

    Errors: UnavailableError.
    """
    _prepare_environment()
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    except ImportError as error:
        raise UnavailableError(f"MLflow cannot be imported here ({error})") from error
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    if uri.startswith(("http://", "https://")):
        _check_answers(uri)
    try:
        with _alone(uri):
            return MlflowClient(uri, registry_uri=os.environ.get("MLFLOW_REGISTRY_URI"))
    except (MlflowException, *_database_errors()) as error:
        raise UnavailableError(reason_of(error)) from error


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """No other process makes the tables of a local database meanwhile: MLflow's own lock lets a
    second one see half of them.

    The folder is locked, so that no file is left behind. Where a file system knows no such locks
    things are as they were without.
    """
    with ExitStack() as held:
        with suppress(OSError, ImportError):  # Windows has no fcntl
            import fcntl

            if uri.startswith("sqlite:///"):
                folder = os.open(Path(uri.removeprefix("sqlite:///")).parent, os.O_RDONLY)
                held.callback(os.close, folder)
                fcntl.flock(folder, fcntl.LOCK_EX)
        yield


def _database_errors() -> tuple[type[Exception], ...]:
    """What a first connection raises beside MLflow's own errors: it makes the tables."""
    from alembic.util import CommandError
    from sqlalchemy.exc import SQLAlchemyError

    return CommandError, SQLAlchemyError


def reason_of(error: Exception) -> str:
    """What went wrong, in a line without SQL or passwords."""
    text = redacted(str(error)).partition("[SQL:")[0].strip()
    if "database is locked" in text:
        return "another process is writing the database"
    first = re.sub(r"\(\w+(\.\w+)+\) ", "", text).partition("\n")[0]
    return first or type(error).__name__


def check_exists(uri: str) -> None:
    """What only reads makes no store: MLflow would make an empty database where there is none.

    Errors: UnavailableError for a local database that is not there.
    """
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        raise UnavailableError(
            f"there is no database {redacted(uri)}; go to the folder where the model was "
            "registered, or name the store in MLFLOW_TRACKING_URI"
        )


def store_uri(recorded: str | None = None) -> str:
    """MLFLOW_TRACKING_URI, else `recorded`, else `mlflow.db` in the current folder."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or recorded or "sqlite:///mlflow.db"
    if uri.startswith("sqlite:///") and uri != "sqlite:///:memory:":
        # absolute, so that a run is found again from another folder
        return f"sqlite:///{Path(uri.removeprefix('sqlite:///')).absolute()}"
    return uri.rstrip("/")


def store_address() -> str:
    """The store in use, without password: what a person is told."""
    return redacted(store_uri())


def home() -> Path:
    """medidiff's folder for this user: MEDIDIFF_HOME, else ~/.config/medidiff."""
    return Path(os.environ.get("MEDIDIFF_HOME") or Path.home() / ".config" / "medidiff")


def redacted(text: str) -> str:
    """`text` without the user, password and query of the addresses in it."""
    return re.sub(r"(://[^\s?'\"]*)\?[^\s'\"]*", r"\1", re.sub(r"://[^/\s@]*@", "://", text))


def artifact_location(uri: str, experiment: str) -> str | None:
    """Where an experiment keeps its files: beside a local database, else as the server says."""
    if not uri.startswith("sqlite:///"):
        return None
    folder = re.sub(r"[^\w.-]", "_", experiment)
    return (Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts" / folder).as_uri()


def experiment_id(client: MlflowClient, uri: str, name: str) -> str:
    """The id of the experiment, made if there is none.

    Errors: UnavailableError if it was deleted.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=artifact_location(uri, name))
        except MlflowException:  # another process was quicker
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise UnavailableError(
            f"the experiment {name!r} is deleted in the store: restore it "
            f"(mlflow experiments restore -x {found.experiment_id}) or name another"
        )
    return found.experiment_id


def is_refusal(error: Exception) -> bool:
    """Whether the store has understood and said no, so that asking again is of no use."""
    return getattr(error, "error_code", None) in _REFUSALS


def is_missing(error: Exception) -> bool:
    """Whether the store says that the thing asked for does not exist."""
    return getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST"


def is_trouble(error: Exception) -> bool:
    """Whether it is an error of MLflow, of the network or of the disk, not one of this program."""
    import requests
    from mlflow.exceptions import MlflowException

    trouble = (MlflowException, requests.RequestException, OSError, *_database_errors())
    return isinstance(error, trouble)


def _prepare_environment() -> None:
    # read by MLflow when it is imported or used; a value that the user has set is kept
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def _check_answers(uri: str) -> None:
    import requests

    try:
        requests.get(f"{uri}/health", timeout=(CONNECT_S, ANSWER_S))
    except requests.exceptions.SSLError:
        return  # MLflow has its own certificate settings
    except requests.RequestException as error:
        raise UnavailableError(
            f"no answer from {redacted(uri)} ({type(error).__name__})"
        ) from error
