"""How a scanner sees: linear measurement operators in plain torch, with exact adjoints.

    y = A(clean) + noise        A.forward, .adjoint, .normal, .prox, .pseudo_inverse, .norm

One file a modality: mri.py (with masks.py for the sampling), ct.py (with beams.py for the rays and
fbp.py for the inverse by formula), image.py (what is missing from an image, what a coarser grid
sees). The contract, and what an operator whose singular value decomposition is known gets for
nothing, is in operators.py; what one known by its adjoint alone gets is in iterative.py.
"""

from medidiff.physics.beams import Beam, FanBeam, ParallelBeam, even_angles
from medidiff.physics.ct import Tomography
from medidiff.physics.fbp import filtered_back_projection
from medidiff.physics.fourier import from_kspace, to_kspace
from medidiff.physics.image import BlockAverage, Mask
from medidiff.physics.iterative import ConjugateGradients, IterativeOperator
from medidiff.physics.masks import Sampling
from medidiff.physics.mri import CartesianMRI, FourierSampling, SenseMRI
from medidiff.physics.operators import DenseOperator, LinearOperator, SpectralOperator

__all__ = [
    "Beam",
    "BlockAverage",
    "CartesianMRI",
    "ConjugateGradients",
    "DenseOperator",
    "FanBeam",
    "FourierSampling",
    "IterativeOperator",
    "LinearOperator",
    "Mask",
    "ParallelBeam",
    "Sampling",
    "SenseMRI",
    "SpectralOperator",
    "Tomography",
    "even_angles",
    "filtered_back_projection",
    "from_kspace",
    "to_kspace",
]
