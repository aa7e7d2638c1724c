"""A real PACS (Orthanc) takes what is written, finds it, and gives it back unchanged."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    ParametricMapStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from medidiff.data.decode import decode
from medidiff.data.dicom_out import channels, images
from medidiff.data.dicom_out_files import written
from medidiff.data.dicom_out_maps import Quantity, parametric_map
from medidiff.data.dicom_out_modules import Making
from medidiff.data.dicom_out_origin import Origin
from medidiff.data.dicom_out_segments import Segment, segmentation
from medidiff.data.dicom_out_source import open_source, source_of
from medidiff.data.dicom_out_uids import encoded

pytestmark = [pytest.mark.services, pytest.mark.slow]

STORED = (
    CTImageStorage,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    ParametricMapStorage,
)
STUDY_ROOT = {
    "find": UID("1.2.840.10008.5.1.4.1.2.2.1"),
    "get": UID("1.2.840.10008.5.1.4.1.2.2.3"),
}
SUCCESS, PENDING = 0x0000, (0xFF00, 0xFF01)
TITLE = "PACS"


@dataclass(frozen=True)
class Pacs:
    """A DICOM node on loopback."""

    port: int

    @contextmanager
    def associated(self, kinds: tuple[UID, ...], received: list[Dataset] | None = None) -> Iterator:
        """An association for some classes; with `received`, for taking objects, too."""
        from pynetdicom import AE, build_role, evt

        entity = AE(ae_title="MEDIDIFF")
        for kind in kinds:
            entity.add_requested_context(kind, ExplicitVRLittleEndian)
        roles, handlers = [], []
        if received is not None:

            def keep(event: evt.Event) -> int:
                data = event.dataset
                data.file_meta = event.file_meta
                received.append(data)
                return SUCCESS

            roles = [build_role(kind, scp_role=True) for kind in STORED]
            handlers = [(evt.EVT_C_STORE, keep)]
            for kind in STORED:
                entity.add_requested_context(kind, ExplicitVRLittleEndian)
        found = entity.associate(
            "127.0.0.1", self.port, ae_title=TITLE, ext_neg=roles, evt_handlers=handlers
        )
        assert found.is_established
        try:
            yield found
        finally:
            found.release()

    def store(self, files: list[Path]) -> None:
        with self.associated(STORED) as association:
            for file in files:
                assert association.send_c_store(dcmread(file)).Status == SUCCESS

    def find(self, level: str, asked: dict[str, str]) -> list[Dataset]:
        query = Dataset()
        query.QueryRetrieveLevel = level
        for keyword, value in asked.items():
            setattr(query, keyword, value)
        with self.associated((STUDY_ROOT["find"],)) as association:
            answers = [*association.send_c_find(query, STUDY_ROOT["find"])]
        assert answers[-1][0].Status == SUCCESS
        return [data for status, data in answers if status.Status in PENDING]

    def get(self, study: str) -> list[Dataset]:
        query = Dataset()
        query.QueryRetrieveLevel, query.StudyInstanceUID = "STUDY", study
        received: list[Dataset] = []
        with self.associated((STUDY_ROOT["get"],), received) as association:
            answers = [*association.send_c_get(query, STUDY_ROOT["get"])]
        assert answers[-1][0].Status == SUCCESS
        return received


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pacs]:
    pytest.importorskip("pynetdicom")
    program, compiler = shutil.which("Orthanc", path=f"{os.environ['PATH']}:/usr/sbin"), "cc"
    if program is None:
        pytest.skip("Orthanc is not installed (Debian package orthanc; .ci/services installs it)")
    if shutil.which(compiler) is None:
        pytest.skip("Orthanc 1.10 listens on all addresses; a C compiler keeps it on loopback")
    folder = tmp_path_factory.mktemp("pacs")
    shim = folder / "loopback.so"
    source = Path(__file__).with_name("loopback.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", shim, source, "-ldl"], check=True)
    port = free_port()
    options = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [],
        "HttpServerEnabled": False,
        "RemoteAccessAllowed": False,
        "DicomAet": TITLE,
        "DicomPort": port,
        "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowGet": True,
        "OverwriteInstances": False,
    }
    (folder / "orthanc.json").write_text(json.dumps(options))
    log = folder / "orthanc.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [program, str(folder / "orthanc.json")],
            stdout=stream,
            stderr=stream,
            env={**os.environ, "LD_PRELOAD": str(shim)},
        )
    try:
        limit = time.monotonic() + 300
        while not listens(port):
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < limit, log.read_text()[-2000:]
            time.sleep(0.1)
        assert listening_on(port) == {"0100007F"}  # 127.0.0.1, as the kernel writes it
        yield Pacs(port)
    finally:
        process.terminate()
        process.wait(120)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def listening_on(port: int) -> set[str]:
    """The addresses at which something listens on a port."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    places = [row[1].split(":") for row in rows if row[3] == "0A"]
    return {address for address, number in places if int(number, 16) == port}


def objects_of(folder: Path) -> list[Path]:
    """A CT study with its denoised series, a map and a segmentation; a drawn MR; a picture."""
    when = datetime(2026, 1, 2, tzinfo=UTC)
    said = {"model": "prior", "model_digest": "ab12", "seed": 0}
    scanned = np.random.default_rng(0).integers(-1000, 2000, (5, 12, 10)).astype(np.float64)
    affine = np.diag([-2.0, -2.0, 3.0, 1.0])[:, [2, 1, 0, 3]]
    first = images(scanned, affine, Origin(modality="CT"), Making("AI-PROCESSED", "scan", {}, when))
    written(first, folder / "scan")
    source = Origin(open_source(folder / "scan"))
    made = Making("AI-PROCESSED", "denoise", said, when)
    denoised = images(scanned * 0.9, affine, source, made)
    over = Origin(source_of(denoised), beside=denoised[0])
    spread = Making("AI-PROCESSED", "denoise std", said, when)
    labels = (scanned > 500).astype(int)
    found = {
        "denoised": denoised,
        "std": [parametric_map(abs(scanned) / 9, affine, over, spread, Quantity("std"), 2)],
        "labels": [segmentation(labels, affine, source, made, [Segment(1, "bone")], 3)],
        "drawn": channels(scanned[None], affine, "MR", Making("SYNTHETIC", "sample", said, when))[
            "image"
        ],
        "picture": images(scanned[0], None, Origin(), Making("SYNTHETIC", "sample", said, when)),
    }
    files = [*(folder / "scan").iterdir()]
    for name, objects in found.items():
        files += written(objects, folder / name)
    return files


def test_what_is_written_comes_back_from_a_pacs_as_it_was(pacs: Pacs, tmp_path: Path) -> None:
    files = objects_of(tmp_path)
    sent = {str(data.SOPInstanceUID): data for data in map(dcmread, files)}
    assert {data.SOPClassUID for data in sent.values()} == {*STORED}
    pacs.store(files)
    pacs.store(files[:2])  # sent again: still the same two
    back: dict[str, Dataset] = {}
    for study in {str(data.StudyInstanceUID) for data in sent.values()}:
        back |= {str(data.SOPInstanceUID): data for data in pacs.get(study)}
    assert back.keys() == sent.keys()
    for uid, data in sent.items():
        assert encoded(back[uid]) == encoded(data)


def test_a_pacs_finds_it_in_the_patient_s_study_by_what_it_is(pacs: Pacs, tmp_path: Path) -> None:
    files = objects_of(tmp_path)
    pacs.store(files)
    scan = dcmread(tmp_path / "scan" / "0001.dcm")
    asked = {"StudyInstanceUID": scan.StudyInstanceUID, "SeriesDescription": "", "Modality": "",
             "SeriesInstanceUID": "", "SeriesNumber": ""}  # fmt: skip
    series = pacs.find("SERIES", asked)
    assert sorted(one.Modality for one in series) == ["CT", "CT", "OT", "SEG"]
    assert all(one.SeriesDescription.startswith("AI-PROCESSED") for one in series)
    drawn = dcmread(tmp_path / "drawn" / "0001.dcm")
    found = pacs.find("SERIES", {**asked, "StudyInstanceUID": drawn.StudyInstanceUID})
    assert [one.SeriesDescription for one in found] == ["SYNTHETIC - not for diagnosis: sample"]
    patients = pacs.find("STUDY", {"PatientID": drawn.PatientID, "StudyInstanceUID": ""})
    assert [one.StudyInstanceUID for one in patients] == [drawn.StudyInstanceUID]


def test_a_series_from_a_pacs_is_the_volume_that_was_sent(pacs: Pacs, tmp_path: Path) -> None:
    objects_of(tmp_path)
    pacs.store([*(tmp_path / "denoised").iterdir()])
    study = str(dcmread(tmp_path / "denoised" / "0001.dcm").StudyInstanceUID)
    uid = dcmread(tmp_path / "denoised" / "0001.dcm").SeriesInstanceUID
    (tmp_path / "back").mkdir()
    for number, data in enumerate(pacs.get(study)):
        if data.SeriesInstanceUID == uid:
            data.save_as(tmp_path / "back" / f"{number}.dcm", enforce_file_format=True)
    ours, back = decode(tmp_path / "denoised"), decode(tmp_path / "back")
    assert (back.array == ours.array).all()
    assert np.allclose(np.array(back.affine), np.array(ours.affine), atol=1e-6)
