"""A GPU that is not there, to count what it would be asked and told.

`Pretended` tensors say that they lie on `cuda` and are held by the CPU. Within `pretending` each
operation on them is done by the CPU and counted: as a launch (views are none), and as a wait where
the host would not go on before the device has answered or has been given something. Tensors of the
two devices do not mix, as on a GPU, but for single numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("cuda", 0)
WAITS = {
    "_local_scalar_dense": "asked",
    "nonzero": "looked for",
    "masked_select": "looked for",
    "unique_dim": "looked for",
    "equal": "asked",
    "_linalg_check_errors": "checked",
}
VIEWS = {
    *("view", "_unsafe_view", "expand", "t", "transpose", "permute", "slice", "select", "unfold"),
    *("unsqueeze", "squeeze", "alias", "detach", "view_as_real", "view_as_complex", "as_strided"),
    *("split", "split_with_sizes", "unbind", "_reshape_alias", "diagonal", "_conj", "_neg_view"),
    *("_linalg_check_errors", "_local_scalar_dense"),
}


@dataclass
class Seen:
    """What happened so far."""

    launches: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)


class Pretended(Tensor):
    """A tensor of the CPU that says that it lies on a GPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Pretended:
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.shape, strides=held.stride(), dtype=held.dtype, device=GPU, layout=held.layout
        )
        torch._C._set_conj(made, held.is_conj())
        torch._C._set_neg(made, held.is_neg())
        made.held = held
        return made

    def __init__(self, held: Tensor) -> None: ...

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} outside of `pretending`")


@contextmanager
def pretending() -> Iterator[Seen]:
    """Counts what is done to `Pretended` tensors."""
    seen = Seen()
    with torch.no_grad(), _Operations(seen), _Calls(seen):
        yield seen


def held(tree: Any) -> Any:
    """What the CPU holds of tensors in nested lists."""
    return tree_map(lambda each: each.held if isinstance(each, Pretended) else each, tree)


def _wrapped(tree: Any) -> Any:
    return tree_map(lambda each: Pretended(each) if isinstance(each, Tensor) else each, tree)


def _is_gpu(device: Any) -> bool:
    return isinstance(device, torch.device) and device.type == "cuda"


class _Operations(TorchDispatchMode):
    """Counts and does what reaches the device."""

    def __init__(self, seen: Seen) -> None:
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves, kwargs = tree_leaves((args, kwargs)), dict(kwargs or {})
        here = any(isinstance(each, Pretended) for each in leaves)
        target = kwargs.get("device")
        if not here and not _is_gpu(target):
            return func(*args, **kwargs)
        name = func.name().split("::")[1].split(".")[0]
        apart = [each for each in leaves if type(each) is Tensor and each.ndim and here]
        if apart and not any(each.layout == torch.sparse_csr for each in apart):
            raise RuntimeError(f"{name}: tensors of two devices")
        if target is not None:
            kwargs["device"] = torch.device("cpu")
        back = name == "_to_copy" and target is not None and not _is_gpu(target)
        if name in WAITS or back:
            self.seen.waits[WAITS.get(name, "fetched")] += 1
        if name not in VIEWS:
            self.seen.launches[name] += 1
        done = func(*held(args), **held(kwargs))
        if name == "_local_scalar_dense" or back:
            return done
        return args[0] if name.endswith("_") else _wrapped(done)


class _Calls(TorchFunctionMode):
    """What a build of torch without CUDA refuses before it reaches the device: copies there, new
    tensors there, and indices."""

    def __init__(self, seen: Seen) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), dict(kwargs or {})
        if name == "pin_memory":
            return args[0]
        if name == "to":
            asked = [*args[1:], *kwargs.values()]
            if any(_is_gpu(getattr(each, "device", each)) for each in asked):
                return self._sent(args[0], asked, kwargs.get("non_blocking", False))
        if name in ("__getitem__", "__setitem__") and isinstance(args[0], Pretended):
            return self._indexed(func, name, args)
        if _is_gpu(kwargs.get("device")):  # a new one
            if name in ("tensor", "as_tensor"):
                self.seen.waits["given"] += 1
            self.seen.launches[name] += 1
            with torch._C.DisableTorchFunction():
                return _wrapped(func(*held(args), **held(kwargs | {"device": "cpu"})))
        return func(*args, **kwargs)

    def _sent(self, numbers: Tensor, asked: list[Any], unheeded: bool) -> Tensor:
        types = [getattr(each, "dtype", each) for each in asked]
        kind = next((each for each in types if isinstance(each, torch.dtype)), numbers.dtype)
        if isinstance(numbers, Pretended):
            same = numbers.dtype == kind
            return numbers if same else torch.ops.aten._to_copy(numbers, dtype=kind)
        if not unheeded:
            self.seen.waits["given"] += 1
        self.seen.launches["sent"] += 1
        return Pretended(numbers.to(kind).clone())

    def _indexed(self, func: Any, name: str, args: Any) -> Any:
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        chosen = [each for each in index if isinstance(each, Tensor | list)]
        for each in chosen:
            if isinstance(each, Tensor) and each.dtype == torch.bool:
                self.seen.waits["looked for"] += 1
            elif not isinstance(each, Pretended):
                self.seen.waits["given"] += 1
        if chosen or name == "__setitem__":
            self.seen.launches[name] += 1
        with torch._C.DisableTorchFunction():
            done = func(*held(args))
        return None if name == "__setitem__" else Pretended(done)
