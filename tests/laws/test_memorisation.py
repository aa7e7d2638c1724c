"""The memorisation guard's laws: copies are caught, new images are not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from medidiff.data.phantoms import draw_head, draw_subject
from medidiff.evaluation.features import FeatureScale, random_features
from medidiff.evaluation.memorisation import (
    MemorisationLimits,
    Nearness,
    membership_auc,
    nearness,
)

LIMITS = MemorisationLimits()


@pytest.fixture(scope="module")
def heads() -> dict[str, Tensor]:
    """Three samples of one population of phantoms, (images, 1, 32, 32) in about [-1, 1]."""
    found, index = {}, 0
    for split, count in (("train", 120), ("val", 60), ("test", 60)):
        images = []
        for _ in range(count):
            subject = draw_subject(0, index, lesion_share=0.3)
            images.append(draw_head(subject, dims=2, size=32, seed=0, index=index).image)
            index += 1
        array = np.stack(images).astype(np.float32) / 500 - 1
        found[split] = torch.from_numpy(array)[:, None]
    return found


def judged(made: Tensor, heads: dict[str, Tensor]) -> list[Nearness]:
    scale = FeatureScale.fit(random_features(heads["train"]))
    sets = (made, heads["train"], heads["test"])
    return [
        nearness("features", *(scale(random_features(each)) for each in sets)),
        nearness("voxels", *(each.flatten(1) for each in sets)),
    ]


def reasons(made: Tensor, heads: dict[str, Tensor]) -> list[str]:
    return [reason for space in judged(made, heads) for reason in space.reasons(LIMITS)]


def test_a_fresh_population_passes(heads: dict[str, Tensor]) -> None:
    assert reasons(heads["val"], heads) == []


def test_a_copycat_is_caught_in_every_space(heads: dict[str, Tensor]) -> None:
    for space in judged(heads["train"][:60], heads):
        assert space.near_copies == 60
        assert len(space.reasons(LIMITS)) == 3


def test_copies_with_a_little_noise_are_caught(heads: dict[str, Tensor]) -> None:
    noise = torch.randn(60, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    assert reasons(heads["train"][:60] + 0.02 * noise, heads)


@pytest.mark.parametrize("planted", [1, 3, 12])
def test_planted_copies_are_counted_one_by_one(heads: dict[str, Tensor], planted: int) -> None:
    made = torch.cat([heads["train"][:planted], heads["val"][planted:]])
    found = judged(made, heads)
    assert [space.near_copies for space in found] == [planted, planted]
    assert all(distance == 0 for _, _, distance in found[1].pairs(planted))
    assert sorted(partner for _, partner, _ in found[1].pairs(planted)) == list(range(planted))


def test_images_near_to_training_are_caught_without_being_copies(heads: dict[str, Tensor]) -> None:
    # half way from each unseen image to its neighbour: new, but too near
    train, unseen = heads["train"].flatten(1), heads["val"].flatten(1)
    place = nearness("voxels", unseen, train, heads["test"].flatten(1))
    middle = torch.lerp(unseen, train[list(place.partners)], 0.6)
    found = nearness("voxels", middle, train, heads["test"].flatten(1))
    assert found.nearest_ratio.high < LIMITS.nearest_ratio
    assert any("of the distance of unseen images" in reason for reason in found.reasons(LIMITS))


def test_the_membership_area_is_the_share_of_pairs_in_order() -> None:
    seen, unseen = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2.0, 3.0])
    # 1 < 2, 1 < 3, 2 = 2 (half), 2 < 3, 4 > both: 3.5 of 6
    assert membership_auc(seen, unseen).mean == pytest.approx(3.5 / 6)


def test_membership_holds_the_truth_in_its_interval_and_tells_apart_what_differs() -> None:
    generator = torch.Generator().manual_seed(0)
    held = 0
    for _ in range(40):
        seen = torch.randn(100, generator=generator)
        unseen = torch.randn(50, generator=generator)
        found = membership_auc(seen, unseen)
        held += found.low <= 0.5 <= found.high
    assert held >= 34  # of 40 at 95 %; fewer than 34 by chance: 1 in 2000
    overfitted = membership_auc(torch.randn(100, generator=generator) - 1.5, unseen)
    assert overfitted.low > LIMITS.membership_auc
    assert overfitted.n == 50
