"""Runs and models in MLflow: a journal first, then the store.

`import medidiff.tracking` imports neither MLflow nor torch.
"""

from medidiff.tracking.guard import PrivacyError
from medidiff.tracking.registry import fetch, register
from medidiff.tracking.runs import Run, close_lost, complete, is_broken_off, open_run, sync
from medidiff.tracking.store import store_address

__all__ = [
    "PrivacyError",
    "Run",
    "close_lost",
    "complete",
    "fetch",
    "is_broken_off",
    "open_run",
    "register",
    "store_address",
    "sync",
]
