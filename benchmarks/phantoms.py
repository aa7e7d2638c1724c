"""How many phantoms does one core draw in a second, and what do they look like?

OMP_NUM_THREADS=1 python benchmarks/phantoms.py [--repeats 5] [--subjects 40]

Counted in seconds of processor time of this one process, so that other jobs of the machine count
less; medians over repeats. Half of the subjects have lesions, of all four kinds in turn. Writes the
sheets phantoms_2d.png and phantoms_3d.png beside the result.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from record import ROOT, Measured, write_result

from medidiff.data.coils import coil_sensitivities
from medidiff.data.phantoms import draw_head, draw_subject
from medidiff.data.population import Drawn, Kind, PopulationOptions, draw

LESIONS = ("hyperintense", "hypointense", "same-intensity", "mass-effect")
GOAL = 100.0  # 2-D phantoms a second
WINDOWS = {"head": (0.0, 900.0), "thorax": (-1000.0, 400.0)}
Picture = NDArray[np.uint8]


def rate(kind: Kind, dims: int, size: int, subjects: int, repeats: int) -> float:
    """Median phantoms a second of processor time."""
    options = PopulationOptions(kind, dims, size, LESIONS)
    draw(options, 0)
    found = []
    for _ in range(repeats):
        start = time.process_time()
        for index in range(subjects):
            draw(options, index)
        found.append(subjects / (time.process_time() - start))
    return statistics.median(found)


def demo_rate(subjects: int, repeats: int) -> float:
    """The same of the demo's heads."""
    found = []
    for _ in range(repeats):
        start = time.process_time()
        for index in range(subjects):
            draw_head(draw_subject(0, index, 0.5), dims=2, size=64, seed=0, index=index)
        found.append(subjects / (time.process_time() - start))
    return statistics.median(found)


def shown(
    slice_: NDArray[np.generic], kind: Kind, mask: NDArray[np.uint8] | None = None
) -> Picture:
    """Grey levels in the usual window, with the outline of a mask in red."""
    low, high = WINDOWS[kind]
    grey = np.clip((slice_.astype(float) - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    picture = np.stack([grey] * 3, axis=-1)
    if mask is not None:
        around = np.pad(mask > 0, 1)
        full = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
        picture[(mask > 0) & ~full] = (255, 40, 40)
    return picture


def labelled(picture: Picture, text: str) -> Picture:
    """A picture with a word in its corner."""
    image = Image.fromarray(picture)
    ImageDraw.Draw(image).text((4, 2), text, fill=(255, 255, 120))
    return np.asarray(image)


def flat_sheet(size: int = 144) -> Picture:
    """Of each kind: a healthy subject, and two subjects of each lesion with and without outline."""
    rows = []
    for kind in ("head", "thorax"):
        healthy = [draw(PopulationOptions(kind, 2, size), index) for index in range(8)]
        rows.append([labelled(shown(one.image, kind), f"{kind}, healthy") for one in healthy])
        plain, outlined = [], []
        for number in range(8):
            lesion = LESIONS[number // 2]
            one = draw(PopulationOptions(kind, 2, size, (lesion,), 1.0, seed=5), number)
            plain.append(labelled(shown(one.image, kind), lesion))
            outlined.append(shown(one.image, kind, one.mask))
        rows += [plain, outlined]
    maps = coil_sensitivities((size, size), 4, np.random.default_rng(0))
    grey = [shown(np.abs(each) * 900, "head") for each in maps]
    phase = [shown((np.angle(each) + np.pi) / (2 * np.pi) * 900, "head") for each in maps]
    coils = [labelled(each, "coil, magnitude") for each in grey]
    rows.append([*coils, *(labelled(each, "coil, phase") for each in phase)])
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])


def solid_sheet(size: int = 96) -> Picture:
    """Axial, coronal and sagittal slices of a head and a chest."""
    rows = []
    for kind in ("head", "thorax"):
        one: Drawn = draw(PopulationOptions(kind, 3, size, ("hyperintense",), 1.0, seed=2), 0)
        middle = size // 2
        axial = [one.image[int(size * share)] for share in (0.25, 0.4, 0.55, 0.7)]
        cuts = [*axial, one.image[::-1, middle], one.image[::-1, size // 3]]
        cuts += [one.image[::-1, :, middle], one.image[::-1, :, size // 3]]
        rows.append([shown(cut, kind) for cut in cuts])
    sheet = np.concatenate([np.concatenate(row, axis=1) for row in rows])
    return sheet.repeat(2, axis=0).repeat(2, axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--subjects", type=int, default=40)
    parser.add_argument("--folder", type=Path, default=ROOT / "benchmarks" / "results")
    given = parser.parse_args()
    rows = [
        Measured(
            "the demo's heads, 64 x 64",
            demo_rate(given.subjects, given.repeats),
            "1/s",
            "higher",
            goal=GOAL,
        )
    ]
    for kind in ("head", "thorax"):
        for size in (64, PopulationOptions.size):  # the second is what `medidiff phantoms` draws
            figure = rate(kind, 2, size, given.subjects, given.repeats)
            rows.append(Measured(f"{kind}, {size} x {size}", figure, "1/s", "higher", goal=GOAL))
        figure = rate(kind, 3, 64, 2, 3)
        rows.append(Measured(f"{kind}, 64 x 64 x 64", figure, "1/s", "higher"))
    for row in rows:
        print(f"{row.what:28s} {row.ours:8.2f} {row.unit}")
    facts = {"threads": os.environ.get("OMP_NUM_THREADS", "default"), "subjects": given.subjects}
    facts |= {"repeats": given.repeats, "clock": "processor time of one process"}
    facts["load"] = [round(each, 1) for each in os.getloadavg()]
    print(write_result("phantoms", rows, facts=facts, folder=given.folder))
    Image.fromarray(flat_sheet()).save(given.folder / "phantoms_2d.png", optimize=True)
    Image.fromarray(solid_sheet()).save(given.folder / "phantoms_3d.png", optimize=True)


if __name__ == "__main__":
    main()
