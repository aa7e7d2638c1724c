"""Does `medidiff check --gpu-memory` predict what a training takes?

    python benchmarks/memory_plan.py --out benchmarks/results

Each configuration trains a few real steps (the loop's own, with validation and a grid of samples)
on random images; the memory that PyTorch had to hold at each of these moments is set beside the
prediction. `--limits` then starts some of them again with PyTorch held to 0.85 and 1.15 times the
prediction: the first must run out of memory, the second must not.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import math
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from record import Measured, write_result
from torch import Tensor, nn

from medidiff.data.intensity import FittedIntensity
from medidiff.data.options import Augment, Space
from medidiff.diffusion import Cosine, DenoisingLoss, UniformTimes, UniformWeight, V
from medidiff.jobs.memory import CONSTANTS, GIB, MemoryPlan, Training, plan
from medidiff.model import Model
from medidiff.networks import NetworkShape, UNetOptions, accelerated, build
from medidiff.spec import ModelSpec, SamplingOptions
from medidiff.training.batches import TrainingSet
from medidiff.training.loop import Job, train
from medidiff.training.objective import PriorObjective
from medidiff.training.options import TrainOptions
from medidiff.training.precision import choose_precision
from medidiff.training.stop import StopSignal

STEPS = 3
DENOISING = DenoisingLoss(V(), Cosine(), UniformTimes(), UniformWeight())


def as_monai(channels: tuple[int, ...], attention: tuple[bool, ...]) -> UNetOptions:
    """A network of MONAI's architecture."""
    return UNetOptions(
        channels=channels,
        attention=attention,
        norm_eps=1e-6,
        waves=channels[0] // 2,
        modulation="shift",
        resampling="convolution",
        middle_attention="always",
    )


def case(
    size: int,
    dims: int,
    batch: int,
    network: UNetOptions | None = None,
    images: int = 1,
    **options: object,
) -> Training:
    """A training of a few steps."""
    chosen = TrainOptions(
        batch=batch,
        steps=STEPS,
        warmup_steps=0,
        log_every=1,
        save_every=10**6,
        validate_every=STEPS,
        validation_levels=1,
        validation_images=batch,
        sample_every=STEPS,
        sample_images=images,
        **options,  # type: ignore[arg-type]
    )
    shape = NetworkShape(dims=dims)  # type: ignore[arg-type]
    return Training(network or UNetOptions(), shape, (size,) * dims, chosen)


EVERYWHERE = (True, True, True)
CASES: dict[str, Training] = {
    "2d128 default": case(128, 2, 32, images=8),
    "2d256 default": case(256, 2, 16),
    "2d256 recomputed": case(256, 2, 16, UNetOptions(checkpoint_levels=EVERYWHERE)),
    "2d256 fp32": case(256, 2, 8, precision="fp32"),
    "2d256 plain": case(256, 2, 8, acceleration="none"),
    "2d256 as MONAI's": case(
        256, 2, 16, as_monai((128, 128, 256, 256, 512), (False, False, False, True, True))
    ),
    "2d128 attention": case(128, 2, 16, UNetOptions(attention=(False, True, True)), images=8),
    "3d64 attention": case(64, 3, 4, UNetOptions(attention=(False, True, True))),
    "3d96 default": case(96, 3, 2),
    "3d96 recomputed": case(96, 3, 2, UNetOptions(checkpoint_levels=(True, True, False))),
    "3d96 as MONAI's": case(96, 3, 2, as_monai((64, 128, 256, 512), (False, False, False, True))),
    "3d128 recomputed": case(128, 3, 1, UNetOptions(checkpoint_levels=EVERYWHERE), images=2),
    "3d64 plain fp32": case(64, 3, 2, acceleration="none", precision="fp32"),
}
LIMITED = ("3d96 default", "2d256 recomputed")


class Watch:
    """The most memory that was needed, moment by moment.

    Needed is what cannot be had for anything else: the memory in use at most, and that of recorded
    calls, which is kept though not in use. Held is what PyTorch took while there was plenty.
    """

    def __init__(self) -> None:
        self.moments: dict[str, dict[str, int]] = {}
        self.start = self.bound = 0
        self.begin()
        self.start = torch.cuda.memory_reserved()  # what earlier configurations left behind

    def begin(self) -> None:
        """Let go of what is only cached, and forget the peak."""
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        self.bound = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()

    def end(self, moment: str) -> None:
        """Keep the most since `begin`, if it is more than the moment had."""
        found = {
            "needed": self.bound + torch.cuda.max_memory_allocated() - self.start,
            "held": torch.cuda.max_memory_reserved() - self.start,
        }
        known = self.moments.setdefault(moment, found)
        self.moments[moment] = {name: max(known[name], value) for name, value in found.items()}
        self.begin()


def measured(training: Training) -> dict[str, dict[str, int]]:
    """Train for real; the memory of each moment."""
    options, shape = training.train, training.shape
    network = build(training.network, shape)
    images = torch.randn(options.batch, shape.in_channels, *training.space)

    def some(indices: Sequence[int]) -> Tensor:
        return images[[index % len(images) for index in indices]]

    data = TrainingSet(some, None, list(range(options.batch)))
    watch = Watch()

    def log(metrics: Mapping[str, float], step: int) -> None:
        watch.end("validation" if "validation_loss" in metrics else "training")

    def draw(network: nn.Module, step: int) -> None:
        watch.begin()
        Model(spec_of(training), network).sample(options.sample_images, steps=2)
        watch.end("drawing samples")

    with tempfile.TemporaryDirectory() as folder, StopSignal(None) as stop:
        job = Job(
            PriorObjective(DENOISING, 0.0), data, data, Augment(), Path(folder),
            Path(folder) / "snapshots", log, draw, lambda step, steps, loss: None,
        )  # fmt: skip
        train(network, job, options, torch.device("cuda"), stop)
    return watch.moments


def spec_of(training: Training) -> ModelSpec:
    """A model of this network, for drawing its samples."""
    space = Space(dims=training.shape.dims, size=training.space)
    return ModelSpec(
        name="memory",
        modality="MR",
        images=("image",),
        space=space,
        intensity=FittedIntensity((0.0,), (1.0,), "train", None, (-1.0, 1.0)),
        network=training.network,
        shape=training.shape,
        sampling=SamplingOptions(steps=2),
    )


def step_by_step(training: Training) -> dict[str, float]:
    """GiB in use after the forward pass, and at most in forward and backward, unrecorded."""
    options, device = training.train, torch.device("cuda")
    network = build(training.network, training.shape).to(device).train()
    called = accelerated(network, options.acceleration)
    if options.acceleration == "auto":
        called = called.network  # type: ignore[assignment]  # the network itself: unrecorded
    precision = choose_precision(options.precision, device)
    gc.collect()
    torch.cuda.empty_cache()
    found: dict[str, float] = {}
    for _ in range(2):  # the first one loads kernels
        begin = torch.cuda.memory_allocated()
        x = torch.randn(options.batch, training.shape.in_channels, *training.space, device=device)
        torch.cuda.reset_peak_memory_stats()
        with precision.autocast():
            prediction = called(x, torch.full((options.batch,), 500.0, device=device))
        loss = F.mse_loss(prediction.float(), torch.randn_like(x))
        found["kept"] = (torch.cuda.memory_allocated() - begin) / GIB
        found["peak, forward"] = (torch.cuda.max_memory_allocated() - begin) / GIB
        loss.backward()
        found["peak"] = (torch.cuda.max_memory_allocated() - begin) / GIB
        network.zero_grad(set_to_none=True)
        del x, prediction, loss
    return found


def compared(name: str, training: Training) -> tuple[list[Measured], dict[str, object]]:
    """The prediction's error at the peak, and all figures of a configuration."""
    begin = time.perf_counter()
    predicted = plan(training)
    planned = time.perf_counter() - begin
    by_hand = step_by_step(training)
    tidy()
    found = measured(training)
    tidy()
    peak = max(moment["needed"] for moment in found.values())
    error = 100 * (predicted.peak / peak - 1)
    print(
        f"{name:<18} predicted {predicted.peak / GIB:6.2f} GiB, measured {peak / GIB:6.2f} GiB, "
        f"{error:+5.1f} %  ({planned:.1f} s to plan, {time.perf_counter() - begin:.1f} s in all)",
        flush=True,
    )
    facts: dict[str, object] = {
        "predicted GiB": predicted.peak / GIB,
        "measured GiB": peak / GIB,
        "moments": {
            moment: {
                "predicted": predicted.moments[moment] / GIB,
                **{what: value / GIB for what, value in values.items()},
            }
            for moment, values in found.items()
        },
        "step": {"predicted": counted(predicted), "measured": by_hand},
        "parts GiB": {
            "weights": predicted.weights / GIB,
            "batch": predicted.batch / GIB,
            "validation": predicted.validation / GIB,
            "sampling": predicted.sampling / GIB,
        },
        "parameters": predicted.step.parameters,
        "seconds to plan": planned,
    }
    what = f"{name}, error of the predicted peak"
    return [Measured(what, abs(error), "%", "lower", {}, 15.0)], facts


def tidy() -> None:
    """Let go of all that the last configuration left, as far as that can be."""
    gc.collect()
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()


def counted(predicted: MemoryPlan) -> dict[str, float]:
    step = predicted.step
    return {
        "kept": step.kept / GIB,
        "peak": step.peak / GIB,
        "gradients": step.gradients / GIB,
        **{" x ".join(map(str, grid)): size / GIB for grid, size in step.by_grid.items()},
    }


def fits(name: str, share: float) -> bool | None:
    """Whether the training runs with PyTorch held to a share of the prediction, in a process of its
    own; None if it failed otherwise."""
    done = subprocess.run(
        [sys.executable, __file__, "--held", name, str(share)], capture_output=True, text=True
    )
    if done.returncode == 0:
        return True
    return False if "out of memory" in done.stderr else None


def held_to(name: str, share: float) -> None:
    """What `--held` runs: the training of that name with its memory limited."""
    training = CASES[name]
    limit = share * plan(training).peak
    torch.cuda.set_per_process_memory_fraction(
        min(1.0, limit / torch.cuda.get_device_properties(0).total_memory)
    )
    measured(training)


def driver_memory() -> int:
    """Bytes of the card that are used and that PyTorch does not hold."""
    free, total = torch.cuda.mem_get_info()
    return total - free - torch.cuda.memory_reserved()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--limits", action="store_true", help="start some again, held to a limit")
    parser.add_argument("--seconds", type=float, default=200.0, help="start nothing after so long")
    parser.add_argument("--held", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    if options.held:
        return held_to(options.held[0], float(options.held[1]))
    begin = time.perf_counter()
    rows: list[Measured] = []
    facts: dict[str, object] = {
        "measured": "what cannot be had for anything else (memory in use at most, and that of "
        "recorded calls) in training steps, validation and the drawing of samples",
        "constants": dataclasses.asdict(CONSTANTS),
    }
    total = torch.cuda.mem_get_info()[1]
    facts["card GiB"] = total / GIB
    for name in options.only:
        if time.perf_counter() - begin > options.seconds:
            print(f"{name}: not measured, no time left")
            continue
        try:
            found, facts[name] = compared(name, CASES[name])
            rows += found
        except Exception as error:
            facts[name] = f"failed: {type(error).__name__}: {str(error).splitlines()[0]}"
            print(f"{name}: {facts[name]}", flush=True)
            tidy()
        facts["driver GiB"] = driver_memory() / GIB
        write_result("memory_plan", rows, facts=facts, folder=options.out)
    held: dict[str, object] = {}
    for name in LIMITED if options.limits else ():
        for share in (1.15, 0.85):
            if time.perf_counter() - begin > options.seconds:
                break
            held[f"{name} in {share} of the prediction"] = fits(name, share)
            print(f"{name} held to {share} of the prediction: runs: {list(held.values())[-1]}")
    facts["runs when held to a limit"] = held
    place = write_result("memory_plan", rows, facts=facts, folder=options.out)
    worst = max((row.ours or math.nan for row in rows), default=math.nan)
    print(f"worst error {worst:.1f} %; {place}; {time.perf_counter() - begin:.0f} s")
    return None


if __name__ == "__main__":
    main()
