"""The kernels compile for a card, which the interpreter does not show: it knows no types."""

from __future__ import annotations

from typing import Any

import pytest

triton = pytest.importorskip("triton")
pytestmark = pytest.mark.slow

HALF, SUM, NUMBER = "*bf16", "*fp32", "i32"


def compiled(kernel: Any, fields: str, sums: str, **constants: Any) -> str:
    """The kernel for an H100; `fields` and `sums` name its pointers, numbers are what is left."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kinds = dict.fromkeys(fields.split(), HALF) | dict.fromkeys(sums.split(), SUM)
    names = kernel.arg_names
    signature = {
        name: "constexpr" if name in constants else kinds.get(name, NUMBER) for name in names
    }
    signature |= {"keys": "*i64"} if "keys" in names else {}
    signature |= {"eps": "fp32"} if "eps" in names else {}
    constexprs = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, signature, constexprs=constexprs)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]


def spills(ptx: str) -> bool:
    return ".local" in ptx


@pytest.mark.parametrize("channels", [16, 64, 128])
def test_a_shortcut_uses_the_matrix_units(channels: int) -> None:
    from medidiff.networks.kernels.triton_norm import pointwise_kernel

    inner = 32 if channels > 64 else 64
    ptx = compiled(
        pointwise_kernel, "onto a b weight", "mean square",
        BLOCK_ROWS=128, BLOCK_CHANNELS=channels, BLOCK_INNER=inner,
    )  # fmt: skip
    assert "mma" in ptx
    assert not spills(ptx)


@pytest.mark.parametrize("taps", [9, 27])
@pytest.mark.parametrize("few", [1, 2])
def test_thin_layers_use_the_matrix_units(taps: int, few: int) -> None:
    from medidiff.networks.kernels.triton_thin import meet_kernel, narrow_kernel, widen_kernel

    block = max(16, triton.next_power_of_2(few * taps))
    wide = compiled(
        widen_kernel, "x weight out", "mean square",
        INPUTS=few, TAPS=taps, BLOCK_TAPS=block, BLOCK_ROWS=64, BLOCK_CHANNELS=128,
    )  # fmt: skip
    narrow = compiled(
        narrow_kernel, "x weight", "gain bias out",
        BLOCK_ROWS=64, BLOCK_INNER=64, BLOCK_OUTPUTS=block,
    )  # fmt: skip
    assert "mma" in wide
    assert "mma" in narrow
    compiled(meet_kernel, "bias out", "parts", TAPS=taps, BIAS=True, BLOCK=512)


@pytest.mark.parametrize(
    ("one", "other", "a", "b"),
    [(True, True, False, False), (True, True, True, True), (False, True, False, True)],
)
def test_sums_of_offsets_compile(one: bool, other: bool, a: bool, b: bool) -> None:
    from medidiff.networks.kernels.triton_offsets import offset_kernel

    compiled(
        offset_kernel, "other weight", "one of_a of_b out",
        ONE=one, OTHER=other, A=a, B=b, BLOCK_CHANNELS=16 if a or b else 128, BLOCK_INNER=128,
    )  # fmt: skip


def test_keyed_noise_compiles_without_a_fused_rounding() -> None:
    import triton.language as tl

    from medidiff.networks.kernels.triton_philox import unit_kernel

    ptx = compiled(unit_kernel, "", "out", REAL=tl.float32, BLOCK=512)
    assert "fma." not in ptx


@pytest.mark.parametrize("add", [False, True])
def test_a_norms_passes_compile(add: bool) -> None:
    import triton.language as tl

    from medidiff.networks.kernels.triton_norm import (
        apply_kernel,
        fold_kernel,
        grad_apply_kernel,
        grad_fold_kernel,
        grad_sums_kernel,
        moments_kernel,
    )

    tile = {"BLOCK_ROWS": 32, "BLOCK_CHANNELS": 128, "SUM": tl.float32}
    groups = {"BLOCK_CHUNKS": 64, "BLOCK_GROUP": 4, "SUM": tl.float32}
    offsets = {"MODULATED": add, "OFFSET_A": add, "OFFSET_B": add}
    known = "mean_a square_a offset_a mean_b square_b offset_b weight shift modulation gain bias"
    back = "by_x by_one grad_offset grad_weight grad_shift grad_modulation sum_grad sum_grad_x"
    of_groups = "group_mean group_rstd"
    compiled(moments_kernel, "x other out", "mean square", ADD=add, BOX=False, **tile)
    compiled(moments_kernel, "x other out", "mean square", ADD=False, BOX=True, **tile)
    compiled(fold_kernel, "", f"{known} {of_groups}", **offsets, **groups)
    compiled(
        apply_kernel, "x out", "gain bias", ACT=add, UP=2 if add else 0, GAIN=True, BIAS=True,
        **tile,
    )  # fmt: skip
    compiled(grad_sums_kernel, "x grad", "gain bias sum_grad sum_grad_x", ACT=add, **tile)
    compiled(grad_fold_kernel, "", f"{known} {of_groups} {back}", GIVEN=add, **offsets, **groups)
    compiled(
        grad_apply_kernel, "x grad passed out", "gain bias by_x by_one", ACT=add, PASSED=add,
        **tile,
    )  # fmt: skip
