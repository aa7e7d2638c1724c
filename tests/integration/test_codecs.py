"""Every codec in every dimension: trained with, saved with, sampled with, by the same verbs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import medidiff
from medidiff.cli_training import _next
from medidiff.diffusion import DDIM
from medidiff.errors import ConfigError, ModelError, TaskError
from medidiff.jobs.cases import cases_of_split
from medidiff.jobs.memorisation import losses_by_case
from medidiff.jobs.reporting import Quiet
from medidiff.jobs.splits import Splits
from medidiff.networks import FittedAutoencoder, FittedWavelet, IdentityCodec, LatentCodec
from medidiff.steering import check_reader

ROOT = Path(__file__).resolve().parents[2]
NETWORK = "{kind: autoencoder, channels: [8, 8], blocks: 1, latent_channels: 2, groups: 4}"
OBJECTIVE = "{kind: autoencoder, adversary: {start: 3, channels: 8, layers: 1}}"
SIZES = {2: 32, 3: 16}
INTENSITY = "data.intensity={kind: percentile}"  # a prior of latents leaves it to the autoencoder


def train(place: Path, manifest: Path, dims: int, name: str, *changes: str, **more: object) -> Path:
    given = [f"data.manifest={manifest}", f"output={place / name}", "data.conditions=[]"]
    given += ["train.steps=6", "train.sample_every=6", "train.validate_every=3", *changes]
    if any("codec={kind: autoencoder" in change for change in changes):
        given.insert(2, INTENSITY)
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

    for codec in ("{kind: wavelet}", f"{{kind: autoencoder, model: {autoencoders[dims]}}}"):
        changes = [f"data.manifest={manifests[dims]}", f"output={place / 'x'}", f"codec={codec}"]
        changes += ["data.conditions=[]", "train.device=cpu", INTENSITY]
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
    assert "picture" not in {event["kind"] for event in events}  # it shows scans: never sent
    model = medidiff.load(autoencoders[2], "cpu")
    assert model.spec.role == "autoencoder"
    with pytest.raises(ModelError, match="draws and denoises nothing"):
        model.sample(1)
    said = _next(autoencoders[2])
    assert f"codec.model={autoencoders[2]}" in said
    assert "sample" not in said.replace(str(autoencoders[2]), "")


def checked_losses(run: Path) -> dict[int, float]:
    events = [json.loads(line) for line in (run / "journal.jsonl").open()]
    return {e["step"]: e["metrics"]["loss"] for e in events if "loss" in e.get("metrics", {})}


def test_an_interrupted_autoencoder_goes_on_with_its_adversary(
    place: Path, flat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, losses and the adversary's optimiser: bit-equal to a run that was not stopped."""
    from medidiff.training import loop

    changes = [f"network={NETWORK}", f"diffusion.objective={OBJECTIVE}"]
    changes += ["train.steps=8", "train.save_every=5", "train.log_every=1", "train.sample_every=0"]
    changes += ["data.augment.shift_voxels=2", "data.patch={size: [24, 16]}"]
    whole = train(place, flat, 2, "whole-autoencoder", *changes)
    save = loop.State.save

    def once(state: loop.State, folder: Path) -> None:
        save(state, folder)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop.State, "save", once)
        with pytest.raises(KeyboardInterrupt):
            train(place, flat, 2, "parts-autoencoder", *changes)
    parts = train(place, flat, 2, "parts-autoencoder", *changes, resume=True)
    assert checked_losses(parts) == checked_losses(whole)
    states = []
    for run in (whole, parts):
        pointer = json.loads((run / "checkpoints" / "latest.json").read_text())
        states.append(torch.load(run / "checkpoints" / pointer["file"], weights_only=True))
    ours, theirs = (load_file(run / "model" / "model.safetensors") for run in (parts, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for key, value in states[0]["network"].items():
        assert torch.equal(value, states[1]["network"][key])
    for key, value in states[0]["memory"]["network"].items():
        assert torch.equal(value, states[1]["memory"]["network"][key])
    moments = [state["memory"]["optimiser"]["state"][0] for state in states]
    assert int(moments[0]["step"]) == 5  # of 8 steps, from the third on
    assert torch.equal(moments[0]["exp_avg"], moments[1]["exp_avg"])


@pytest.mark.parametrize("codec", ["identity", "wavelet"])
def test_a_prior_on_patches_draws_whole_images(codec: str, place: Path, solid: Path) -> None:
    run = train(
        place, solid, 3, f"patches-{codec}",
        "data.patch={size: [8, 4, 8]}", f"codec={{kind: {codec}}}", "data.augment.shift_voxels=1",
    )  # fmt: skip
    model = medidiff.load(run, "cpu")
    assert model.spec.coordinates
    assert model.spec.given_channels == 0
    assert model.spec.shape.concat_channels == 3
    assert model.sample(1).images.shape == (1, 1, 16, 16, 16)
    losses = medidiff.evaluate(model, manifest=solid, n=2).losses
    assert all(loss > 0 for loss in losses)


def test_the_coordinates_reach_the_network(place: Path, solid: Path) -> None:
    run = place / "patches-identity"
    if not run.is_dir():
        train(place, solid, 3, "patches-identity", "data.patch={size: [8, 4, 8]}")
    model = medidiff.load(run, "cpu")
    seen: list[tuple[int, ...]] = []
    first = model.network.first  # type: ignore[union-attr]
    first.register_forward_hook(lambda _, given, __: seen.append(tuple(given[0].shape)))  # type: ignore[union-attr]
    model.sample(1, steps=1)
    assert seen[0] == (1, 4, 16, 16, 16)


def test_versions_are_the_latents_of_augmented_images(
    place: Path, flat: Path, autoencoders: dict[int, Path]
) -> None:
    from medidiff.config import load_config
    from medidiff.jobs.prepare import prepare

    def ready(*changes: str):
        said = f"codec={{kind: autoencoder, model: {autoencoders[2]}, versions: 3}}"
        given = [
            f"data.manifest={flat}",
            f"output={place / 'x'}",
            said,
            "train.device=cpu",
            INTENSITY,
        ]
        loaded = load_config(ROOT / "configs" / "smoke-2d.yaml", [*given, *changes])
        return prepare(loaded, None, Quiet())

    one = ready("data.augment.shift_voxels=3", "codec.versions=2")
    three = ready("data.augment.shift_voxels=3")
    count = len(three.train) // 3
    assert len(one.train) == 2 * count
    z = three.train.images(range(3 * count))
    assert torch.equal(z[: 2 * count], one.train.images(range(2 * count)))
    own, second, third = z.chunk(3)
    assert not torch.allclose(own, second, atol=0.1)
    assert not torch.allclose(second, third, atol=0.1)
    assert list(three.train.rows) == list(three.train.rows[:count]) * 3
    assert three.train.conditions is not None
    first, last = three.train.conditions[:count], three.train.conditions[2 * count :]
    assert torch.equal(first.nan_to_num(-9), last.nan_to_num(-9))
    assert three.augment == type(three.augment)()  # nothing moves latents
    with pytest.raises(ConfigError, match=r"codec\.versions above 1 needs data\.augment"):
        ready()
    with pytest.raises(ConfigError, match=r"say in codec\.versions"):
        ready("data.augment.shift_voxels=3", "codec.versions=1")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([f"network={NETWORK}"], "both of kind 'autoencoder' or neither"),
        (
            [
                f"network={NETWORK}",
                "diffusion={objective: {kind: autoencoder}, target: {kind: eps}}",
            ],
            r"diffusion\.target would be ignored",
        ),
        (
            [f"network={NETWORK}", f"diffusion.objective={OBJECTIVE}", "data.conditions=[age]"],
            "leave data.conditions out",
        ),
        (["data.patch={size: [8]}"], r"patch\.size has 2 numbers"),
        (["codec={kind: autoencoder}"], "name the trained autoencoder"),
        (
            ["codec={kind: autoencoder, model: x}", "data.intensity={kind: window}"],
            "leave data.intensity out",
        ),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(
    changes: list[str], message: str, place: Path, flat: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(place, flat, 2, "refused", *changes)
    assert not (place / "refused").exists()


def test_a_codec_must_be_an_autoencoder_of_these_images(
    place: Path, flat: Path, run_2d: Path, autoencoders: dict[int, Path]
) -> None:
    with pytest.raises(ModelError, match="role 'prior'; name an autoencoder"):
        train(place, flat, 2, "refused", f"codec={{kind: autoencoder, model: {run_2d}}}")
    codec = f"codec={{kind: autoencoder, model: {autoencoders[2]}}}"
    with pytest.raises(ModelError, match="was trained with modality 'MR'; found 'CT'"):
        train(place, flat, 2, "refused", codec, "modality=CT")
    assert not (place / "refused").exists()


def test_what_a_codec_forbids_is_said(
    place: Path, flat: Path, autoencoders: dict[int, Path]
) -> None:
    run = train(place, flat, 2, "behind", f"codec={{kind: autoencoder, model: {autoencoders[2]}}}")
    model = medidiff.load(run, "cpu")
    with pytest.raises(TaskError, match="the density of its latents is not one of images"):
        medidiff.evaluate(model, manifest=flat, n=2, likelihood=("bound",))
    medidiff.gamma(run, manifest=flat, out=place / "with-gamma", levels=2)
    assert isinstance(medidiff.load(place / "with-gamma", "cpu").codec, LatentCodec)
    cases = cases_of_split(model, flat, "train", Splits(), Quiet())
    assert losses_by_case(model, cases[:2], 0, Quiet()).isfinite().all()
    exported = medidiff.load(run, "cpu").save(place / "exported")
    (exported / "codec.safetensors").unlink()
    with pytest.raises(ModelError, match=r"codec\.safetensors missing"):
        medidiff.load(exported, "cpu")


@pytest.mark.parametrize("kind", ["wavelet", "autoencoder"])
def test_a_variance_head_is_trained_and_asked_behind_a_codec(
    kind: str, place: Path, flat: Path, autoencoders: dict[int, Path]
) -> None:
    said = f", model: {autoencoders[2]}" if kind == "autoencoder" else ""
    same = [f"codec={{kind: {kind}{said}}}", "train.sample_every=0", "data.patch={size: [8, 4]}"]
    parent = train(place, flat, 2, f"trunk-{kind}", *same)
    run = train(
        place, flat, 2, f"head-{kind}", *same,
        "diffusion.objective={kind: spread, source: npr}",
        "train.ema={kind: power, snapshots: 2, lengths: [0.1]}",
        "sampling.sampler={kind: ddim, variance: {kind: optimal, source: npr}}",
        parent=parent,
    )  # fmt: skip
    model, trunk = medidiff.load(run, "cpu"), medidiff.load(parent, "cpu")
    assert model.spec.codec == trunk.spec.codec
    assert model.spec.coordinates
    drawn = model.sample(2, seed=1, steps=4).images
    assert drawn.shape == (2, 1, 32, 32)
    assert torch.isfinite(drawn).all()
    assert not torch.equal(drawn, model.sample(2, seed=1, steps=4, sampler=DDIM()).images)
    copied = medidiff.load(medidiff.export(run, place / f"head-copy-{kind}"), "cpu")
    assert torch.equal(copied.sample(2, seed=1, steps=4).images, drawn)
    longer = medidiff.load(medidiff.average(run, place / f"head-longer-{kind}", std=0.05), "cpu")
    assert torch.isfinite(longer.sample(2, seed=1, steps=4).images).all()
    with pytest.raises(ModelError, match=r"no wavelet codec|no heads for a variance \(npr\)"):
        medidiff.export(run, place / "refused", format="monai-bundle")
    with_gamma = medidiff.gamma(run, manifest=flat, out=place / f"head-gamma-{kind}", levels=2)
    assert torch.equal(medidiff.load(with_gamma, "cpu").sample(2, seed=1, steps=4).images, drawn)


def test_what_reads_images_does_not_guide_behind_a_codec(place: Path, flat: Path) -> None:
    encoder = "network={kind: encoder, channels: [8, 8], attention: [false, false], blocks: 1}"
    objective = "diffusion.objective={kind: classifier, column: sex}"
    for change in ("codec={kind: wavelet}", "data.patch={size: [8, 8]}"):
        with pytest.raises(ConfigError, match=r"leave codec and data\.patch out"):
            train(place, flat, 2, "refused", encoder, objective, change)
    prior = medidiff.load(
        train(place, flat, 2, "unguided", "codec={kind: wavelet}", "train.sample_every=0"), "cpu"
    ).spec
    reader = replace(prior, role="classifier", codec=IdentityCodec())
    noisiest = prior.schedule(torch.tensor(prior.schedule.t_max, dtype=torch.float64))
    with pytest.raises(ModelError, match=r"the prior works behind a codec \(wavelet\)"):
        check_reader(reader, prior, "classifier", noisiest)


@pytest.mark.parametrize("kind", ["wavelet", "autoencoder"])
def test_a_student_and_a_fine_tuned_prior_keep_their_parent_s_codec(
    kind: str, place: Path, flat: Path, autoencoders: dict[int, Path]
) -> None:
    source = autoencoders[2]
    codec = f"{{kind: {kind}{f', model: {source}' if kind == 'autoencoder' else ''}}}"
    same = ["diffusion={schedule: {kind: edm}, target: {kind: edm, data_std: 1}}"]
    same += ["train.sample_every=0", "sampling={}"]
    parent = train(place, flat, 2, f"elder-{kind}", f"codec={codec}", *same)
    student = medidiff.load(
        train(
            place, flat, 2, f"younger-{kind}", f"codec={codec}", *same,
            "diffusion.objective={kind: consistency, teacher: parent}",
            parent=parent,
        ),
        "cpu",
    )  # fmt: skip
    assert student.spec.codec == medidiff.load(parent, "cpu").spec.codec
    drawn = student.sample(2, seed=1)
    assert drawn.nfe == 2
    assert drawn.images.shape == (2, 1, 32, 32)
    assert torch.isfinite(drawn.images).all()
    other = medidiff.load(source, "cpu").save(place / f"other-{kind}", "another one")
    refused = {
        "codec={kind: wavelet, scale: one}": r"codec\.scale",
        f"codec={{kind: autoencoder, model: {other}}}": r"codec\.model",
        f"codec={{kind: autoencoder, model: {source}, tiles: {{size: 16}}}}": r"codec\.tiles",
    }
    for change, key in refused.items():
        said = key if f"kind: {kind}" in change else r"codec\.kind"
        with pytest.raises(ConfigError, match=f"fine-tuning: {said} of the configuration is"):
            train(place, flat, 2, "refused", change, *same, parent=parent)
    assert not (place / "refused").exists()
