from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from medidiff.tracking.store import UnavailableError, connect, reason_of, redacted, store_uri


def test_passwords_and_queries_are_taken_out_of_addresses() -> None:
    assert redacted("https://ann:pw@host:5000/x") == "https://host:5000/x"
    assert redacted("postgresql://u:p@db/x?sslpassword=s") == "postgresql://db/x"
    assert redacted("no answer from http://u:p@h (Timeout)") == "no answer from http://h (Timeout)"
    assert redacted("sqlite:////a/b.db") == "sqlite:////a/b.db"


def test_the_environment_goes_before_what_was_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert store_uri() == f"sqlite:///{Path('mlflow.db').absolute()}"
    assert store_uri("http://recorded") == "http://recorded"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://chosen/")
    assert store_uri("http://recorded") == "http://chosen"


def test_a_server_that_does_not_answer_is_noticed_soon() -> None:
    import mlflow  # noqa: F401  # what is imported does not count

    began = time.monotonic()
    with pytest.raises(UnavailableError, match="no answer"):
        connect("http://user:secret@127.0.0.1:9")
    assert time.monotonic() - began < 60  # MLflow alone would try for minutes


def test_importing_tracking_imports_neither_mlflow_nor_torch() -> None:
    code = "import sys, medidiff.tracking; print({'mlflow', 'torch', 'monai'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


def test_telemetry_is_off_before_mlflow_is_imported(empty_database: Path) -> None:
    code = (
        "from medidiff.tracking.store import connect\n"
        "import os, sys; connect(f'sqlite:///{sys.argv[1]}')\n"
        "from mlflow.telemetry.utils import is_telemetry_disabled\n"
        "print(is_telemetry_disabled(), os.environ['DO_NOT_TRACK'])"
    )
    plain = {
        name: value
        for name, value in os.environ.items()
        if name not in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "CI", "PYTEST_CURRENT_TEST")
    }
    out = subprocess.run(
        [sys.executable, "-c", code, str(empty_database)],
        capture_output=True,
        text=True,
        check=True,
        env=plain,
    )
    assert out.stdout.split() == ["True", "true"]


def test_the_tables_of_a_new_database_are_made_by_one_process_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    inside, most = [0], [0]

    def client(*_: object, **__: object) -> None:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.05)
        inside[0] -= 1

    monkeypatch.setattr(mlflow, "MlflowClient", client)
    several = [
        threading.Thread(target=connect, args=[f"sqlite:///{tmp_path}/mlflow.db"]) for _ in range(3)
    ]
    for each in several:
        each.start()
    for each in several:
        each.join()
    assert most == [1]
    assert not [*tmp_path.glob("*lock*")]


def test_what_a_database_says_is_told_without_sql() -> None:
    from sqlalchemy.exc import OperationalError

    def told(what: str) -> str:
        return reason_of(OperationalError("ALTER TABLE metrics", {}, Exception(what)))

    assert told("duplicate column name: step") == "duplicate column name: step"
    assert told("database is locked") == "another process is writing the database"
    assert reason_of(ValueError()) == "ValueError"
    assert reason_of(ValueError("no answer from https://u:p@h\nmore")) == "no answer from https://h"


def test_a_first_connection_that_fails_is_a_store_that_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow
    from alembic.util import CommandError

    def client(*_: object, **__: object) -> None:
        raise CommandError("Online migration expected to match one row")

    monkeypatch.setattr(mlflow, "MlflowClient", client)
    with pytest.raises(UnavailableError, match="migration expected"):
        connect(f"sqlite:///{tmp_path}/mlflow.db")
