"""What a served model takes and gives, as MLflow's signature."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

    from medidiff.spec import ModelSpec

DEFAULT_SAMPLER = "default"


def signature_of(spec: ModelSpec) -> ModelSignature:
    """One row an image (`seed` and the model's conditions) in, float32 (n, channel, *space) out."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    kinds = {"class": DataType.string, "number": DataType.double}
    columns: list[ColSpec | TensorSpec] = [ColSpec(DataType.long, "seed")]
    for condition in spec.shape.conditions:
        columns.append(ColSpec(kinds[condition.kind], condition.name, required=False))
    shape = (-1, len(spec.images), *spec.space.size)
    params = [
        ParamSpec("steps", DataType.long, spec.sampling.steps),
        ParamSpec("guidance", DataType.double, 1.0),
        ParamSpec("sampler", DataType.string, DEFAULT_SAMPLER),
    ]
    return ModelSignature(
        inputs=Schema(columns),
        outputs=Schema([TensorSpec(np.dtype("float32"), shape)]),
        params=ParamSchema(params),
    )
