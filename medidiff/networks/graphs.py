"""A network whose calls are recorded once as CUDA graphs and then replayed.

A sampler calls one network with one shape many times, and so does a training loop; between the
calls a CPU has nothing to say that was not said the first time. A call in training mode with a
gradient records the way forward and the way back, for the weights; a call without a gradient
records the way forward. Anything else (a CPU, a gradient for the image, more shapes than are kept)
is the network's own call.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

import torch
from torch import nn

from medidiff.networks.autoencoder import Autoencoder
from medidiff.networks.kernels import available, plain
from medidiff.types import Image, Tensor

Acceleration: TypeAlias = Literal["auto", "none"]
"""CUDA graphs and fused kernels where a GPU has them, or plain torch."""

_KEPT = 4  # shapes whose graphs are kept: a graph holds the memory of its own activations
_WARM_UPS = 3  # calls before the recording, in which libraries choose their kernels


@dataclass(frozen=True, eq=False)
class _Recording:
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor | None, ...]
    output: Tensor


Key: TypeAlias = tuple[object, ...]


def has_bf16(device: torch.device) -> bool:
    """Whether a GPU computes in bfloat16 itself: those before Ampere emulate it."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def accelerated(network: nn.Module, how: Acceleration) -> nn.Module:
    """The network as it is to be called: recorded and fused where a GPU allows it, or plain."""
    if how == "none":
        return _Plain(network)
    if next(network.parameters()).is_cuda and available():
        channels_last(network)  # torch's own norms are slow in this layout
    # an autoencoder gives several tensors, and its fields are so large that nothing waits for a CPU
    return network if isinstance(network, Autoencoder) else Graphed(network)


class _Plain(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor | None) -> Image:
        with plain():
            return self.network(*inputs)


def channels_last(network: nn.Module) -> None:
    """Lay the weights of the convolutions out with channels last, in place."""
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    for weight in network.parameters():
        if weight.ndim in layouts:
            weight.data = weight.data.contiguous(memory_format=layouts[weight.ndim])


class _Call(nn.Module):
    """The network's call with only those inputs that are given."""

    def __init__(self, network: nn.Module, given: tuple[bool, ...]) -> None:
        super().__init__()
        self.network = network
        self.given = given

    def forward(self, *inputs: Tensor) -> Image:
        left = iter(inputs)
        return self.network(*(next(left) if known else None for known in self.given))


class Graphed(nn.Module):
    """The network behind a cache of CUDA graphs, one for each shape of its inputs.

    The weights are the network's own: what changes them in place changes the recordings, and what
    moves them elsewhere ends the recordings.
    Autocast must be entered with `cache_enabled=False` around a call that is recorded.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._forward: dict[Key, _Recording] = {}
        self._trained: dict[Key, nn.Module] = {}
        self._places: tuple[int, ...] = ()
        self._awaiting_backward = False
        self._lock = threading.Lock()

    def forward(
        self,
        x: Image,
        label: Tensor,
        condition: Tensor | None = None,
        concat: Tensor | None = None,
    ) -> Image:
        """As the network's own call, with the same result."""
        inputs = (x, label, condition, concat)
        if not x.is_cuda or torch.cuda.is_current_stream_capturing():
            return self.network(*inputs)
        with self._lock:
            self._forget_moved_weights()
            shapes = (None if each is None else (each.shape, each.dtype) for each in inputs)
            key = (self.network.training, *shapes)
            if torch.is_grad_enabled():
                return self._with_gradient(key, inputs)
            return self._without_gradient(key, inputs)

    def _without_gradient(self, key: Key, inputs: tuple[Tensor | None, ...]) -> Image:
        if key not in self._forward:
            if len(self._forward) == _KEPT:
                return self.network(*inputs)
            self._forward[key] = self._record(inputs)
        recording = self._forward[key]
        for buffer, value in zip(recording.inputs, inputs, strict=True):
            if buffer is not None and value is not None:
                buffer.copy_(value)
        recording.graph.replay()
        return recording.output.clone()

    def _with_gradient(self, key: Key, inputs: tuple[Tensor | None, ...]) -> Image:
        for_image = any(each is not None and each.requires_grad for each in inputs)
        another = bool(self._trained) and key not in self._trained
        # a second call before the way back would write over what the first keeps for it
        if for_image or another or not self.network.training or self._awaiting_backward:
            return self.network(*inputs)
        given = tuple(each for each in inputs if each is not None)
        if key not in self._trained:
            call = _Call(self.network, tuple(each is not None for each in inputs))
            samples = tuple(each.clone() for each in given)
            torch.cuda.make_graphed_callables(call, samples, allow_unused_input=True)
            self._trained[key] = call
        output = self._trained[key](*given)
        if output.requires_grad:
            self._awaiting_backward = True
            output.register_hook(self._came_back)
        return output

    def _came_back(self, gradient: Tensor) -> None:
        self._awaiting_backward = False

    def _forget_moved_weights(self) -> None:
        places = tuple(weight.data_ptr() for weight in self.network.parameters())
        if places != self._places:
            self._forward.clear()
            self._trained.clear()
            self._places = places

    def _record(self, inputs: tuple[Tensor | None, ...]) -> _Recording:
        buffers = tuple(None if each is None else each.clone() for each in inputs)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UPS):
                self.network(*buffers)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = cast(Tensor, self.network(*buffers))
        return _Recording(graph, buffers, output)
