import numpy as np
import pytest
import torch
from torch.nn import functional

from medidiff.physics import (
    CircularBlur,
    SeparableOperator,
    ZeroPaddedBlur,
    bicubic_downsampling,
    gaussian_blur,
)


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("factor", [(2, 2), (4, 4), (3, 1)])
def test_bicubic_is_pytorch_s_with_antialiasing(factor):
    x = drawn(2, 3, 24, 36)
    size = (24 // factor[0], 36 // factor[1])
    theirs = functional.interpolate(x, size=size, mode="bicubic", antialias=True)
    torch.testing.assert_close(bicubic_downsampling((24, 36), factor).forward(x), theirs)


def test_bicubic_is_pillow_s():
    from PIL import Image

    x = drawn(24, 36).float()
    theirs = Image.fromarray(x.numpy()).resize((9, 6), Image.Resampling.BICUBIC)
    ours = bicubic_downsampling((24, 36), (4, 4)).forward(x[None, None])[0, 0]
    torch.testing.assert_close(ours, torch.from_numpy(np.asarray(theirs)), atol=1e-5, rtol=0)


def test_blurs_are_convolutions():
    x, kernel = drawn(2, 1, 9, 8), drawn(3, 5)
    turned = kernel.flip(0, 1)[None, None]
    torch.testing.assert_close(
        ZeroPaddedBlur(kernel, (9, 8)).forward(x), functional.conv2d(x, turned, padding=(1, 2))
    )
    around = functional.pad(x, (2, 2, 1, 1), mode="circular")
    torch.testing.assert_close(
        CircularBlur(kernel, (9, 8)).forward(x), functional.conv2d(around, turned)
    )


def test_a_gaussian_blur_is_scipy_s():
    from scipy.ndimage import gaussian_filter

    x = drawn(1, 1, 12, 10, 9)
    sigma = (0.8, 1.5, 0.5)
    theirs = gaussian_filter(x[0, 0].numpy(), sigma, mode="constant")
    ours = gaussian_blur((12, 10, 9), sigma).forward(x)[0, 0]
    torch.testing.assert_close(ours, torch.from_numpy(theirs))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: bicubic_downsampling((6, 7), (2, 2)),
        lambda: gaussian_blur((6, 7), (1.0, 0.0)),
        lambda: SeparableOperator(()),
        lambda: gaussian_blur((6, 7), (1.0, 1.0)).forward(torch.zeros(1, 1, 6, 6)),
        lambda: CircularBlur(torch.ones(2, 3), (6, 6)),
        lambda: ZeroPaddedBlur(torch.ones(7, 3), (6, 6)),
    ],
)
def test_what_does_not_fit_is_refused(wrong):
    with pytest.raises(ValueError, match=r"grid|blur|matrix|kernel"):
        wrong()
