"""The served model: MLflow runs a copy of this file in `mlflow models serve` and `load_model`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from medidiff.errors import ModelError
from medidiff.tracking.signature import DEFAULT_SAMPLER

if TYPE_CHECKING:
    from medidiff.diffusion import AnySampler


class ServedModel(PythonModel):
    """Draws one synthetic image for each row: its `seed`, under the conditions that it gives.

    Shapes: the answer is float32 (rows, channel, *space).
    Units: intensities of the training scans.
    A row's image depends on that row and the params only. Params: steps, guidance, sampler.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Load the model folder that was registered."""
        from medidiff.model import Model

        self.model = Model.load(context.artifacts["model"])

    def predict(  # pyright: ignore[reportIncompatibleMethodOverride] MLflow's own has no types
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> np.ndarray:
        """The images.

        Errors: MlflowException (HTTP 400) for a condition or sampler that does not exist.
        """
        import torch

        given = params or {}
        try:
            sampler = _sampler(given.get("sampler", DEFAULT_SAMPLER))
            images = [
                self.model.sample(
                    condition=_condition(row) or None,
                    seed=int(row["seed"]),
                    steps=given.get("steps"),
                    guidance=given.get("guidance", 1.0),
                    sampler=sampler,
                ).images
                for row in model_input.to_dict("records")
            ]
        except (ModelError, ValueError) as error:
            raise MlflowException(str(error), INVALID_PARAMETER_VALUE) from error
        return torch.cat(images).float().numpy()


def _condition(row: dict[Any, Any]) -> dict[str, str | float]:
    return {name: value for name, value in row.items() if name != "seed" and not pd.isna(value)}


def _sampler(kind: str) -> AnySampler | None:
    from medidiff.diffusion import AnySampler

    if kind == DEFAULT_SAMPLER:
        return None
    known = {sampler.kind: sampler for sampler in get_args(AnySampler)}
    if kind not in known:
        raise ValueError(f"there is no sampler {kind!r}; there are {', '.join(sorted(known))}")
    return known[kind]()


set_model(ServedModel())
