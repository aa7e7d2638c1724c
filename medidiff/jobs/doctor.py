"""The verb `doctor`: the conformance suite on the installed package, and what the machine has."""

from __future__ import annotations

import json
import platform
import warnings
from collections import Counter
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import torch

from medidiff.conformance.doctor import MEAN, STD, Findings, Row, examine
from medidiff.errors import OutputError
from medidiff.jobs.reporting import Reporter
from medidiff.networks.kernels import available
from medidiff.outputs import check_file
from medidiff.tracking.store import UnavailableError, connect, store_address, store_uri

PACKAGES = ("medidiff", "monai", "mlflow", "numpy", "pydicom", "nibabel", "triton")


@dataclass(frozen=True)
class Diagnosis:
    """What was found, the environment by name, and what is wrong (nothing: all is well)."""

    findings: Findings
    environment: dict[str, str]

    @property
    def faults(self) -> list[str]:
        """What is wrong, a line each."""
        return self.findings.faults

    @property
    def text(self) -> str:
        """The tables, the environment and the verdict, for a person."""
        lines = [*_table(self.findings.rows), "", *_agreement(self.findings), ""]
        lines += [f"{name:<16} {value}" for name, value in self.environment.items()]
        verdict = "All is well." if not self.faults else f"{len(self.faults)} faults:"
        return "\n".join([*lines, "", verdict, *self.faults])

    def as_json(self) -> str:
        """The same for a program."""
        tree = {
            "well": not self.faults,
            "faults": self.faults,
            "target": {"mean": MEAN, "std": STD},
            "samplers": [asdict(row) for row in self.findings.rows],
            "recordings": [asdict(outcome) for outcome in self.findings.outcomes],
            "environment": self.environment,
        }
        return json.dumps(tree, indent=1)


def diagnose(json_file: Path | None, report: Reporter) -> Diagnosis:
    """Examine the package and the machine; write `json_file` if it is named.

    Errors: OutputError if the file cannot be written.
    """
    if json_file is not None:
        check_file(json_file)
    found = Diagnosis(examine(progress=report.progress), environment())
    if json_file is not None:
        try:
            json_file.write_text(found.as_json() + "\n")
        except OSError as error:
            raise OutputError(f"{json_file} cannot be written: {error.strerror}") from error
    return found


def environment() -> dict[str, str]:
    """Versions, the GPU, the fused kernels and MLflow's answer, as text by name."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said in the line itself
        fused = "yes" if available() else "no (plain torch is used)"
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "CUDA": torch.version.cuda or "none",
        "GPU": gpu,
        "fused kernels": fused if gpu != "none" else "no (no GPU)",
        **{name: _version(name) for name in PACKAGES},
        "MLflow store": f"{store_address()} ({_answer()})",
    }


def _answer() -> str:
    """Whether the store answers. A local database that is not there yet is not made for this."""
    uri = store_uri()
    local = uri.removeprefix("sqlite:///")
    if local != uri and not Path(local).exists():
        return "local, made by the first run"
    try:
        connect(uri).search_experiments(max_results=1)
    except UnavailableError as error:
        return f"not reachable: {error}"
    except Exception as error:  # whatever the store's client raises, this is one line of a table
        return f"not reachable: {type(error).__name__}"
    return "reachable"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _table(rows: tuple[Row, ...]) -> list[str]:
    header = f"{'sampler':<20} {'schedule':<10} {'mean':>7} {'std':>7} {'order':>11}"
    target = f"{'(target)':<20} {'':<10} {MEAN:>7.3f} {STD:>7.3f}"
    return [header, target, *(_line(row) for row in rows)]


def _line(row: Row) -> str:
    order = "" if row.order is None else f"{row.order:.2f} of {row.expected_order}"
    mark = f"  WRONG: {row.fault}" if row.fault else ""
    numbers = f"{row.mean:>7.3f} {row.std:>7.3f} {order:>11}"
    return f"{row.sampler:<20} {row.schedule:<10} {numbers}{mark}".rstrip()


def _agreement(findings: Findings) -> list[str]:
    """Recordings of the authors' code, a line a family."""
    families: dict[str, Counter[str]] = {}
    for outcome in findings.outcomes:
        families.setdefault(outcome.family, Counter())[outcome.verdict] += 1
    lines = [_counted("recordings of", "passed", "failed", "not compared")]
    total = Counter(outcome.verdict for outcome in findings.outcomes)
    for name, count in [*families.items(), ("all", total)]:
        left = (
            count.total() - count["passed"] - count["failed"]
        )  # a fault of the source, or no seed
        lines.append(_counted(name, count["passed"], count["failed"], left))
    return lines


def _counted(name: str, passed: object, failed: object, left: object) -> str:
    return f"{name:<20} {passed:>7} {failed:>7} {left:>13}"
