"""Cases carry all that a head needs, and batches are a function of the step."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from medidiff.data import placing
from medidiff.data.datasets import CaseSet, inside, keyed_batches, load_case, restore
from medidiff.data.fitness import field_of_view, fits
from medidiff.data.images import load_image, save_image
from medidiff.data.intensity import FittedIntensity, fit
from medidiff.data.manifest import Manifest, read_manifest
from medidiff.data.options import Percentile, Space
from medidiff.data.phantoms import FIELD_OF_VIEW_MM, write_population
from medidiff.data.privacy import SiteKey
from medidiff.errors import DataError
from medidiff.jobs.prepare import training_set

SPACING = FIELD_OF_VIEW_MM / 32
SPACE = Space(2, (32, 32), (SPACING, SPACING), "PL")


@pytest.fixture(scope="module")
def population(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("population")
    return read_manifest(write_population(folder, 4, 1, 1, size=32))


def test_a_case_has_images_label_conditions_and_a_pseudonym(
    population: Manifest, key: SiteKey
) -> None:
    rows = population.split("train")
    raw = CaseSet(rows, ["image"], SPACE, key=key)
    fitted = fit(Percentile(), [case.images for case in raw])
    cases = CaseSet(rows, ["image"], SPACE, fitted, label="label", key=key)
    case = cases[1]
    assert case.images.shape == (1, 32, 32)
    assert type(case.images) is torch.Tensor
    assert case.label is not None
    assert (case.label.shape, case.label.dtype) == ((32, 32), torch.int64)
    assert case.subject == key.pseudonym(rows[1].subject)
    assert case.row == rows[1].number
    assert case.conditions == rows[1].conditions
    assert torch.allclose(case.scale.inverse(case.images, axis=0), raw[1].images, atol=1e-2)
    assert torch.equal(raw[1].scale.inverse(raw[1].images, axis=0), raw[1].images)


def test_cached_cases_are_those_that_are_loaded_when_asked_for(
    population: Manifest, key: SiteKey
) -> None:
    told: list[tuple[int, int]] = []
    kept = CaseSet(
        population.rows, ["image"], SPACE, key=key, progress=lambda *step: told.append(step)
    )
    fresh = CaseSet(population.rows, ["image"], SPACE, key=key, cache="none")
    assert told == [(done, 6) for done in range(1, 7)]
    assert kept[2] is kept[2]
    assert fresh[2] is not fresh[2]
    assert [case.row for case in kept] == [row.number for row in population.rows]
    pairs = zip(kept, fresh, strict=True)
    assert all(torch.equal(one.images, other.images) for one, other in pairs)
    assert [case.row for case in fresh.at([4, 1])] == [case.row for case in kept.at([4, 1])]


@pytest.mark.parametrize("scope", ["train", "image"])
def test_kept_cases_are_scaled_once_and_to_the_same_bits(
    scope: Literal["train", "image"],
    population: Manifest,
    key: SiteKey,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows, margin = population.rows, (3, 4)
    space = Space(2, (24, 24), (SPACING, SPACING), "PL")
    kept, fresh = (
        CaseSet(rows, ["image"], space, key=key, cache=cache, margin=margin)
        for cache in ("memory", "none")
    )
    fitted = fit(Percentile(scope=scope), (case.images for case in fresh))
    ours, theirs = (training_set(population, cases, fitted, ()) for cases in (kept, fresh))
    expected = theirs.batch([2, 0], to_move=True)
    monkeypatch.setattr(FittedIntensity, "scale_of", None)  # nothing is computed again
    found = ours.batch([2, 0], to_move=True)
    assert torch.equal(found.clean, expected.clean)
    assert found.around is not None
    assert expected.around is not None
    assert torch.equal(found.around.images, expected.around.images)
    assert torch.equal(ours.images([1]), kept[1].images[None])
    kept.keep_scaled(fitted)
    with pytest.raises(ValueError, match="other units"):
        kept.keep_scaled(replace(fitted, high=(9e9,)))


@pytest.mark.parametrize("cache", ["memory", "none"])
@pytest.mark.parametrize("workers", [1, 3])
def test_scans_are_read_by_as_many_threads_as_asked_for(
    workers: int, cache, population: Manifest, key: SiteKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[int] = set()
    together = threading.Barrier(workers)

    def read(*arguments: object) -> object:
        seen.add(threading.get_ident())
        together.wait(60)  # passes only when as many threads are here
        return load_image(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(placing, "load_image", read)
    cases = CaseSet(population.rows, ["image"], SPACE, key=key, cache=cache, workers=workers)
    assert len(list(cases)) == len(cases.at(range(6))) == 6
    assert len(seen) >= workers


def test_channels_are_columns_in_the_order_asked_for(tmp_path: Path, key: SiteKey) -> None:
    for index, name in enumerate(("t1", "t2")):
        save_image(tmp_path / f"{name}.nii", torch.rand(1, 6, 6) + 10 * index, np.eye(4))
    table = tmp_path / "m.csv"
    table.write_text("subject,t1:image,t2:image\na,t1.nii,t2.nii\n")
    rows = read_manifest(table).rows
    case = CaseSet(rows, ["t2", "t1"], Space(2, (6, 6)), key=key)[0]
    assert case.images[0].min() >= 10 > case.images[1].max()
    assert case.original.background == pytest.approx(case.images.flatten(1).amin(1).tolist())


def test_a_failing_case_names_the_row_and_keeps_the_file_private(
    tmp_path: Path, key: SiteKey
) -> None:
    save_image(tmp_path / "doe_john.nii", torch.rand(1, 6, 6), np.eye(4))
    table = tmp_path / "m.csv"
    table.write_text("subject,image\na,doe_john.nii\nb,doe_jane.nii\n")
    rows = read_manifest(table).rows
    with pytest.raises(DataError, match=r"row 3, column 'image': there is no such file") as caught:
        CaseSet(rows, ["image"], Space(2, (6, 6)), key=key)
    assert "doe" not in str(caught.value)
    assert "doe_jane.nii" in str(caught.value.private)
    with pytest.raises(DataError, match="row 2: the image is 2-D") as caught:
        CaseSet(rows[:1], ["image"], Space(3, (6, 6, 6)), key=key)
    assert "doe_john.nii" in str(caught.value.private)


def test_a_single_input_goes_back_onto_its_own_grid(tmp_path: Path, affine_for, key) -> None:
    affine = affine_for("LAS", (2, 1.5, 2.5), (4, 5, 6))
    volume = torch.rand(1, 9, 12, 8) * 100
    path = save_image(tmp_path / "input.nii.gz", volume, affine)
    space = Space(3, (10, 10, 10), orientation="SPL")
    fitted = fit(Percentile(low=0, high=100), [volume])
    case = load_case(path, space, fitted, key=key)
    result = case.scale.inverse(case.images, axis=0) * 2
    array, back_affine = restore(case, result)
    seen = inside(case)
    assert array.shape == (1, 9, 12, 8)
    assert np.allclose(back_affine, affine, atol=1e-5)
    assert seen.sum() == 9 * 10 * 8
    assert np.allclose(array[0][seen], 2 * volume[0].numpy()[seen], atol=1e-2)
    assert case.subject == load_case([path], space, fitted, key=key).subject
    assert case.subject != load_case(path, space, fitted, subject="x", key=key).subject


def test_channels_on_different_grids_are_refused(tmp_path: Path, affine_for, key: SiteKey) -> None:
    for name, shift in (("a", 0), ("b", 3)):
        affine = affine_for("RAS", (1, 1, 1), (shift, 0, 0))
        save_image(tmp_path / f"{name}.nii", torch.rand(1, 6, 6), affine)
    with pytest.raises(DataError, match="different grids"):
        load_case([tmp_path / "a.nii", tmp_path / "b.nii"], Space(2, (6, 6)), None, key=key)


def test_every_index_comes_once_an_epoch_and_steps_need_no_history() -> None:
    batches = dict(keyed_batches(10, 4, seed=1, start=0, stop=5))
    epochs = [index for indices in batches.values() for index in indices]
    assert sorted(epochs[:10]) == sorted(epochs[10:]) == list(range(10))
    assert epochs[:10] != epochs[10:]
    assert dict(keyed_batches(10, 4, seed=1, start=3, stop=5)) == {3: batches[3], 4: batches[4]}
    assert dict(keyed_batches(10, 4, seed=2, start=0, stop=5)) != batches


def test_batches_may_be_larger_than_the_set() -> None:
    ((_, indices),) = keyed_batches(3, 8, seed=0, start=0, stop=1)
    assert sorted(indices[:3]) == sorted(indices[3:6]) == [0, 1, 2]
    with pytest.raises(ValueError, match="from 0 items"):
        next(keyed_batches(0, 8, seed=0, start=0, stop=1))


def test_an_input_like_the_training_images_fits(population: Manifest, key: SiteKey) -> None:
    raw = CaseSet(population.split("train"), ["image"], SPACE, key=key)
    fitted = fit(Percentile(), [case.images for case in raw])
    path = population.split("test")[0].images["image"]
    assert fits(load_case(path, SPACE, fitted, key=key), SPACE, fitted, "MR") == []
    (listed,) = CaseSet(population.split("test"), ["image"], SPACE, fitted, key=key)
    assert fits(listed, SPACE, fitted, "mr") == []
    assert fits(listed, SPACE, fitted, "CT") == ["the modality is MR, the model's CT"]


@pytest.mark.parametrize(
    ("letters", "spacing", "size", "gain", "said"),
    [
        ("PLS", (7, 7, 7), (32, 32), 1.0, []),
        ("PLS", (3.5, 7, 7), (64, 32), 1.0, ["the voxels are 3.5 x 7 mm, the model's 7 x 7 mm"]),
        ("PLS", (7, 7, 7), (32, 20), 1.0, ["field of view is 224 x 140 mm, the model's 224 x 224"]),
        ("LPS", (7, 7, 7), (20, 32), 1.0, ["field of view is 224 x 140 mm"]),
        ("PLS", (7, 7, 7), (32, 32), 50.0, ["beyond 3 times the range"]),
    ],
)
def test_misfits_are_told(
    tmp_path: Path, affine_for, key: SiteKey, letters, spacing, size, gain, said
) -> None:
    space = Space(2, (32, 32), (7.0, 7.0), "PL")
    fitted = fit(Percentile(), [torch.rand(1, 32, 32)])
    path = save_image(tmp_path / "i.nii", gain * torch.rand(1, *size), affine_for(letters, spacing))
    problems = fits(load_case(path, space, fitted, key=key), space, fitted, None)
    assert len(problems) == len(said)
    assert all(part in problem for part, problem in zip(said, problems, strict=True))


def test_padded_training_images_fit_their_own_field_of_view(
    tmp_path: Path, affine_for, key: SiteKey
) -> None:
    space = Space(3, (64, 64, 64), (1.0, 1.0, 1.0), "RAS")
    volume = torch.rand(1, 35, 50, 36)
    path = save_image(tmp_path / "i.nii", volume, affine_for("ASR", (1, 1, 1)))
    fitted = fit(Percentile(), [volume])
    case = load_case(path, space, fitted, key=key)
    assert field_of_view(case.original, space) == (36.0, 35.0, 50.0)
    assert len(fits(case, space, fitted, None)) == 1
    assert fits(case, space, fitted, None, view=((36.0, 36.0), (38.0, 40.0), (45.0, 50.0))) == []
    extent, open_end = "36 x 35 x 50 mm", float("inf")
    (told,) = fits(case, space, fitted, None, view=((9.0, 9.0), (2.5, 9.0), (0.0, open_end)))
    said = "and the model takes 9, 2.5 to 9 and any number of mm along its axes"
    assert told.startswith(f"the field of view is {extent}, {said} (")
    (told,) = fits(case, space, fitted, None, view=((9.0, open_end), (90.0, open_end), (1.0, 99.0)))
    assert "the model takes 9 or more, 90 or more and 1 to 99 mm" in told


def test_spacing_is_compared_along_the_body_not_along_the_array(
    tmp_path: Path, affine_for, key: SiteKey
) -> None:
    space = Space(2, (20, 40), (6.0, 3.0), "PL")
    fitted = fit(Percentile(), [torch.rand(1, 20, 40)])
    turned = save_image(tmp_path / "i.nii", torch.rand(1, 40, 20), affine_for("LPS", (3, 6, 5)))
    assert fits(load_case(turned, space, fitted, key=key), space, fitted, None) == []


def test_a_margin_keeps_what_lies_around_a_case(tmp_path: Path, affine_for, key: SiteKey) -> None:
    affine = affine_for("RAS", (1, 1, 2))
    scan = np.random.default_rng(0).normal(size=(11, 8, 5)).astype(np.float32)
    save_image(tmp_path / "a.nii.gz", scan[None], affine)
    (tmp_path / "m.csv").write_text("subject,image,split\ns,a.nii.gz,train\n")
    rows = read_manifest(tmp_path / "m.csv").rows
    space = Space(3, (6, 8, 7))
    (plain,) = CaseSet(rows, ["image"], space, key=key)
    (wide,) = CaseSet(rows, ["image"], space, key=key, margin=(2, 2, 2))
    assert torch.equal(wide.images, plain.images)
    assert np.array_equal(wide.affine, plain.affine)
    assert wide.around.shape[1:] == (10, 8, 7)  # as far as the scan goes, and the margin
    assert wide.field == ((0, 10), (0, 8), (1, 6))
    assert wide.spacing == (1, 1, 2)
    assert torch.equal(wide.around[0, :, :, 1:6], torch.from_numpy(scan[:10]))
