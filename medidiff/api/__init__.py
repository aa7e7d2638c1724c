"""The verbs of medidiff, for scripts. The command line parses, calls these and prints.

    import medidiff

    model = medidiff.load("brain-t1-2d")
    images = model.sample(n=4, steps=20, seed=0)
    result = medidiff.run("denoise", model, "scan.nii.gz", sigma=0.1, seed=0)
    result.save("scan-denoised.nii.gz")

Every verb raises `medidiff.MedidiffError` with one clear message for what a user can mend.
"""

from __future__ import annotations

from medidiff.api.installation import caches, clear_cache, demo, doctor
from medidiff.api.judge import benchmark, evaluate
from medidiff.api.manifests import build_manifest, check_manifest, split_manifest
from medidiff.api.scans import deface, deidentify, find_phi, phantoms, to_dicom
from medidiff.api.trained import average, export, gamma, import_bundle, load, models, register, sync
from medidiff.api.training import Checked, check, plan, train
from medidiff.api.work import run, run_each
from medidiff.config import schema
from medidiff.errors import MedidiffError
from medidiff.jobs.benchmark import Table
from medidiff.jobs.bundles.importing import Imported
from medidiff.jobs.demo import DemoResult
from medidiff.jobs.doctor import Diagnosis
from medidiff.jobs.evaluate import Evaluation
from medidiff.jobs.fitting import Fit
from medidiff.jobs.manifests import ManifestMade
from medidiff.jobs.plans.planning import Planned
from medidiff.jobs.pretrained import Shipped
from medidiff.jobs.privacy import PhiReport
from medidiff.model import Model
from medidiff.tasks.base import Peer
from medidiff.tasks.results import Result

__all__ = [
    "Checked",
    "DemoResult",
    "Diagnosis",
    "Evaluation",
    "Fit",
    "Imported",
    "ManifestMade",
    "MedidiffError",
    "Model",
    "Peer",
    "PhiReport",
    "Planned",
    "Result",
    "Shipped",
    "Table",
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
    "run_each",
    "schema",
    "split_manifest",
    "sync",
    "to_dicom",
    "train",
]
