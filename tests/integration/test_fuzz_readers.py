"""Damaged files are refused or read as what they are: a sample of benchmarks/fuzz_readers.py."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file

from medidiff.data.decode import Scan, decode
from medidiff.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
BUNDLED = ("CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm")


@pytest.fixture(scope="module")
def fuzz_readers() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "fuzz_readers", ROOT / "benchmarks" / "fuzz_readers.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz_readers"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Small files of several formats that are read as they are."""
    folder = tmp_path_factory.mktemp("sound")
    voxels = np.random.default_rng(0).integers(0, 900, (12, 11, 10)).astype(np.int16)
    image = nibabel.Nifti1Image(voxels, np.diag([1.0, 2, 3, 1]))
    image.set_qform(image.affine, code=1)
    image.set_sform(image.affine, code=1)
    for name in ("x.nii", "y.nii.gz"):
        nibabel.save(image, folder / name)
    files = [Path(str(get_testdata_file(name, download=False))) for name in BUNDLED]
    return [*files, folder / "x.nii", folder / "y.nii.gz"]


@pytest.mark.slow
def test_no_mutant_crashes_hangs_swamps_or_misleads(
    fuzz_readers: ModuleType, sound: list[Path], tmp_path: Path
) -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("a process's peak memory is measured on Linux only")
    fuzz_readers.LIMIT_S = 60.0  # a hang is a hang on a busy machine, too
    results = fuzz_readers.fuzz(sound, 400, tmp_path, seed=7)
    faults = [
        (name, mutant.kind, mutant.at, outcome)
        for name, mutant, outcome in results
        if outcome.what in fuzz_readers.FAULTS
    ]
    assert faults == []
    counts = Counter(outcome.what for *_, outcome in results)
    assert counts["refused"] > 100
    assert counts["pixels"] > 20


def decoded(path: Path) -> Scan | str:
    """The scan, or what is said about it."""
    try:
        return decode(path)
    except DataError as error:
        return str(error)


@settings(max_examples=120, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_any_bytes_anywhere_give_an_image_or_a_message(
    data: st.DataObject, sound: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = data.draw(st.sampled_from(sound))
    content = bytearray(file.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    what = data.draw(st.binary(min_size=1, max_size=40))
    keep = data.draw(st.integers(0, 40))
    content[at : at + keep] = what
    suffix = "".join(file.suffixes[-2:]) if file.name.endswith(".gz") else file.suffix
    place = tmp_path_factory.mktemp("one") / f"doe_john{suffix}"
    place.write_bytes(bytes(content))
    scan = decoded(place)
    if isinstance(scan, str):
        assert "doe_john" not in scan
        return
    assert scan.array.ndim in (3, 4)
    assert scan.affine is None or np.isfinite(scan.affine).all()


def test_two_files_of_noise_are_no_image(tmp_path: Path) -> None:
    for suffix in (".dcm", ".nii", ".nii.gz", ".hdr", ".zip", ".tar", ".series.json", ".nrrd"):
        path = tmp_path / f"noise{suffix}"
        path.write_bytes(np.random.default_rng(1).bytes(4000))
        with pytest.raises(DataError):
            decode(path)
