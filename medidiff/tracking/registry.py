"""Models in MLflow's registry: a model folder in, the same folder out.

MLflow's own loader is never called, so nothing in a model is executed or unpickled.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from medidiff.errors import RegistryError
from medidiff.tracking.guard import Guard
from medidiff.tracking.signature import signature_of
from medidiff.tracking.store import (
    UnavailableError,
    check_exists,
    connect,
    experiment_id,
    home,
    is_missing,
    reason_of,
    redacted,
    store_uri,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models import ModelSignature

EXPERIMENT = "medidiff"
"""Where a model goes that comes from no run."""
FOLDER = "artifacts/model"
"""The model folder inside MLflow's pyfunc folder."""
SERVED = Path(__file__).resolve().parent.parent / "serve.py"

Answer = TypeVar("Answer")


def register(
    folder: str | Path,
    name: str,
    *,
    alias: str | None = None,
    run_id: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> int:
    """Register the model in `folder` as the next version of `name`; returns the version.

    `mlflow models serve` serves it and `fetch` brings it back. `alias` is moved to it. It is linked
    to the run `run_id` (default: the one that trained it, where the store has that run).
    Errors: ModelError if the folder is not a whole model; RegistryError if MLflow refuses or is
    not there; PrivacyError for a name or tags that may name a patient.
    """
    from medidiff.model_folder import check_folder, read_spec

    place = Path(folder)
    check_folder(place)
    spec = read_spec(place)
    own_tags = {"medidiff.version": metadata.version("medidiff"), **(tags or {})}
    guard = Guard()
    guard.check("the name of the model", name)
    guard.check_values("tag", own_tags)
    uri = store_uri()
    client = _client(uri)

    def act() -> int:
        _make_name(client, name)  # first, because MLflow may refuse it
        run = _run(client, run_id or spec.lineage.run_id)
        if run is None and run_id is not None:
            raise RegistryError(f"{redacted(uri)} has no run {run_id}")
        source = run.info.run_id if run else None
        experiment = run.info.experiment_id if run else experiment_id(client, uri, EXPERIMENT)
        logged = client.create_logged_model(
            experiment, name=re.sub(r"[/:.%\"']", "_", name), source_run_id=source, tags=own_tags
        )
        try:
            with tempfile.TemporaryDirectory() as scratch:
                packed = _packed(place, Path(scratch) / "pyfunc", signature_of(spec))
                client.log_model_artifacts(logged.model_id, str(packed))
        except BaseException:
            client.finalize_logged_model(logged.model_id, "FAILED")
            raise
        client.finalize_logged_model(logged.model_id, "READY")
        version = client.create_model_version(
            name,
            f"models:/{logged.model_id}",
            run_id=source,
            tags=own_tags,
            model_id=logged.model_id,
        )
        if alias is not None:
            client.set_registered_model_alias(name, alias, version.version)
        return int(version.version)

    return _asked(uri, f"registering {name!r}", act)


def fetch(uri: str) -> Path:
    """A local copy of the model folder at `uri`, kept under MEDIDIFF_HOME/cache.

    `uri`: `models:/name@alias`, `models:/name/3`, `runs:/ID`, or a run id alone.
    Errors: RegistryError if there is no such name, alias, version or run (it says which there
    are), or no store.
    """
    store = store_uri()
    client = _reader(store)

    def act() -> Path:
        named = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))", uri)
        if named:
            return _fetch_version(store, _version(client, store, *named.groups()))
        run = re.fullmatch(r"(?:runs:/)?([0-9a-f]{32})(?:/model)?", uri)
        if run:
            return _fetch_run(client, store, run[1])
        raise RegistryError(
            f"{uri!r} is not the address of a model: write models:/NAME@ALIAS, "
            "models:/NAME/VERSION or runs:/RUN_ID"
        )

    return _asked(store, f"fetching {uri!r}", act)


def _version(
    client: MlflowClient, store: str, name: str, alias: str | None, number: str | None
) -> ModelVersion:
    from mlflow.exceptions import MlflowException

    try:
        model = client.get_registered_model(name)
    except MlflowException as error:
        if not is_missing(error):
            raise
        known = [model.name for model in client.search_registered_models(max_results=20)]
        raise RegistryError(
            f"{redacted(store)} has no model {name!r}; it has {', '.join(known) or 'none at all'}"
        ) from None
    if alias is not None:
        if alias not in model.aliases:
            known = ", ".join(sorted(model.aliases)) or "none"
            raise RegistryError(f"model {name!r} has no alias {alias!r}; its aliases: {known}")
        return client.get_model_version(name, model.aliases[alias])
    versions = client.search_model_versions(f"name = '{name}'")
    for version in versions:
        if str(version.version) == number:
            return version
    known = ", ".join(sorted((str(version.version) for version in versions), key=int)) or "none"
    raise RegistryError(f"model {name!r} has no version {number}; its versions: {known}")


def _fetch_version(store: str, version: ModelVersion) -> Path:
    # a name that was deleted and used again begins at version 1 again
    place = _cache(store, version.name, f"{version.version}-{version.creation_timestamp}")
    if not place.exists():
        _download(f"models:/{version.name}/{version.version}/{FOLDER}", store, place)
    return place


def _fetch_run(client: MlflowClient, store: str, run_id: str) -> Path:
    run = _run(client, run_id)
    if run is None:
        raise RegistryError(f"{redacted(store)} has no run {run_id}")
    if any(entry.path == "model" for entry in client.list_artifacts(run_id)):
        place = _cache(store, "runs", f"{run_id}-{run.info.end_time or 'open'}")
        if run.info.end_time is None or not place.exists():  # an open run may still change it
            _download(f"runs:/{run_id}/model", store, place)
        return place
    versions = client.search_model_versions(f"run_id = '{run_id}'")
    if not versions:
        raise RegistryError(
            f"run {run_id} ({run.info.status}) has no model: it logged no folder `model` and no "
            "version was registered from it"
        )
    return _fetch_version(store, max(versions, key=lambda found: int(found.version)))


def _run(client: MlflowClient, run_id: str | None) -> Run | None:
    """The run, or None if the store has no such run."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id) if run_id is not None else None
    except MlflowException as error:
        if not is_missing(error):
            raise
        return None


def _download(uri: str, store: str, place: Path) -> None:
    from mlflow.artifacts import download_artifacts

    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
        got = Path(download_artifacts(artifact_uri=uri, dst_path=scratch, tracking_uri=store))
        if not (got / "model.json").is_file():
            raise RegistryError(f"{uri} is not a medidiff model: it holds no model.json")
        if place.exists():
            shutil.rmtree(place)
        got.rename(place)


def _cache(store: str, *parts: str) -> Path:
    folder = hashlib.sha256(redacted(store).encode()).hexdigest()[:12]
    return home().joinpath("cache", folder, *(re.sub(r"[^\w.-]", "_", part) for part in parts))


def _packed(folder: Path, place: Path, signature: ModelSignature) -> Path:
    """MLflow's own folder around a copy of the model folder: code, signature, requirements."""
    import yaml
    from mlflow import pyfunc

    with warnings.catch_warnings():
        # of a missing input example: the signature is ours, so MLflow need not run the model
        warnings.filterwarnings("ignore", category=UserWarning, module="mlflow")
        pyfunc.save_model(
            str(place),
            python_model=str(SERVED),
            artifacts={"model": str(folder.absolute())},
            signature=signature,
            # named, because MLflow would otherwise run the model to see what it imports
            pip_requirements=[f"medidiff=={metadata.version('medidiff')}"],
        )
    described = place / "MLmodel"
    content = yaml.safe_load(described.read_text(encoding="utf-8"))
    flavor = content["flavors"]["python_function"]
    for artifact in flavor["artifacts"].values():
        artifact["uri"] = artifact["path"]  # MLflow writes the paths on this machine
    if "model_code_path" in flavor:
        flavor["model_code_path"] = Path(flavor["model_code_path"]).name
    described.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return place


def _make_name(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if getattr(error, "error_code", None) != "RESOURCE_ALREADY_EXISTS":
            raise


def _reader(uri: str) -> MlflowClient:
    try:
        check_exists(uri)
    except UnavailableError as error:
        raise RegistryError(str(error)) from None
    return _client(uri)


def _client(uri: str) -> MlflowClient:
    try:
        return connect(uri)
    except UnavailableError as error:
        raise RegistryError(f"MLflow cannot be used: {error}") from error


def _asked(store: str, what: str, action: Callable[[], Answer]) -> Answer:
    """The store's own errors in the user's words."""
    from mlflow.exceptions import MlflowException

    try:
        return action()
    except MlflowException as error:
        raise RegistryError(f"{what}: {redacted(store)} said: {reason_of(error)}") from error
