from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from medidiff.errors import RegistryError
from medidiff.tracking import PrivacyError, fetch, open_run, register
from medidiff.tracking.registry import SERVED

if TYPE_CHECKING:
    from mlflow import MlflowClient

FILES = {"model.json", "model.safetensors", "card.md"}


def test_a_registered_model_comes_back_by_alias_by_number_and_by_run(
    store: MlflowClient, model_folder: Path, tmp_path: Path
) -> None:
    with open_run(tmp_path / "run", name="r", experiment="brain", params={}) as run:
        run_id = run.run_id
    assert register(model_folder, "brain", run_id=run_id) == 1
    (model_folder / "card.md").write_text("# the second\n")
    assert register(model_folder, "brain", alias="champion", tags={"site": "north"}) == 2
    first, second = fetch("models:/brain/1"), fetch("models:/brain@champion")
    assert {file.name for file in second.iterdir()} == FILES
    assert (first / "card.md").read_text() == "# a model\n"
    assert (second / "card.md").read_text() == "# the second\n"
    assert fetch(f"runs:/{run_id}") == first
    assert fetch(str(run_id)) == first
    version = store.get_model_version_by_alias("brain", "champion")
    assert version.tags["site"] == "north"
    assert version.status == "READY"


def test_a_model_is_linked_to_the_run_that_trained_it_where_the_store_has_that_run(
    store: MlflowClient, model_folder: Path, tmp_path: Path
) -> None:
    with open_run(tmp_path / "run", name="r", experiment="brain", params={}) as run:
        run_id = run.run_id
    (model_folder / "model.json").write_text(json.dumps({"run_id": run_id}))
    register(model_folder, "brain")
    assert store.get_model_version("brain", "1").run_id == run_id
    (model_folder / "model.json").write_text(json.dumps({"run_id": "0" * 32}))
    register(model_folder, "brain")
    assert not store.get_model_version("brain", "2").run_id
    with pytest.raises(RegistryError, match="has no run"):
        register(model_folder, "brain", run_id="0" * 32)


def test_a_second_fetch_downloads_nothing(
    store: MlflowClient, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow.artifacts

    register(model_folder, "brain", alias="champion")
    first = fetch("models:/brain@champion")
    monkeypatch.setattr(
        mlflow.artifacts, "download_artifacts", lambda **_: pytest.fail("downloaded again")
    )
    assert fetch("models:/brain@champion") == first


def test_a_run_with_a_model_folder_gives_it(
    store: MlflowClient, model_folder: Path, tmp_path: Path
) -> None:
    with open_run(tmp_path / "run", name="r", experiment="brain", params={}) as run:
        with pytest.raises(RegistryError, match="has no model"):
            fetch(f"runs:/{run.run_id}")
        run.artifact(model_folder, "model")
        run.flush()
        assert {file.name for file in fetch(f"runs:/{run.run_id}").iterdir()} == FILES
        (model_folder / "card.md").write_text("# better\n")
        run.artifact(model_folder, "model")
        run.flush()
        assert (fetch(f"runs:/{run.run_id}/model") / "card.md").read_text() == "# better\n"


def test_a_name_used_again_after_deletion_gives_the_new_model(
    store: MlflowClient, model_folder: Path
) -> None:
    register(model_folder, "brain")
    fetch("models:/brain/1")
    store.delete_registered_model("brain")
    (model_folder / "card.md").write_text("# new\n")
    register(model_folder, "brain")
    assert (fetch("models:/brain/1") / "card.md").read_text() == "# new\n"


def test_asking_where_there_is_no_database_makes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RegistryError, match=r"no database .*mlflow\.db; .* MLFLOW_TRACKING_URI"):
        fetch("models:/brain@champion")
    assert not list(tmp_path.iterdir())


def test_errors_say_what_there_is(store: MlflowClient, model_folder: Path) -> None:
    with pytest.raises(RegistryError, match="none at all"):
        fetch("models:/brain@champion")
    register(model_folder, "brain", alias="champion")
    for uri, words in [
        ("models:/brian/1", "it has brain"),
        ("models:/brain@best", "its aliases: champion"),
        ("models:/brain/7", "its versions: 1"),
        ("models:/brain", "not the address of a model"),
        ("runs:/" + "0" * 32, "has no run"),
    ]:
        with pytest.raises(RegistryError, match=words):
            fetch(uri)


def test_without_a_store_the_error_is_ours(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    for action in (lambda: fetch("models:/x/1"), lambda: register(model_folder, "brain")):
        with pytest.raises(RegistryError, match="no answer") as caught:
            action()
        assert "secret" not in str(caught.value)


def test_a_name_that_mlflow_refuses_is_our_error(store: MlflowClient, model_folder: Path) -> None:
    with pytest.raises(RegistryError, match="registering"):
        register(model_folder, "a/b:c")


def test_a_tag_that_may_name_a_patient_is_refused(store: MlflowClient, model_folder: Path) -> None:
    with pytest.raises(PrivacyError):
        register(model_folder, "brain", tags={"source": "/data/doe"})
    assert not store.search_registered_models()


def test_no_path_of_this_machine_is_in_what_is_registered(
    store: MlflowClient, model_folder: Path, tmp_path: Path
) -> None:
    from mlflow.artifacts import download_artifacts

    register(model_folder, "brain")
    place = Path(download_artifacts("models:/brain/1", dst_path=str(tmp_path / "all")))
    own = (str(tmp_path), str(Path.cwd()), str(Path.home()), "/tmp/", str(SERVED))
    for file in place.rglob("*"):
        if file.is_file():
            text = file.read_text(errors="replace")
            assert not [path for path in own if path in text], file.name


def test_the_served_model_answers_row_by_row(store: MlflowClient, model_folder: Path) -> None:
    import numpy as np
    import pandas as pd
    from mlflow import pyfunc, set_tracking_uri
    from mlflow.exceptions import MlflowException

    register(model_folder, "brain", alias="champion")
    set_tracking_uri(store.tracking_uri)
    served = pyfunc.load_model("models:/brain@champion")
    rows = pd.DataFrame({"seed": [3, 5], "sex": ["f", None], "age": [60.0, 70.0]})
    images = served.predict(rows, params={"steps": 7, "sampler": "ddim"})
    assert images.dtype == np.float32
    assert images.shape == (2, 1, 2, 3)
    assert images[:, 0, 0, 0].tolist() == [3, 5]
    asked = served.unwrap_python_model().model.asked
    assert [one["condition"] for one in asked] == [{"sex": "f", "age": 60.0}, {"age": 70.0}]
    assert {(one["steps"], one["guidance"], type(one["sampler"]).__name__) for one in asked} == {
        (7, 1.0, "DDIM")
    }
    served.predict(pd.DataFrame({"seed": [1]}))
    assert asked[-1] == {
        "seed": 1,
        "condition": None,
        "steps": 20,
        "guidance": 1.0,
        "sampler": None,
    }
    with pytest.raises(MlflowException, match="there is no sampler 'magic'"):
        served.predict(pd.DataFrame({"seed": [1]}), params={"sampler": "magic"})
