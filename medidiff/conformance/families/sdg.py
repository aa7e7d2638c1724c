"""xh-liu/SDG_code: semantic guidance by a small stored encoder, and guided runs of ten steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from medidiff.conformance.recordings import (
    Case,
    Unsupported,
    check_agrees,
    check_levels,
    check_states,
)
from medidiff.diffusion.betas import LinearBetas
from medidiff.diffusion.levels import CLEAN, Denoise, Estimate, NoiseLevel, diffuse, scale
from medidiff.diffusion.samplers.ancestral import DDPM
from medidiff.diffusion.sampling import Sampler, Step, walk
from medidiff.diffusion.schedules import Discrete
from medidiff.diffusion.semantic import (
    REFERENCE_DRAW,
    Aim,
    Guided,
    Variance,
    content,
    gradient,
    gram,
    large_variance,
    small_variance,
    structure,
    text,
    weighted,
)
from medidiff.types import Image, Tensor

STRIDES = (1, 2, 1, 2, 1)
STYLE_GAIN = 1e10 / 5
"""The original's factor of the style's distance."""


def replay(case: Case) -> None:
    """Compare a guidance value and gradient, or a guided run."""
    return _value(case) if case.kind == "guidance" else _run(case)


@dataclass(frozen=True, eq=False)
class Encoder:
    """The recorded five layers: convolution, tanh, shift and scale by the time, and a head."""

    case: Case

    def __call__(self, x: Image, level: NoiseLevel) -> tuple[Sequence[Tensor], Tensor]:
        case, maps = self.case, []
        # the schedule's t of table entry n is (n + 1) / 1000, and the original's time is n
        time = ((level.t * 1000).round() - 1).expand(len(x)) / 100
        wave = torch.stack([time.sin(), time.cos()], 1)
        for layer, stride in enumerate(STRIDES):
            weight, bias = case[f"enc_w{layer}"], case[f"enc_b{layer}"]
            x = torch.conv2d(x, weight, bias, stride=stride, padding=1)
            gain, shift = (wave @ each.T for each in case[f"enc_t{layer}"])
            x = (x * (1 + gain[:, :, None, None]) + shift[:, :, None, None]).tanh()
            maps.append(x)
        head = maps[-1].mean((2, 3)) @ case["enc_head_w"].T + case["enc_head_b"]
        return maps, head


def batch_style(encoder: Encoder) -> Aim:
    """The original's style: the mean over the Gram matrix of all images together, times a gain.

    It mixes the images of a batch; with one image it is ours but for the mean and the gain.
    """

    def joint(maps: Tensor) -> Tensor:
        flat = maps.transpose(0, 1).flatten(1) if len(maps) == 1 else maps.flatten(0, 1).flatten(1)
        return flat @ flat.T / maps.numel()

    def aim(x: Image, level: NoiseLevel, noised: Image | None) -> Tensor:
        assert noised is not None
        with torch.no_grad():
            theirs = encoder(noised, level)[0]
        ours = encoder(x, level)[0]
        terms = [(joint(a) - joint(b)).square().mean() for a, b in zip(ours, theirs, strict=True)]
        return -STYLE_GAIN * torch.stack(terms).sum()[None]

    return aim


def _table() -> Discrete:
    return Discrete(betas=LinearBetas(), steps=1000)


def _image_aim(kind: str, encoder: Encoder) -> Aim:
    aims = {"semantic": content(encoder), "structure": structure(encoder)}
    if kind == "style":
        return batch_style(encoder)
    if kind not in aims:
        raise Unsupported(f"no aim of the kind {kind}")
    return aims[kind]


def _value(case: Case) -> None:
    level, encoder = _table().after(case["t"].long() + 1), Encoder(case)
    noised = diffuse(case["x_ref0"], level, case["ref_noise"])
    check_agrees("noised reference", noised, case["x_ref_noised"])
    kind = case.meta["kind"]
    aim = text(encoder, case["text_feat"]) if kind == "text" else _image_aim(kind, encoder)
    value = aim(case["x"], level, noised)
    check_agrees("value", value.reshape(case["loss"].shape), case["loss"])
    check_agrees("gradient", gradient(aim, case["x"], level, noised), case["grad"])
    maps, embedding = encoder(case["x"], level)
    check_agrees("embedding", embedding, case["feat_x_emb"])
    for layer, each in enumerate(maps):
        if f"gram_x{layer}" in case:
            check_agrees("Gram matrix", gram(each)[0], case[f"gram_x{layer}"])


class Draws:
    """A step's noise, drawn first, and the reference's."""

    def __init__(self, case: Case) -> None:
        self.case = case

    def __call__(self, like: Image, step: int, draw: int = 0) -> Image:
        return self.case["ref_noise" if draw == REFERENCE_DRAW else "noise"][step]


@dataclass(frozen=True, eq=False)
class Ranged:
    """DDPM whose variance is given: the mean of the small one, and noise of another size."""

    variance: Variance
    finishes: bool = False

    def step(
        self, denoise: Denoise, x: Image, now: NoiseLevel, to: NoiseLevel, memory: None, at: Step
    ) -> tuple[Image, None]:
        """DDPM's step with its noise taken for nothing, and the noise of the variance."""

        def nothing(like: Image, step: int, draw: int = 0) -> Image:
            return torch.zeros_like(like)

        silent = Step(at.index, at.count, x, nothing, None)
        mean, _ = DDPM().step(denoise, x, now, to, None, silent)
        return mean + self.variance(x, now, to).sqrt() * at.noise(), None


def _variance_of(case: Case, last: NoiseLevel, before: NoiseLevel) -> Variance:
    """guided-diffusion's variances, with the entries that it gives to its first step.

    There the posterior variance is 0: "large" and the logarithm take the second step's instead.
    """
    first = small_variance(case["x_init"], before, last)

    def small(x: Image, now: NoiseLevel, to: NoiseLevel) -> Tensor:
        return first if to.is_clean else small_variance(x, now, to)

    def large(x: Image, now: NoiseLevel, to: NoiseLevel) -> Tensor:
        return first if to.is_clean else large_variance(x, now, to)

    def learned(x: Image, now: NoiseLevel, to: NoiseLevel) -> Tensor:
        time = float((now.t * 1000).round() - 1)
        share = ((0.7 * x + 0.3 * torch.tensor(0.01 * time).double().cos()).tanh() + 1) / 2
        beta = scale(large_variance(x, now, to), x)
        return (share * beta.log() + (1 - share) * scale(small(x, now, to), x).log()).exp()

    named: dict[str, Variance] = {
        "FIXED_SMALL": small_variance,
        "FIXED_LARGE": large,
        "LEARNED_RANGE": learned,
    }
    return named[case.meta["var"]]


def _run(case: Case) -> None:
    """A guided run; the reference is noised by the original process at the step's own time."""
    meta, table = case.meta, _table()
    levels = [table.after(int(step) + 1) for step in case["timestep_map"].flip(0)]
    encoder, aims = Encoder(case), []
    if meta["text_weight"]:
        aims.append((meta["text_weight"], text(encoder, case["text_feat"])))
    if meta["image_weight"]:
        aims.append((meta["image_weight"], _image_aim(meta["image_loss"], encoder)))
    variance = _variance_of(case, levels[-1], levels[-2])
    samplers: dict[str, Sampler] = {
        "FIXED_SMALL": DDPM(),
        "FIXED_LARGE": DDPM(variance="large"),
        "LEARNED_RANGE": Ranged(variance),
    }
    reference = case["ref_img"] if meta["image_weight"] else None
    sampler = Guided(samplers[meta["var"]], weighted(*aims), reference, variance)
    calls: list[NoiseLevel] = []
    cleans: list[Image] = []

    def listen(x: Image, level: NoiseLevel) -> Estimate:
        calls.append(level)
        here = case.mixture(x, level)
        cleans.append(here.clean)
        return here

    if bool(meta.get("clip_denoised")):
        raise Unsupported("no replay for clipped estimates under semantic guidance")
    walked: Any = walk(listen, case["x_init"], [*levels, CLEAN], sampler, Draws(case))
    states = [case["x_init"], *(state for _, state in walked)]
    check_levels(calls, case)
    check_states(states, case)
    check_agrees("clean estimates", torch.stack(cleans), case["pred_xstart"])
