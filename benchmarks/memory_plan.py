"""Does `medidiff check --gpu-memory` predict what a training takes?

    python benchmarks/memory_plan.py --out benchmarks/results

Each configuration trains a few real steps (the loop's own, with validation and a grid of samples)
on random images; the memory that PyTorch had to hold at each of these moments is set beside the
prediction. `--limits` starts some of them again with PyTorch held to 0.85 and 1.15 times the
prediction: the first must run out of memory, the second must not. `--at-once` takes a process for
each, several at a time. What `--only` leaves out keeps its earlier row.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import math
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import torch
import torch.nn.functional as F
from record import Measured, earlier_result, write_result
from torch import Tensor, nn

from medidiff.config import Config, DataOptions, DiffusionOptions
from medidiff.data.intensity import FittedIntensity
from medidiff.data.options import Augment, Space
from medidiff.diffusion import EDM, EDMTarget
from medidiff.jobs.memory import CONSTANTS, GIB, MemoryPlan, Training, plan
from medidiff.jobs.objectives import (
    as_student,
    network_of,
    objective_of,
    role_of,
    trained_model,
    with_head,
)
from medidiff.model import Model
from medidiff.networks import (
    AnyNetwork,
    Autoencoder,
    AutoencoderOptions,
    EncoderOptions,
    NetworkShape,
    UNetOptions,
    accelerated,
    build,
)
from medidiff.spec import ModelSpec, SamplingOptions
from medidiff.training.batches import TrainingSet
from medidiff.training.loop import Job, train
from medidiff.training.losses import AnyObjective, Denoising
from medidiff.training.objective import Objective
from medidiff.training.objectives.alignment import Alignment
from medidiff.training.objectives.autoencoder import AdversaryOptions, Autoencoding
from medidiff.training.objectives.classifier import Classifier
from medidiff.training.objectives.consistency import ConsistencyTraining
from medidiff.training.objectives.spread import Spread
from medidiff.training.options import TrainOptions
from medidiff.training.precision import choose_precision
from medidiff.training.stop import StopSignal

STEPS = 3
CLASSES = 5
HELD = "runs when held to a limit"
LATE = "not measured, no time left"
Result: TypeAlias = tuple[str, list[Measured], "dict[str, object] | str"]
DEVICE = torch.device("cuda")


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
    network: AnyNetwork | None = None,
    images: int = 1,
    objective: AnyObjective | None = None,
    outputs: int = 1,
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
    shape = NetworkShape(dims=dims, out_channels=outputs)  # type: ignore[arg-type]
    grid = (size,) * dims
    of = objective or Denoising()
    return Training(network or UNetOptions(), shape, grid, chosen, objective=of)


EVERYWHERE = (True, True, True)
TAUGHT = ConsistencyTraining(teacher="parent", held_decay=0.9)
JUDGED = Autoencoding(adversary=AdversaryOptions(start=0))
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
    "2d256 classifier": case(
        256, 2, 32, EncoderOptions(), objective=Classifier(column="class"), outputs=CLASSES
    ),
    "2d256 alignment": case(
        256, 2, 16, EncoderOptions(), objective=Alignment(width=128), outputs=128
    ),
    "2d256 head": case(256, 2, 32, objective=Spread(form="complex")),
    "2d256 student": case(256, 2, 16, objective=ConsistencyTraining()),
    "2d256 taught student": case(256, 2, 16, objective=TAUGHT),
    "3d96 autoencoder": case(96, 3, 2, AutoencoderOptions(), objective=JUDGED),
    "2d256 autoencoder": case(256, 2, 16, AutoencoderOptions(), images=4, objective=JUDGED),
}
LIMITED = ("3d96 default", "2d256 recomputed", "2d256 taught student", "3d96 autoencoder")


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
    spec, network, objective, parent = made(training)
    images = torch.randn(options.batch, shape.in_channels, *training.space)

    def some(indices: Sequence[int]) -> Tensor:
        return images[[index % len(images) for index in indices]]

    classes = torch.arange(options.batch)[:, None] % CLASSES
    told = classes.float() if spec.role == "classifier" else None
    data = TrainingSet(some, told, list(range(options.batch)))
    watch = Watch()

    def log(metrics: Mapping[str, float], step: int) -> None:
        watch.end("validation" if "validation_loss" in metrics else "training")

    def draw(network: nn.Module, step: int) -> None:
        if spec.role in ("classifier", "encoder"):
            return
        watch.begin()
        if isinstance(network, Autoencoder):
            with torch.no_grad():
                network(some(range(options.sample_images)).to(DEVICE))
        else:
            trained_model(spec, network, parent).sample(options.sample_images, steps=2)
        watch.end("drawing samples")

    with tempfile.TemporaryDirectory() as folder, StopSignal(None) as stop:
        job = Job(
            objective, data, data, Augment(), Path(folder),
            Path(folder) / "snapshots", log, draw, lambda step, steps, loss: None,
        )  # fmt: skip
        train(network, job, options, DEVICE, stop)
    return watch.moments


def made(training: Training) -> tuple[ModelSpec, nn.Module, Objective, Model | None]:
    """Specification, network and objective as `medidiff train` makes them, and the parent."""
    kind, space = training.objective, Space(dims=training.shape.dims, size=training.space)
    student = isinstance(kind, ConsistencyTraining)
    diffusion = (
        DiffusionOptions(EDM(), EDMTarget(data_std=0.5), objective=kind)
        if student
        else DiffusionOptions(objective=kind)
    )
    config = Config(
        "memory", "MR", DataOptions("", space), "", network=training.network,
        diffusion=diffusion, train=training.train,
    )  # fmt: skip
    spec = ModelSpec(
        name="memory",
        modality="MR",
        images=("image",),
        space=space,
        intensity=FittedIntensity((0.0,), (1.0,), "train", None, (-1.0, 1.0)),
        network=training.network,
        shape=training.shape,
        role=role_of(config),
        schedule=diffusion.schedule,
        target=diffusion.target,
        sampling=SamplingOptions(steps=2),
    )
    asks = isinstance(kind, Spread) or (student and kind.teacher == "parent")
    parent = Model(spec, build(training.network, training.shape)) if asks else None
    if isinstance(kind, Spread) and parent is not None:
        spec = with_head(spec, kind, parent)
    spec = as_student(spec, config)
    network = network_of(config, spec, parent)
    return spec, network, objective_of(config, spec, network, parent), parent


def step_by_step(training: Training) -> dict[str, float]:
    """GiB in use after the forward pass, and at most in forward and backward, unrecorded."""
    options, device = training.train, DEVICE
    network = build(training.network, training.shape).to(device).train()
    called = accelerated(network, options.acceleration)
    if options.acceleration == "auto":
        called = network  # unrecorded
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
    by_hand = step_by_step(training) if training.objective == Denoising() else {}
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


def fits(name: str, share: float, left: Callable[[], float]) -> bool | None:
    """Whether the training runs with PyTorch held to a share of the prediction, in a process of its
    own; None if it failed otherwise or there were no seconds left."""
    command = [sys.executable, __file__, "--held", name, str(share)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=max(0.0, left()))
    except subprocess.TimeoutExpired:
        return None
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


def alone(name: str, seconds: float) -> tuple[list[Measured], dict[str, object] | str]:
    """As `compared`, in a process of its own that is given so many seconds."""
    command = [sys.executable, __file__, "--one", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=max(0.0, seconds))
    except subprocess.TimeoutExpired:
        return [], LATE
    if done.returncode:
        return [], f"failed: {(done.stderr.strip().splitlines() or [''])[-1]}"
    *said, result = done.stdout.strip().splitlines()
    print(*said, sep="\n", flush=True)
    rows, facts = json.loads(result)
    return [Measured(**row) for row in rows], facts


def one(name: str) -> None:
    """What `--one` runs: the result as a line of JSON."""
    rows, facts = compared(name, CASES[name])
    print(json.dumps([[dataclasses.asdict(row) for row in rows], facts]))


def in_turn(names: Sequence[str], left: Callable[[], float]) -> Iterator[Result]:
    """All in this process, while there are seconds left."""
    for name in names:
        if left() <= 0:
            yield name, [], LATE
            continue
        try:
            yield name, *compared(name, CASES[name])
        except Exception as error:
            yield name, [], f"failed: {type(error).__name__}: {str(error).splitlines()[0]}"
            tidy()


def limited(names: Sequence[str]) -> list[tuple[str, float]]:
    """Which of them are started again, and with which share of the prediction."""
    return [(name, share) for name in names if name in LIMITED for share in (1.15, 0.85)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--limits", action="store_true", help="start some again, held to a limit")
    parser.add_argument("--seconds", type=float, default=200.0, help="start nothing after so long")
    parser.add_argument("--at-once", type=int, default=1, help="processes, each one configuration")
    parser.add_argument("--held", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    if options.held:
        return held_to(options.held[0], float(options.held[1]))
    if options.one:
        return one(options.one)
    begin = time.perf_counter()
    earlier = earlier_result("memory_plan", options.out)
    rows: list[Measured] = []
    limits: dict[str, object] = {**earlier.get("facts", {}).get(HELD, {})}
    facts: dict[str, object] = {
        "measured": "what cannot be had for anything else (memory in use at most, and that of "
        "recorded calls) in training steps, validation and the drawing of samples",
        "constants": dataclasses.asdict(CONSTANTS),
        "card GiB": torch.cuda.mem_get_info()[1] / GIB,
        HELD: limits,
    }

    def left() -> float:
        return options.seconds - (time.perf_counter() - begin)

    def write() -> Path:
        return write_result("memory_plan", rows, facts=facts, folder=options.out, earlier=earlier)

    runs = limited(options.only) if options.limits else []
    with ThreadPoolExecutor(options.at_once) as pool:
        if options.at_once > 1:
            results = pool.map(lambda name: (name, *alone(name, left())), options.only)
        else:
            results = in_turn(options.only, left)
        held = [pool.submit(fits, *run, left) for run in runs if options.at_once > 1]
        for name, found, more in results:
            rows += found
            facts[name] = more
            if options.at_once == 1:
                facts["driver GiB"] = driver_memory() / GIB
            write()
            if not found:
                print(f"{name}: {more}", flush=True)
        held = held or [pool.submit(fits, *run, left) for run in runs]
        for (name, share), result in zip(runs, held, strict=True):
            limits[f"{name} in {share} of the prediction"] = result.result()
            print(f"{name} held to {share} of the prediction: runs: {result.result()}", flush=True)
    worst = max((row.ours or math.nan for row in rows), default=math.nan)
    print(f"worst error {worst:.1f} %; {write()}; {time.perf_counter() - begin:.0f} s")
    return None


if __name__ == "__main__":
    main()
