"""What does the simple defacing take of a head, and what of its brain?

python benchmarks/deface.py [--heads 8]

On drawn heads, whose brain and face are known. Real heads differ more: this measures the rule on
the proportions that it is drawn for, not how well it protects. Writes deface_phantom.png, the
first head before and after.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import numpy as np
from PIL import Image
from record import ROOT, Measured, write_result

from medidiff.data import anatomy
from medidiff.data.confidentiality.faces import deface, head_views
from medidiff.data.face import with_face
from medidiff.data.phantoms import Subject, keyed_generator
from medidiff.data.population import PopulationOptions, draw
from medidiff.data.shapes import Array

SIZE = 80


def truth(index: int, subject: Subject) -> tuple[Array, Array]:
    """The brain, and the face with its air: head below the skull base in the front half."""
    random = keyed_generator(0, index, "head anatomy")
    grid = anatomy.grid(3, SIZE, random.uniform(0.0, 0.10))
    points = anatomy.posed(grid.points, 3, random)
    image, _, brain = anatomy.head(points, subject.age, subject.sex, random)
    image, cranium = with_face(image, points, random)
    below = (image > 0.05) & (cranium < 0.5) & (points[1] > 0.3)
    return brain * cranium > 0.5, below


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--folder", type=Path, default=ROOT / "benchmarks" / "results")
    given = parser.parse_args()
    lost, taken = [], []
    for index in range(given.heads):
        head = draw(PopulationOptions("head", 3, SIZE), index)
        brain, face = truth(index, head.subject)
        made = deface(head.image, head.affine)
        lost.append(100 * float((made.mask & brain).sum() / brain.sum()))
        taken.append(100 * float((made.mask & face).sum() / face.sum()))
        if index == 0:
            views = [
                head_views(np.asarray(each, np.float32), head.affine)
                for each in (head.image, made.image)
            ]
            grey = np.clip(np.concatenate(views) / 900 * 255, 0, 255).astype(np.uint8)
            Image.fromarray(grey).resize((2 * grey.shape[1], 2 * grey.shape[0])).save(
                given.folder / "deface_phantom.png", optimize=True
            )
    rows = [
        Measured("brain that is lost, median", statistics.median(lost), "%", "lower"),
        Measured("brain that is lost, worst", max(lost), "%", "lower"),
        Measured("face that is taken, median", statistics.median(taken), "%", "higher"),
        Measured("face that is taken, worst", min(taken), "%", "higher"),
    ]
    for row in rows:
        print(f"{row.what:30s} {row.ours:6.1f} {row.unit}")
    facts: dict[str, object] = {"heads": given.heads, "drawn": True, "voxels a side": SIZE}
    print(write_result("deface", rows, facts=facts, folder=given.folder))


if __name__ == "__main__":
    main()
