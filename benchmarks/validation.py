"""What benchmarks on validation scans share: their arguments, and these scans."""

from __future__ import annotations

import argparse
from pathlib import Path

from medidiff.api.calls import splits_of
from medidiff.data.datasets import Case
from medidiff.jobs.cases import cases_of_split
from medidiff.jobs.reporting import Lines
from medidiff.model import Model


def parser_of(question: str | None) -> argparse.ArgumentParser:
    """The model, its manifest and where the result goes; further arguments are each benchmark's."""
    parser = argparse.ArgumentParser(
        description=question, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="a folder; benchmarks/results unless told")
    return parser


def validation_cases(model: Model, manifest: Path, split: str, count: int) -> list[Case]:
    """The first scans of a split, on the model's grid."""
    return cases_of_split(model, manifest, split, splits_of(model, split, None), Lines(), count)
