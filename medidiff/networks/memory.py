"""How much memory a network takes, counted from the network itself without a GPU.

The real module is called on tensors that hold no values, on the way that a GPU takes (fused kernels
allocate and run nothing), forward and back; what every operation allocates is counted until the
last reader lets go of it. A new layer is counted because it is called. What no operation shows, the
workspaces inside cuDNN's convolutions and the driver's own memory, is added by who plans.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from medidiff.networks.autoencoder import Autoencoder, AutoencoderOptions, Way
from medidiff.networks.choice import AnyNetwork, made
from medidiff.networks.fields import Field
from medidiff.networks.kernels import counted, plain
from medidiff.networks.shape import NetworkShape
from medidiff.networks.spread_heads import Head, HeadedNetwork, HeadForm
from medidiff.networks.unet import UNet, UNetOptions
from medidiff.types import Tensor

BLOCK = 512  # bytes that CUDA's allocator rounds a tensor up to
Number = Literal["bf16", "fp16", "fp32"]
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
Grid = tuple[int, ...]
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class CallMemory:
    """Bytes that a call takes beside the network's weights, its inputs and output included."""

    kept: int
    """What the forward pass leaves behind for the way back."""
    peak: int
    """The most at any moment; with a gradient the weights' gradients are part of it."""
    gradients: int
    """The weights' gradients, in float32."""
    by_grid: dict[Grid, int]
    """What is kept of `kept` by the levels of the network, named by their grids, fine to coarse."""
    parameters: int
    """The number of weights,"""
    trained: int
    """and of those that have a gradient."""


@dataclass(frozen=True)
class CallKind:
    """How a network is called."""

    batch: int
    space: Grid
    number: Number = "bf16"
    """The autocast's dtype; fp32 is none."""
    fused: bool = True
    """The fused kernels of a GPU, or plain torch."""


def training_memory(options: AnyNetwork, shape: NetworkShape, call: CallKind) -> CallMemory:
    """What a forward pass of a network that is told a noise level, and the way back, take."""
    return step_memory(
        lambda: (made(options, shape),), lambda network: loss_of_call(network, shape, call), call
    )


def step_memory(
    make: Callable[[], Sequence[nn.Module]], run: Callable[..., Sequence[Tensor]], call: CallKind
) -> CallMemory:
    """What `run` and the way back from its loss take.

    `make` gives the network and others beside it, whose weights are not counted; `run` is called
    with them and gives the loss, and what else is held until the way back has been gone.
    """
    with _without_values(call.fused):
        modules = [_without_weights(each, call.fused) for each in make()]
        network = modules[0].train()
        with _LiveBytes([weight for each in modules for weight in each.parameters()]) as live:
            by_grid = _watched(network, live)
            given = run(*modules)
            kept = live.now
            given[0].backward()
            weights = list(network.parameters())
            trained = [weight for weight in weights if weight.requires_grad]
            gradients = sum(_bytes(weight) for weight in trained)
            return CallMemory(kept, live.most, gradients, by_grid, _count(weights), _count(trained))


def loss_of_call(network: nn.Module, shape: NetworkShape, call: CallKind) -> Sequence[Tensor]:
    """The squared error of a call, for `step_memory`, and what a training holds beside it."""
    inputs = _inputs(shape, call)
    with autocast(call.number):
        prediction = network(*inputs)
    aim = torch.empty(prediction.shape)
    loss = F.mse_loss(prediction.float(), aim)
    return [loss, prediction, aim, *(each for each in inputs if each is not None)]


def inference_memory(options: AnyNetwork, shape: NetworkShape, call: CallKind) -> int:
    """Bytes that a call without a gradient takes, its weights in the dtype `call.number`."""

    def run(network: nn.Module) -> None:
        image, label, condition, beside = _inputs(shape, call)
        network(image.to(_DTYPES[call.number]), label, condition, beside)

    return _without_gradient(lambda: made(options, shape), run, call.fused, _DTYPES[call.number])


def inference_in_training(options: AnyNetwork, shape: NetworkShape, call: CallKind) -> int:
    """The same for weights in float32, in the autocast of a training step."""

    def run(network: nn.Module) -> None:
        with autocast(call.number):
            network(*_inputs(shape, call))

    return _without_gradient(lambda: made(options, shape), run, call.fused)


def headed_inference_memory(
    options: UNetOptions, shape: NetworkShape, form: HeadForm, call: CallKind
) -> int:
    """Bytes that a U-Net with a head takes in float32, without a gradient."""

    def run(network: nn.Module) -> None:
        network(*_inputs(shape, call))

    return _without_gradient(lambda: headed(options, shape, form), run, call.fused)


def decoding_memory(
    options: AutoencoderOptions, shape: NetworkShape, batch: int, latent_space: Grid
) -> int:
    """Bytes that an autoencoder's way back takes, its weights in float32 beside."""

    def run(network: Autoencoder) -> None:
        network.decode(torch.empty(batch, options.latent_channels, *latent_space))

    return _without_gradient(lambda: made(options, shape), run, fused=True)


def reconstruction_memory(options: AutoencoderOptions, shape: NetworkShape, call: CallKind) -> int:
    """Bytes that an autoencoder takes in float32 for both ways, without a gradient."""

    def run(network: Autoencoder) -> None:
        network(torch.empty(call.batch, shape.in_channels, *call.space))

    return _without_gradient(lambda: made(options, shape), run, call.fused)


def headed(options: UNetOptions, shape: NetworkShape, form: HeadForm) -> HeadedNetwork:
    """A frozen U-Net with a head on it, to be counted."""
    trunk = UNet(options, shape)
    return HeadedNetwork(trunk, Head(trunk, form))


def peak_of(run: Callable[[], object]) -> int:
    """The most bytes that `run` holds at a moment on a GPU; what it makes holds no values."""
    with FakeTensorMode(), counted(), _LiveBytes([]) as live:
        run()
        return live.most


class _LiveBytes(TorchDispatchMode):
    """Counts the memory that the operations within it allocate and let go of."""

    def __init__(self, known: list[nn.Parameter]) -> None:
        super().__init__()
        self.now = 0
        self.most = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()
        for weight in known:
            self._seen.add(weight.untyped_storage())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in tree_leaves(made):
            if isinstance(each, Tensor):
                self._note(each.untyped_storage())
        return made

    def _note(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        size = -(-storage.nbytes() // BLOCK) * BLOCK
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._let_go, size)

    def _let_go(self, size: int) -> None:
        self.now -= size


@contextlib.contextmanager
def _without_values(fused: bool) -> Iterator[None]:
    with FakeTensorMode(), counted(), contextlib.nullcontext() if fused else plain():
        yield


def _without_gradient(
    make: Callable[[], nn.Module],
    run: Callable[..., object],
    fused: bool,
    dtype: torch.dtype = torch.float32,
) -> int:
    """The most bytes at a moment of a call in evaluation."""
    with _without_values(fused):
        network = _without_weights(make(), fused, dtype).eval()
        with _LiveBytes(list(network.parameters())) as live, torch.no_grad():
            run(network)
            return live.most


def _without_weights(network: Network, fused: bool, dtype: torch.dtype = torch.float32) -> Network:
    """The same network, its weights without values and laid out as the GPU's way wants them."""
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d} if fused else {}
    for module in network.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            layout = layouts.get(weight.ndim, torch.contiguous_format)
            empty = torch.empty(weight.shape, dtype=dtype, memory_format=layout)
            module.register_parameter(name, nn.Parameter(empty, weight.requires_grad))
    return network


def _inputs(
    shape: NetworkShape, call: CallKind
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Image, label, conditions and what is given beside."""
    image = torch.empty(call.batch, shape.in_channels, *call.space)
    conditions = torch.empty(call.batch, len(shape.conditions)) if shape.conditions else None
    beside = (
        torch.empty(call.batch, shape.concat_channels, *call.space)
        if shape.concat_channels
        else None
    )
    return image, torch.empty(call.batch), conditions, beside


def autocast(number: Number) -> contextlib.AbstractContextManager[object]:
    """As a training step is called."""
    if number == "fp32":
        return contextlib.nullcontext()
    return torch.autocast("cpu", dtype=_DTYPES[number], cache_enabled=False)


def _watched(network: nn.Module, live: _LiveBytes) -> dict[Grid, int]:
    """Filled as the network is called: what each of its parts leaves behind, by the grid of its
    input."""
    by_grid: dict[Grid, int] = {}
    for part in _parts(network):
        before: list[int] = []
        part.register_forward_pre_hook(lambda *_, b=before: b.append(live.now))
        part.register_forward_hook(_noted(by_grid, before, live))
    return by_grid


def _parts(network: nn.Module) -> Iterator[nn.Module]:
    """Levels, or the layers of an autoencoder's ways."""
    for part in network.children():
        if isinstance(part, Way):
            yield from _parts(part)
        else:
            yield from part if isinstance(part, nn.ModuleList) else (part,)


def _noted(by_grid: dict[Grid, int], before: list[int], live: _LiveBytes) -> Callable[..., None]:
    def note(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        left = live.now - before.pop()
        x = inputs[0].data if isinstance(inputs[0], Field) else cast(Tensor, inputs[0])
        grid = tuple(x.shape[2:])
        by_grid[grid] = by_grid.get(grid, 0) + left

    return note


def _bytes(weight: Tensor) -> int:
    return -(-weight.numel() * weight.element_size() // BLOCK) * BLOCK


def _count(parameters: list[nn.Parameter]) -> int:
    return sum(weight.numel() for weight in parameters)
