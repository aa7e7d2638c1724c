"""Every key of a configuration does something: changed alone, it changes what a run gives.

A new key fails here until a value is stated that shows its effect, or the test that does.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import re
import sys
import threading
import typing
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from safetensors.torch import load_file

import medidiff
from medidiff.config import Config, load_config
from medidiff.data import datasets, placing
from medidiff.data.phantoms import write_population
from medidiff.errors import MedidiffError
from medidiff.jobs import prepare
from medidiff.jobs.cases import not_fitting
from medidiff.jobs.reporting import Quiet

TESTS = Path(__file__).resolve().parents[1]
SMALL = {
    "name": "a",
    "modality": "MR",
    "data.space": "{dims: 2, size: [24, 24]}",
    "data.conditions": "[sex, age]",
    "data.intensity": "{kind: percentile}",
    "diffusion.schedule": "{kind: cosine}",
    "sampling.sampler": "{kind: dpm-solver++}",
    "network": "{kind: unet, channels: [4, 8], attention: [false, true], blocks: 1, groups: 2,"
    " head_channels: 4}",
    "train.steps": "4",
    "train.batch": "3",
    "train.learning_rate": "1e-2",
    "train.warmup_steps": "1",
    "train.ema": "{kind: exponential, decay: 0.5}",
    "train.log_every": "2",
    "train.validate_every": "2",
    "train.validation_levels": "2",
    "train.validation_images": "4",
    "train.sample_every": "4",
    "train.sample_images": "1",
    "train.keep": "last",
    "sampling.steps": "3",
}
HARSH = {"train.validate_every": "1", "train.early_stop.tolerance": "0.9", "train.keep": "best"}
"""Under which no second validation is a new best."""
GENTLE = {"train.validate_every": "1", "train.early_stop.patience": "1", "train.keep": "best"}
"""Under which one gap at a noise level stops the training."""
STUDENT = {"diffusion.target": "{kind: edm}", "diffusion.objective": "{kind: consistency}"}
EASY = {**STUDENT, "diffusion.objective": "{kind: consistency, gaps: {kind: easy}}"}
DOUBLED = {**STUDENT, "diffusion.objective": "{kind: consistency, gaps: {kind: doubled}}"}
CHURN = {"sampling.sampler": "{kind: heun, churn: 2}"}
ENCODER = {
    "network": "{kind: encoder, channels: [4, 8], attention: [false, false], blocks: 1, groups: 2}",
    "network.head_channels": "4",
    "data.conditions": "[]",
}
ALIGNMENT = {**ENCODER, "diffusion.objective": "{kind: alignment, width: 8}"}
IMPORTANCE = {
    "diffusion.times": "{kind: uniform-steps, steps: 2}",
    "diffusion.importance": "{kept: 1, uniform_share: 0}",
    "train.steps": "8",
}

AUTOENCODER = {
    "data.conditions": "[]",
    "network": "{kind: autoencoder, channels: [4, 8], blocks: 1, latent_channels: 2, groups: 2}",
    "diffusion.objective": "{kind: autoencoder, adversary: {start: 1, channels: 4, layers: 1}}",
}

# key -> (value that shows its effect, what must be set besides)
SHOWN: dict[str, tuple[str, dict[str, str]]] = {
    "name": ("b", {}),
    "modality": ("CT", {}),
    "data.space.size": ("[16, 24]", {}),
    "data.space.spacing_mm": ("[12.0, 9.0]", {}),
    "data.space.orientation": ("AL", {}),
    "data.images": ("[t2]", {}),
    "data.conditions": ("[sex]", {}),
    "data.intensity[window].low": ("-200", {"data.intensity": "{kind: window, high: 900}"}),
    "data.intensity[window].high": ("800", {"data.intensity": "{kind: window, low: 0}"}),
    "data.intensity[window].clip": ("true", {"data.intensity": "{kind: window, high: 500}"}),
    "data.intensity[ct-window].window": ("lung", {"data.intensity": "{kind: ct-window}"}),
    "data.intensity[ct-window].clip": (
        "false",
        {"data.intensity": "{kind: ct-window, window: brain}"},
    ),
    "data.intensity[percentile].low": ("10", {}),
    "data.intensity[percentile].high": ("80", {}),
    "data.intensity[percentile].scope": ("image", {}),
    "data.augment.shift_voxels": ("3", {}),
    "data.augment.rotate_degrees": ("30", {}),
    "data.augment.scale": ("0.3", {}),
    "data.augment.intensity": ("0.4", {}),
    "data.augment.flip_axes": ("[0]", {}),
    "data.augment.until": ("0.0", {"data.augment.shift_voxels": "3"}),
    "data.train_split": ("test", {"data.conditions": "[age]"}),
    "data.validation_split": ("test", {}),
    "data.holdout": ("0.6", {"data.holdout": "0.3", "data.validation_split": "held"}),
    "network[unet].channels": ("[4, 12]", {}),
    "network[unet].blocks": ("2", {}),
    "network[unet].attention": ("[false, false]", {}),
    "network[unet].head_channels": ("8", {}),
    "network[unet].groups": ("4", {}),
    "network[unet].dropout": ("0.5", {}),
    "network[unet].middle_attention": ("always", {"network.attention": "[false, false]"}),
    "network[unet].modulation": ("shift", {}),
    "network[unet].resampling": ("convolution", {}),
    "network[unet].taps": ("fir", {}),
    "network[unet].progressive_input": ("skip", {}),
    "network[unet].norm_eps": ("0.5", {}),
    "network[unet].waves": ("8", {}),
    "network[autoencoder].channels": ("[4, 12]", AUTOENCODER),
    "network[autoencoder].blocks": ("2", AUTOENCODER),
    "network[autoencoder].latent_channels": ("3", AUTOENCODER),
    "network[autoencoder].attention": ("[false, true]", AUTOENCODER),
    "network[autoencoder].middle": ("decoder", AUTOENCODER),
    "network[autoencoder].groups": ("4", AUTOENCODER),
    "network[autoencoder].norm_eps": ("0.5", AUTOENCODER),
    "data.patch.size": ("[12, 16]", {"data.patch": "{size: [16, 16]}"}),
    "codec[wavelet].scale": ("wdm", {"codec": "{kind: wavelet}"}),
    "diffusion.objective[autoencoder].kl_weight": ("10.0", AUTOENCODER),
    "diffusion.objective[autoencoder].adversary.weight": ("0.0", AUTOENCODER),
    "diffusion.objective[autoencoder].adversary.start": ("3", AUTOENCODER),
    "diffusion.objective[autoencoder].adversary.channels": ("6", AUTOENCODER),
    "diffusion.objective[autoencoder].adversary.layers": ("2", AUTOENCODER),
    "diffusion.objective[autoencoder].adversary.learning_rate": ("1e-2", AUTOENCODER),
    "diffusion.schedule[vp-linear].beta_min": ("1.0", {"diffusion.schedule": "{kind: vp-linear}"}),
    "diffusion.schedule[vp-linear].beta_max": ("9.0", {"diffusion.schedule": "{kind: vp-linear}"}),
    "diffusion.schedule[cosine].offset": ("0.1", {}),
    "diffusion.schedule[ve].sigma_min": ("0.1", {"diffusion.schedule": "{kind: ve}"}),
    "diffusion.schedule[ve].sigma_max": ("9.0", {"diffusion.schedule": "{kind: ve}"}),
    "diffusion.schedule[edm].sigma_min": ("0.1", {"diffusion.schedule": "{kind: edm}"}),
    "diffusion.schedule[edm].sigma_max": ("9.0", {"diffusion.schedule": "{kind: edm}"}),
    "diffusion.schedule[edm].rho": ("3.0", {"diffusion.schedule": "{kind: edm}"}),
    "diffusion.target[edm].data_std": ("0.2", {"diffusion.target": "{kind: edm}"}),
    "diffusion.target[flow-velocity].input": (
        "as-it-is",
        {"diffusion.target": "{kind: flow-velocity}", "diffusion.schedule": "{kind: flow}"},
    ),
    "diffusion.times[uniform-steps].steps": ("7", {"diffusion.times": "{kind: uniform-steps}"}),
    "diffusion.times[logit-normal].mean": ("1.0", {"diffusion.times": "{kind: logit-normal}"}),
    "diffusion.times[logit-normal].std": ("0.3", {"diffusion.times": "{kind: logit-normal}"}),
    "diffusion.times[log-normal-noise-ratio].mean": (
        "0.5",
        {"diffusion.times": "{kind: log-normal-noise-ratio}"},
    ),
    "diffusion.times[log-normal-noise-ratio].std": (
        "0.3",
        {"diffusion.times": "{kind: log-normal-noise-ratio}"},
    ),
    "diffusion.weight[min-snr].gamma": ("0.5", {"diffusion.weight": "{kind: min-snr}"}),
    "diffusion.weight[p2].k": ("5.0", {"diffusion.weight": "{kind: p2}"}),
    "diffusion.weight[p2].gamma": ("0.2", {"diffusion.weight": "{kind: p2}"}),
    "diffusion.weight[edm].data_std": ("0.1", {"diffusion.weight": "{kind: edm}"}),
    "diffusion.objective[hybrid].variance": ("learned", {"diffusion.objective": "{kind: hybrid}"}),
    "diffusion.objective[hybrid].bound_share": ("1.0", {"diffusion.objective": "{kind: hybrid}"}),
    "diffusion.objective[variational].variance": (
        "large",
        {"diffusion.objective": "{kind: variational}"},
    ),
    "diffusion.objective[consistency].gaps[easy].factor": ("4.0", EASY),
    "diffusion.objective[consistency].gaps[easy].stages": ("2", EASY),
    "diffusion.objective[consistency].gaps[doubled].first": ("20", DOUBLED),
    "diffusion.objective[consistency].gaps[doubled].last": ("20", DOUBLED),
    "diffusion.objective[consistency].held_decay": ("0.5", STUDENT),
    "diffusion.objective[consistency].distance": ("squared", STUDENT),
    "diffusion.objective[consistency].mean": ("1.0", STUDENT),
    "diffusion.objective[consistency].std": ("0.5", STUDENT),
    "diffusion.objective[uncertainty].features": (
        "16",
        {"diffusion.objective": "{kind: uncertainty}"},
    ),
    "diffusion.objective[classifier].column": (
        "handed",
        {**ENCODER, "diffusion.objective": "{kind: classifier, column: sex}"},
    ),
    "diffusion.objective[alignment].width": ("4", ALIGNMENT),
    "diffusion.objective[alignment].logit_scale": ("1", ALIGNMENT),
    "diffusion.importance.kept": ("2", IMPORTANCE),
    "diffusion.importance.uniform_share": ("1", IMPORTANCE),
    "network[encoder].channels": ("[4, 12]", ALIGNMENT),
    "network[encoder].blocks": ("2", ALIGNMENT),
    "network[encoder].attention": ("[false, true]", ALIGNMENT),
    "network[encoder].modulation": ("film", ALIGNMENT),
    "network[encoder].pooling": ("mean", ALIGNMENT),
    "network[encoder].taps": ("fir", ALIGNMENT),
    "network[encoder].head_channels": ("2", ALIGNMENT),
    "network[encoder].groups": ("4", ALIGNMENT),
    "network[encoder].norm_eps": ("0.5", ALIGNMENT),
    "network[encoder].waves": ("8", ALIGNMENT),
    "network[encoder].dropout": ("0.5", ALIGNMENT),
    "train.steps": ("3", {}),
    "train.batch": ("2", {}),
    "train.learning_rate": ("1e-3", {}),
    "train.weight_decay": ("0.9", {}),
    "train.warmup_steps": ("4", {}),
    "train.rate": ("constant", {}),
    "train.clip_norm": ("1e-9", {}),
    "train.ema[exponential].decay": ("0.0", {}),
    "train.ema[power].stds": ("[0.06, 0.1]", {"train.ema": "{kind: power}"}),
    "train.ema[power].snapshots": ("16", {"train.ema": "{kind: power}", "train.steps": "40"}),
    "train.ema[power].lengths": ("[0.1]", {"train.ema": "{kind: power}"}),
    "train.condition_dropout": ("0.9", {}),
    "train.precision": ("bf16", {}),
    "train.seed": ("1", {}),
    "train.log_every": ("1", {}),
    "train.validate_every": ("1", {}),
    "train.validation_levels": ("3", {}),
    "train.validation_images": ("2", {}),
    "train.sample_every": ("2", {}),
    "train.sample_images": ("2", {}),
    "train.early_stop.patience": ("1", HARSH),
    "train.early_stop.tolerance": ("0.0", HARSH),
    "train.early_stop.rise": ("0.0", {**GENTLE, "train.steps": "30"}),
    "train.keep": ("last", HARSH),
    "sampling.sampler[ddim].eta": ("1.0", {"sampling.sampler": "{kind: ddim}"}),
    "sampling.sampler[heun].churn": ("0.5", CHURN),
    "sampling.sampler[heun].churn_min": ("1.0", CHURN),
    "sampling.sampler[heun].churn_max": ("0.5", CHURN),
    "sampling.sampler[heun].noise_scale": ("1.5", CHURN),
    "sampling.sampler[dpm-solver++].order": ("1", {"sampling.steps": "8"}),
    "sampling.spacing[karras].rho": ("2.0", {"sampling.spacing": "{kind: karras}"}),
    "sampling.steps": ("4", {}),
    "sampling.clip": ("none", {}),
    "tracking.experiment": ("other", {}),
}
# key -> the test that shows its effect
ELSEWHERE = {
    "diffusion.objective[consistency].teacher": "test_a_teacher_needs_a_parent",
    "data.manifest": "test_a_manifest_that_cannot_be_used",
    "data.space.dims": "test_a_scan_is_denoised_onto_its_own_grid_with_provenance",
    "data.cache": "test_scans_are_kept_or_read_again",
    "data.slices.plane": "test_what_is_trained_on_is_what_the_slices_asked_for_hold",
    "data.slices.every": "test_what_is_trained_on_is_what_the_slices_asked_for_hold",
    "data.slices.thickness": "test_a_slab_s_slices_are_channels_in_their_order",
    "data.slices.foreground": "test_what_is_trained_on_is_what_the_slices_asked_for_hold",
    "data.workers": "test_scans_are_read_by_as_many_threads_as_the_configuration_says",
    "codec[autoencoder].model": "test_a_codec_composes_with_training_saving_and_sampling",
    "codec[autoencoder].versions": "test_versions_are_the_latents_of_augmented_images",
    "codec[autoencoder].tiles.size": "test_the_weights_of_tiles_add_up_to_one",
    "codec[autoencoder].tiles.overlap": "test_the_weights_of_tiles_add_up_to_one",
    "codec[autoencoder].tiles.statistics": "test_norms_that_see_all_tiles_lessen_the_seams",
    "output": "test_an_output_folder_that_holds_results",
    "network[unet].checkpoint_levels": "test_recomputed_levels_give_the_same_gradients",
    "network[unet].beside": "test_a_low_resolution_image_beside_is_interpolated",
    "train.acceleration": "test_a_replayed_graph_gives_what_the_call_gives",  # on a GPU only
    "train.device": "test_a_device_that_is_not_there_is_refused",
    "train.minutes": "test_a_run_is_resumed_only_with_the_scans_it_was_started_with",
    "train.save_every": "test_a_stopped_run_goes_on_as_if_it_had_never_stopped",
    "diffusion.objective[spread].source": (
        "test_a_model_with_both_heads_and_a_gamma_table_serves_each_source"
    ),
    "diffusion.objective[spread].form": (
        "test_the_trunk_is_the_parent_s_to_the_bit_and_the_head_is_small"
    ),
    "format": "test_the_schema_in_the_repository_is_the_one_that_the_code_makes",  # one format
}


NEEDED = {
    ("network", "autoencoder"): AUTOENCODER,
    ("diffusion.objective", "autoencoder"): {**AUTOENCODER, "diffusion.target": "{kind: v}"},
}
"""A kind of a choice -> what it cannot do without."""
SHOWN_KIND = {("codec", "autoencoder"): "test_a_codec_composes_with_training_saving_and_sampling"}
# the options of these are mathematics, and shown as such
MATHEMATICS = ("sampling.sampler[", "sampling.spacing[", "diffusion.schedule[")
SHOWN_AS_MATHEMATICS = "test_an_option_changed_alone_changes_the_result"


def keys(kind: type = Config, prefix: str = "") -> Iterator[str]:
    """Every key by its dotted name, the kind of a union's member in brackets."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        parts = [hints[field.name], *typing.get_args(hints[field.name])]
        inner = [part for part in parts if dataclasses.is_dataclass(part)]
        for part in inner:
            tag = f"[{part.kind}]" if len(inner) > 1 else ""  # type: ignore[union-attr]
            yield from keys(typing.cast(type, part), f"{prefix}{field.name}{tag}.")
        if not inner:
            yield prefix + field.name


def kinds() -> list[tuple[str, str]]:
    """(key of a union, one of its kinds); a union within a union is mathematics of its own."""
    found = [re.fullmatch(r"([^\[]*)\[([^\[]*)\]\.kind", key) for key in keys()]
    return [(match[1], match[2]) for match in found if match]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small population with a second contrast."""
    folder = tmp_path_factory.mktemp("population")
    path = write_population(folder, 8, 4, 4, size=24)
    rows = list(csv.DictReader(path.open()))
    for row, other in zip(rows, rows[1:] + rows[:1], strict=True):
        row["t2:image"] = other["image"]
    write_population(folder / "t2", 8, 4, 4, size=24, seed=9)
    for index, row in enumerate(rows):
        row["t2:image"] = f"t2/{row['image']}"
        row["handed:category"] = ("left", "right")[index % 3 > 0]
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


Observe = Callable[..., dict[str, object]]


@pytest.fixture(scope="module")
def observe(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observe]:
    """What a run with these changes shows, each run made once. No MLflow: the journal is enough."""
    place = tmp_path_factory.mktemp("runs")
    (place / "config.yaml").write_text(f"output: run\ndata: {{manifest: {manifest}}}\n")

    @cache
    def run(changes: tuple[tuple[str, str], ...]) -> dict[str, object]:
        out = place / hashlib.sha256(repr(changes).encode()).hexdigest()[:12]
        listed = [f"{key}={value}" for key, value in (*changes, ("output", str(out)))]
        return observation(medidiff.train(place / "config.yaml", changes=listed))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDIDIFF_HOME", str(place / "home"))
        patch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
        patch.setitem(sys.modules, "mlflow", None)
        yield lambda *parts: run(tuple({k: v for part in parts for k, v in part.items()}.items()))


def observation(run: Path) -> dict[str, object]:
    model = medidiff.load(run, "cpu")
    weights = load_file(run / "model" / "model.safetensors")
    events = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    record = json.loads((run / "run.json").read_text())
    (case,) = datasets.CaseSet(
        prepare.read_manifest(load_config(run / "config.yaml").manifest).split("test")[:1],
        model.spec.images,
        model.spec.space,
        model.spec.intensity,
    )
    metrics = [
        (event["step"], name, value)
        for event in events
        if event["kind"] == "metrics"
        for name, value in event["metrics"].items()
        if name != "images_per_second"
    ]
    return {
        "weights": {name: value.tolist() for name, value in weights.items()},
        "sample": model.sample(1).images.tolist() if model.spec.role == "prior" else None,
        "metrics": metrics,
        "pictures": [
            hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(run.glob("samples/*"))
        ],
        "record": (record["name"], record["experiment"], model.spec.name),
        "misfits": not_fitting(model, case),
    }


def test_every_key_is_observed() -> None:
    known = {*SHOWN, *ELSEWHERE}
    unshown = [key for key in keys() if key not in known and not key.startswith(MATHEMATICS)]
    assert [key for key in unshown if not key.endswith("].kind")] == []
    assert {*SHOWN, *ELSEWHERE} <= {*keys()}
    written = "".join(file.read_text() for file in TESTS.rglob("test_*.py"))
    shown = [*ELSEWHERE.items(), *SHOWN_KIND.items()]
    for key, name in [*shown, ("mathematics", SHOWN_AS_MATHEMATICS)]:
        assert f"def {name}(" in written, key
    for pair, name in KINDS_ELSEWHERE.items():
        assert f"def {name}" in written, pair
        assert pair in kinds()


@pytest.mark.slow
@pytest.mark.parametrize("key", SHOWN)
def test_a_key_changed_alone_changes_what_a_run_gives(key: str, observe: Observe) -> None:
    value, besides = SHOWN[key]
    dotted = re.sub(r"\[.*?\]", "", key)
    assert observe(SMALL, besides) != observe(SMALL, besides, {dotted: value})


# these cannot be chosen alone
KINDS_ELSEWHERE = {
    ("diffusion.objective", "spread"): "test_the_trunk_is_the_parent_s_to_the_bit",
    ("diffusion.objective", "classifier"): "test_a_classifier_tells_cross_entropy",
    ("diffusion.objective", "alignment"): "test_an_encoder_learns_without_labels",
    ("network", "encoder"): "test_a_training_that_died_goes_on_as_if_it_had_not",
}


@pytest.mark.slow
@pytest.mark.parametrize("union", sorted({u for u, _ in kinds() if not u.startswith("sampling.")}))
def test_each_kind_of_a_choice_gives_something_else(union: str, observe: Observe) -> None:
    names = [kind for key, kind in kinds() if key == union and (key, kind) not in KINDS_ELSEWHERE]
    # every target can be read at the start of this schedule
    besides = {
        "diffusion.target": {"diffusion.schedule": "{kind: vp-linear}"},
        "diffusion.objective": {"diffusion.target": "{kind: edm}"},  # the one that all can have
    }.get(union, {})
    changes = [
        {union: f"{{kind: {kind}}}", **besides, **NEEDED.get((union, kind), {})}
        for kind in names
        if (union, kind) not in SHOWN_KIND
    ]
    found = [observe(SMALL, change) for change in changes]
    assert all(found.count(item) == 1 for item in found)


@pytest.mark.slow
def test_the_same_configuration_gives_the_same(observe: Observe) -> None:
    """Else the others of this file would show nothing."""
    again = {**SMALL, "data.workers": "1", "data.cache": "disk"}
    assert observe(SMALL) == observe(again)


def prepared(manifest: Path, folder: Path, *changes: str) -> prepare.Prepared:
    (folder / "config.yaml").write_text(f"output: run\ndata: {{manifest: {manifest}}}\n")
    listed = [*(f"{key}={value}" for key, value in SMALL.items()), *changes]
    return prepare.prepare(load_config(folder / "config.yaml", listed), None, Quiet())


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """The thread of each reading of a scan."""
    monkeypatch.setenv("MEDIDIFF_HOME", str(tmp_path / "home"))
    seen: list[int] = []
    original = placing.load_image

    def read(path: Path) -> object:
        seen.append(threading.get_ident())
        return original(path)

    monkeypatch.setattr(placing, "load_image", read)
    return seen


def test_scans_are_kept_or_read_again(manifest: Path, tmp_path: Path, reads: list[int]) -> None:
    for cache_kind, again in (("memory", 0), ("disk", 0), ("none", 3)):
        ready = prepared(manifest, tmp_path, f"data.cache={cache_kind}")
        before = len(reads)
        ready.train.batch([0, 1, 2])
        assert len(reads) - before == again


def test_scans_are_read_by_as_many_threads_as_the_configuration_says(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDIDIFF_HOME", str(tmp_path / "home"))
    ready = prepared(manifest, tmp_path, "data.cache=none", "data.workers=3")
    together, original = threading.Barrier(3), placing.load_image

    def read(path: Path) -> object:
        together.wait(60)  # passes only when three threads are here
        return original(path)

    monkeypatch.setattr(placing, "load_image", read)
    assert len(ready.train.batch([0, 1, 2]).clean) == 3


def test_a_device_that_is_not_there_is_refused(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (tmp_path / "config.yaml").write_text(f"data: {{manifest: {manifest}}}\n")
    changes = [f"{key}={value}" for key, value in SMALL.items()]
    changes += ["train.device=cuda", f"output={tmp_path / 'run'}"]
    with pytest.raises(MedidiffError, match="cuda"):
        medidiff.train(tmp_path / "config.yaml", changes=changes)
    assert not (tmp_path / "run").exists()
