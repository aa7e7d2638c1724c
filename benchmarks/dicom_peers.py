"""Do dcm2niix and SimpleITK read the same arrays and affines from DICOM as medidiff does?

python benchmarks/dicom_peers.py FOLDER          (dcm2niix: a Debian package; left out if absent)

Every volume that medidiff finds under FOLDER is read by the peers from its own files alone. Both
are turned to the nearest RAS axes and compared voxel by voxel. Writes dicom_peers.json and .md.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk  # noqa: N813  (its usual name)
from record import ROOT, Measured, write_result

from medidiff.data.decode import UnusableError
from medidiff.data.dicom import Stacking, open_all, volume_of
from medidiff.data.header_cache import HeaderCache
from medidiff.data.index import SeriesFound, index_tree
from medidiff.data.sources import Source, read
from medidiff.data.stacking import Located, Part, gaps_of, parts_of

AFFINE_MM = 1e-3
SAME_VALUE = 1e-5  # of the largest value: dcm2niix keeps slopes as float32


@dataclass(frozen=True)
class Volume:
    """A volume (slices, rows, columns) by any reader, RAS+ mm; both None where it refused."""

    array: np.ndarray | None = None
    affine: np.ndarray | None = None
    refused: str = ""


@dataclass(frozen=True)
class Line:
    """One volume: which files, what was read, and how far each peer is from it."""

    files: str
    syntax: str
    read: str
    peers: dict[str, str]
    apart: dict[str, tuple[float, float]]
    """Peer -> (largest affine difference in mm, largest value difference / largest value)."""


def compare(folder: Path, scratch: Path) -> list[Line]:
    """A line for each volume or refused file under `folder`."""
    index = index_tree(folder, cache=HeaderCache(scratch / "headers.sqlite"))
    lines: list[Line] = []
    for series in index.series:
        for files, part in _volumes(series):
            lines.append(_line(folder, series, files, part, scratch))
    for unread in index.unread:
        name = Path(unread.source.path).relative_to(folder)
        lines.append(Line(str(name), "", f"refused: {unread.text}", {}, {}))
    for path in index.others:
        lines.append(Line(str(Path(path).relative_to(folder)), "", "not DICOM", {}, {}))
    return sorted(lines, key=lambda line: line.files)


def _volumes(series: SeriesFound) -> list[tuple[list[Source], Part]]:
    """The parts of a series; where files repeat one image, each file by itself."""
    if not series.duplicates:
        sources = [source for source, _ in series.files]
        return [_alone(sources, part) for part in series.parts]
    single = []
    for source, instance in series.files:
        members = [Located(0, frame) for frame in instance.frames]
        single += [([source], part) for part in parts_of(members)]
    return single


def _alone(sources: list[Source], part: Part) -> tuple[list[Source], Part]:
    numbers = list(dict.fromkeys(member.file for member in part.members))
    members = tuple(Located(numbers.index(m.file), m.frame) for m in part.members)
    frames = [member.frame for member in members]
    return [sources[number] for number in numbers], Part(members, gaps_of(frames), part.differs)


def _line(folder: Path, series: SeriesFound, files: list[Source], part: Part, scratch) -> Line:
    opened = open_all(read(files))
    syntax = opened.datasets[0].file_meta.TransferSyntaxUID.name
    name = str(Path(files[0].path).relative_to(folder))
    if len(files) > 1:
        name = f"{Path(name).parent} ({len(files)} files)"
    if part.differs and not series.duplicates:
        name += " [" + ", ".join(f"{k} {v}" for k, v in part.differs.items()) + "]"
    tilted = part.gaps.shear > 0.02
    try:
        ours = volume_of(opened, part, Stacking(tilt="resample"))
    except UnusableError as error:
        return Line(name, syntax, f"refused: {error}", {}, {})
    array = ours.array[None] if ours.array.ndim == 2 else ours.array
    affine = ours.affine
    if affine is not None and ours.array.ndim == 2:
        affine = affine[:, [2, 0, 1, 3]]
    said = f"{' x '.join(map(str, array.shape))}, {array.min():.4g} to {array.max():.4g}"
    if tilted:
        said += f", tilt {np.degrees(np.arctan(part.gaps.shear)):.1f} degrees resampled"
    peers, apart = {}, {}
    for peer, reader in (("SimpleITK", by_simpleitk), ("dcm2niix", by_dcm2niix)):
        theirs = reader(files, part, Volume(array, affine), scratch)
        peers[peer], numbers = _agreement(Volume(array, affine), theirs)
        if numbers:
            apart[peer] = numbers
    return Line(name, syntax, said, peers, apart)


def _agreement(ours: Volume, theirs: Volume) -> tuple[str, tuple[float, float] | None]:
    if theirs.array is None:
        return theirs.refused, None
    if ours.affine is None or theirs.affine is None:
        return _without_geometry(ours, theirs)
    a, b = (_canonical(one) for one in (ours, theirs))
    if a.shape != b.shape:
        return f"shape {b.shape}, ours {a.shape}", (np.inf, np.inf)
    # a single slice's thickness is no geometry of its pixels: peers take other tags for it
    axes = [axis for axis in range(3) if a.shape[axis] > 1] + [3]
    mm = float(np.abs((a.affine - b.affine)[:, axes]).max())
    values = np.asarray(a.dataobj) - np.asarray(b.dataobj)
    share = float(np.abs(values).max() / max(np.abs(np.asarray(a.dataobj)).max(), 1))
    same = "same" if mm < AFFINE_MM and share < SAME_VALUE else "DIFFERENT"
    return f"{same} ({mm:.1e} mm, values {share:.1e})", (mm, share)


def _without_geometry(ours: Volume, theirs: Volume) -> tuple[str, tuple[float, float] | None]:
    if ours.array is None or theirs.array is None or ours.array.size != theirs.array.size:
        return "no geometry stated, other shape", (np.inf, np.inf)
    share = float(np.abs(ours.array - theirs.array.reshape(ours.array.shape)).max())
    return f"values differ by {share:.1e}; no geometry is stated", (0.0, share)


def _canonical(volume: Volume) -> nibabel.Nifti1Image:
    array = np.asarray(volume.array, np.float64)
    return nibabel.as_closest_canonical(nibabel.Nifti1Image(array, volume.affine))


def by_simpleitk(files: list[Source], part: Part, ours: Volume, scratch: Path) -> Volume:
    """The volume as SimpleITK reads it; a sheared stack resampled by its affine transform."""
    names = [source.path for source in files]
    try:
        image = sitk.ReadImage(names if len(names) > 1 else names[0])
    except RuntimeError as error:
        return Volume(refused=str(error).strip().splitlines()[-1][:80])
    if image.GetNumberOfComponentsPerPixel() > 1:
        return Volume(refused="colour")
    array = sitk.GetArrayFromImage(image)
    if array.ndim == 2:
        array = array[None]
    if len(files) == 1 and len(array) != len(part.members):
        frames = [member.frame.index for member in part.members]
        array = array[frames]
    direction = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = direction[:, ::-1], image.GetOrigin()
    affine[:2] *= -1
    if part.gaps.shear > 0.02 and ours.array is not None and ours.affine is not None:
        array = _unsheared_by_itk(array, part, ours)
        affine = ours.affine
    return Volume(array, affine)


def _unsheared_by_itk(array: np.ndarray, part: Part, ours: Volume) -> np.ndarray:
    """Ours is checked against ITK's resampling of the sheared grid, which ITK itself cannot hold:
    the shear goes into the transform."""
    from medidiff.data.dicom import stack_affine, to_ras

    assert ours.array is not None
    assert ours.affine is not None
    source = to_ras(stack_affine([member.frame for member in part.members]))
    to_source = np.linalg.inv(source) @ ours.affine  # ours' index (slice, row, column) -> source's
    flip = np.eye(4)[[2, 1, 0, 3]]
    transform = sitk.AffineTransform(3)
    matrix = flip @ to_source @ flip
    transform.SetMatrix(matrix[:3, :3].ravel().tolist())
    transform.SetTranslation(matrix[:3, 3].tolist())
    size = [int(n) for n in ours.array.shape[::-1]]

    def resampled(values: np.ndarray) -> np.ndarray:
        image = sitk.GetImageFromArray(values.astype(np.float64))
        axes = np.eye(3).ravel().tolist()
        grid = (size, transform, sitk.sitkLinear, (0.0,) * 3, (1.0,) * 3, axes)
        return sitk.GetArrayFromImage(sitk.Resample(image, *grid, float(values.min())))

    inner = np.zeros(array.shape)  # ITK repeats the outermost half voxel, ours ends with it
    inner[:, 2:-2] = 1
    return np.where(resampled(inner) == 1, resampled(array), ours.array)


def by_dcm2niix(files: list[Source], part: Part, ours: Volume, scratch: Path) -> Volume:
    """The volume as dcm2niix writes it; of several, the one of the same shape that fits best."""
    program = shutil.which("dcm2niix")
    if program is None:
        return Volume(refused="not installed")
    if part.gaps.shear > 0.02:
        return Volume(refused="resamples tilts to another grid")
    with tempfile.TemporaryDirectory(dir=scratch) as place:
        given, out = Path(place) / "in", Path(place) / "out"
        given.mkdir()
        out.mkdir()
        for number, source in enumerate(files):
            shutil.copyfile(source.path, given / f"{number:05d}.dcm")
        # -p n: rescaled as the standard says, not by Philips' private slopes
        words = [program, "-p", "n", "-b", "n", "-z", "n", "-f", "%s", "-o", str(out), str(given)]
        done = subprocess.run(words, capture_output=True, text=True)
        found = [_from_nifti(path) for path in sorted(out.glob("*.nii"))]
    if not found:
        wrong = [
            line for line in done.stdout.splitlines() if "rror" in line or "nsupported" in line
        ]
        said = wrong[0].split(":", 1)[-1].strip() if wrong else "reads nothing"
        return Volume(refused=said.split(str(place))[0][:70])
    return min(found, key=lambda one: _distance(ours, one))


def _from_nifti(path: Path) -> Volume:
    image = nibabel.load(path)
    if image.get_data_dtype().fields:
        return Volume(refused="colour")
    return Volume(np.asarray(image.dataobj, np.float64), image.affine)


def _distance(ours: Volume, theirs: Volume) -> float:
    if theirs.array is None or ours.affine is None or theirs.array.ndim > 3:
        return np.inf
    a, b = _canonical(ours), _canonical(theirs)
    if a.shape != b.shape:
        return np.inf
    return float(np.abs(np.asarray(a.dataobj) - np.asarray(b.dataobj)).mean())


def table(lines: list[Line]) -> str:
    """The lines in Markdown."""
    rows = ["| files | transfer syntax | medidiff | SimpleITK | dcm2niix |", "| --- " * 5 + "|"]
    for line in lines:
        peers = [line.peers.get(name, "") for name in ("SimpleITK", "dcm2niix")]
        cells = [line.files, line.syntax, line.read, *peers]
        rows.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as scratch:
        lines = compare(folder, Path(scratch))
    text = table(lines)
    print(text)
    (ROOT / "benchmarks" / "results" / "dicom_peers.md").write_text(text, encoding="utf-8")
    rows = []
    for peer in ("SimpleITK", "dcm2niix"):
        apart = [line.apart[peer] for line in lines if peer in line.apart]
        same = [mm < AFFINE_MM and share < SAME_VALUE for mm, share in apart]
        rows.append(
            Measured(
                f"volumes that {peer} reads too and that agree",
                sum(same),
                "volumes",
                "higher",
                goal=len(same),
            )
        )
    read_too = sum(1 for line in lines if line.syntax and not line.read.startswith("refused"))
    facts = {"volumes_read": read_too, "files_or_volumes": len(lines)}
    print(write_result("dicom_peers", rows, facts=facts))


if __name__ == "__main__":
    main()
