"""What is true for every head: a new one is tested here by being in the union."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from medidiff.data.datasets import Case, CaseSet, load_case
from medidiff.data.fitness import views
from medidiff.data.intensity import fit
from medidiff.data.manifest import read_manifest
from medidiff.data.options import Percentile, Space
from medidiff.data.phantoms import write_population
from medidiff.data.privacy import SiteKey
from medidiff.data.rows import Manifest
from medidiff.data.transforms import plane
from medidiff.diffusion import KeyedNoise
from medidiff.errors import TaskError
from medidiff.jobs.cases import coarser_spec
from medidiff.jobs.reporting import Quiet
from medidiff.jobs.run import run_head
from medidiff.model import Model
from medidiff.networks import NetworkShape, UNetOptions, build
from medidiff.physics import BlockAverage
from medidiff.spec import ModelSpec, SamplingOptions
from medidiff.tasks import head, head_classes, restoration, room
from medidiff.tasks.base import OURS, Bench, Head, check_fit
from medidiff.tasks.finish import finish
from medidiff.tasks.super_resolution import coarser_affine, factors, finer_affine

HEADS = sorted(head_classes())
SCANS = {2: 24, 3: 16}
GRID = {2: (24, 24), 3: (12, 16, 16)}  # in 3-D less than the scans' own: the rest is filled
NOISE = 0.05  # of the largest intensity: heads that estimate it find some
FEW = {"steps": 4, "draws": 2, "pilots": 1, "pilot_steps": 3}
QUICK = {  # options that spare time: a law holds for few steps, too
    "super_resolution": {"posterior": FEW},
    "inpaint": {"posterior": FEW},
    "reconstruct": {"posterior": FEW, "settings": ["mri 8 coils R=4", "radon 60 views"]},
}
MEANS = ("the mean of 2 samples", "the mean of 2 samples of opposite noise")
NETWORK = UNetOptions(channels=(4, 8), blocks=1, attention=(False, False), groups=2)


@dataclass(frozen=True)
class Scene:
    """Noisy scans of one population, and a prior for their grid."""

    manifest: Manifest
    model: Model
    cases: dict[str, list[Case]]


def noisy_population(folder: Path, dims: int) -> Manifest:
    manifest = read_manifest(write_population(folder, 4, 2, 3, dims=dims, size=SCANS[dims]))
    random = np.random.default_rng(0)
    for row in manifest.rows:
        given = nibabel.load(row.images["image"])
        values = given.get_fdata(dtype=np.float32)
        values += NOISE * values.max() * random.standard_normal(values.shape, dtype=np.float32)
        nibabel.save(nibabel.Nifti1Image(values, given.affine), row.images["image"])
    return manifest


def tiny_model(space: Space, cases: Sequence[Case], concat_channels: int) -> Model:
    """A network that is small and far from any prior: a law holds for it all the same."""
    shape = NetworkShape(dims=space.dims, concat_channels=concat_channels)
    network = build(NETWORK, shape).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for weight in network.parameters():
        weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    spec = ModelSpec(
        "tiny",
        "MR",
        ("image",),
        space,
        fit(Percentile(low=0), [case.images for case in cases]),
        NETWORK,
        shape,
        sampling=SamplingOptions(steps=3),
        view=views(cases, space),
    )
    return Model(spec, network)


@pytest.fixture(scope="module")
def make_scene(tmp_path_factory: pytest.TempPathFactory):
    """Scenes by dimensions and channels given beside, each made once."""
    key = SiteKey(b"0123456789abcdef")

    @cache
    def make(dims: int, concat_channels: int) -> Scene:
        manifest = noisy_population(tmp_path_factory.mktemp(f"scans{dims}"), dims)
        affine = nibabel.load(manifest.rows[0].images["image"]).affine
        spacing = tuple(np.linalg.norm(affine[:3, :3], axis=0)[:dims].round(4).tolist())
        space = Space(dims, GRID[dims], spacing, plane(affine, dims))  # type: ignore[arg-type]
        raw = CaseSet(manifest.split("train"), ["image"], space, key=key)
        model = tiny_model(space, list(raw), concat_channels)
        fitted = model.spec.intensity
        cases = {
            split: list(CaseSet(manifest.split(split), ["image"], space, fitted, key=key))
            for split in ("train", "val", "test")
        }
        return Scene(manifest, model, cases)

    return make


@pytest.fixture(params=[(name, dims) for name in HEADS for dims in (2, 3)], ids=str)
def pair(
    request: pytest.FixtureRequest, make_scene, monkeypatch: pytest.MonkeyPatch
) -> tuple[Head, Scene]:
    """A head with its default options, and a scene that it can work in."""
    monkeypatch.setenv("MEDIDIFF_SITE_KEY", "ab" * 32)
    # threads start at once; processes import torch first
    monkeypatch.setattr(restoration, "single_threaded_processes", lambda: ThreadPoolExecutor(2))
    monkeypatch.setattr(restoration, "TUNING_CASES", 1)
    name, dims = request.param
    chosen = head(name, QUICK.get(name, {}))
    return chosen, make_scene(dims, chosen.needs().concat_channels)


def given(chosen: Head, scene: Scene) -> list[Case]:
    cases = scene.cases["test"]
    if not chosen.needs().input_images:
        return []
    if chosen.needs().coarser == 1 and not chosen.needs().measurement:
        return cases
    noise = KeyedNoise(2, [(str(case.row), 0) for case in cases])
    return chosen.simulate(cases, noise)  # type: ignore[attr-defined]


def test_a_batch_equals_its_members_one_by_one(pair: tuple[Head, Scene]) -> None:
    chosen, scene = pair
    cases, model = given(chosen, scene), scene.model
    if not cases:  # then the batch is what is drawn
        three, one = (chosen.solve(chosen.prepare([], model), model, n, 5).point for n in (3, 1))
        assert torch.allclose(three[:1], one, rtol=1e-4, atol=1e-4)
        return
    for n in (1, 2):
        together = chosen.solve(chosen.prepare(cases, model), model, n, 5)
        assert together.nfe >= 1
        for case, member in zip(cases, together.point, strict=True):
            alone = chosen.solve(chosen.prepare([case], model), model, n, 5)
            assert alone.nfe == together.nfe
            assert torch.allclose(alone.point[0], member, rtol=1e-4, atol=1e-4)


def test_samples_do_not_depend_on_how_many_are_drawn_at_once(
    pair: tuple[Head, Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, scene = pair
    problem = chosen.prepare(given(chosen, scene)[:1], scene.model)
    together = chosen.solve(problem, scene.model, 2, 5)
    monkeypatch.setattr(room, "MOST_AT_ONCE", 1)
    alone = chosen.solve(problem, scene.model, 2, 5)
    assert torch.allclose(alone.point, together.point, rtol=1e-4, atol=1e-4)
    if together.samples is not None and alone.samples is not None:
        assert torch.allclose(alone.samples, together.samples, rtol=1e-4, atol=1e-4)


def test_the_same_seed_gives_the_same_result_and_another_one_another(
    pair: tuple[Head, Scene],
) -> None:
    chosen, scene = pair
    problem = chosen.prepare(given(chosen, scene), scene.model)
    first, again, other = (chosen.solve(problem, scene.model, 2, seed) for seed in (5, 5, 6))
    assert torch.equal(first.point, again.point)
    assert bool(first.point.isfinite().all())
    # beside its samples a head's image may be an estimate that needs no draw
    drawn, same, others = (
        each.point if each.samples is None else each.samples for each in (first, again, other)
    )
    assert torch.equal(drawn, same)
    assert not torch.allclose(drawn, others, rtol=1e-3, atol=1e-3)


def test_nothing_moves_the_global_generator(pair: tuple[Head, Scene]) -> None:
    chosen, scene = pair
    before = torch.get_rng_state()
    chosen.solve(chosen.prepare(given(chosen, scene), scene.model), scene.model, 2, 5)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_result_lies_on_the_grid_of_its_input(pair: tuple[Head, Scene], tmp_path: Path) -> None:
    chosen, scene = pair
    if chosen.needs().measurement:
        pytest.skip("what is measured lies on no grid; tests/unit/tasks has the way to one")
    scan = scan_for(chosen, scene, tmp_path)
    turned = nibabel.load(turned_scan(scan, tmp_path / "turned.nii.gz"))
    finer = grid_factor(chosen, scene)
    if not chosen.needs().input_images:
        with pytest.raises(TaskError, match="takes no input"):
            run_on(chosen, scene, tmp_path / "turned.nii.gz")
        with pytest.raises(TaskError):
            chosen.prepare(scene.cases["test"], scene.model)
        return
    for n in (1, 2):
        result = run_on(chosen, scene, tmp_path / "turned.nii.gz", n)
        images = [result.image, *result.maps.values(), *result.samples]
        expected = tuple(n * f for n, f in zip(turned.shape, finer, strict=True))
        assert all(image.shape[1:] == expected for image in images)
        assert all(np.isfinite(image).all() for image in images)
        assert np.allclose(result.affine, finer_affine(turned.affine, finer), atol=1e-4)
        assert result.provenance["kind"] == "AI-PROCESSED"


def test_left_stays_left(pair: tuple[Head, Scene], tmp_path: Path) -> None:
    """A scan stored the other way round gives the same result, stored the other way round."""
    chosen, scene = pair
    if not chosen.needs().input_images:
        pytest.skip("no input, no side")
    if chosen.needs().measurement:
        pytest.skip("what is measured has no sides")
    scan = scan_for(chosen, scene, tmp_path)
    spec = coarser_spec(scene.model.spec, chosen.needs().coarser)
    results = []
    for file in (scan, turned_scan(scan, tmp_path / "turned.nii.gz")):
        case = replace(load_case(file, spec.space, spec.intensity), content="the same noise")
        problem = chosen.prepare([case], scene.model)
        solution = chosen.solve(problem, scene.model, 2, 5)
        results += finish(chosen, problem, solution, scene.model, 2, 5)
    straight, turned = (result.image for result in results)
    assert np.allclose(np.swapaxes(straight[:, ::-1], 1, 2), turned, rtol=1e-4, atol=1e-3)
    assert not np.allclose(np.swapaxes(straight, 1, 2), turned, rtol=1e-2)


def test_the_baselines_run_and_every_metric_is_finite(pair: tuple[Head, Scene]) -> None:
    chosen, scene = pair
    cases = scene.cases
    found = chosen.benchmark(
        Bench(scene.model, cases["train"], cases["val"], cases["test"][:2], seed=3)
    )
    methods = {str(row["method"]) for row in found.rows}
    assert {OURS, *chosen.baselines()} <= methods
    assert chosen.baselines()
    for metric, meaning in chosen.metrics().items():
        assert meaning.endswith(("higher", "lower"))
        for method in (OURS, *chosen.baselines()):
            rows = [row for row in found.rows if row["method"] == method]
            values = [row[metric] for row in rows if metric in row]
            assert values, f"{method} has no {metric}"
            assert all(math.isfinite(float(value)) for value in values), f"{method}: {metric}"
    subjects = {row.subject for row in scene.manifest.rows}
    assert not subjects & {str(row["subject"]) for row in found.rows}
    if chosen.needs().input_images:
        settings = dict.fromkeys(row["setting"] for row in found.rows)
        assert [each.setting for each in found.accounts] == [*settings]
        for each in found.accounts:  # no time without calls, no table without what was averaged
            assert each.estimate in ("the posterior mean, not of samples", *MEANS)
            assert each.equivalents >= 1
            assert each.seconds > 0
            assert each.images == 2
            assert set(each.tuned) <= set(chosen.baselines())
            assert not each.tuned or 1 <= each.tuned_on <= len(cases["val"])


def test_a_model_of_another_kind_is_refused(pair: tuple[Head, Scene], make_scene) -> None:
    chosen, scene = pair
    check_fit(chosen, scene.model)
    other = make_scene(scene.model.spec.space.dims, chosen.needs().concat_channels + 1)
    with pytest.raises(TaskError, match="image channels"):
        check_fit(chosen, other.model)


def grid_factor(chosen: Head, scene: Scene) -> tuple[int, ...]:
    return factors(chosen.needs().coarser, scene.model.spec.space.dims)


def scan_for(chosen: Head, scene: Scene, folder: Path) -> Path:
    """A test scan as the head takes it: with larger voxels where it asks for them."""
    scan, factor = scene.manifest.split("test")[0].images["image"], grid_factor(chosen, scene)
    if set(factor) == {1}:
        return scan
    image = nibabel.load(scan)
    values = torch.from_numpy(image.get_fdata(dtype=np.float32)).squeeze()[None, None]
    coarse = BlockAverage(factor).forward(values)[0, 0].numpy()
    affine = coarser_affine(image.affine, factor)
    nibabel.save(nibabel.Nifti1Image(coarse, affine), folder / "coarse.nii.gz")
    return folder / "coarse.nii.gz"


def turned_scan(scan: Path, file: Path) -> Path:
    """The same scan with its first axis counted the other way and its first two swapped."""
    image = nibabel.load(scan)
    values = np.asarray(image.dataobj)
    step = np.eye(4)
    step[0, 0], step[0, 3] = -1, values.shape[0] - 1
    swap = np.eye(4)[[1, 0, 2, 3]]
    turned = np.swapaxes(values[::-1], 0, 1)
    nibabel.save(nibabel.Nifti1Image(turned, image.affine @ step @ swap), file)
    return file


def run_on(chosen: Head, scene: Scene, scan: Path, n: int = 1):
    (result,) = run_head(
        chosen, scene.model, [[scan]], n=n, seed=5, mismatch="refuse", report=Quiet()
    )
    return result
