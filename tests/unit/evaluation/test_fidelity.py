import pytest
import torch

from medidiff.evaluation.features import FeatureScale, random_features
from medidiff.evaluation.fidelity import (
    copied_share,
    coverage,
    density,
    kernel_distance,
    kernel_test,
    memorisation_ratio,
    nearest_distances,
    pairwise_similarity,
    precision,
    real_against_real,
    recall,
)


def cloud(n: int, centre: float = 0.0, seed: int = 0, features: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return centre + torch.randn(n, features, generator=generator, dtype=torch.float64)


def test_the_kernel_distance_is_its_definition_summed_by_hand():
    real, generated = cloud(4), cloud(5, 0.5, seed=1)

    def kernel(x: torch.Tensor, y: torch.Tensor) -> float:
        return float((x @ y / 4 + 1) ** 3)

    first = [kernel(real[i], real[j]) for i in range(4) for j in range(4) if i != j]
    second = [kernel(generated[i], generated[j]) for i in range(5) for j in range(5) if i != j]
    cross = [kernel(x, y) for x in real for y in generated]
    expected = sum(first) / 12 + sum(second) / 20 - 2 * sum(cross) / 20
    assert kernel_distance(real, generated) == pytest.approx(expected)


def test_the_kernel_distance_is_unbiased():
    distances = [
        kernel_distance(cloud(20, seed=2 * s), cloud(20, seed=2 * s + 1)) for s in range(200)
    ]
    spread = torch.tensor(distances).std() / 200**0.5
    assert abs(sum(distances) / 200) < 3 * float(spread)


def test_the_permutation_test_tells_sets_apart_and_equal_ones_not():
    assert kernel_test(cloud(40), cloud(40, 1.0, seed=1), draws=200).p < 0.01
    same = kernel_test(cloud(40), cloud(40, seed=1), draws=200)
    assert same.p > 0.05
    assert same.relabelled[0] < same.distance < same.relabelled[1]


def test_equal_sets_are_precise_complete_dense_and_covered():
    real, generated = cloud(300), cloud(300, seed=1)
    for measure in (precision, recall, density, coverage):
        assert 0.85 < measure(real, generated) < 1.15


def test_a_collapsed_generator_is_precise_but_not_complete():
    real = cloud(200)
    generated = real[:1] + 0.01 * cloud(200, seed=1)
    assert precision(real, generated) == 1
    assert recall(real, generated) < 0.05
    assert coverage(real, generated) < 0.1


def test_a_generator_elsewhere_is_neither():
    for measure in (precision, recall, density, coverage):
        assert measure(cloud(50), cloud(50, 100.0, seed=1)) == 0


def test_a_set_of_k_images_has_no_reach():
    with pytest.raises(ValueError, match="at least 6"):
        precision(cloud(5), cloud(50))


def test_copies_are_caught_and_new_images_are_not():
    train, test = cloud(200), cloud(100, seed=1)
    fresh = cloud(100, seed=2)
    assert memorisation_ratio(fresh, train, test) == pytest.approx(1, abs=0.2)
    assert copied_share(fresh, train, test) < 0.06
    copies = train[:100] + 1e-3 * cloud(100, seed=3)
    assert memorisation_ratio(copies, train, test) < 0.01
    assert copied_share(copies, train, test) == 1
    assert copied_share(torch.cat([fresh[:90], copies[:10]]), train, test) >= 0.1


def test_an_exact_copy_has_no_distance():
    train = cloud(50, 1000.0, features=64)
    assert nearest_distances(train[3:5], train).tolist() == [0.0, 0.0]


def test_real_against_real_is_about_nothing_and_needs_enough_images():
    floor = real_against_real(kernel_distance, cloud(60), 30)
    assert floor.low < 0 < floor.high
    with pytest.raises(ValueError, match="62 real images"):
        real_against_real(kernel_distance, cloud(60), 31)


def test_features_tell_noise_from_heads_and_are_the_same_every_time(heads):
    clean = heads(8, 32).float()
    state = torch.random.get_rng_state()
    features = random_features(clean)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.testing.assert_close(random_features(clean[2:3]), features[2:3], rtol=1e-4, atol=1e-5)
    scale = FeatureScale.fit(features)
    noisy = clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    distance = kernel_distance(scale(features), scale(random_features(noisy)))
    assert distance > 10 * abs(kernel_distance(scale(features)[:4], scale(features)[4:]))


def test_features_see_where_things_are_and_take_volumes(heads):
    shifted = random_features(heads(1, 32).float().roll(8, -1)) - random_features(
        heads(1, 32).float()
    )
    assert float(shifted.abs().max()) > 0.01
    assert random_features(heads(2, 16, 3).float()).shape[0] == 2
    with pytest.raises(ValueError, match="at least 8"):
        random_features(torch.rand(1, 1, 6, 6))


def test_a_feature_that_never_varies_has_no_say():
    features = cloud(20)
    features[:, 0] = 3.0
    assert bool((FeatureScale.fit(features)(features + 1)[:, 0] == 0).all())


def test_the_similarity_of_pairs_is_high_only_for_those_alike(heads):
    alike = heads(1, 32).expand(6, -1, -1, -1)
    assert pairwise_similarity(alike, data_range=1.0, pairs=10) == pytest.approx(1)
    different = torch.rand(6, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    for measure in ("ssim", "ms-ssim"):
        assert pairwise_similarity(different, data_range=1.0, measure=measure, pairs=20) < 0.3
