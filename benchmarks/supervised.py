"""How good are supervised networks of the prior's size, trained for minutes on one measurement?

    python benchmarks/supervised.py MODEL --manifest ixi_t1_slices/manifest.csv \\
        --setting "mri 1 coil R=4" --minutes 9 --weights modl.safetensors
    python benchmarks/inverse_problems.py MODEL ... --supervised modl.safetensors

`--setting rician` trains a U-Net that is told the noise level, on levels of .02 to .25; a setting
of MRI trains an unrolled network (MoDL) for it. The network has the options of MODEL's, scans are
moved as MODEL's were, and measurements come from the simulators of the heads' benchmarks, a batch
at once where the network lies. The weights are averages, those of the highest PSNR on validation
scans, written whenever there are better ones. The second command compares by subject.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from supervised_peers import RICIAN, Trained, keep, kept, solver, untrained
from supervised_tasks import AUGMENT, Checked, Scans, Task, task_of
from torch import Tensor, nn

from medidiff import api
from medidiff.api.calls import splits_of
from medidiff.data.augment import margin
from medidiff.data.datasets import Case, CaseSet
from medidiff.data.manifest import read_manifest
from medidiff.diffusion import training_noise, training_uniforms
from medidiff.model import Model
from medidiff.networks import UNetOptions, accelerated, has_bf16
from medidiff.networks.graphs import channels_last
from medidiff.networks.kernels import available
from medidiff.networks.unrolled import UnrolledReconstruction
from medidiff.tasks.reconstruct import MRI
from medidiff.training.ema import AveragedWeights
from medidiff.training.precision import choose_precision

DECAY = 0.998
WARM_UP = 200  # steps
ONE_TURN = 0.35  # share of an unrolled network's training with one turn: five times as fast
EVERY = 20.0  # seconds between lines
AT_ONCE = 16  # validation scans


@dataclass(frozen=True)
class Budget:
    """How a network is trained."""

    minutes: float
    batch: int = 16
    rate: float = 3e-4
    validate_every: float = 45.0
    """Seconds."""
    seed: int = 0

    def rate_at(self, share: float, step: int) -> float:
        """A linear warm-up, then half a cosine over the time."""
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
        return self.rate * min(1.0, (step + 1) / WARM_UP) * cosine


class Training:
    """A network, its average and what it has come to."""

    def __init__(
        self,
        what: Trained,
        task: Task,
        scans: Scans,
        checks: Sequence[Checked],
        device: torch.device,
        start: Path | None = None,
    ) -> None:
        self.what, self.task, self.scans, self.checks = what, task, scans, checks
        self.network = untrained(what).to(device).train()
        self.before = what  # what an earlier training came to
        if start is not None:
            earlier, self.before = kept(start, device)
            self.network.load_state_dict(earlier.state_dict())
        self.unrolled = isinstance(self.network, UnrolledReconstruction)
        if self.unrolled and device.type == "cuda" and available():
            channels_last(self.network)  # its turns pass gradients on, which no recording does
        self.call = self.network if self.unrolled else accelerated(self.network, "auto")
        self.precision = choose_precision("bf16" if has_bf16(device) else "fp32", device)
        self.average = AveragedWeights(self.network, DECAY)
        self.best = -math.inf

    def run(self, budget: Budget, weights: Path) -> None:
        """Train for the budget's time, and write what is best on the way."""
        optimiser = torch.optim.AdamW(
            self.network.parameters(), weight_decay=0.0, fused=self.precision.device.type == "cuda"
        )
        seconds, losses, step, share = 60 * budget.minutes, [], 0, 0.0
        began = told = checked = time.monotonic()
        while share < 1:
            self._set_turns(share)
            loss = self._step(optimiser, budget, step, share)
            losses.append(loss)
            step += 1
            if step == 1:  # kernels are made in the first one
                began = told = checked = time.monotonic()
            now = time.monotonic()
            share = (now - began) / seconds
            if now - checked > budget.validate_every or share >= 1:
                self._validate(weights, (now - began) / 60, step, budget.batch)
                checked = time.monotonic()
            if now - told > EVERY or share >= 1:
                rate = len(losses) * budget.batch / (time.monotonic() - told)
                mean = float(torch.stack(losses).mean())
                print(
                    f"{now - began:6.0f} s, step {step}, {rate:.0f} images/s, loss {mean:.3f}, "
                    f"best validation PSNR {self.best:.2f} dB",
                    flush=True,
                )
                losses, told = [], time.monotonic()

    def _step(
        self, optimiser: torch.optim.Optimizer, budget: Budget, step: int, share: float
    ) -> Tensor:
        optimiser.param_groups[0]["lr"] = budget.rate_at(share, step)
        moved = share < AUGMENT.until
        places, of_all = range(budget.batch), self.before.steps + step
        clean = self.scans.batch(of_all, budget.batch, budget.seed, moved=moved)
        noise = training_noise(budget.seed, of_all, places)
        draws = training_uniforms(budget.seed, of_all, places, "task")[:, 0]
        loss = self.task.loss(self._called, clean, noise, draws)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        if bool(torch.isfinite(norm)):  # a step that is not is left out
            optimiser.step()
            self.average.update(self.network, step + 1)
        return loss.detach()

    def _called(self, *inputs: Any) -> Tensor:
        """The network in half precision, where the GPU has it; measurements are made in full."""
        recorded = not self.unrolled  # else weights are cast once for all turns
        device, dtype = self.precision.device, self.precision.dtype
        if recorded or dtype == torch.float32:
            with self.precision.autocast():
                return self.call(*inputs)
        with torch.autocast(device.type, dtype=dtype):
            return self.call(*inputs)

    def _set_turns(self, share: float) -> None:
        """One turn of an unrolled network at first, then all."""
        for network in (self.network, self.average.network):
            if isinstance(network, UnrolledReconstruction):
                begun = self.before.steps > 0 or share >= ONE_TURN
                network.turns = self.what.turns if begun else 1

    def _validate(self, weights: Path, minutes: float, step: int, batch: int) -> None:
        now = time.monotonic()
        solve = solver(self.average.network, self.what)
        values = [value for check in self.checks for value in check.psnr(solve)]
        found = sum(values) / len(values)
        if found > self.best:
            self.best = found
            what = replace(
                self.what,
                turns=getattr(self.average.network, "turns", self.what.turns),
                minutes=self.before.minutes + minutes,
                steps=self.before.steps + step,
                images=self.before.images + step * batch,
                validation_psnr=found,
            )
            keep(self.average.network, what, weights)
        taken = time.monotonic() - now
        print(f"  validation PSNR {found:.2f} dB, in {taken:.1f} s", flush=True)


def cases_of(
    model: Model, manifest: Path, which: Literal["train", "validation"], limit: int | None
) -> list[Case]:
    """The scans that the prior was trained on or chosen by, with what lies around its grid."""
    space, splits = model.spec.space, splits_of(model, None, None)
    name = splits.train if which == "train" else splits.validation
    rows = splits.rows(read_manifest(manifest), name)[:limit]
    beyond = margin(AUGMENT, space)
    return list(CaseSet(rows, model.spec.images, space, model.spec.intensity, margin=beyond))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "model", help="the prior whose grid, splits and network's options are taken"
    )
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--setting", choices=(RICIAN, *MRI), required=True)
    parser.add_argument("--weights", type=Path, required=True, help="where the best ones are kept")
    parser.add_argument("--start", type=Path, help="weights of an earlier training to go on with")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--turns", type=int, default=5, help="of the unrolled network")
    parser.add_argument("--validate-every", type=float, default=45.0, help="seconds")
    parser.add_argument("--limit", type=int, help="scans of a split, at most")
    args = parser.parse_args()
    model = api.load(args.model)
    assert isinstance(model.spec.network, UNetOptions)
    network = replace(model.spec.network, dropout=0.0)  # of minutes: nothing is learned by heart
    on = torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else "a CPU"
    what = Trained(args.setting, network, model.spec.space.dims, args.turns, device=on)
    cases = cases_of(model, args.manifest, "train", args.limit)
    scans = Scans(cases, model.spec.space.size, model.device)
    task = task_of(args.setting, model, model.device)
    held_out = cases_of(model, args.manifest, "validation", args.limit)
    parts = [held_out[first : first + AT_ONCE] for first in range(0, len(held_out), AT_ONCE)]
    checks = [check for part in parts for check in task.validation(part, model)]
    training = Training(what, task, scans, checks, model.device, args.start)
    count = sum(each.numel() for each in training.network.parameters())
    print(f"{what.name}: {count / 1e6:.1f} M parameters, {len(cases)} scans", flush=True)
    budget = Budget(args.minutes, args.batch, args.rate, args.validate_every)
    training.run(budget, args.weights)


if __name__ == "__main__":
    main()
