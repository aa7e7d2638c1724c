"""How a scanner sees: linear measurement operators in plain torch, with exact adjoints.

    y = A(clean) + noise        A.forward, .adjoint, .normal, .prox, .pseudo_inverse, .norm

One file a modality: image.py has masks and block averages. The contract, and what an operator whose
singular value decomposition is known gets for nothing, is in operators.py.
"""

from medidiff.physics.image import BlockAverage, Mask
from medidiff.physics.operators import DenseOperator, LinearOperator, SpectralOperator
from medidiff.physics.window import Window

__all__ = ["BlockAverage", "DenseOperator", "LinearOperator", "Mask", "SpectralOperator", "Window"]
