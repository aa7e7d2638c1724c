"""Whether posterior samples are rightly spread: what test subjects say, and verdicts kept with a
model.

A benchmark that draws samples leaves one a kind of measurement, noise level and sampler, in the
model's folder; a result is called calibrated where all of its own agree with one that says so.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from medidiff import options
from medidiff.errors import OutputError
from medidiff.evaluation.calibration import calibration
from medidiff.model import Model
from medidiff.model_folder import digest, write_json
from medidiff.tasks.base import Calibrated
from medidiff.tasks.defaults import Posterior

FILE = "calibration.json"
OF_NO_IMAGE = ("chunk",)  # options: of the cost alone
OF_A_PHASE = ("pilots", "pilot_steps", "pilot", "slack", "phase")  # options: of no use without one
NEAR = 1.25  # noise levels within this factor of the judged one are covered by its verdict
SAME = 1.05  # within this one they are judged anew: what is estimated differs a little from before

Uncertainty = Literal["calibrated", "uncalibrated"]
How = Posterior | Mapping[str, object]
"""The options that samples are drawn by: of a posterior sampler, or of a head's own way."""


@dataclass(frozen=True, eq=False)
class Judged:
    """Posterior samples of some test cases beside the truth.

    Shapes: samples (n, batch, channel, *space); clean and region (batch, channel or 1, *space).
    """

    samples: Tensor
    clean: Tensor
    region: Tensor
    levels: Sequence[float]
    """Of the noise, one a case."""
    kinds: Sequence[str]
    """Of the measurement, one a case."""
    posterior: Mapping[str, object]
    """The sampler's options."""


def spread(setting: str, judged: Sequence[Judged]) -> Calibrated:
    """What all test subjects say of the samples; their kind is that of most of them."""
    draws, truths, regions, levels, kinds = [], [], [], [], []
    for each in judged:
        draws += each.samples.unbind(1)
        truths += each.clean.unbind()
        regions += each.region.unbind()
        levels += each.levels
        kinds += each.kinds
    ((kind, _),) = Counter(kinds).most_common(1)
    found = calibration(draws, truths, regions)
    noise = sum(levels) / len(levels)
    return Calibrated(setting, kind, noise, judged[0].posterior, found)


def verdict(model: Model, kinds: Sequence[str], levels: Sequence[float], how: How) -> Uncertainty:
    """Calibrated if the verdicts on these weights whose noise is nearest say so of the measurement
    of every image, at its noise level, for this sampler; never of a network called by tiles or
    averaged over orientations, which is another prior than the one that was judged."""
    if not levels or not _as_judged(model):
        return "uncalibrated"
    judged = _verdicts(model.folder)
    images = zip(kinds, levels, strict=True)
    right = all(_judged_right(judged, kind, level, how) for kind, level in images)
    return "calibrated" if right else "uncalibrated"


def without_verdict(facts: Mapping[str, object]) -> dict[str, object]:
    """What a provenance says of its maps where the scan is not like those that were judged."""
    return {"uncertainty": "uncalibrated"} if facts.get("uncertainty") == "calibrated" else {}


def keep(model: Model, found: Sequence[Mapping[str, object]]) -> Path | None:
    """Leave verdicts in a model's folder, in the place of earlier ones of the same measurement;
    gives the file, None for a model that lies nowhere or whose network was called by tiles.

    Errors: OutputError if nothing can be written there.
    """
    if model.folder is None or not found or not _as_judged(model):
        return None
    earlier = _verdicts(model.folder)
    kept = [item for item in earlier if not any(_again(item, new) for new in found)]
    file = model.folder / FILE
    content = {"weights": _weights(model.folder), "verdicts": [*kept, *found]}
    try:
        write_json(file, content)
    except OSError as error:
        raise OutputError(
            f"the verdicts on calibration cannot be kept in the model's folder ({error.strerror}): "
            "copy the model to a folder of your own (medidiff export) and run the benchmark on it"
        ) from None
    return file


def carry(source: Path, copy: Path) -> None:
    """Put the verdicts on `source` beside its `copy`, whose weights are the same but for their
    number format; `judged_weights` is then the digest of those that were judged."""
    judged = {"judged_weights": _weights(source)}
    if verdicts := [{**judged, **item} for item in _verdicts(source)]:
        write_json(copy / FILE, {"weights": _weights(copy), "verdicts": verdicts})


def _as_judged(model: Model) -> bool:
    """Whether the network sees its images whole."""
    return model.reach.tiles is None and len(model.reach.slices) < 2


def _verdicts(folder: Path | None) -> list[dict[str, Any]]:
    """Those on the weights that lie in the folder."""
    if folder is None or not (folder / FILE).is_file():
        return []
    content = json.loads((folder / FILE).read_text(encoding="utf-8"))
    return content["verdicts"] if content["weights"] == _weights(folder) else []


def _judged_right(judged: Sequence[Mapping[str, Any]], kind: str, level: float, how: How) -> bool:
    """What the verdict nearest in noise says, if there is one near enough."""
    sampler = _sampler(kind, _tree(how))
    near = [
        item
        for item in judged
        if item["kind"] == kind
        and _near(level, item["noise"], NEAR)
        and _sampler(kind, item["posterior"]) == sampler
    ]
    if not near:
        return False
    return bool(min(near, key=lambda item: abs(item["noise"] - level))["calibrated"])


def _again(item: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether a new verdict is of the same measurement, noise level and sampler."""
    kind = item["kind"]
    return (
        kind == new["kind"]
        and _near(item["noise"], new["noise"], SAME)
        and _sampler(kind, item["posterior"]) == _sampler(kind, _tree(new["posterior"]))
    )


def _tree(how: How) -> Any:
    return json.loads(json.dumps(options.tree(how)))


def _sampler(kind: str, posterior: Mapping[str, Any]) -> dict[str, Any]:
    """What of a sampler's options matters to a kind of measurement. A verdict from before phases
    were fitted on the way is of none of today's."""
    newer = {"last_ratio": None, "first_ratio": None, "antithetic": False, "phase": "as it was"}
    found = {**newer, **posterior}
    found = {name: value for name, value in found.items() if name not in OF_NO_IMAGE}
    if kind.startswith("mri") and "phase given" not in kind:
        return found
    return {name: value for name, value in found.items() if name not in OF_A_PHASE}


def _near(level: float, noise: float, factor: float) -> bool:
    return level == noise or (noise > 0 and 1 / factor <= level / noise <= factor)


def _weights(folder: Path) -> str:
    return digest(folder / "model.safetensors")
