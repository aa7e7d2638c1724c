"""A model of ours as a MONAI bundle: MONAI's own network, scheduler and inferer."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import torch

from medidiff import options
from medidiff.diffusion import Flow
from medidiff.errors import ModelError
from medidiff.jobs.bundles.metadata import metadata_of, metadata_schema
from medidiff.jobs.bundles.schedulers import STEPS, scheduler_of
from medidiff.model import Model
from medidiff.model_folder import write_json
from medidiff.networks import FittedAutoencoder, UNetOptions
from medidiff.networks.interop import to_monai
from medidiff.networks.interop_autoencoder import (
    autoencoder_to_monai,
    monai_autoencoder_arguments,
    with_standard,
)
from medidiff.networks.interop_options import monai_arguments, negated, relabelled
from medidiff.outputs import check_new_folder
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
    check_new_folder(out)
    spec = model.spec
    if spec.codec.kind == "wavelet":
        raise ModelError("MONAI has no wavelet codec: a prior behind one cannot become a bundle")
    if spec.spread != "none":
        raise ModelError(
            f"a network that gives its {spec.spread} variance has no counterpart among MONAI's "
            "samplers"
        )
    if spec.heads:
        raise ModelError(
            f"MONAI has no heads for a variance ({', '.join(head.source for head in spec.heads)}): "
            "export the prior that they were trained on"
        )
    if not isinstance(spec.network, UNetOptions):
        raise ModelError(
            f"{spec.name} is an {spec.network.kind} and no diffusion prior, which a MONAI bundle "
            "is of; an autoencoder is exported with a prior of its latents"
        )
    check_grid(spec, spec.network)
    try:
        arguments = monai_arguments(spec.network, spec.shape)
        coding = coding_of(spec)
    except ValueError as error:
        raise ModelError(f"{spec.name} cannot become a MONAI bundle: {error}") from None
    scheduler = scheduler_of(spec)
    part = out.with_name(out.name + ".part")
    for folder in ("configs", "models", "docs"):
        (part / folder).mkdir(parents=True, exist_ok=True)
    torch.save(_weights(model), part / "models" / "model.pt")
    if model.autoencoder is not None:
        torch.save(_autoencoder_weights(model), part / "models" / "model_autoencoder.pt")
    config = inference_config(spec, arguments, scheduler)
    if coding is not None:
        config |= decoding_config(spec, coding)
    write_json(part / "configs" / "inference.json", config)
    write_json(part / "configs" / "metadata.json", metadata_of(spec))
    write_json(part / "configs" / "medidiff.json", options.tree(spec))
    write_json(part / "docs" / "metadata_schema.json", metadata_schema())
    (part / "docs" / "README.md").write_text(_readme(spec, card), encoding="utf-8")
    (part / "LICENSE").write_text(LICENCE, encoding="utf-8")
    if out.exists():
        out.rmdir()
    part.replace(out)
    return out


def check_grid(spec: ModelSpec, network: UNetOptions) -> None:
    """Errors: ModelError for a grid that MONAI's network cannot halve evenly, as ours can."""
    space = spec.space.size
    if isinstance(spec.codec, FittedAutoencoder):
        space = spec.codec.network.latent_space(space)
    multiple = 2 ** (len(network.channels) - 1)
    if any(size % multiple for size in space):
        raise ModelError(
            f"{spec.name} works on a grid of {' x '.join(map(str, space))}; MONAI's network needs "
            f"multiples of {multiple} along each axis"
        )


def _weights(model: Model) -> dict[str, torch.Tensor]:
    """MONAI's names, told MONAI's labels, predicting what MONAI's scheduler reads."""
    weights = {
        name: value.detach().cpu().float() for name, value in model.network.state_dict().items()
    }
    if isinstance(model.spec.schedule, Flow):
        return to_monai(negated(weights))
    return to_monai(relabelled(weights, -1))


def _autoencoder_weights(model: Model) -> dict[str, torch.Tensor]:
    """MONAI's names; the latents' shift and scale are taken in, so that the scale factor is 1."""
    assert model.autoencoder is not None
    assert isinstance(model.spec.codec, FittedAutoencoder)
    standard = model.spec.codec.standard
    weights = {
        name: value.detach().cpu().float() for name, value in model.autoencoder.state_dict().items()
    }
    return autoencoder_to_monai(with_standard(weights, standard.shift, standard.scale))


def coding_of(spec: ModelSpec) -> dict[str, Any] | None:
    """The arguments of MONAI's autoencoder, for a prior of latents.

    Errors: ValueError if it has no counterpart there.
    """
    if not isinstance(spec.codec, FittedAutoencoder):
        return None
    return monai_autoencoder_arguments(spec.codec.network, spec.codec.shape)


def decoding_config(spec: ModelSpec, coding: dict[str, Any]) -> dict[str, Any]:
    """What changes in `inference_config` for a prior of latents."""
    assert isinstance(spec.codec, FittedAutoencoder)
    latent = spec.codec.network.latent_space(spec.space.size)
    reduction = spec.codec.network.reduction
    starts = [(-size % reduction) // 2 for size in spec.space.size]
    ends = [start + size for start, size in zip(starts, spec.space.size, strict=True)]
    shown = ", ".join(f"{start}:{end}" for start, end in zip(starts, ends, strict=True))
    return {
        "image_shape": [spec.shape.in_channels, *latent],
        "scale_factor": 1.0,
        "autoencoder_def": {"_target_": "monai.networks.nets.AutoencoderKL", **coding},
        "load_autoencoder": "$@autoencoder_def.load_state_dict(torch.load("
        "@bundle_root + '/models/model_autoencoder.pt', weights_only=True))",
        "autoencoder": "$@autoencoder_def.to(@device).eval()",
        "latents": "$@inferer.sample(input_noise=@noise, diffusion_model=@network, "
        "scheduler=@noise_scheduler, verbose=False)",
        "sample": "$torch.no_grad()(@autoencoder.decode_stage_2_outputs)(@latents / @scale_factor)"
        f"[:, :, {shown}]",
        "run": ["@load_autoencoder", *_RUN],
    }


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
        "run": list(_RUN),
    }


def _stored_shape(spec: ModelSpec) -> list[int]:
    """NIfTI has three axes of space, and channels behind them."""
    channels = len(spec.images)
    space = [*spec.space.size, *[1] * (3 - spec.shape.dims)]
    return space if channels == 1 else [*space, channels]


_RUN = (
    "@load_weights",
    "@set_timesteps",
    "$os.makedirs(@output_dir, exist_ok=True)",
    "$[@save(each, place) for place, each in enumerate(@images)] and None",
)
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
