"""Do damaged DICOM and NIfTI files ever crash, hang, swamp memory, or give a wrong volume?

python benchmarks/fuzz_readers.py FOLDER [--mutants 2800] [--seed 0]

FOLDER holds `dicom/` and `hippocampus/images/`. Each file is mutated (bits, runs of bytes, cuts,
insertions; half of them in the header) and decoded in a process of its own with a time limit. A
mutant that is still read must equal the original, or differ in bytes of pixels only, or be what an
independent reader (SimpleITK, nibabel) makes of the same bytes: a header that lawfully states
another voxel size cannot be told from a true one.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

KINDS = ("bit", "byte", "run of zeros", "run of ones", "cut", "insert", "delete", "number")
KEPT_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha")
LIMIT_S = 20.0
SLACK = 48 * 2**20  # what decoders and their libraries take whatever the image
HEADER_SHARE = 0.5


@dataclass(frozen=True)
class Mutant:
    """A damaged copy of a file: what was done where, in bytes."""

    kind: str
    at: int
    content: bytes


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant: "refused", "same", "pixels", "as stated", or a fault ("crash",
    "hang", "memory", "unexplained", "names")."""

    what: str
    said: str = ""
    peak: float = 0.0
    """Memory above the start over what was allowed."""


FAULTS = ("crash", "hang", "memory", "unexplained", "names")


def mutants(content: bytes, count: int, seed: int, header: int) -> Iterator[Mutant]:
    """Damaged copies, half of them within the first `header` bytes."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        kind = str(random.choice(KINDS))
        end = header if random.random() < HEADER_SHARE else len(content)
        yield mutated(content, kind, int(random.integers(0, max(end, 1))), random)


def mutated(content: bytes, kind: str, at: int, random: np.random.Generator) -> Mutant:
    """One damaged copy."""
    out = bytearray(content)
    length = int(random.integers(1, 64))
    if kind == "bit":
        out[at] ^= 1 << int(random.integers(0, 8))
    elif kind == "byte":
        out[at] = int(random.integers(0, 256))
    elif kind == "run of zeros":
        out[at : at + length] = bytes(len(out[at : at + length]))
    elif kind == "run of ones":
        out[at : at + length] = b"\xff" * len(out[at : at + length])
    elif kind == "cut":
        del out[at:]
    elif kind == "insert":
        out[at:at] = random.bytes(length)
    elif kind == "delete":
        del out[at : at + length]
    else:  # a number where lengths and sizes stand
        value = int(random.choice([0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF]))
        width = 2 if value <= 0xFFFF else 4
        at = at // 2 * 2
        out[at : at + width] = value.to_bytes(width, "little")
    return Mutant(kind, at, bytes(out))


class Worker:
    """Decodes files in a process of its own, which is started again when it dies or hangs."""

    def __init__(self) -> None:
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, __file__, "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def decode(self, path: Path) -> dict[str, Any]:
        """What `serve` answers; {"fault": ...} where it does not."""
        process = self.process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{path}\n".encode())
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], LIMIT_S)
        line = process.stdout.readline() if ready else b""
        if line:
            return json.loads(line)
        process.kill()
        code = process.wait()
        self.process = self._start()
        died = ready or code != -signal.SIGKILL
        return {"fault": "crash" if died else "hang", "said": f"exit code {code}"}

    def close(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.wait()


def serve() -> None:
    """Reads paths, answers each with a line of JSON."""
    import nibabel  # noqa: F401  (loaded before memory is measured)
    import pydicom.pixels  # noqa: F401
    import SimpleITK as sitk  # noqa: N813

    from medidiff.data.decode import decode
    from medidiff.errors import DataError

    sitk.Image(1, 1, sitk.sitkUInt8)
    for line in sys.stdin:
        path = Path(line.strip())
        before = _memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        answer: dict[str, Any]
        try:
            scan = decode(path)
            np.savez(path.with_suffix(".npz"), array=scan.array, affine=_affine(scan.affine))
            answer = {"read": True}
        except DataError as error:
            answer = {"said": str(error), "names": path.name in str(error)}
        except BaseException as error:
            answer = {"fault": "crash", "said": repr(error)[:200]}
        answer["peak"] = _memory("VmHWM") - before
        print(json.dumps(answer), flush=True)


def _affine(affine: np.ndarray | None) -> np.ndarray:
    return np.full((4, 4), np.nan) if affine is None else affine


def _memory(what: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) * 1024
    return 0


@dataclass(frozen=True)
class Original:
    """A sound file: its bytes, what it decodes to, and where its pixels begin."""

    name: str
    content: bytes
    array: np.ndarray
    affine: np.ndarray
    pixels_at: int
    packed: bool
    """Whether all of the file is compressed, so that any byte may touch the header."""


def load(path: Path, worker: Worker, scratch: Path) -> Original:
    """A sound file and what it decodes to."""
    suffix = "".join(path.suffixes[-2:]) if path.name.endswith(".gz") else path.suffix
    deflated = "Deflated" in path.name
    name = f"original{suffix if suffix in KEPT_SUFFIXES else '.dcm'}"
    (scratch / name).write_bytes(path.read_bytes())
    if not worker.decode(scratch / name).get("read"):
        raise ValueError(f"{path.name} is not read as it is")
    found = np.load((scratch / name).with_suffix(".npz"))
    content = path.read_bytes()
    packed = name.endswith(".gz") or deflated
    at = len(content) if packed else _pixels_at(path)
    return Original(name, content, found["array"], found["affine"], at, packed)


def _pixels_at(path: Path) -> int:
    if path.name.endswith(".nii"):
        return 352
    if path.suffix in (".nrrd", ".mha"):  # text, then the voxels
        end = b"LOCAL\n" if path.suffix == ".mha" else b"\n\n"
        return path.read_bytes().index(end) + len(end)
    from pydicom import dcmread

    item = dcmread(path).get_item("PixelData")
    return int(getattr(item, "value_tell", 0)) or path.read_bytes().rfind(b"\xe0\x7f\x10\x00") + 8


def judge(original: Original, mutant: Mutant, worker: Worker, scratch: Path) -> Outcome:
    """What became of one mutant."""
    path = scratch / f"mutant{original.name[8:]}"
    path.write_bytes(mutant.content)
    answer = worker.decode(path)
    if "fault" in answer:
        return Outcome(answer["fault"], answer["said"])
    over = answer["peak"] / (2 * declared(path, original) + 2 * len(mutant.content) + SLACK)
    if over > 1:
        return Outcome("memory", f"{answer['peak'] / 2**20:.0f} MiB", over)
    if answer.get("names"):
        return Outcome("names", answer["said"], over)
    if not answer.get("read"):
        return Outcome("refused", answer["said"], over)
    found = np.load(path.with_suffix(".npz"))
    return Outcome(_explained(original, mutant, found["array"], found["affine"], path), "", over)


def _explained(
    original: Original, mutant: Mutant, array: np.ndarray, affine: np.ndarray, path: Path
) -> str:
    same_place = np.allclose(affine, original.affine, atol=1e-4, equal_nan=True)
    same_shape = array.shape == original.array.shape
    if same_place and same_shape and np.array_equal(array, original.array, equal_nan=True):
        return "same"
    in_pixels = mutant.at >= original.pixels_at or _same_header(original, path)
    if same_place and same_shape and in_pixels:
        return "pixels"
    theirs = _independent(path)
    if theirs is not None and _agree(array, affine, *theirs):
        return "as stated"
    return "unexplained"


def _same_header(original: Original, path: Path) -> bool:
    """Whether all that differs after unpacking is the pixels: deflated DICOM has no checksum."""
    if not original.packed or not path.name.endswith(".dcm"):
        return False
    from pydicom import dcmread

    one, other = dcmread(path.with_name(original.name)), dcmread(path)
    headers = [{e.tag: e.value for e in d if e.keyword != "PixelData"} for d in (one, other)]
    return headers[0] == headers[1]


def _agree(array: np.ndarray, affine: np.ndarray, other: np.ndarray, there: np.ndarray) -> bool:
    if array.size != other.size:
        return False
    placed = np.isnan(affine).any() or np.allclose(affine[:3, 3], there[:3, 3], atol=1e-2)
    span = max(float(np.abs(other).max()), 1.0)
    apart = np.abs(array.ravel().astype(float) - other.ravel().astype(float)).max()
    return bool(placed and apart <= 1e-4 * span)


def _independent(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """The mutant by nibabel or SimpleITK: array in our order of axes, affine with its corner."""
    try:
        if ".nii" in path.name:
            import nibabel

            image = nibabel.load(path)
            return np.asanyarray(image.dataobj), np.asarray(image.affine)
        import SimpleITK as sitk  # noqa: N813

        image = sitk.ReadImage(str(path))
        affine = np.eye(4)
        affine[:3, 3] = [-image.GetOrigin()[0], -image.GetOrigin()[1], image.GetOrigin()[2]]
        array = sitk.GetArrayFromImage(image)
        return (array if path.suffix == ".dcm" else array.T), affine
    except Exception:
        return None


def declared(path: Path, original: Original) -> int:
    """Bytes of the image as the mutant's own header has it, as float32; the original's if it cannot
    be told."""
    try:
        if ".nii" in path.name:
            content = path.read_bytes()
            start = gzip.decompress(content)[:348] if path.name.endswith(".gz") else content[:348]
            count = np.prod(np.frombuffer(start[42:56], "<i2").astype(float).clip(1))
        elif path.suffix in (".nrrd", ".mha"):
            count = original.array.size
        else:
            from pydicom import dcmread

            data = dcmread(path, stop_before_pixels=True, force=True)
            count = int(data.Rows) * int(data.Columns) * int(data.get("NumberOfFrames") or 1)
        return int(max(count, original.array.size) * 4)
    except Exception:
        return original.array.size * 4


def sources(folder: Path) -> list[Path]:
    """A file of each kind: every transfer syntax, enhanced and classic, NIfTI."""
    found = sorted((folder / "dicom" / "cornerstone_syntaxes").glob("CT*"))
    found += sorted((folder / "dicom" / "dcm_qa_enh_multiframe").rglob("6_1.dcm"))
    found += [folder / "dicom" / "studyforrest_t1_32" / "N2D_0180.dcm"]
    found += [folder / "dicom" / "ge_ct_28_gantry_tilt" / "05.dcm"]
    return found + sorted((folder / "hippocampus" / "images").glob("*.nii.gz"))[:3]


def plain_copy(path: Path, scratch: Path) -> Path:
    """A packed NIfTI unpacked: in it no checksum guards the header."""
    place = scratch / path.name[: -len(".gz")]
    place.write_bytes(gzip.decompress(path.read_bytes()))
    return place


def itk_copies(path: Path, scratch: Path) -> list[Path]:
    """The image as NRRD and MetaImage."""
    import SimpleITK as sitk  # noqa: N813

    image = sitk.ReadImage(str(path))
    places = [scratch / f"copy{suffix}" for suffix in (".nrrd", ".mha")]
    for place in places:
        sitk.WriteImage(image, str(place))
    return places


def fuzz(
    files: list[Path], count: int, scratch: Path, seed: int = 0
) -> list[tuple[str, Mutant, Outcome]]:
    """Every mutant's outcome: `count` in all, dealt evenly to the files."""
    worker = Worker()
    results = []
    try:
        each = -(-count // len(files))
        for number, path in enumerate(files):
            original = load(path, worker, scratch)
            head = min(original.pixels_at, 4096) if not original.packed else len(original.content)
            for mutant in mutants(original.content, each, seed + number, head):
                outcome = judge(original, mutant, worker, scratch)
                results.append((path.name, mutant, outcome))
                if outcome.what in FAULTS:
                    print(outcome, mutant.kind, mutant.at, path.name, flush=True)
    finally:
        worker.close()
    return results


def main() -> None:
    from record import Measured, write_result

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mutants", type=int, default=2800)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        files = sources(chosen.folder)
        packed = [path for path in files if path.name.endswith(".nii.gz")]
        files += [plain_copy(path, scratch) for path in packed]
        files += itk_copies(packed[0], scratch)
        results = fuzz(files, chosen.mutants, scratch, chosen.seed)
    counts = Counter(outcome.what for *_, outcome in results)
    reasons = Counter(outcome.said for *_, outcome in results if outcome.what == "refused")
    rows = [
        Measured(f"mutants: {what}", counts[what], "mutants", "lower", goal=0) for what in FAULTS
    ]
    rows.append(
        Measured(
            "largest memory over what is allowed",
            max(outcome.peak for *_, outcome in results),
            "ratio",
            "lower",
            goal=1.0,
        )
    )
    facts: dict[str, object] = {
        "mutants": len(results),
        "seed": chosen.seed,
        "files": len(files),
        "outcomes": dict(counts),
        "seconds": round(time.perf_counter() - began),
        "allowed_memory": "2 x declared voxels as float32 + 2 x file + 48 MiB",
        "commonest_refusals": dict(reasons.most_common(8)),
    }
    print(json.dumps(facts, indent=1))
    print(write_result("fuzz_readers", rows, facts=facts))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    serve() if "--serve" in sys.argv else main()
