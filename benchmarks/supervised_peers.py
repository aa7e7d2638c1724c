"""Supervised networks as peers of a benchmark: made, kept with what they were trained for, and put
to the very problems that a head is given.

The weights are a safetensors file whose metadata says what they are of.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medidiff import options
from medidiff.networks import NetworkShape, UNet, UNetOptions, build
from medidiff.networks.unrolled import UnrolledReconstruction
from medidiff.physics.operators import per_image
from medidiff.tasks.base import Peer, Problem
from medidiff.tasks.classical import placed
from medidiff.tasks.reconstruct import MRI
from medidiff.tasks.restoration import WINDOW

RICIAN = "rician"
"""What a denoiser is trained for: every level."""
PREFIX = "supervised "


@dataclass(frozen=True)
class Trained:
    """A network, what it was trained for and how long."""

    setting: str
    """`RICIAN`, or one of the settings of MRI."""
    network: UNetOptions
    dims: Literal[2, 3] = 2
    turns: int = 5
    """Of the unrolled network."""
    minutes: float = 0.0
    steps: int = 0
    images: int = 0
    """Seen in all, again and again."""
    validation_psnr: float = 0.0
    """In-head, dB, of validation scans: by this the weights were chosen."""
    device: str = "not recorded"
    """What it was trained on."""

    @property
    def name(self) -> str:
        """In every table."""
        kind = "U-Net" if self.setting == RICIAN else f"MoDL of {self.setting}"
        return PREFIX + kind

    @property
    def settings(self) -> tuple[str, ...] | None:
        """Where it can be used: noise of any level, or k-space of as many coils at any places."""
        if self.setting == RICIAN:
            return None
        coils = MRI[self.setting].coils
        return tuple(name for name, scanner in MRI.items() if scanner.coils == coils)


def untrained(what: Trained) -> nn.Module:
    """The network: a U-Net of magnitudes, or an unrolled one of complex images."""
    channels = 1 if what.setting == RICIAN else 2
    shape = NetworkShape(dims=what.dims, in_channels=channels, out_channels=channels)
    network = build(what.network, shape, seed=0)
    return network if channels == 1 else UnrolledReconstruction(cast(UNet, network), what.turns)


def denoised(network: Callable[..., Tensor], noisy: Tensor, sigma: Tensor) -> Tensor:
    """Images without their noise of `sigma` window widths, (batch,); the network is told it, and
    gives what is to be added in its units."""
    spread = WINDOW * sigma
    return noisy + per_image(spread, noisy) * network(noisy, spread.log() / 4)


def solver(network: nn.Module, what: Trained) -> Callable[[Problem], Tensor]:
    """The network's answer to a head's problem, in the problem's model units."""

    @torch.no_grad()
    def solve(problem: Problem) -> Tensor:
        if what.setting == RICIAN:
            return denoised(network, problem.given, torch.tensor(problem.levels).to(problem.given))
        assert problem.measurement is not None
        assert problem.measurement.signal is not None
        signal = problem.measurement.signal
        return placed(network(signal.operator(range(len(problem.cases))), signal.values), problem)

    return solve


def keep(network: nn.Module, what: Trained, place: Path) -> None:
    """Write the weights; what lay there before is there until all of them are written."""
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = place.with_suffix(".part")
    save_file(weights, beside, {"trained": json.dumps(options.tree(what))})
    os.replace(beside, place)


def described(place: Path) -> Trained:
    """What the weights in a file are of."""
    with safe_open(place, framework="pt") as file:
        return options.read(Trained, json.loads(file.metadata()["trained"]))


def kept(place: Path, device: torch.device) -> tuple[nn.Module, Trained]:
    """A network as `keep` wrote it, to be used."""
    what = described(place)
    network = untrained(what).to(device)
    network.load_state_dict(load_file(place, str(device)))
    return network.eval().requires_grad_(False), what


def peer(place: Path, device: torch.device) -> Peer:
    """The network in a file as a method to compare with."""
    network, what = kept(place, device)
    return Peer(what.name, solver(network, what), what.settings)


def least_of(peer: str, setting: str) -> float | None:
    """How far ours is to be above a peer at least, by the lower bound, in dB; None for others."""
    if not peer.startswith(PREFIX):
        return None
    if peer == Trained(RICIAN, UNetOptions()).name:
        return -0.3
    seen = peer.endswith(f" of {setting}")
    return -0.5 if seen else 3.0
