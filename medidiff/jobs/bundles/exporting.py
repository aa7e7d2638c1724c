"""A model of ours as a MONAI bundle: MONAI's own network, scheduler and inferer."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import torch

from medidiff import options
from medidiff.diffusion import Flow
from medidiff.errors import ModelError, OutputError
from medidiff.jobs.bundles.metadata import metadata_of, metadata_schema
from medidiff.jobs.bundles.schedulers import STEPS, scheduler_of
from medidiff.model import Model
from medidiff.model_folder import write_json
from medidiff.networks import UNetOptions
from medidiff.networks.interop import to_monai
from medidiff.networks.interop_options import monai_arguments, negated, relabelled
from medidiff.spec import ModelSpec

SAMPLING_STEPS = 50
LICENCE = """No licence was stated for the weights of this bundle. Whoever passes it on must replace
this file by the licence of the weights, which depends on that of the images they were trained on.
"""


def export_bundle(model: Model, card: str, out: Path) -> Path:
    """Write the model as a MONAI bundle into the new folder `out`; returns it.

    Errors: ModelError naming what MONAI's network or schedulers do not have; OutputError if `out`
    already holds something.
    """
    if out.exists() and any(out.iterdir()):
        raise OutputError(f"{out} already holds files; name another folder")
    spec = model.spec
    if spec.codec.kind != "identity" or spec.coordinates:
        raise ModelError(
            f"{spec.name} works behind a codec ({spec.codec.kind}) or on patches: only a prior of "
            "whole images can become a MONAI bundle"
        )
    if spec.spread != "none":
        raise ModelError(
            f"a network that gives its {spec.spread} variance has no counterpart among MONAI's "
            "samplers"
        )
    if not isinstance(spec.network, UNetOptions):
        raise ModelError(f"a {spec.network.kind} is no diffusion prior: a MONAI bundle is of one")
    try:
        arguments = monai_arguments(spec.network, spec.shape)
    except ValueError as error:
        raise ModelError(f"{spec.name} cannot become a MONAI bundle: {error}") from None
    scheduler = scheduler_of(spec)
    part = out.with_name(out.name + ".part")
    for folder in ("configs", "models", "docs"):
        (part / folder).mkdir(parents=True, exist_ok=True)
    torch.save(_weights(model), part / "models" / "model.pt")
    write_json(part / "configs" / "inference.json", inference_config(spec, arguments, scheduler))
    write_json(part / "configs" / "metadata.json", metadata_of(spec))
    write_json(part / "configs" / "medidiff.json", options.tree(spec))
    write_json(part / "docs" / "metadata_schema.json", metadata_schema())
    (part / "docs" / "README.md").write_text(_readme(spec, card), encoding="utf-8")
    (part / "LICENSE").write_text(LICENCE, encoding="utf-8")
    if out.exists():
        out.rmdir()
    part.replace(out)
    return out


def _weights(model: Model) -> dict[str, torch.Tensor]:
    """MONAI's names, told MONAI's labels, predicting what MONAI's scheduler reads."""
    weights = {
        name: value.detach().cpu().float() for name, value in model.network.state_dict().items()
    }
    if isinstance(model.spec.schedule, Flow):
        return to_monai(negated(weights))
    return to_monai(relabelled(weights, -1))


def inference_config(
    spec: ModelSpec, network: dict[str, Any], scheduler: dict[str, Any]
) -> dict[str, Any]:
    """What `python -m monai.bundle run --config_file configs/inference.json` does."""
    low, high = spec.intensity.low, spec.intensity.high
    steps = {} if isinstance(spec.schedule, Flow) else {"steps_offset": _OFFSET}
    return {
        "imports": ["$import os", "$import torch", "$import nibabel"],
        "bundle_root": ".",
        "output_dir": "$@bundle_root + '/output'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "seed": 0,
        "count": 1,
        "num_inference_steps": SAMPLING_STEPS,
        "image_shape": [spec.shape.in_channels, *spec.space.size],
        "affine": spec.space.affine().tolist(),
        "low": list(low),
        "high": list(high),
        "network_def": {"_target_": "monai.networks.nets.DiffusionModelUNet", **network},
        "load_weights": "$@network_def.load_state_dict(torch.load("
        "@bundle_root + '/models/model.pt', weights_only=True))",
        "network": "$@network_def.to(@device).eval()",
        "noise_scheduler": {**scheduler, **steps},
        "set_timesteps": "$@noise_scheduler.set_timesteps(num_inference_steps="
        "@num_inference_steps)",
        "inferer": {
            "_target_": "monai.inferers.DiffusionInferer",
            "scheduler": "@noise_scheduler",
        },
        "noise": "$torch.randn([@count] + @image_shape, generator=torch.Generator().manual_seed("
        "@seed)).to(@device)",
        "sample": "$@inferer.sample(input_noise=@noise, diffusion_model=@network, "
        "scheduler=@noise_scheduler, verbose=False)",
        "column": f"$lambda x: torch.tensor(x).reshape([-1] + [1] * {spec.shape.dims})",
        "images": "$@column(@low) + (@sample.cpu() + 1) / 2 * (@column(@high) - @column(@low))",
        # MONAI's SaveImage asks for a geometry to resample to, which an image that is made has not
        "voxels": f"$lambda x: x.movedim(0, -1).reshape({_stored_shape(spec)}).numpy()",
        "save": "$lambda x, place: nibabel.save(nibabel.Nifti1Image(@voxels(x), "
        "torch.tensor(@affine).double().numpy()), "
        "os.path.join(@output_dir, f'synthetic-{place:04d}.nii.gz'))",
        "run": [
            "@load_weights",
            "@set_timesteps",
            "$os.makedirs(@output_dir, exist_ok=True)",
            "$[@save(each, place) for place, each in enumerate(@images)] and None",
        ],
    }


def _stored_shape(spec: ModelSpec) -> list[int]:
    """NIfTI has three axes of space, and channels behind them."""
    channels = spec.shape.in_channels
    space = [*spec.space.size, *[1] * (3 - spec.shape.dims)]
    return space if channels == 1 else [*space, channels]


_OFFSET = f"${STEPS} // @num_inference_steps - 1"


def _readme(spec: ModelSpec, card: str) -> str:
    text = (Path(__file__).parent / "README.bundle.md").read_text(encoding="utf-8")
    described = json.dumps(options.tree(spec.schedule))
    return text.format(
        card=card.strip(),
        version=importlib.metadata.version("medidiff"),
        schedule=described,
        target=spec.target.kind,
        clip=spec.sampling.clip,
        steps=SAMPLING_STEPS,
    )
