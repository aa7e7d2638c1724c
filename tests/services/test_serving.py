"""MLflow's own servers: a tracking server over HTTP, and a registered model behind REST."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from medidiff.data.intensity import FittedIntensity
from medidiff.data.transforms import Space
from medidiff.diffusion import DDIM
from medidiff.model import Model
from medidiff.networks import ClassCondition, NetworkShape, UNetOptions, build
from medidiff.spec import ModelSpec
from medidiff.tracking import fetch, open_run, register, sync

pytestmark = [pytest.mark.services, pytest.mark.slow]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def serving(command: list[str], port: int, folder: Path, health: str) -> Iterator[str]:
    """A server on loopback, up when `health` answers and stopped by its own process group."""
    address = f"http://127.0.0.1:{port}"
    log = folder / f"server-{port}.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *command, "--host", "127.0.0.1", "--port", str(port)],
            stdout=stream,
            stderr=stream,
            cwd=folder,
            # `mlflow models serve` looks for uvicorn on the PATH
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            start_new_session=True,  # MLflow's workers are its children
        )
    try:
        limit = time.monotonic() + 300
        while not answers(address + health):
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < limit, log.read_text()[-2000:]
            time.sleep(0.3)
        yield address
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):  # it ended by itself
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def asked(address: str, body: object) -> tuple[int, object]:
    request = urllib.request.Request(
        f"{address}/invocations",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.fixture(scope="module")
def running_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    command = ["server", "--backend-store-uri", f"sqlite:///{folder}/server.db"]
    command += ["--artifacts-destination", str(folder / "artifacts"), "--workers", "1"]
    with serving(command, free_port(), folder, "/health") as address:
        yield address


@pytest.fixture
def server(running_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MEDIDIFF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", running_server)
    return running_server


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The smallest prior that can be sampled: random weights, 8 x 8 pixels, one condition."""
    shape = NetworkShape(conditions=(ClassCondition(name="sex", values=("f", "m")),))
    network = UNetOptions(channels=(8, 16), blocks=1, attention=(False, False), groups=4)
    spec = ModelSpec(
        name="tiny",
        modality="MR",
        images=("t1",),
        space=Space(dims=2, size=(8, 8), spacing_mm=(1.0, 1.0), orientation="RA"),
        intensity=FittedIntensity((0.0,), (100.0,), "train", None, (-1.0, 1.0)),
        network=network,
        shape=shape,
    )
    return Model(spec, build(network, shape)).save(tmp_path / "run" / "model")


def test_a_model_goes_from_a_run_through_the_registry_to_a_rest_answer(
    server: str, model: Path, tmp_path: Path
) -> None:
    with open_run(tmp_path / "run", name="tiny", experiment="brain", params={"lr": 1}) as run:
        run.log({"loss": 1.0}, 1)
        run.artifact(model, "model")
        run_id = run.run_id
    assert run_id is not None
    assert register(model, "brain", alias="champion", run_id=run_id) == 1
    for uri in ("models:/brain@champion", "models:/brain/1", f"runs:/{run_id}"):
        assert Model.load(fetch(uri), "cpu").spec.name == "tiny"

    command = ["models", "serve", "--model-uri", "models:/brain@champion"]
    command += ["--env-manager", "local", "--workers", "1"]
    with serving(command, free_port(), tmp_path, "/ping") as address:
        rows = {"columns": ["seed", "sex"], "data": [[3, "f"], [4, None], [3, "f"]]}
        body = {"dataframe_split": rows, "params": {"steps": 3, "sampler": "ddim"}}
        status, answer = asked(address, body)
        assert status == 200, answer
        assert isinstance(answer, dict)
        images = np.asarray(answer["predictions"])
        assert images.shape == (3, 1, 8, 8)
        assert np.array_equal(images[0], images[2])
        assert not np.array_equal(images[0], images[1])
        direct = Model.load(model, "cpu").sample(
            condition={"sex": "f"}, seed=3, steps=3, sampler=DDIM()
        )
        assert np.allclose(images[:1], direct.images.numpy(), atol=1e-3)  # of 100

        status, answer = asked(address, {"dataframe_records": [{"seed": 1, "sex": "x"}]})
        assert status == 400
        assert "must be one of" in str(answer)
        status, answer = asked(address, {"dataframe_records": [{"sex": "f"}]})
        assert status == 400


def test_a_run_made_without_the_server_is_sent_to_it_later(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    with open_run(tmp_path / "r", name="offline", experiment="brain", params={"lr": 1}) as run:
        run.log({"loss": 0.5}, 1)
    assert run.run_id is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    assert sync(tmp_path / "r") > 0
    assert run.run_id is not None
    found = MlflowClient(server).get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.metrics == {"loss": 0.5}
    assert found.data.params == {"lr": "1"}
