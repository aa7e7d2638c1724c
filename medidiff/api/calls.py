"""What the verbs share: types of arguments, where they report to, the splits of a model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from medidiff.data.privacy import names_kept_private
from medidiff.jobs.reporting import Quiet, Reporter, reporter
from medidiff.jobs.splits import Splits
from medidiff.model import Model

PathLike = str | os.PathLike[str]
ModelLike = PathLike | Model
Progress = Literal["bars", "none"]


def splits_of(model: Model, validation: str | None, holdout: float | None) -> Splits:
    """The splits that the model was trained with, unless told otherwise."""
    lineage = model.spec.lineage
    return Splits(
        lineage.train_split,
        lineage.validation_split if validation is None else validation,
        lineage.holdout if holdout is None else holdout,
    )


@contextmanager
def reporting(progress: Progress) -> Iterator[Reporter]:
    """Where a verb reports to; the names in its errors go to the private log."""
    report = reporter() if progress == "bars" else Quiet()
    with names_kept_private():
        try:
            yield report
        finally:
            report.close()
