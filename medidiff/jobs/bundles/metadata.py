"""A bundle's metadata.json, and the schema of the fields that MONAI's specification asks for."""

from __future__ import annotations

import datetime
import importlib.metadata
from typing import Any

from medidiff.diffusion import Flow
from medidiff.networks import FittedAutoencoder
from medidiff.spec import CARD_NOTICE, ModelSpec

SCHEMA_URL = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
    "meta_schema_20240725.json"
)
"""MONAI's own schema, which `verify_metadata` downloads unless it is given a file."""
_TEXTS = (
    "schema", "version", "monai_version", "pytorch_version", "numpy_version", "name", "task",
    "description", "authors", "copyright", "data_source", "data_type", "image_classes",
    "intended_use",
)  # fmt: skip


def metadata_of(spec: ModelSpec) -> dict[str, Any]:
    """The metadata of a model's bundle."""
    version = importlib.metadata.version
    year = datetime.datetime.now(datetime.UTC).year
    subjects = f"{spec.lineage.train_images} images of {spec.lineage.train_subjects} subjects"
    return {
        "schema": SCHEMA_URL,
        "version": "0.1.0",
        "changelog": {"0.1.0": f"exported by medidiff {version('medidiff')}"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").split("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {
            "einops": _version("einops", "0.8.0"),
            "nibabel": version("nibabel"),
        },
        "optional_packages_version": {"medidiff": version("medidiff")},
        "supported_apps": {},
        "name": spec.name,
        "task": f"Unconditional synthesis of {spec.modality} images",
        "description": f"A diffusion prior of {spec.modality} images ({', '.join(spec.images)}), "
        f"trained on {subjects}. {CARD_NOTICE.replace('**', '')}",
        "authors": "not stated",
        "copyright": f"{year}, whoever holds it in the weights; see LICENSE",
        "data_source": "not stated",
        "data_type": "nibabel",
        "image_classes": f"{spec.modality}: {', '.join(spec.images)}",
        "eval_metrics": dict(spec.metrics),
        "intended_use": "Research only. Not a medical device, not for diagnosis.",
        "references": [],
        "network_data_format": _network_format(spec),
        **_autoencoder_format(spec),
    }


def _image_format(spec: ModelSpec) -> dict[str, Any]:
    return {
        "type": "image",
        "format": "magnitude" if spec.modality == "MR" else "image",
        "modality": spec.modality,
        "num_channels": len(spec.images),
        "spatial_shape": list(spec.space.size),
        "dtype": "float32",
        "value_range": list(spec.intensity.range),
        "is_patch_data": False,
        "channel_def": {str(place): name for place, name in enumerate(spec.images)},
    }


def _autoencoder_format(spec: ModelSpec) -> dict[str, Any]:
    if not isinstance(spec.codec, FittedAutoencoder):
        return {}
    image = _image_format(spec)
    return {"autoencoder_data_format": {"inputs": {"image": image}, "outputs": {"pred": image}}}


def _network_format(spec: ModelSpec) -> dict[str, Any]:
    image = _image_format(spec)
    if isinstance(spec.codec, FittedAutoencoder):
        names = {str(place): f"latent {place}" for place in range(spec.shape.in_channels)}
        image |= {
            "type": "feature",
            "format": "latent",
            "num_channels": spec.shape.in_channels,
            "spatial_shape": list(spec.codec.network.latent_space(spec.space.size)),
            "value_range": [],
            "channel_def": names,
        }
    flow = isinstance(spec.schedule, Flow)
    return {
        "inputs": {
            "image": {**image, "type": "noise", "value_range": []},
            "timesteps": {
                "type": "timesteps",
                "format": "timesteps",
                "num_channels": 1,
                "spatial_shape": [],
                "dtype": "float32" if flow else "long",
                "value_range": [0, 1000],
                "is_patch_data": False,
                "channel_def": {"0": "timestep"},
            },
        },
        "outputs": {"pred": image},
    }


def metadata_schema() -> dict[str, Any]:
    """The fields of MONAI's bundle specification and their types, as a JSON schema.

    Source: MONAI 1.6, docs/source/mb_specification.rst.
    """
    tensor = {
        "type": "object",
        "properties": {
            "type": {"type": "string"},
            "format": {"type": "string"},
            "modality": {"type": "string"},
            "num_channels": {"type": "integer", "minimum": 1},
            "spatial_shape": {"type": "array", "items": {"type": ["integer", "string"]}},
            "dtype": {"type": "string"},
            "value_range": {"type": "array", "items": {"type": "number"}},
            "is_patch_data": {"type": "boolean"},
            "channel_def": {"type": "object", "additionalProperties": {"type": "string"}},
        },
        "required": [
            "type", "format", "num_channels", "spatial_shape", "dtype", "value_range",
            "is_patch_data",
        ],
    }  # fmt: skip
    tensors = {"type": "object", "additionalProperties": tensor, "minProperties": 1}
    versions = {"type": "object", "additionalProperties": {"type": "string"}}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {
            **{name: {"type": "string", "minLength": 1} for name in _TEXTS},
            "changelog": {**versions, "minProperties": 1},
            "required_packages_version": versions,
            "optional_packages_version": versions,
            "supported_apps": {"type": "object"},
            "eval_metrics": {"type": "object"},
            "references": {"type": "array", "items": {"type": "string"}},
            "network_data_format": {
                "type": "object",
                "properties": {"inputs": tensors, "outputs": tensors},
                "required": ["inputs", "outputs"],
            },
        },
        "required": [
            "version", "changelog", "monai_version", "pytorch_version", "numpy_version", "task",
            "description", "authors", "copyright", "network_data_format",
        ],
    }  # fmt: skip


def _version(package: str, otherwise: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return otherwise
