"""The types that say shape and meaning. With jaxtyping installed (tests) the shapes are checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    Image = Tensor
    Times = Tensor
else:
    try:
        from jaxtyping import Float
    except ImportError:  # a plain install: shapes are documentation only
        Image = Tensor
        Times = Tensor
    else:
        Image = Float[Tensor, "batch channel *space"]
        Times = Float[Tensor, "*batch"]

__all__ = ["Image", "Tensor", "Times"]
