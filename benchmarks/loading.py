"""How fast are scans decoded for the first time, beside MONAI's LoadImage in the same run?

python benchmarks/loading.py FOLDER [--repeats 7]

Both give a float32 MetaTensor with its channel first and its affine. Files are in the system's
cache, so that decoding is measured and not the disk; the two take turns, medians are told. MONAI
reads DICOM by its PydicomReader. Checks on the side: whether both give the same voxels.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from record import Measured, write_result

Load = Callable[[Path], torch.Tensor]
SETS: dict[str, tuple[str, int, str]] = {
    # what: (pattern below the folder, how many, MONAI's reader)
    "NIfTI 35x50x36, packed": ("hippocampus/images/*.nii.gz", 100, "NibabelReader"),
    "NIfTI 128x128xN, packed": ("lgg_flair/volumes/*flair.nii.gz", 16, "NibabelReader"),
    "NIfTI 217x8x182, packed": ("paediatric_t1_slab/volumes/*.nii.gz", 20, "NibabelReader"),
    "PNG slices": ("ixi_t1_slices/**/*.png", 100, "PILReader"),
    "DICOM series of 32 slices": ("dicom/studyforrest_t1_32", 1, "PydicomReader"),
    "DICOM slice, uncompressed": (
        "dicom/cornerstone_syntaxes/*LittleEndianExplicit*.dcm",
        1,
        "PydicomReader",
    ),
    "DICOM slice, JPEG 2000": (
        "dicom/cornerstone_syntaxes/*JPEG2000LosslessOnly*.dcm",
        1,
        "PydicomReader",
    ),
    "DICOM multi-frame": ("dicom/dcm_qa_enh_multiframe/**/6_1.dcm", 1, "PydicomReader"),
}
LEAST_S = 0.3


def by_monai(reader: str) -> Load:
    """MONAI's loader of one file."""
    from monai.transforms import LoadImage

    load = LoadImage(reader=reader, image_only=True, ensure_channel_first=True)
    return lambda path: load(str(path))  # pyright: ignore[reportReturnType]


def by_us(path: Path) -> torch.Tensor:
    """Ours."""
    from medidiff.data.images import load_image

    return load_image(path)


def seconds(load: Load, files: Sequence[Path], rounds: int) -> float:
    """Seconds a file."""
    began = time.perf_counter()
    for _ in range(rounds):
        for file in files:
            load(file)
    return (time.perf_counter() - began) / (rounds * len(files))


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether the voxels are the same, whatever the order of the axes."""
    if one.numel() != other.numel():
        return False
    a, b = (x.as_tensor().flatten().sort().values for x in (one, other))  # pyright: ignore
    return bool(torch.allclose(a, b, atol=1e-3))


def measure(files: Sequence[Path], theirs: Load, repeats: int) -> tuple[float, float, bool]:
    """Median seconds a file of ours and theirs, taking turns."""
    alike = same(by_us(files[0]), theirs(files[0]))
    once = max(seconds(by_us, files, 1), seconds(theirs, files, 1))
    rounds = max(1, round(LEAST_S / (once * len(files))))
    pairs = []
    for turn in range(repeats):
        order = (by_us, theirs) if turn % 2 == 0 else (theirs, by_us)
        took = {load: seconds(load, files, rounds) for load in order}
        pairs.append((took[by_us], took[theirs]))
    ours, others = zip(*pairs, strict=True)
    return statistics.median(ours), statistics.median(others), alike


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeats", type=int, default=7)
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    rows: list[Measured] = []
    facts: dict[str, object] = {"repeats": chosen.repeats, "same_voxels": (alike := {})}
    for what, (pattern, count, reader) in SETS.items():
        files = sorted(chosen.folder.glob(pattern))[:count]
        if not files:
            continue
        try:
            ours, theirs, alike[what] = measure(files, by_monai(reader), chosen.repeats)
        except Exception as error:  # what MONAI cannot read is a result
            alike[what] = f"MONAI: {type(error).__name__}"
            rows.append(Measured(what, 1e3 * seconds(by_us, files, 5), "ms a file", "lower"))
            continue
        rows.append(
            Measured(
                what,
                1e3 * ours,
                "ms a file",
                "lower",
                peers={"MONAI LoadImage": 1e3 * theirs},
                goal=1e3 * theirs,
            )
        )
        print(f"{what}: {1e3 * ours:.2f} ms, MONAI {1e3 * theirs:.2f} ms ({theirs / ours:.2f} x)")
    print(alike)
    print(write_result("loading", rows, facts=facts))


if __name__ == "__main__":
    main()
