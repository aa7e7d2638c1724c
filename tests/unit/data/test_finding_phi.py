"""What identifies is found in headers, sidecars, names and pixels, counted, and never told."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813  (its usual name)
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file

from medidiff import api
from medidiff.data.confidentiality.finding_phi import (
    burnt_in_risk,
    looks_identifying,
    text_like,
)
from medidiff.data.confidentiality.phi_files import looked
from medidiff.data.population import PopulationOptions, draw
from medidiff.errors import DataError, OutputError

NAME = "Zzyzx^Quentin"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEDIDIFF_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize(
    "text",
    [
        "2021-03-04",
        "20210304",
        "scan of 04.03.2021",
        "4711123",
        NAME,
        "Doe, John",
        "Dr. Who",
        "a@b.c",
    ],
)
def test_what_looks_like_a_person_a_date_or_a_number(text: str) -> None:
    assert looks_identifying(text)


@pytest.mark.parametrize(
    "text",
    [
        "T1w",
        "axial 2.5 mm",
        "SIEMENS",
        "1.5",
        "S-0123456789ab",
        "study-012345678901",
        "0.123456",
        "Acme Systems, Inc.",
    ],
)
def test_what_does_not(text: str) -> None:
    assert not looks_identifying(text)


def written(value: int, size: int = 128, lines: int = 2) -> np.ndarray:
    """A drawn head with writing in one grey value."""
    image = draw(PopulationOptions("head", 2, size), 3).image
    grey = np.clip(image / image.max() * 200 + 10, 0, 255).astype(np.uint8)
    picture = Image.fromarray(grey)
    for line in range(lines):
        ImageDraw.Draw(picture).text((4, 4 + 14 * line), "JOHN DOE 1961-02-03", fill=value)
    return np.asarray(picture)


def test_writing_is_told_from_anatomy() -> None:
    assert text_like(written(255))
    assert text_like(255 - written(255))
    assert text_like(written(255).T)  # turned by a quarter
    assert not text_like(written(255, lines=0))


@pytest.mark.parametrize("kind", ["head", "thorax"])
def test_no_phantom_is_taken_for_writing(kind: str) -> None:
    for index in range(6):
        image = draw(PopulationOptions(kind, 2, 128), index).image  # pyright: ignore
        assert not text_like(image)
    noise = np.abs(np.random.default_rng(0).normal(0, 3, (128, 128))).astype(np.int16)
    assert not text_like(noise)


def test_headers_say_where_text_may_be_burnt_in() -> None:
    data = Dataset()
    assert burnt_in_risk(data) == ""
    data.Modality = "US"
    assert "modality" in burnt_in_risk(data)
    data.Modality, data.SOPClassUID = "CT", "1.2.840.10008.5.1.4.1.1.7"
    assert "screenshot" in burnt_in_risk(data)
    data.BurnedInAnnotation = "NO"
    assert burnt_in_risk(data) == ""
    data.BurnedInAnnotation = "YES"
    assert "says" in burnt_in_risk(data)


def planted(root: Path) -> None:
    """Files of every format with a name in each free place."""
    root.mkdir()
    nifti = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4))
    nifti.header["descrip"] = NAME
    nifti.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", NAME.encode()))
    nibabel.save(nifti, root / "a.nii.gz")
    nibabel.save(nifti, root / "b.nii")
    clean = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4))
    nibabel.save(clean, root / "clean.nii.gz")
    for ending in ("nrrd", "mha"):
        image = sitk.GetImageFromArray(np.zeros((4, 4, 4), np.int16))
        sitk.WriteImage(image, str(root / f"clean.{ending}"))
        image.SetMetaData("PatientName", NAME)
        sitk.WriteImage(image, str(root / f"d.{ending}"))
    info = PngInfo()
    info.add_text("Author", NAME)
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(root / "e.png", pnginfo=info)
    Image.fromarray(written(255)).save(root / "f.png")
    (root / "g.json").write_text(json.dumps({"a": [{"ReferringPhysicianName": "Zzyzx"}]}))
    (root / "h.tsv").write_text("participant_id\tbirth\nsub-01\t1961-02-03\n")
    data = dcmread(str(get_testdata_file("CT_small.dcm", download=False)))
    data.PatientName = NAME
    data.Manufacturer = "made for zzyzx"
    data.save_as(root / "Zzyzx_19610203.dcm")
    (root / "i.nii.gz").write_bytes(b"damaged")
    (root / "j.bin").write_bytes(b"nothing")


def test_every_format_is_looked_through_and_nothing_is_told(tmp_path: Path, home: Path) -> None:
    root = tmp_path / "root"
    planted(root)
    found = api.find_phi(root, out=tmp_path / "phi.json")
    assert not found.clean
    assert found.files == len(list(root.iterdir()))
    assert found.counts["free-text fields of the header"] == {
        "descrip": 2,
        "extension": 2,
        "key of its own": 2,
        "text or EXIF entry": 1,
    }
    assert found.counts["text may be burnt into the pixels"] == {
        "lines like writing in the pixels": 1
    }
    texts = found.counts["free text like a name, a date or a number"]
    assert texts == {"entry of a JSON file": 1, "line of a table": 1, "Manufacturer": 1}
    assert found.counts["attributes of the basic profile"]["PatientName"] == 1
    assert found.counts["file or folder names like a name, a date or a number"] == {"name": 1}
    assert found.unreadable == 1
    told = found.text + (tmp_path / "phi.json").read_text()
    assert "zzyzx" not in told.lower()
    assert "1961" not in told
    assert (home / "private.log").read_text().count("Zzyzx") >= 6


def test_a_clean_tree_is_called_clean(tmp_path: Path, home: Path) -> None:
    api.phantoms(tmp_path / "a", size=32, count=2)
    found = api.find_phi(tmp_path / "a")
    assert found.clean, found.text
    assert not (home / "private.log").exists()


def test_numbers_of_a_sidecar_are_looked_at() -> None:
    tree = {"PatientBirthDate": 19700131, "mrn": [12345678], "RepetitionTime": 2.3, "raw": True}
    found = looked("a.json", json.dumps(tree).encode(), pixels=False).found
    assert [one.value for one in found] == ["PatientBirthDate: 19700131", "mrn: 12345678"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("ending", ["xml", "tsv"])
def test_texts_of_any_kind_are_looked_through(ending: str, encoding: str) -> None:
    text = f"<scan>\n<name>{NAME}</name>\n<born>1961-02-03</born>\n</scan>\n"
    one = looked(f"a.{ending}", text.encode(encoding), pixels=False)
    assert len(one.found) == 2
    assert one.format == ("text" if ending == "xml" else "table")


@pytest.mark.parametrize("ending", ["json", "csv", "xml"])
def test_what_is_too_large_is_no_clean_file(ending: str) -> None:
    content = b'["' + b"a " * 2**21 + b'"]'
    assert "too large" in looked(f"a.{ending}", content, pixels=False).problem


@pytest.mark.parametrize("content", [b"\0\1\2", "Zzyzx, Quentin".encode("utf-16-le"), b"\xff\0"])
def test_files_of_unknown_kinds_are_told_and_not_called_clean(
    tmp_path: Path, home: Path, content: bytes
) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a.bin").write_bytes(content)
    found = api.find_phi(tmp_path / "root", out=tmp_path / "phi.json")
    assert not found.clean
    assert "of unknown kinds, looked at by name alone: 1" in found.text
    assert json.loads((tmp_path / "phi.json").read_text())["unknown"] == 1
    assert "a.bin" in (home / "private.log").read_text()


def test_pixels_can_be_skipped(tmp_path: Path) -> None:
    data = dcmread(str(get_testdata_file("CT_small.dcm", download=False)))
    data.BurnedInAnnotation = "NO"
    pixels = data.pixel_array.copy()
    pixels[4:32] = np.where(np.indices(pixels[4:32].shape)[1] % 6 < 2, 4000, pixels[4:32])
    data.PixelData = pixels.tobytes()
    data.save_as(tmp_path / "a.dcm")
    content = (tmp_path / "a.dcm").read_bytes()
    wheres = [
        {one.where for one in looked("a.dcm", content, pixels=pixels).found}
        for pixels in (True, False)
    ]
    assert "lines like writing in the pixels" in wheres[0] - wheres[1]


def test_places_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        api.find_phi(tmp_path / "nowhere")
    (tmp_path / "there.json").write_text("{}")
    with pytest.raises(OutputError, match="there already"):
        api.find_phi(tmp_path, out=tmp_path / "there.json")
