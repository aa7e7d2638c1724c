"""Diffusion priors for medical images: train on scans, track in MLflow, put to work on real tasks.

Research software: not a medical device, not for diagnosis.

Names are loaded on first use, so that `import medidiff` costs no torch import.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str
    from medidiff.api import (
        average,
        benchmark,
        build_manifest,
        caches,
        check,
        check_manifest,
        clear_cache,
        deface,
        deidentify,
        demo,
        doctor,
        evaluate,
        export,
        find_phi,
        gamma,
        import_bundle,
        load,
        models,
        phantoms,
        plan,
        register,
        run,
        split_manifest,
        sync,
        to_dicom,
        train,
    )
    from medidiff.errors import MedidiffError
    from medidiff.model import Model

_PLACE = {
    "average": "medidiff.api",
    "benchmark": "medidiff.api",
    "build_manifest": "medidiff.api",
    "caches": "medidiff.api",
    "check": "medidiff.api",
    "check_manifest": "medidiff.api",
    "clear_cache": "medidiff.api",
    "deface": "medidiff.api",
    "deidentify": "medidiff.api",
    "demo": "medidiff.api",
    "doctor": "medidiff.api",
    "evaluate": "medidiff.api",
    "export": "medidiff.api",
    "find_phi": "medidiff.api",
    "gamma": "medidiff.api",
    "import_bundle": "medidiff.api",
    "load": "medidiff.api",
    "models": "medidiff.api",
    "phantoms": "medidiff.api",
    "plan": "medidiff.api",
    "register": "medidiff.api",
    "run": "medidiff.api",
    "split_manifest": "medidiff.api",
    "sync": "medidiff.api",
    "to_dicom": "medidiff.api",
    "train": "medidiff.api",
    "MedidiffError": "medidiff.errors",
    "Model": "medidiff.model",
}

__all__ = [
    "MedidiffError",
    "Model",
    "__version__",
    "average",
    "benchmark",
    "build_manifest",
    "caches",
    "check",
    "check_manifest",
    "clear_cache",
    "deface",
    "deidentify",
    "demo",
    "doctor",
    "evaluate",
    "export",
    "find_phi",
    "gamma",
    "import_bundle",
    "load",
    "models",
    "phantoms",
    "plan",
    "register",
    "run",
    "split_manifest",
    "sync",
    "to_dicom",
    "train",
]


def __getattr__(name: str) -> object:
    if name == "__version__":
        return metadata.version("medidiff")
    if name in _PLACE:
        return getattr(import_module(_PLACE[name]), name)
    raise AttributeError(f"module 'medidiff' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
