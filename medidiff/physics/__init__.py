"""How a scanner sees: linear measurement operators in plain torch, with exact adjoints.

    y = A(clean) + noise        A.forward, .adjoint, .normal, .prox, .pseudo_inverse, .norm

One file a modality: mri.py (masks.py has the sampling, coils.py what calibrates it, nufft.py other
trajectories), ct.py (beams.py has the rays, fbp.py the inverse by formula), image.py (what is
missing from an image, what a coarser grid sees), separable.py and blur.py.
The contract, and what an operator whose singular value decomposition is known gets for nothing, is
in operators.py; what one known by its adjoint alone gets is in iterative.py.
"""

from medidiff.physics.beams import Beam, FanBeam, ParallelBeam, even_angles
from medidiff.physics.blur import CircularBlur, ZeroPaddedBlur
from medidiff.physics.coils import ESPIRiT, calibration_box
from medidiff.physics.ct import Tomography
from medidiff.physics.fbp import filtered_back_projection
from medidiff.physics.fourier import from_kspace, to_kspace
from medidiff.physics.image import BlockAverage, Mask, Weights
from medidiff.physics.iterative import ConjugateGradients, IterativeOperator
from medidiff.physics.masks import Sampling
from medidiff.physics.mri import CartesianMRI, FourierSampling, SenseMRI
from medidiff.physics.nufft import NonCartesianMRI
from medidiff.physics.operators import DenseOperator, LinearOperator, SpectralOperator
from medidiff.physics.separable import (
    SeparableOperator,
    bicubic_downsampling,
    gaussian_blur,
    interpolation,
)

__all__ = [
    "Beam",
    "BlockAverage",
    "CartesianMRI",
    "CircularBlur",
    "ConjugateGradients",
    "DenseOperator",
    "ESPIRiT",
    "FanBeam",
    "FourierSampling",
    "IterativeOperator",
    "LinearOperator",
    "Mask",
    "NonCartesianMRI",
    "ParallelBeam",
    "Sampling",
    "SenseMRI",
    "SeparableOperator",
    "SpectralOperator",
    "Tomography",
    "Weights",
    "ZeroPaddedBlur",
    "bicubic_downsampling",
    "calibration_box",
    "even_angles",
    "filtered_back_projection",
    "from_kspace",
    "gaussian_blur",
    "interpolation",
    "to_kspace",
]
