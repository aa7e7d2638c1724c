"""What a network takes and gives: known from the data, never a choice of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medidiff.networks.conditions import AnyCondition


@dataclass(frozen=True)
class NetworkShape:
    """Dimensions, channels and conditions of a network, whatever its architecture."""

    dims: Literal[2, 3] = 2
    """Dimensions of the images."""
    in_channels: int = 1
    """Channels of the noisy image."""
    out_channels: int = 1
    """Channels of the prediction."""
    concat_channels: int = 0
    """Channels of an image given beside the noisy one, such as another contrast."""
    conditions: tuple[AnyCondition, ...] = ()
    """What the network is told about a case."""

    def __post_init__(self) -> None:
        if self.dims not in (2, 3):
            raise ValueError(f"dims must be 2 or 3, not {self.dims}")
        for name in ("in_channels", "out_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.concat_channels < 0:
            raise ValueError(f"concat_channels must not be negative, not {self.concat_channels}")
        names = [condition.name for condition in self.conditions]
        if len(set(names)) != len(names):
            raise ValueError(f"conditions must have different names, not {names}")
