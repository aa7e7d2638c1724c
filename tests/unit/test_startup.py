"""What must not be imported before it is needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "monai", "mlflow", "pydantic", "numpy", "matplotlib")


def modules_after(code: str) -> set[str]:
    text = f"{code}\nimport sys; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import medidiff; medidiff.__version__",
        "import medidiff.cli",
        "import sys; sys.argv = ['medidiff', '--help']\n"
        "import medidiff.cli, contextlib, io\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    medidiff.cli.main()",
    ],
    ids=["import", "cli", "help"],
)
def test_nothing_heavy_is_imported_before_a_verb_runs(code: str) -> None:
    assert not modules_after(code) & set(HEAVY)


def test_every_public_name_can_be_had_from_the_package() -> None:
    import medidiff

    for name in medidiff.__all__:
        assert getattr(medidiff, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = medidiff.trian  # type: ignore[attr-defined]
