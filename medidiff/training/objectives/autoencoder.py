"""Training an autoencoder: reconstruct, keep the latents near a standard normal, and look real to
an adversary. No weights of a perceptual network are downloaded.

Source: Rombach et al. 2022 (arXiv:2112.10752), section 3.1, after Esser et al. 2021
(arXiv:2012.09841). Differs: absolute error alone in place of a perceptual loss; a fixed weight of
the adversarial loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from medidiff.diffusion import training_noise
from medidiff.evaluation.distortion import psnr
from medidiff.networks import AutoencoderOptions
from medidiff.networks.autoencoder import Reconstructed
from medidiff.networks.blocks import Dims
from medidiff.networks.discriminator import patch_discriminator, scored
from medidiff.training.batches import Batch
from medidiff.training.objective import unfrozen

WINDOW = 2.0  # width of the intensity window in model units


@dataclass(frozen=True)
class AdversaryOptions:
    """A patch discriminator that an autoencoder's images must pass."""

    weight: float = 0.05
    """Weight of its opinion in the loss; 0 leaves it out."""
    start: int = 1000
    """The step from which it learns and counts; before, the images are not worth judging."""
    channels: int = 32
    """Channels of its first layer; each further layer has twice as many, up to 8 times."""
    layers: int = 3
    """Times that it halves the grid."""
    learning_rate: float = 1e-4

    def __post_init__(self) -> None:
        if self.weight < 0 or self.start < 0 or not self.learning_rate > 0:
            raise ValueError("weight and start are 0 or more, learning_rate is above 0")
        if self.channels < 1 or self.layers < 1:
            raise ValueError("channels and layers must be at least 1")


@dataclass(frozen=True)
class Autoencoding:
    """Not a prior but an autoencoder, for priors of latents: reconstruct, near a standard normal.

    Source: Rombach et al. 2022 (arXiv:2112.10752), section 3.1.
    """

    kind: Literal["autoencoder"] = "autoencoder"
    kl_weight: float = 1e-4
    """Weight of the latents' divergence from a standard normal, a mean over latents."""
    adversary: AdversaryOptions = AdversaryOptions()

    def __post_init__(self) -> None:
        if self.kl_weight < 0:
            raise ValueError(f"kl_weight must not be negative, not {self.kl_weight}")

    @property
    def spread(self) -> Literal["none"]:
        """No second head."""
        return "none"


class Adversary:
    """The discriminator, its optimiser, and what it has seen in this step."""

    def __init__(
        self, options: AdversaryOptions, dims: Dims, images: int, device: torch.device, seed: int
    ) -> None:
        self.options = options
        self.network = patch_discriminator(dims, images, options.channels, options.layers, seed)
        self.network.to(device)
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=options.learning_rate, betas=(0.5, 0.9), weight_decay=0.0
        )
        self._seen: tuple[Tensor, Tensor] | None = None

    def loss(self, real: Tensor, made: Tensor) -> Tensor:
        """How far each made image is from looking real. Shapes: (batch,)."""
        self._seen = real, made.detach()
        self.network.requires_grad_(False)
        return scored(self.network, made, 1.0)

    def after_step(
        self, network: nn.Module, batch: Batch, loss: Tensor, seed: int, step: int
    ) -> None:
        """Learn to tell the images of this step from what was made of them."""
        del network, batch, loss, seed, step
        if self._seen is None:  # not begun yet
            return
        (real, made), self._seen = self._seen, None
        self.network.requires_grad_(True)
        both = scored(self.network, real, 1.0) + scored(self.network, made.to(real.dtype), 0.0)
        (0.5 * both).mean().backward()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])


@dataclass(frozen=True)
class AutoencoderObjective:
    """Absolute error, divergence of the latents and the adversary's opinion."""

    options: Autoencoding
    network: AutoencoderOptions
    memory: Adversary | None = None

    def trainable(self, network: nn.Module) -> list[nn.Parameter]:
        return unfrozen(network)

    def loss(self, module: nn.Module, batch: Batch, seed: int, step: int) -> Tensor:
        x = batch.clean
        grid = self.network.latent_space(x.shape[2:])
        like = x.new_zeros(len(x), self.network.latent_channels, *grid)
        found: Reconstructed = module(x, training_noise(seed, step, batch.places)(like, 0))
        total = _absolute(found.image, x)
        total = total + self.options.kl_weight * found.posterior.divergence()
        if self.memory is not None and step >= self.memory.options.start:
            total = total + self.memory.options.weight * self.memory.loss(x, found.image)
        return total

    @torch.no_grad()
    def loss_by_level(self, module: nn.Module, batch: Batch, levels: int, seed: int) -> Tensor:
        """(1,): the mean absolute error through the latents' mean; there are no noise levels."""
        del levels, seed
        return _absolute(module(batch.clean).image, batch.clean).mean().view(1)

    @torch.no_grad()
    def scores(self, module: nn.Module, batch: Batch, levels: int, seed: int) -> dict[str, Tensor]:
        """Reconstruction through the latents' mean: PSNR in dB of the intensity window, and L1."""
        del levels, seed
        x, found = batch.clean, module(batch.clean)
        return {
            "psnr": psnr(found.image, x, data_range=WINDOW).mean(),
            "l1": _absolute(found.image, x).mean(),
            "kl": found.posterior.divergence().mean(),
        }


def _absolute(image: Tensor, x: Tensor) -> Tensor:
    return (image.float() - x.float()).abs().flatten(1).mean(1)
