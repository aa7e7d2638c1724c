from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medidiff.tracking.store import UnavailableError, connect, redacted, store_uri


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
