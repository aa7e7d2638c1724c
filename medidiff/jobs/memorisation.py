"""The memorisation guard: whether a model gives back, or betrays, the scans it was trained on."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from medidiff.data.datasets import Case
from medidiff.diffusion import DenoisingLoss, KeyedNoise, UniformTimes
from medidiff.errors import TaskError
from medidiff.evaluation.bootstrap import Interval
from medidiff.evaluation.features import FeatureScale, random_features
from medidiff.evaluation.memorisation import (
    MemorisationLimits,
    Nearness,
    membership_auc,
    nearness,
)
from medidiff.jobs.cases import cases_of_split
from medidiff.jobs.pretrained import SHIPPED
from medidiff.jobs.reporting import Reporter
from medidiff.jobs.splits import Splits
from medidiff.jobs.verdict import FILE, keep_verdict
from medidiff.model import Model, evaluating
from medidiff.model_folder import digest, write_json
from medidiff.report.pictures import sheet
from medidiff.training.objective import FirstHead

LEVELS = 8
DRAWS = 4  # noises that the loss of an image is averaged over at each level
PART = 16  # images at a time
PAIRS = 8  # of the picture, in each space


@dataclass(frozen=True)
class Membership:
    """What the loss at one noise level tells of who was trained on."""

    noise_ratio: float
    auc: Interval
    train_loss: float
    unseen_loss: float


@dataclass(frozen=True)
class Memorisation:
    """What the guard found."""

    samples: int
    train_subjects: int
    unseen_subjects: int
    split: str
    nearness: tuple[Nearness, ...]
    membership: tuple[Membership, ...]
    limits: MemorisationLimits
    weights: str | None
    """SHA-256 of the weights that were judged; None for a model that was not saved."""

    @property
    def reasons(self) -> list[str]:
        """Why the model counts as over-trained; nothing for a sound one."""
        found = [reason for space in self.nearness for reason in space.reasons(self.limits)]
        worst = max(self.membership, key=lambda level: level.auc.low)
        if worst.auc.low > self.limits.membership_auc:
            found.append(
                f"the loss at noise ratio {worst.noise_ratio:.3g} tells training subjects from "
                f"unseen ones (AUC {_shown(worst.auc)}, limit {self.limits.membership_auc:g})"
            )
        return found

    @property
    def verdict(self) -> Literal["passed", "over-trained"]:
        return "over-trained" if self.reasons else "passed"

    @property
    def text(self) -> str:
        """What is printed."""
        lines = [f"memorisation ({self.samples} samples, {self.split} split as unseen)"]
        for space in self.nearness:
            lines.append(
                f"  nearest training image, {space.space}: {_shown(space.nearest_ratio)} of the "
                f"distance of unseen images; {_shown(space.copied_share)} of the samples nearer "
                f"than 99 % of these; {space.near_copies} near copies"
            )
            if space.near_copies == 0:
                # Hanley and Lippman-Hand 1983: the 95 % bound where none of n was found
                bound = f"{3 / self.samples:.2%}"
                lines[-1] += f" (so fewer than {bound} of all samples)"
        lines += [
            f"  membership by the loss at noise ratio {level.noise_ratio:.3g}: "
            f"AUC {_shown(level.auc)}"
            for level in self.membership
        ]
        reasons = "".join(f"\n    {reason}" for reason in self.reasons)
        return "\n".join(lines) + f"\n  verdict: {self.verdict}{reasons}"

    def tree(self) -> dict[str, object]:
        """All of it as plain values; distances without the places of scans."""
        content = dataclasses.asdict(self)
        for space in content["nearness"]:
            del space["partners"]
        return {**content, "verdict": self.verdict, "reasons": self.reasons}


def memorisation_of(
    model: Model,
    manifest: str | os.PathLike[str],
    *,
    split: str,
    splits: Splits,
    n: int,
    seed: int,
    report: Reporter,
    out: Path | None = None,
) -> Memorisation:
    """Judge `model` by `n` samples and the losses of training and unseen scans.

    `split` holds the unseen scans: best one that nothing was chosen by. The verdict is left in the
    model's folder, bound to the weights, where `register` reads it (a shipped model has its own).
    With `out`, memorisation.json and nearest.png (the nearest pairs: it shows training scans).
    Errors: ManifestError; TaskError for fewer than 2 samples or `split` being the train split;
    OutputError, once `out` is written, for a model's folder that cannot be written to.
    """
    if n < 2:
        raise TaskError(f"the guard needs at least 2 samples, found {n}")
    if split == splits.train:
        raise TaskError(f"{split!r} is the split that was trained on; name one of unseen scans")
    train = cases_of_split(model, manifest, splits.train, splits, report)
    unseen = cases_of_split(model, manifest, split, splits, report)
    made = model.sample(
        n, seed=seed, progress=lambda done, total: report.progress("sampling", done, total)
    ).images
    made = model.spec.intensity.typical.normalise(made)
    images = (made, _stacked(train), _stacked(unseen))
    spaces = []
    for index, (name, values) in enumerate(_spaces(*images).items()):
        report.progress("looking for copies", index, 2)
        spaces.append(nearness(name, *values))
    report.progress("looking for copies", 2, 2)
    found = Memorisation(
        n,
        len({case.subject for case in train}),
        len({case.subject for case in unseen}),
        split,
        tuple(spaces),
        membership(model, train, unseen, seed, report),
        MemorisationLimits(),
        None if model.folder is None else digest(model.folder / "model.safetensors"),
    )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / FILE, found.tree())
        draw_pairs(found, images[0], images[1], out / "nearest.png", model)
    if model.folder is not None and model.folder.parent != SHIPPED:
        keep_verdict(found.tree(), model.folder)
    return found


def membership(
    model: Model, train: Sequence[Case], unseen: Sequence[Case], seed: int, report: Reporter
) -> tuple[Membership, ...]:
    """The membership test at levels evenly spaced in time, low noise first, conditions unknown."""
    cases = [*train, *unseen]
    losses = losses_by_case(model, cases, seed, report)
    seen = _by_subject(train, losses[: len(train)])
    new = _by_subject(unseen, losses[len(train) :])
    levels = _levels(model, 1)
    return tuple(
        Membership(
            float(level.noise_ratio[0]),
            membership_auc(seen[:, index], new[:, index], seed),
            float(seen[:, index].mean()),
            float(new[:, index].mean()),
        )
        for index, level in enumerate(levels)
    )


def losses_by_case(model: Model, cases: Sequence[Case], seed: int, report: Reporter) -> Tensor:
    """The denoising loss of each case at each level, mean over a few noises: (cases, levels).

    All cases get the same noises: what differs between them is then the image alone.
    """
    denoising = DenoisingLoss(model.spec.target, model.spec.schedule, UniformTimes())
    network = FirstHead(model.plain) if model.spec.spread != "none" else model.plain
    total = torch.zeros(len(cases), LEVELS, dtype=torch.float64)
    report.progress("loss by scan and level", 0, len(cases) * LEVELS)
    with torch.no_grad(), evaluating(model.network):
        for first in range(0, len(cases), PART):
            images = _stacked(cases[first : first + PART]).to(model.device)
            clean = model.codec.encode(images)
            rows = slice(first, first + len(clean))
            for index, level in enumerate(_levels(model, len(clean))):
                for draw in range(DRAWS):
                    noise = KeyedNoise(seed, [("membership", draw)] * len(clean))
                    eps = noise(clean, 0)
                    total[rows, index] += denoising.loss_at(network, clean, level, eps).cpu()
                done = first * LEVELS + (index + 1) * len(clean)
                report.progress("loss by scan and level", done, len(cases) * LEVELS)
    return total / DRAWS


def draw_pairs(
    found: Memorisation, made: Tensor, train: Tensor, picture: Path, model: Model
) -> None:
    """The generated images that lie nearest to training, each followed by its partner."""
    images, titles = [], []
    for space in found.nearness:
        for sample, partner, distance in space.pairs(PAIRS):
            images += [made[sample], train[partner]]
            titles += [f"sample {sample}", f"{distance:.3g}"]
    bounds = ", ".join(f"{space.space} {space.smallest_unseen:.3g}" for space in found.nearness)
    volumes = model.spec.space.dims == 3
    sheet(
        images,
        picture,
        window=(-1.0, 1.0),
        columns=12 if volumes else 8,
        titles=titles,
        affine=model.spec.space.known_affine(),
        title=f"{model.spec.name}: samples nearest to training, each with its training image and "
        f"distance\n({' then '.join(space.space for space in found.nearness)}; "
        f"nearest unseen images: {bounds})",
    )


def _spaces(made: Tensor, train: Tensor, unseen: Tensor) -> dict[str, tuple[Tensor, ...]]:
    """The images in the spaces where distances are taken."""
    scale = FeatureScale.fit(random_features(train))
    # root mean square difference in window widths; the window is 2 wide in model units
    voxels = [each.flatten(1) / (2 * each[0].numel() ** 0.5) for each in (made, train, unseen)]
    features = [scale(random_features(each)) for each in (made, train, unseen)]
    return {"random features": tuple(features), "voxels": tuple(voxels)}


def _levels(model: Model, count: int) -> list:
    middle = (torch.arange(LEVELS, dtype=torch.float64) + 0.5) / LEVELS
    return [UniformTimes().levels(model.spec.schedule, draw.expand(count)) for draw in middle]


def _by_subject(cases: Sequence[Case], losses: Tensor) -> Tensor:
    """The mean over the scans of each subject: (subjects, levels)."""
    places: dict[str, list[int]] = {}
    for index, case in enumerate(cases):
        places.setdefault(case.subject, []).append(index)
    return torch.stack([losses[rows].mean(0) for rows in places.values()])


def _stacked(cases: Sequence[Case]) -> Tensor:
    return torch.stack([case.images for case in cases])


def _shown(interval: Interval) -> str:
    return f"{interval.mean:.3f} ({interval.low:.3f} to {interval.high:.3f})"
