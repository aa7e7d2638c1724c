"""Intensities go to model units and back without loss, clipped only where asked."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from medidiff.data.intensity import FittedIntensity, Scale, fit
from medidiff.data.options import CT_WINDOWS, CTWindow, CTWindowName, Percentile, Window
from medidiff.errors import DataError


def test_hounsfield_units_come_back_from_the_window() -> None:
    scan = torch.tensor([[-1024.0, -1000.0, 0.0, 400.0, 3071.0]]).view(1, 5, 1)
    fitted = fit(Window(low=-1000, high=400), [scan])
    normalised, scale = fitted.normalise(scan)
    assert normalised.flatten()[1:4].tolist() == pytest.approx([-1, 1000 / 700 - 1, 1])
    assert normalised.max() > 4
    assert torch.allclose(scale.inverse(normalised, axis=0), scan, atol=1e-3)
    assert fitted.range == pytest.approx((float(normalised.min()), float(normalised.max())))


def test_train_percentiles_are_of_all_images_and_each_channel() -> None:
    images = [
        torch.stack([torch.randn(20, 20) * 3, torch.rand(20, 20) + index]) for index in (0, 1)
    ]
    fitted = fit(Percentile(low=2, high=98), images)
    voxels = torch.stack(images).transpose(0, 1).flatten(1).numpy()
    low, high = np.percentile(voxels, (2, 98), axis=1)
    assert fitted.low == pytest.approx(low, rel=1e-5)
    assert fitted.high == pytest.approx(high, rel=1e-5)
    assert fitted.normalise(images[0])[1] == fitted.normalise(images[1])[1] == fitted.typical


def test_image_percentiles_undo_each_scans_own_scale() -> None:
    first = torch.rand(1, 30, 30)
    fitted = fit(Percentile(scope="image"), [first, 1000 * first + 5])
    one, _ = fitted.normalise(first)
    other, scale = fitted.normalise(1000 * first + 5)
    assert torch.allclose(one, other, atol=1e-3)
    assert torch.allclose(scale.inverse(other, axis=0), 1000 * first + 5, rtol=1e-4)
    assert fitted.low[0] < fitted.typical.high[0]


def test_a_fit_survives_json() -> None:
    fitted = fit(Percentile(), [torch.randn(2, 8, 8)])
    tree = json.loads(json.dumps(asdict(fitted)))
    pairs = {
        name: tuple(value) if isinstance(value, list) else value for name, value in tree.items()
    }
    assert FittedIntensity(**pairs) == fitted


def test_channels_lie_along_the_axis_that_is_named() -> None:
    scale = Scale((0.0, 10.0), (2.0, 30.0))
    batch = torch.rand(5, 2, 3, 3)
    back = scale.inverse(batch)
    assert torch.allclose(back[:, 1], (batch[:, 1] + 1) * 10 + 10)
    assert torch.allclose(scale.inverse(batch[3], axis=0), back[3])
    assert torch.allclose(scale.normalise(back), batch, atol=1e-6)
    with pytest.raises(ValueError, match="does not hold 2 channels"):
        scale.inverse(torch.rand(3, 4, 5), axis=0)


def test_flat_images_and_other_channel_counts_are_refused() -> None:
    with pytest.raises(DataError, match="channel 2 has the same value"):
        fit(Percentile(), [torch.stack([torch.rand(4, 4), torch.ones(4, 4)])])
    with pytest.raises(DataError, match="no train images"):
        fit(Percentile(), [])
    with pytest.raises(DataError, match="2 channels"):
        fit(Percentile(), [torch.rand(1, 4, 4)]).normalise(torch.rand(2, 4, 4))


@pytest.mark.parametrize(
    "make", [lambda: Window(low=2, high=1), lambda: Percentile(low=99, high=1)]
)
def test_windows_that_are_upside_down_are_refused(make) -> None:
    with pytest.raises(ValueError, match="low"):
        make()


@pytest.mark.parametrize("name", CT_WINDOWS)
def test_a_ct_window_is_that_of_its_name_and_clips(name: CTWindowName) -> None:
    low, high = CT_WINDOWS[name]
    scan = torch.tensor([[[low - 300, low, (low + high) / 2, high, high + 900]]])
    fitted = fit(CTWindow(window=name), [scan])
    seen, scale = fitted.normalise(scan)
    assert seen.flatten().tolist() == [-1, -1, 0, 1, 1]
    assert scale.inverse(seen, axis=0)[0, 0, 1:4].tolist() == scan[0, 0, 1:4].tolist()
    assert fitted.range == (-1, 1)
    kept, _ = fit(CTWindow(window=name, clip=False), [scan]).normalise(scan)
    assert kept.max() > 1
    assert kept.min() < -1
