"""MONAI bundles in and out: the same network, the same images, and nothing of them is run."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
import yaml
from torch import Tensor
from typer.testing import CliRunner

import medidiff
from medidiff.cli import app
from medidiff.config import load_config
from medidiff.data.intensity import FittedIntensity
from medidiff.data.options import Space
from medidiff.diffusion import (
    DDIM,
    AnySchedule,
    AnyTarget,
    Clean,
    Cosine,
    CosineBetas,
    Discrete,
    Eps,
    Flow,
    FlowVelocity,
    LinearBetas,
    ScaledLinearBetas,
    SigmoidBetas,
    UniformTime,
    V,
    VPLinear,
)
from medidiff.errors import ModelError
from medidiff.jobs.bundles.configs import read_bundle
from medidiff.jobs.bundles.exporting import check_grid
from medidiff.model import Model
from medidiff.networks import ClassCondition, NetworkShape, UNetOptions, build
from medidiff.networks.codec import Standard
from medidiff.networks.interop_options import monai_arguments
from medidiff.spec import ModelSpec, SamplingOptions

pytest.importorskip("einops")
MONAIS = UNetOptions(
    channels=(8, 16),
    blocks=1,
    attention=(False, True),
    middle_attention="always",
    modulation="shift",
    resampling="convolution",
    head_channels=8,
    groups=4,
    norm_eps=1e-6,
    waves=4,
)
STATED: dict[str, Any] = {
    "modality": "MR",
    "size": (16, 16),
    "spacing_mm": (1.5, 1.5),
    "orientation": "PL",
    "intensity": (0.0, 255.0),
    "value_range": (0.0, 1.0),
}


def awake(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """With weights that are not zero anywhere."""
    generator = torch.Generator().manual_seed(seed)
    for weight in network.parameters():
        weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
    return network.eval().requires_grad_(False)


def model_of(
    folder: Path,
    schedule: AnySchedule | None = None,
    target: AnyTarget | None = None,
    dims: int = 2,
    **changed: Any,
) -> Path:
    """A saved model of MONAI's architecture."""
    options = dataclasses.replace(MONAIS, **changed.pop("network", {}))
    shape = dataclasses.replace(NetworkShape(dims=dims), **changed.pop("shape", {}))  # type: ignore[arg-type]
    spec = ModelSpec(
        name="head",
        modality="MR",
        images=("t1",),
        space=changed.pop("space", None)
        or Space(dims, (16,) * dims, (2.0,) * dims, "PL" if dims == 2 else "RAS"),  # type: ignore[arg-type]
        intensity=FittedIntensity((10.0,), (210.0,), "train", None, (-1.0, 1.2)),
        network=options,
        shape=shape,
        schedule=schedule or Discrete(betas=ScaledLinearBetas(), steps=1000),
        target=target or Eps(),
        sampling=SamplingOptions(sampler=DDIM(), spacing=UniformTime(), steps=10, clip="keep"),
        **changed,
    )
    return Model(spec, awake(build(options, shape))).save(folder)


def run_in_monai(bundle: Path, **values: object) -> list[Path]:
    """What MONAI's own command makes of a bundle."""
    given = [part for name, value in values.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "monai.bundle", "run", "--bundle_root", str(bundle)]
    done = subprocess.run(
        [*command, "--config_file", str(bundle / "configs" / "inference.json"), *given],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return sorted((bundle / "output").glob("*.nii.gz"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schedule", "target", "dims"),
    [
        (Discrete(betas=ScaledLinearBetas(), steps=1000), V(), 2),
        (Discrete(betas=LinearBetas(), steps=1000), Eps(), 3),
        (Flow(), FlowVelocity(input="as-it-is"), 2),
    ],
)
def test_monai_runs_an_exported_bundle_to_the_image_that_our_ddim_gives(
    schedule: AnySchedule, target: AnyTarget, dims: int, tmp_path: Path
) -> None:
    flow = isinstance(schedule, Flow)
    folder = model_of(tmp_path / "model", schedule, target, dims)
    bundle = medidiff.export(folder, tmp_path / "bundle", format="monai-bundle")
    files = run_in_monai(bundle, num_inference_steps=10, seed=3)
    assert len(files) == 1
    written = nibabel.load(files[0])
    model = medidiff.load(folder, "cpu")
    np.testing.assert_allclose(written.affine, model.spec.space.affine(), atol=1e-5)
    noise = torch.randn(1, 1, *(16,) * dims, generator=torch.Generator().manual_seed(3))
    if flow:  # their step does not clip
        spec = dataclasses.replace(model.spec, sampling=dataclasses.replace(
            model.spec.sampling, clip="none"))  # fmt: skip
        model = Model(spec, model.network)
    with torch.no_grad():
        ours, _ = model.walk_down(model.denoiser(), noise, None)  # type: ignore[arg-type]
    expected = model.spec.intensity.typical.inverse(ours)[0, 0].numpy()
    found = np.asarray(written.dataobj).reshape(expected.shape)
    assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()
    assert expected.std() > 1


def test_the_metadata_passes_monais_own_check_and_fails_it_when_a_field_is_missing(
    tmp_path: Path,
) -> None:
    pytest.importorskip("jsonschema")
    from monai.bundle import verify_metadata

    bundle = medidiff.export(
        model_of(tmp_path / "model"), tmp_path / "bundle", format="monai-bundle"
    )
    schema, file = bundle / "docs" / "metadata_schema.json", bundle / "configs" / "metadata.json"
    verify_metadata(meta_file=str(file), filepath=str(schema))
    content = json.loads(file.read_text())
    del content["network_data_format"]["inputs"]["image"]["num_channels"]
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="num_channels"):
        verify_metadata(meta_file=str(file), filepath=str(schema))


@pytest.mark.slow
def test_the_shipped_configuration_of_monais_network_trains_and_leaves_as_a_bundle(
    flat: Path, tmp_path: Path
) -> None:
    pytest.importorskip("jsonschema")
    from monai.bundle import verify_metadata

    small = ["network.channels=[32, 32]", "network.attention=[false, true]", "network.blocks=1"]
    small += ["network.head_channels=32"]
    short = ["train.steps=3", "train.batch=2", "train.warmup_steps=0", "train.sample_every=0"]
    place = [f"data.manifest={flat}", f"output={tmp_path / 'run'}", "data.space.size=[32, 32]"]
    file = Path(__file__).resolve().parents[2] / "configs" / "brain-t1-2d-monai.yaml"
    run = medidiff.train(file, changes=[*small, *short, *place])
    bundle = medidiff.export(run, tmp_path / "bundle", format="monai-bundle")
    schema, meta = bundle / "docs" / "metadata_schema.json", bundle / "configs" / "metadata.json"
    verify_metadata(meta_file=str(meta), filepath=str(schema))
    before, after = medidiff.load(run, "cpu"), medidiff.load(bundle, "cpu")
    x, label = torch.randn(2, 1, 32, 32), torch.tensor([3.0, 700.0])
    expected = before.network(x, label)
    assert (after.network(x, label) - expected).abs().max() < 1e-5 * expected.abs().max()
    whole = load_config(file, [f"data.manifest={flat}"]).config
    assert isinstance(whole.network, UNetOptions)
    monai_arguments(whole.network, NetworkShape())
    check_grid(dataclasses.replace(before.spec, space=whole.data.space), whole.network)


@pytest.mark.parametrize(
    ("schedule", "target"),
    [
        (Discrete(betas=LinearBetas(), steps=1000), Clean()),
        (Discrete(betas=CosineBetas(), steps=1000), V()),
        (Discrete(betas=SigmoidBetas(), steps=1000), Eps()),
        (Cosine(), V()),
        (Flow(), FlowVelocity(input="as-it-is")),
    ],
)
def test_a_model_comes_back_from_its_bundle_as_it_was(
    schedule: AnySchedule, target: AnyTarget, tmp_path: Path
) -> None:
    folder = model_of(tmp_path / "model", schedule, target)
    bundle = medidiff.export(folder, tmp_path / "bundle", format="monai-bundle")
    before, after = medidiff.load(folder, "cpu"), medidiff.load(bundle, "cpu")
    assert after.spec == before.spec
    x = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    label = torch.tensor([3.0, 700.0])
    expected = before.network(x, label)
    found = after.network(x, label)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"network": {"modulation": "scale-shift"}}, r"modulation: shift \(not scale-shift\)"),
        ({"network": {"resampling": "residual", "waves": 8}}, "resampling.*waves: 4"),
        ({"schedule": VPLinear()}, "vp-linear"),
        ({"schedule": Flow(), "target": FlowVelocity()}, "target.input: as-it-is"),
        (
            {"shape": {"conditions": (ClassCondition(name="sex", values=("F", "M")),)}},
            r"no conditions \(not sex\)",
        ),
    ],
)
def test_what_monai_does_not_have_is_refused_by_name(
    changed: dict[str, Any], said: str, tmp_path: Path
) -> None:
    folder = model_of(tmp_path / "model", **changed)
    with pytest.raises(ModelError, match=said):
        medidiff.export(folder, tmp_path / "bundle", format="monai-bundle")
    assert not (tmp_path / "bundle").exists()


def foreign(folder: Path, *, old: bool = False, wrapped: bool = False) -> dict[str, Tensor]:
    """A bundle as GenerativeModels or MONAI wrote it; gives MONAI's weights."""
    from monai.networks.nets import DiffusionModelUNet

    theirs = awake(
        DiffusionModelUNet(
            spatial_dims=2, in_channels=1, out_channels=1, channels=(8, 16), num_res_blocks=1,
            attention_levels=(False, True), num_head_channels=(0, 8), norm_num_groups=4,
            include_fc=not old,
        )
    )  # fmt: skip
    package = "generative" if old else "monai"
    config = {
        "imports": ["$import os", "$open('ran', 'w')"],
        "dims": 2,
        "network_def": {
            "_target_": f"{package}.networks.nets.DiffusionModelUNet",
            "spatial_dims": "@dims",
            "in_channels": 1,
            "out_channels": 1,
            ("num_channels" if old else "channels"): [8, 16],
            "attention_levels": [False, True],
            "num_head_channels": [0, 8],
            "num_res_blocks": 1,
            "norm_num_groups": 4,
        },
        "network": "$@network_def.to(@device)",
        "scheduler": {
            "_target_": f"{package}.networks.schedulers.DDPMScheduler",
            "_requires_": ["$open('ran', 'w')"],
            "num_train_timesteps": 1000,
            "beta_start": 0.0015,
            "beta_end": 0.0195,
            **({"beta_schedule": "scaled_linear"} if old else {"schedule": "scaled_linear_beta"}),
        },
    }
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "configs" / "common.yaml").write_text(yaml.safe_dump(config))
    weights: dict[str, Any] = dict(theirs.state_dict())
    if old:
        weights = {
            name.replace(".attn.to_", ".to_").replace("postconv", "conv"): value
            for name, value in weights.items()
        }
        for stem in ("down_blocks.1.attentions.0", "middle_block.attention"):
            weights[f"{stem}.proj_attn.weight"] = torch.randn(16, 16)
            weights[f"{stem}.proj_attn.bias"] = torch.randn(16)
    if wrapped:
        inner = {f"module.{name}": value for name, value in weights.items()}
        weights = {"epoch": 3, "scale_factor": torch.tensor(0.9), "unet_state_dict": inner}
    torch.save(weights, folder / "models" / "model.pt")
    return dict(theirs.state_dict())


@pytest.mark.parametrize(("old", "wrapped"), [(False, False), (True, False), (False, True)])
def test_a_foreign_bundle_is_imported_with_monais_output_and_nothing_of_it_runs(
    old: bool, wrapped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    foreign(tmp_path / "zoo", old=old, wrapped=wrapped)
    imported = medidiff.import_bundle(tmp_path / "zoo", tmp_path / "model", **STATED)
    assert imported.differences["network"] < 1e-4
    assert not list(tmp_path.rglob("ran"))
    spec = medidiff.load(tmp_path / "model", "cpu").spec
    betas = ScaledLinearBetas(beta_start=0.0015, beta_end=0.0195)
    assert spec.schedule == Discrete(betas=betas, steps=1000)
    assert (spec.target, spec.sampling.clip, spec.modality) == (Eps(), "keep", "MR")
    # 0 .. 1 are 0 .. 255, so -1, which their network never saw, would be -255
    assert (spec.intensity.low, spec.intensity.high) == ((-255.0,), (255.0,))
    assert spec.intensity.range == (0.0, 1.0)


def theirs_in(folder: Path) -> torch.nn.Module:
    """MONAI's network of a bundle."""
    from monai.networks.nets import DiffusionModelUNet

    bundle = read_bundle(folder)
    definition = bundle.part("network")
    assert definition is not None
    arguments = {name: bundle.argument(definition, name) for name in definition.arguments}
    theirs = DiffusionModelUNet(**arguments).eval()
    theirs.load_state_dict(torch.load(folder / "models" / "model.pt", weights_only=True))
    return theirs


def test_their_network_and_ours_are_told_the_same_noise_by_different_labels(
    tmp_path: Path,
) -> None:
    """MONAI's step 0 is our t = 0.001, at which alpha_bar is 1 - beta[0]."""
    foreign(tmp_path / "zoo")
    model = medidiff.import_bundle(tmp_path / "zoo", tmp_path / "model", **STATED).model
    level = model.spec.schedule(torch.tensor(0.001, dtype=torch.float64))
    assert float(level.alpha**2) == pytest.approx(1 - 0.0015, abs=1e-9)
    from monai.networks.schedulers import DDIMScheduler

    theirs = theirs_in(tmp_path / "zoo")
    scheduler = DDIMScheduler(
        schedule="scaled_linear_beta", beta_start=0.0015, beta_end=0.0195, clip_sample=False
    )
    scheduler.set_timesteps(1000)
    x = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    for step in (0, 400, 999):
        with torch.no_grad():
            _, clean = scheduler.step(theirs(x, torch.tensor([step])), step, x)
            spec = dataclasses.replace(model.spec, sampling=SamplingOptions(clip="none"))
            level = spec.schedule(torch.tensor((step + 1) / 1000, dtype=torch.float64))
            ours = Model(spec, model.network).denoiser()(x, level).clean
        torch.testing.assert_close(ours, clean, rtol=1e-3, atol=1e-4)


def test_all_that_a_bundle_does_not_say_is_asked_for_at_once(tmp_path: Path) -> None:
    foreign(tmp_path / "zoo")
    with pytest.raises(ModelError) as error:
        medidiff.load(tmp_path / "zoo", "cpu")
    for option in ("modality", "size", "spacing", "orientation", "value-range", "intensity"):
        assert f"--{option}" in str(error.value)
    rest = {name: value for name, value in STATED.items() if name != "modality"}
    with pytest.raises(ModelError, match="--modality") as error:
        medidiff.import_bundle(tmp_path / "zoo", tmp_path / "model", **rest)
    assert "--spacing" not in str(error.value)
    assert not (tmp_path / "model").exists()


def test_the_command_line_imports_and_says_what_it_found(tmp_path: Path) -> None:
    foreign(tmp_path / "zoo")
    words = (
        "--modality MR --size 16,16 --spacing 1.5 --orientation PL --intensity 0 255 "
        "--value-range 0 1 --images t1 --name head"
    )
    out = tmp_path / "model"
    done = CliRunner().invoke(
        app, ["import-bundle", str(tmp_path / "zoo"), "--out", str(out), *words.split()]
    )
    assert done.exit_code == 0, done.output
    assert "largest difference to the output of MONAI's own network" in done.output
    assert "lie between 0 and 1, which are the intensities 0 and 255" in done.output
    spec = medidiff.load(out, "cpu").spec
    assert (spec.name, spec.images, spec.space.spacing_mm) == ("head", ("t1",), (1.5, 1.5))
    wrong = CliRunner().invoke(
        app, ["import-bundle", str(tmp_path / "zoo"), "--out", "x", "--size", "16x16"]
    )
    assert "write numbers with commas" in str(wrong.exception)


def changed_config(folder: Path, key: str, value: object) -> None:
    file = folder / "configs" / "common.yaml"
    config = yaml.safe_load(file.read_text())
    *parents, last = key.split(".")
    place = config
    for parent in parents:
        place = place[parent]
    place[last] = value
    file.write_text(yaml.safe_dump(config))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("network_def.in_channels", "$1 + 0", r"is the expression .* --change network_def.in_ch"),
        ("network_def.in_channels", "@nothing", "refers to @nothing"),
        ("dims", "@dims", "refers to itself"),
        ("network_def._target_", "scripts.net.DiffusionModelUNet", "defines no DiffusionModelUNet"),
        ("network_def._target_", "os.system", "defines no DiffusionModelUNet"),
        ("network_def.with_conditioning", True, "with_conditioning=True has no counterpart"),
        ("network_def.resblock_updown", True, "resblock_updown=True has no counterpart"),
        ("network_def.channels", [8, 32], "do not fit the network"),
        ("scheduler.num_train_timesteps", 100, "only a process of 1000 steps"),
        ("scheduler.schedule", "mystery", "'mystery' is not known here"),
        ("scheduler.prediction_type", "noise", "'noise' is not known here"),
        ("scheduler._target_", "scripts.Mine", "no DDPM, DDIM, PNDM or RFlow"),
    ],
)
def test_what_cannot_be_imported_is_one_clear_error(
    key: str, value: object, said: str, tmp_path: Path
) -> None:
    foreign(tmp_path / "zoo")
    changed_config(tmp_path / "zoo", key, value)
    with pytest.raises(ModelError, match=said):
        medidiff.import_bundle(tmp_path / "zoo", tmp_path / "model", **STATED)


def test_a_value_that_is_an_expression_is_stated_instead(tmp_path: Path) -> None:
    foreign(tmp_path / "zoo")
    changed_config(tmp_path / "zoo", "network_def.in_channels", "$1 + 0")
    done = medidiff.import_bundle(
        tmp_path / "zoo", tmp_path / "model", **STATED, changes=["network_def.in_channels=1"]
    )
    assert done.model.spec.shape.in_channels == 1


def test_one_of_several_networks_is_stated_by_a_reference(tmp_path: Path) -> None:
    zoo = tmp_path / "zoo"
    foreign(zoo)
    file = zoo / "configs" / "common.yaml"
    config = yaml.safe_load(file.read_text())
    fine = config.pop("network_def")
    config["stages"] = {"fine": fine, "rough": {**fine, "channels": [8, 8, 8]}}
    config["chosen"] = "@stages#fine"
    file.write_text(yaml.safe_dump(config))
    with pytest.raises(ModelError, match="--change network_def=@stages#fine"):
        read_bundle(zoo).part("network")
    for reference in ("@stages#fine", "@stages::fine", "@chosen"):
        found = read_bundle(zoo, [f"network_def={reference}"]).part("network")
        assert found is not None
        assert (found.id, found.arguments["channels"]) == ("network_def", [8, 16])
    with pytest.raises(ModelError, match="--change network_def refers to @stages#none, which"):
        read_bundle(zoo, ["network_def=@stages#none"])


class Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("open('ran', 'w')",)


def test_weights_that_would_run_code_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    foreign(tmp_path / "zoo")
    torch.save({"state_dict": {}, "extra": Harm()}, tmp_path / "zoo" / "models" / "model.pt")
    with pytest.raises(ModelError, match="nothing else is unpickled"):
        medidiff.import_bundle(tmp_path / "zoo", tmp_path / "model", **STATED)
    assert not (tmp_path / "ran").exists()


def test_rectified_flow_predicts_the_other_way_round(tmp_path: Path) -> None:
    from monai.networks.schedulers import RFlowScheduler

    foreign(tmp_path / "zoo")
    changed_config(
        tmp_path / "zoo",
        "scheduler",
        {
            "_target_": "monai.networks.schedulers.rectified_flow.RFlowScheduler",
            "use_discrete_timesteps": False,
            "sample_method": "logit-normal",
        },
    )
    done = medidiff.import_bundle(tmp_path / "zoo", tmp_path / "model", **STATED)
    assert done.model.spec.schedule == Flow()
    assert done.model.spec.target == FlowVelocity(input="as-it-is")
    assert done.differences["network"] < 1e-4
    theirs = theirs_in(tmp_path / "zoo")
    scheduler = RFlowScheduler(use_discrete_timesteps=False)
    scheduler.set_timesteps(10)
    x = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    for t in (0.3, 0.9):
        with torch.no_grad():
            _, clean = scheduler.step(theirs(x, torch.tensor([1000 * t])), 1000 * t, x)
            level = Flow()(torch.tensor(t, dtype=torch.float64))
            ours = done.model.denoiser()(x, level).clean
        torch.testing.assert_close(ours, clean, rtol=1e-3, atol=1e-4)


def latent_bundle(folder: Path, **top: object) -> tuple[torch.nn.Module, torch.nn.Module]:
    """A latent bundle; gives MONAI's network and autoencoder."""
    from monai.networks.nets import AutoencoderKL, DiffusionModelUNet

    arguments = {
        "spatial_dims": 2, "channels": [8, 16], "num_res_blocks": 1,
        "attention_levels": [False, True], "num_head_channels": [0, 8], "norm_num_groups": 4,
        "in_channels": 3, "out_channels": 3,
    }  # fmt: skip
    coding = {
        "spatial_dims": 2, "channels": [8, 16], "num_res_blocks": [1, 1], "latent_channels": 3,
        "attention_levels": [False, False], "norm_num_groups": 4, "in_channels": 1,
        "out_channels": 1, "with_encoder_nonlocal_attn": False,
        "with_decoder_nonlocal_attn": False,
    }  # fmt: skip
    network, autoencoder = awake(DiffusionModelUNet(**arguments)), awake(AutoencoderKL(**coding))
    config = {
        "diffusion_def": {"_target_": "monai.networks.nets.DiffusionModelUNet", **arguments},
        "autoencoder_def": {"_target_": "monai.networks.nets.AutoencoderKL", **coding},
        "noise_scheduler": {
            "_target_": "monai.networks.schedulers.ddim.DDIMScheduler",
            "schedule": "scaled_linear_beta",
            "prediction_type": "v_prediction",
        },
        **top,
    }
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    torch.save(autoencoder.state_dict(), folder / "models" / "model_autoencoder.pt")
    return network, autoencoder


def test_a_latent_bundle_keeps_its_scale_factor_and_gives_monais_image(tmp_path: Path) -> None:
    theirs, autoencoder = latent_bundle(tmp_path / "zoo")
    with pytest.raises(ModelError, match="--change scale_factor=1"):
        medidiff.import_bundle(tmp_path / "zoo", tmp_path / "model", **STATED)
    done = medidiff.import_bundle(
        tmp_path / "zoo", tmp_path / "model", **STATED, changes=["scale_factor=0.8"]
    )
    assert max(done.differences["network"], done.differences["autoencoder"]) < 1e-4
    model = medidiff.load(tmp_path / "model", "cpu")
    # theirs clips latents to [-1, 1] unless told not to: ours never does
    assert (model.spec.target, model.spec.sampling.clip) == (V(), "none")
    sampler = dataclasses.replace(
        model.spec.sampling, sampler=DDIM(), spacing=UniformTime(), steps=20
    )
    model = Model(
        dataclasses.replace(model.spec, sampling=sampler),
        model.network,
        autoencoder=model.autoencoder,
    )
    from monai.networks.schedulers import DDIMScheduler

    scheduler = DDIMScheduler(
        schedule="scaled_linear_beta", prediction_type="v_prediction", clip_sample=False,
        steps_offset=49,
    )  # fmt: skip
    scheduler.set_timesteps(20)
    start = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(4))
    z = start
    with torch.no_grad():
        for step in scheduler.timesteps:
            z, _ = scheduler.step(theirs(z, step[None]), int(step), z)
        expected = autoencoder.decode(z / 0.8)
        ours, _ = model.walk_down(model.denoiser(), start, None)  # type: ignore[arg-type]
        found = model.codec.decode(ours, (16, 16))
    assert (found - expected).abs().max() < 1e-3 * expected.abs().max()
    assert model.sample(1, steps=2).images.shape == (1, 1, 16, 16)


def test_a_latent_bundle_without_an_autoencoder_that_is_known_is_refused(tmp_path: Path) -> None:
    latent_bundle(tmp_path / "zoo", scale_factor=0.8)
    bundle = medidiff.export(
        latent_model(tmp_path / "ours"), tmp_path / "bundle", format="monai-bundle"
    )
    for folder in (tmp_path / "zoo", bundle):
        file = folder / "configs" / "inference.json"
        file.write_text(file.read_text().replace("nets.AutoencoderKL", "nets.VQVAE"))
        with pytest.raises(ModelError, match="prior of latents, and defines no AutoencoderKL"):
            medidiff.import_bundle(folder, tmp_path / "model", **STATED)
        assert not (tmp_path / "model").exists()


def latent_model(folder: Path) -> Path:
    """A latent prior whose latents have a shift and a scale for each channel."""
    latent_bundle(folder / "zoo")
    model = medidiff.import_bundle(
        folder / "zoo", folder / "imported", **STATED, changes=["scale_factor=1"]
    ).model
    standard = Standard((0.3, -0.2, 0.1), (0.7, 1.5, 2.0))
    sampling = SamplingOptions(sampler=DDIM(), spacing=UniformTime(), steps=10, clip="none")
    codec = dataclasses.replace(model.spec.codec, standard=standard)  # type: ignore[arg-type]
    space = dataclasses.replace(model.spec.space, size=(16, 15))
    spec = dataclasses.replace(model.spec, codec=codec, sampling=sampling, space=space)
    return Model(spec, model.network, autoencoder=model.autoencoder).save(folder / "model")


def test_a_latent_prior_comes_back_from_its_bundle_with_its_latents_standardised(
    tmp_path: Path,
) -> None:
    folder = latent_model(tmp_path)
    bundle = medidiff.export(folder, tmp_path / "bundle", format="monai-bundle")
    before, after = medidiff.load(folder, "cpu"), medidiff.load(bundle, "cpu")
    random = torch.Generator().manual_seed(5)
    image, z = (
        torch.randn(1, 1, 16, 15, generator=random),
        torch.randn(1, 3, 8, 8, generator=random),
    )
    torch.testing.assert_close(
        after.codec.encode(image), before.codec.encode(image), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        after.codec.decode(z, (16, 15)), before.codec.decode(z, (16, 15)), rtol=1e-4, atol=1e-5
    )
    assert after.codec.decode(z, (16, 15)).shape == (1, 1, 16, 15)


@pytest.mark.slow
def test_monai_runs_an_exported_latent_bundle_to_our_image(tmp_path: Path) -> None:
    pytest.importorskip("jsonschema")
    from monai.bundle import verify_metadata

    folder = latent_model(tmp_path)
    bundle = medidiff.export(folder, tmp_path / "bundle", format="monai-bundle")
    verify_metadata(
        meta_file=str(bundle / "configs" / "metadata.json"),
        filepath=str(bundle / "docs" / "metadata_schema.json"),
    )
    written = nibabel.load(run_in_monai(bundle, num_inference_steps=10, seed=3)[0])
    model = medidiff.load(folder, "cpu")
    noise = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        z, _ = model.walk_down(model.denoiser(), noise, None)  # type: ignore[arg-type]
        image = model.spec.intensity.typical.inverse(model.codec.decode(z, (16, 15)))
    found = np.asarray(written.dataobj).reshape(16, 15)
    assert np.abs(found - image[0, 0].numpy()).max() < 1e-3 * float(image.abs().max())


def test_a_grid_that_monai_cannot_halve_is_refused(tmp_path: Path) -> None:
    folder = model_of(tmp_path / "model", space=Space(2, (16, 15)))
    with pytest.raises(ModelError, match="16 x 15; MONAI's network needs multiples of 2"):
        medidiff.export(folder, tmp_path / "bundle", format="monai-bundle")


def test_the_scale_factor_of_a_bundle_is_read_where_it_is_a_number(tmp_path: Path) -> None:
    latent_bundle(tmp_path / "zoo", scale_factor=0.5)
    done = medidiff.import_bundle(tmp_path / "zoo", tmp_path / "model", **STATED)
    assert done.model.spec.codec.standard.scale == (2.0, 2.0, 2.0)  # type: ignore[union-attr]
