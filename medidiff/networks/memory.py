"""How much memory a network takes, counted from the network itself without a GPU.

The real module is called on tensors that hold no values, on the way that a GPU takes (fused kernels
allocate and run nothing), forward and back; what every operation allocates is counted until the
last reader lets go of it. A new layer is counted because it is called. What no operation shows, the
workspaces inside cuDNN's convolutions and the driver's own memory, is added by who plans.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from medidiff.networks.autoencoder import Autoencoder, AutoencoderOptions
from medidiff.networks.fields import Field
from medidiff.networks.kernels import counted, plain
from medidiff.networks.shape import NetworkShape
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
    """The number of weights."""


@dataclass(frozen=True)
class CallKind:
    """How a network is called."""

    batch: int
    space: Grid
    number: Number = "bf16"
    """The autocast's dtype; fp32 is none."""
    fused: bool = True
    """The fused kernels of a GPU, or plain torch."""


def training_memory(options: UNetOptions, shape: NetworkShape, call: CallKind) -> CallMemory:
    """What a forward pass and the way back take."""
    with _without_values(call.fused):
        network = _empty(options, shape, call.fused).train()
        parameters = list(network.parameters())
        with _LiveBytes(parameters) as live:
            inputs = _inputs(shape, call)
            aim = torch.empty(call.batch, shape.out_channels, *call.space)
            by_grid = _watched(network, live)
            with _autocast(call.number):
                prediction = network(*inputs)
            loss = F.mse_loss(prediction.float(), aim)
            kept = live.now
            loss.backward()
            gradients = sum(_bytes(weight) for weight in parameters)
            return CallMemory(kept, live.most, gradients, by_grid, _count(parameters))


def inference_memory(options: UNetOptions, shape: NetworkShape, call: CallKind) -> int:
    """Bytes that a call without a gradient takes, its weights in the dtype `call.number`."""
    with _without_values(call.fused):
        network = _empty(options, shape, call.fused, _DTYPES[call.number]).eval()
        parameters = list(network.parameters())
        with _LiveBytes(parameters) as live, torch.no_grad():
            image, label, condition, beside = _inputs(shape, call)
            network(image.to(_DTYPES[call.number]), label, condition, beside)
            return live.most


def decoding_memory(
    options: AutoencoderOptions, shape: NetworkShape, batch: int, latent_space: Grid
) -> int:
    """Bytes that an autoencoder's way back takes, its weights in float32 beside."""
    with _without_values(fused=True):
        network = _without_weights(Autoencoder(options, shape), True).eval()
        with _LiveBytes(list(network.parameters())) as live, torch.no_grad():
            network.decode(torch.empty(batch, options.latent_channels, *latent_space))
            return live.most


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


def _empty(
    options: UNetOptions, shape: NetworkShape, fused: bool, dtype: torch.dtype = torch.float32
) -> UNet:
    """The U-Net with weights that hold no values, laid out as the GPU's way wants them."""
    return _without_weights(UNet(options, shape), fused, dtype)


def _without_weights(network: Network, fused: bool, dtype: torch.dtype = torch.float32) -> Network:
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d} if fused else {}
    for module in network.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            layout = layouts.get(weight.ndim, torch.contiguous_format)
            empty = torch.empty(weight.shape, dtype=dtype, memory_format=layout)
            module.register_parameter(name, nn.Parameter(empty))
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


def _autocast(number: Number) -> contextlib.AbstractContextManager[object]:
    if number == "fp32":
        return contextlib.nullcontext()
    return torch.autocast("cpu", dtype=_DTYPES[number], cache_enabled=False)


def _watched(network: nn.Module, live: _LiveBytes) -> dict[Grid, int]:
    """Filled as the network is called: what each of its parts leaves behind, by the grid of its
    input."""
    by_grid: dict[Grid, int] = {}
    for part in network.children():
        for child in part if isinstance(part, nn.ModuleList) else (part,):
            before: list[int] = []
            child.register_forward_pre_hook(lambda *_, b=before: b.append(live.now))
            child.register_forward_hook(_noted(by_grid, before, live))
    return by_grid


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
