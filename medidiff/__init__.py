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
        check,
        check_manifest,
        demo,
        doctor,
        evaluate,
        export,
        gamma,
        import_bundle,
        load,
        models,
        plan,
        register,
        run,
        split_manifest,
        sync,
        train,
    )
    from medidiff.errors import MedidiffError
    from medidiff.model import Model

_PLACE = {
    "average": "medidiff.api",
    "benchmark": "medidiff.api",
    "build_manifest": "medidiff.api",
    "check": "medidiff.api",
    "check_manifest": "medidiff.api",
    "demo": "medidiff.api",
    "doctor": "medidiff.api",
    "evaluate": "medidiff.api",
    "export": "medidiff.api",
    "gamma": "medidiff.api",
    "import_bundle": "medidiff.api",
    "load": "medidiff.api",
    "models": "medidiff.api",
    "plan": "medidiff.api",
    "register": "medidiff.api",
    "run": "medidiff.api",
    "split_manifest": "medidiff.api",
    "sync": "medidiff.api",
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
    "check",
    "check_manifest",
    "demo",
    "doctor",
    "evaluate",
    "export",
    "gamma",
    "import_bundle",
    "load",
    "models",
    "plan",
    "register",
    "run",
    "split_manifest",
    "sync",
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
