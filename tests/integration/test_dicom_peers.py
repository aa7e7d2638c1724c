"""Every volume that can be read from the real DICOM files is what SimpleITK and dcm2niix read."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXCEPTIONS = {
    # (part of the line's name, peer): why the peer is not followed
    ("FIELD_MAP", "SimpleITK"): "ITK rescales all frames of a file by the first frame's slope",
    ("JPEGProcess1TransferSyntax", "dcm2niix"): "its own JPEG decoder is 12 of 256 levels off",
}


@pytest.fixture(scope="module")
def lines(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        spec = importlib.util.spec_from_file_location(
            "dicom_peers", ROOT / "benchmarks" / "dicom_peers.py"
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["dicom_peers"] = module
        spec.loader.exec_module(module)
        return module.compare(shared_data / "dicom", tmp_path_factory.mktemp("peers"))


def agreement(lines: list, peer: str) -> tuple[int, list[str]]:
    """How many volumes agree, and which do not without being a named exception."""
    said = [(line.files, line.peers.get(peer, "")) for line in lines]
    known = [part for part, of in EXCEPTIONS if of == peer]
    apart = [
        name
        for name, text in said
        if text.startswith(("DIFFERENT", "shape")) and not any(part in name for part in known)
    ]
    return sum(text.startswith("same") for _, text in said), apart


def test_simpleitk_reads_the_same(lines: list) -> None:
    count, apart = agreement(lines, "SimpleITK")
    assert apart == []
    assert count >= 27


def test_dcm2niix_reads_the_same(lines: list) -> None:
    if shutil.which("dcm2niix") is None:
        pytest.skip("dcm2niix is not installed (apt-get install dcm2niix)")
    count, apart = agreement(lines, "dcm2niix")
    assert apart == []
    assert count >= 16


def test_every_file_is_read_or_refused_with_its_reason(lines: list) -> None:
    assert sum(line.syntax != "" and not line.read.startswith("refused") for line in lines) == 28
    refused = {line.read for line in lines if line.read.startswith("refused")}
    assert refused == {
        "refused: the DICOM image is in colour; grey values are expected",
        "refused: the DICOM file holds no pixels, or is cut short",
    }
