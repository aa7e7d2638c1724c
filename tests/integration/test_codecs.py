"""Every codec in every dimension: trained with, saved with, sampled with, by the same verbs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import medidiff
from medidiff.errors import ModelError
from medidiff.networks import FittedAutoencoder, FittedWavelet

ROOT = Path(__file__).resolve().parents[2]
NETWORK = "{kind: autoencoder, channels: [8, 8], blocks: 1, latent_channels: 2, groups: 4}"
OBJECTIVE = "{kind: autoencoder, adversary: {start: 3, channels: 8, layers: 1}}"
SIZES = {2: 32, 3: 16}


def train(place: Path, manifest: Path, dims: int, name: str, *changes: str, **more: object) -> Path:
    given = [f"data.manifest={manifest}", f"output={place / name}", "data.conditions=[]"]
    given += ["train.steps=6", "train.sample_every=6", "train.validate_every=3", *changes]
    file = ROOT / "configs" / f"smoke-{dims}d.yaml"
    return medidiff.train(file, changes=given, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def autoencoders(place: Path, flat: Path, solid: Path) -> dict[int, Path]:
    return {
        dims: train(
            place, manifest, dims, f"autoencoder-{dims}d",
            f"network={NETWORK}", f"diffusion.objective={OBJECTIVE}",
        )
        for dims, manifest in ((2, flat), (3, solid))
    }  # fmt: skip


@pytest.fixture
def manifests(flat: Path, solid: Path) -> dict[int, Path]:
    return {2: flat, 3: solid}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", ["identity", "wavelet", "autoencoder"])
def test_a_codec_composes_with_training_saving_and_sampling(
    kind: str, dims: int, place: Path, manifests: dict[int, Path], autoencoders: dict[int, Path]
) -> None:
    said = f", model: {autoencoders[dims]}" if kind == "autoencoder" else ""
    run = train(
        place, manifests[dims], dims, f"behind-{kind}-{dims}d", f"codec={{kind: {kind}{said}}}"
    )
    model = medidiff.load(run, "cpu")
    drawn = model.sample(2, seed=1)
    assert drawn.images.shape == (2, 1, *[SIZES[dims]] * dims)
    assert torch.isfinite(drawn.images).all()
    # the whole model is in its folder: nothing else is needed, and it is the same again
    moved = run.rename(run.with_name(run.name + "-moved"))
    again = medidiff.load(moved, "cpu").sample(2, seed=1)
    assert torch.equal(again.images, drawn.images)
    assert model.spec.codec.kind == kind
    if kind != "identity":
        assert model.spec.sampling.clip == "none"
    if isinstance(model.spec.codec, FittedAutoencoder):
        source = medidiff.load(autoencoders[dims], "cpu")
        assert model.spec.codec.source == source.digest
        assert model.spec.intensity == source.spec.intensity
        kept = load_file(moved / "model" / "codec.safetensors")
        for name, weight in source.network.state_dict().items():
            assert torch.equal(kept[name], weight)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_encoded_train_split_has_mean_0_and_standard_deviation_1(
    dims: int, place: Path, manifests: dict[int, Path], autoencoders: dict[int, Path]
) -> None:
    """Of the whole split, before and after saving, and the same after resuming."""
    from medidiff.config import load_config
    from medidiff.jobs.prepare import prepare
    from medidiff.jobs.reporting import Quiet

    for codec in ("{kind: wavelet}", f"{{kind: autoencoder, model: {autoencoders[dims]}}}"):
        changes = [f"data.manifest={manifests[dims]}", f"output={place / 'x'}", f"codec={codec}"]
        changes += ["data.conditions=[]", "train.device=cpu"]
        loaded = load_config(ROOT / "configs" / f"smoke-{dims}d.yaml", changes)
        ready = prepare(loaded, None, Quiet())
        z = ready.train.images(range(len(ready.train)))
        if isinstance(ready.spec.codec, FittedWavelet):
            z = ready.spec.codec.encode(z)
        values = z.double().transpose(0, 1).flatten(1)
        torch.testing.assert_close(
            values.mean(1), torch.zeros(len(values)).double(), atol=1e-4, rtol=0
        )
        torch.testing.assert_close(
            values.std(1, correction=0), torch.ones(len(values)).double(), atol=1e-4, rtol=0
        )
        assert prepare(loaded, None, Quiet()).spec.codec == ready.spec.codec


def test_an_autoencoder_reports_its_reconstruction(autoencoders: dict[int, Path]) -> None:
    events = [json.loads(line) for line in (autoencoders[2] / "journal.jsonl").open()]
    last = {k: v for event in events for k, v in event.get("metrics", {}).items()}
    assert {"validation_psnr", "validation_l1", "train_psnr", "validation_loss"} <= last.keys()
    assert last["validation_loss"] == pytest.approx(last["validation_l1"])
    assert list((autoencoders[2] / "samples").glob("*.png"))
    model = medidiff.load(autoencoders[2], "cpu")
    assert model.spec.role == "autoencoder"
    with pytest.raises(ModelError, match="draws and denoises nothing"):
        model.sample(1)
