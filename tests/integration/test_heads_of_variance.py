"""SN and NPR heads on a frozen prior: trained, saved and sampled with by the verbs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import medidiff
from medidiff.diffusion import DDIM, DDPM, Denoiser, OptimalVariance
from medidiff.errors import ConfigError, ModelError
from medidiff.model_folder import HEADS, check_folder

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "smoke-2d.yaml"
NPR, SN = (OptimalVariance(source=source) for source in ("npr", "sn"))


def train(output: Path, flat: Path, parent: Path | None, *changes: str) -> Path:
    given = [
        f"data.manifest={flat}",
        f"output={output}",
        "train.steps=4",
        "train.sample_every=0",
        *changes,
    ]
    return medidiff.train(CONFIG, changes=given, parent=parent)


@pytest.fixture(scope="module", autouse=True)
def no_server() -> Iterator[None]:
    """The journal is enough."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "mlflow", None)
        yield


@pytest.fixture(scope="module")
def npr(place: Path, flat: Path, run_2d: Path) -> Path:
    return train(
        place / "run-npr",
        flat,
        run_2d,
        "diffusion.objective={kind: spread, source: npr, form: complex}",
        "sampling.sampler={kind: ddim, variance: {kind: optimal, source: npr}}",
        "train.sample_every=4",
    )


@pytest.fixture(scope="module")
def both(place: Path, flat: Path, npr: Path) -> Path:
    return train(place / "run-sn", flat, npr, "diffusion.objective={kind: spread, source: sn}")


def test_the_trunk_is_the_parent_s_to_the_bit_and_the_head_is_small(
    npr: Path, both: Path, run_2d: Path
) -> None:
    before = (run_2d / "model" / "model.safetensors").read_bytes()
    for run in (npr, both):
        check_folder(run / "model")
        assert (run / "model" / "model.safetensors").read_bytes() == before
    assert (npr / "model" / HEADS).stat().st_size < len(before) / 5
    weights = load_file(both / "model" / HEADS)
    assert {name.partition(".")[0] for name in weights} == {"npr", "sn"}
    assert any(bool(value.any()) for name, value in weights.items() if name.startswith("sn.last"))
    alone = load_file(npr / "model" / HEADS)
    assert all(torch.equal(weights[name], value) for name, value in alone.items())
    model = medidiff.load(both, "cpu")
    assert model.spec.lineage.parent == medidiff.load(npr, "cpu").digest
    assert [(head.source, head.form) for head in model.spec.heads] == [
        ("npr", "complex"),
        ("sn", "simple"),
    ]


def test_the_model_s_own_sampler_takes_the_head_s_variance(npr: Path, run_2d: Path) -> None:
    model, plain = medidiff.load(npr, "cpu"), medidiff.load(run_2d, "cpu")
    drawn = model.sample(2, seed=1, steps=4)
    assert torch.isfinite(drawn.images).all()
    assert not torch.equal(drawn.images, model.sample(2, seed=1, steps=4, sampler=DDIM()).images)
    # the rest of the model is the parent's
    ours = model.sample(2, seed=1, steps=4, sampler=DDPM()).images
    assert torch.equal(ours, plain.sample(2, seed=1, steps=4, sampler=DDPM()).images)


def test_a_model_with_both_heads_and_a_gamma_table_serves_each_source(
    both: Path, flat: Path, tmp_path: Path
) -> None:
    folder = medidiff.gamma(both, tmp_path / "all", manifest=flat, levels=3)
    model = medidiff.load(folder, "cpu")
    x = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    level = model.spec.schedule(torch.tensor(0.5, dtype=torch.float64))
    told = {
        name: model.denoiser(spread=name)(x, level).spread  # type: ignore[arg-type]
        for name in ("gamma", "npr", "sn", "none")
    }
    assert told["none"] is None
    found = [value for value in told.values() if value is not None]
    assert len(found) == 3
    assert all(value.shape == x.shape for value in found)
    assert not any(torch.equal(found[a], found[b]) for a in range(3) for b in range(3) if a != b)
    for variance in (NPR, SN, OptimalVariance(source="gamma")):
        drawn = model.sample(1, steps=3, sampler=DDPM(variance=variance)).images
        assert torch.isfinite(drawn).all()


def test_the_length_of_average_of_a_head_is_chosen_after_training(
    run_2d: Path, place: Path, flat: Path, tmp_path: Path
) -> None:
    ema = "train.ema={kind: power, snapshots: 2, lengths: [0.1]}"
    power = [ema, "diffusion.objective={kind: spread}"]
    run = train(place / "run-power", flat, run_2d, *power)
    other = medidiff.average(run, tmp_path / "other", std=0.05)
    before = (run_2d / "model" / "model.safetensors").read_bytes()
    files = [(folder / "model.safetensors").read_bytes() for folder in (run / "model", other)]
    assert files == [before, before]
    heads = [load_file(folder / HEADS) for folder in (run / "model", other)]
    assert not torch.equal(heads[0]["npr.last.weight"], heads[1]["npr.last.weight"])


def test_under_guidance_the_spread_is_that_of_the_conditional_branch(npr: Path) -> None:
    model = medidiff.load(npr, "cpu")
    x = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    level = model.spec.schedule(torch.tensor(0.5, dtype=torch.float64))
    condition = model.condition({"sex": "F", "age": 40}, 1)
    guided = model.denoiser(condition, guidance=3.0)(x, level)
    plain, unknown = model.denoiser(condition)(x, level), model.denoiser()(x, level)
    assert guided.spread is not None
    assert plain.spread is not None
    assert torch.equal(guided.spread, plain.spread)
    assert not torch.equal(guided.clean, plain.clean)
    assert unknown.spread is not None


def test_an_interval_of_guidance_keeps_the_spread_of_images_on_both_of_its_sides(npr: Path) -> None:
    model = medidiff.load(npr, "cpu")
    x = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    levels = model.spec.schedule(torch.tensor([0.2, 0.8], dtype=torch.float64))
    condition = model.condition({"sex": "F", "age": 40}, 2)
    some = model.denoiser(condition, None, 3.0, (0.0, 1.0))(x, levels)
    plain = model.denoiser(condition)(x, levels)
    assert some.spread is not None
    assert plain.spread is not None
    assert torch.equal(some.spread, plain.spread)


def test_a_source_that_a_model_lacks_is_named_with_its_remedy(npr: Path, run_2d: Path) -> None:
    for model, variance in (
        (medidiff.load(npr, "cpu"), SN),
        (medidiff.load(run_2d, "cpu"), NPR),
    ):
        with pytest.raises(ModelError, match=f"source: {variance.source}.*--from MODEL"):
            model.sample(1, sampler=DDIM(variance=variance))
    with pytest.raises(ModelError, match="medidiff gamma"):
        medidiff.load(npr, "cpu").sample(1, sampler=DDIM(variance=OptimalVariance()))


def test_nothing_is_written_for_a_head_without_a_prior_or_a_sampler_without_its_head(
    place: Path, flat: Path, run_2d: Path
) -> None:
    out = place / "never"
    with pytest.raises(ModelError, match="name it"):
        train(out, flat, None, "diffusion.objective={kind: spread}")
    asks = "sampling.sampler={kind: ddpm, variance: {kind: optimal, source: sn}}"
    with pytest.raises(ModelError, match="has not learned"):
        train(out, flat, run_2d, "diffusion.objective={kind: spread, source: npr}", asks)
    with pytest.raises(ModelError, match="has not learned"):
        train(out, flat, None, asks)
    spread, weight = "diffusion.objective={kind: spread}", "diffusion.weight={kind: min-snr}"
    with pytest.raises(ConfigError, match="would be ignored"):
        train(out, flat, run_2d, spread, weight)
    assert not out.exists()


def test_a_missing_or_altered_file_of_heads_is_refused(npr: Path, tmp_path: Path) -> None:
    for how in ("missing", "altered"):
        copy = tmp_path / how
        copy.mkdir()
        for file in (npr / "model").iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
        if how == "missing":
            (copy / HEADS).unlink()
        else:
            (copy / HEADS).write_bytes((copy / HEADS).read_bytes()[:-1] + b"\1")
        with pytest.raises(ModelError, match=HEADS):
            medidiff.load(copy, "cpu")


def test_fine_tuning_the_prior_forgets_the_head(npr: Path, place: Path, flat: Path) -> None:
    again = train(place / "run-tuned", flat, npr, "train.sample_every=0")
    assert medidiff.load(again, "cpu").spec.heads == ()


def test_a_trunk_with_a_spread_of_its_own_may_have_a_head_too(place: Path, flat: Path) -> None:
    hybrid = train(place / "hybrid-trunk", flat, None, "diffusion.objective={kind: hybrid}")
    headed = train(place / "hybrid-head", flat, hybrid, "diffusion.objective={kind: spread}")
    model = medidiff.load(headed, "cpu")
    assert model.spec.spread == "learned-range"
    x, level = torch.zeros(1, 1, 32, 32), model.spec.schedule(torch.tensor(0.5).double())
    own, head = (model.denoiser(spread=name)(x, level) for name in ("learned-range", "npr"))  # type: ignore[arg-type]
    assert torch.equal(own.clean, head.clean)
    assert own.spread is not None
    assert head.spread is not None
    assert not torch.equal(own.spread, head.spread)
    trunk = Denoiser(model.network, model.spec.target, spread=True)(x, level)
    assert trunk.spread is not None
    assert torch.equal(trunk.spread, own.spread)
