"""A name is planted in every place that a scan, its files and its manifest have; then all that the
program writes is searched for it."""

from __future__ import annotations

import gzip
import json
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813  (its usual name)
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom import DataElement, Dataset, dcmread
from pydicom.datadict import DicomDictionary, dictionary_VR, keyword_for_tag

from medidiff import api, cli
from medidiff.data.population import PopulationOptions, draw, write

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "smoke-2d.yaml"
NAME = "Quentinzzyzx"
FORMS = (NAME, NAME.lower(), NAME.upper())
TEXTS = ("PN", "LO", "SH", "LT", "ST", "UC", "UT")
NEEDED = {"PatientSex", "PatientAge", "CodeValue", "BodyPartExamined"}
FILES = 18


def planted_dicom(folder: Path) -> None:
    """Every text attribute of the dictionary at three depths, private ones, the file header."""
    tags = [
        tag
        for tag in DicomDictionary
        if dictionary_VR(tag) in TEXTS and tag >> 16 > 2 and keyword_for_tag(tag) not in NEEDED
    ]
    for file in sorted(folder.iterdir()):
        data = dcmread(file)
        inner, deeper = Dataset(), Dataset()
        for place in (data, inner, deeper):
            for tag in tags:
                place.add(DataElement(tag, dictionary_VR(tag), NAME))
            block = place.private_block(0x0009, NAME, create=True)
            block.add_new(0x01, "LO", NAME)
        inner.ReferencedSeriesSequence = [deeper]
        data.RequestAttributesSequence = [inner]
        data.SpecificCharacterSet = "ISO_IR 192"
        data.file_meta.SourceApplicationEntityTitle = NAME
        data.preamble = NAME.encode().ljust(128, b"\0")
        data.save_as(folder / f"{NAME}_{file.name}")
        file.unlink()


def planted_nifti(image: nibabel.Nifti1Image, file: Path) -> None:
    """A NIfTI whose free texts and extension hold the name, with a sidecar that does."""
    for field in ("descrip", "aux_file", "intent_name", "db_name"):
        image.header[field] = NAME
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", NAME.encode()))
    nibabel.save(image, file)
    sidecar = {"PatientName": NAME, "SeriesDescription": f"T1 {NAME}"}
    file.with_name(file.name.replace(".nii.gz", ".json")).write_text(json.dumps(sidecar))


def planted(folder: Path) -> Path:
    """A population whose files are of five formats; gives its manifest."""
    root = folder / f"{NAME} export"
    root.mkdir()
    rows = ["subject,session,image,sex:category,age:number,referrer,note,split"]
    options = PopulationOptions("head", 2, 32, seed=9)
    write(folder / "dicom", options, {"train": FILES}, format="dicom")
    for index in range(FILES):
        made = draw(options, index)
        split = "train" if index < 10 else "val" if index < 14 else "test"
        subject = f"{NAME}-{index}"
        kind = ("dicom", "nifti", "nrrd", "nifti", "mha")[index % 5]
        place = root / f"{subject}"
        if kind == "dicom":
            shutil.copytree(folder / "dicom" / "images" / f"phantom{index:04d}", place)
            planted_dicom(place)
        elif kind == "nifti":
            place = place.with_name(f"{subject}.nii.gz")
            planted_nifti(nibabel.Nifti1Image(made.image, made.affine), place)
        else:
            place = place.with_name(f"{subject}.{kind}")
            image = sitk.GetImageFromArray(made.image[None])
            image.SetSpacing((6.875, 6.875, 6.875))
            image.SetMetaData(f"Comment_{NAME}", NAME)
            image.SetMetaData("PatientName", NAME)
            sitk.WriteImage(image, str(place))
        cells = [subject, f"visit {NAME}", f"{root.name}/{place.name}", made.subject.sex]
        rows.append(",".join([*cells, str(made.subject.age), f"Dr {NAME}", NAME, split]))
    shutil.rmtree(folder / "dicom")
    manifest = folder / f"{NAME}.csv"
    manifest.write_text("\n".join(rows) + "\n")
    return manifest


def contents(root: Path) -> Iterator[tuple[str, bytes]]:
    """Every file and folder's name and content, packed ones unpacked too."""
    for path in sorted(root.rglob("*")):
        yield f"name of {path.relative_to(root)}", str(path.relative_to(root)).encode()
        if not path.is_file():
            continue
        content = path.read_bytes()
        yield str(path.relative_to(root)), content
        if content[:2] == b"\x1f\x8b":
            yield f"{path.name}, unpacked", gzip.decompress(content)
        if path.suffix == ".png":
            with Image.open(path) as picture:
                yield f"{path.name}, texts", str(picture.info).encode()


def found_in(root: Path) -> list[str]:
    wanted = [form.encode() for form in FORMS] + [NAME.encode("utf-16-le")]
    return [where for where, content in contents(root) if any(each in content for each in wanted)]


def test_the_search_finds_what_it_looks_for(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"x{NAME.lower()}y")
    (tmp_path / "b.gz").write_bytes(gzip.compress(NAME.encode()))
    (tmp_path / NAME).mkdir()
    info = PngInfo()
    info.add_text("k", NAME, zip=True)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "c.png", pnginfo=info)
    assert zlib.compress(NAME.encode()) != NAME.encode()
    assert len(found_in(tmp_path)) == 4


@pytest.fixture
def told(capfd: pytest.CaptureFixture[str]):
    def read() -> str:
        captured = capfd.readouterr()
        return captured.out + captured.err

    return read


@pytest.mark.slow
def test_no_planted_name_comes_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told) -> None:
    manifest = planted(tmp_path)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("MEDIDIFF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{work / 'mlflow.db'}")

    def verb(line: str, *words: str) -> None:
        monkeypatch.setattr("sys.argv", ["medidiff", *line.split(), *words])
        with pytest.raises(SystemExit) as done:
            cli.main()
        assert not done.value.code, f"{line}: {told()}"

    linked = work / "scans.csv"  # the user's name for it; what stands in it is the leak
    linked.write_text(manifest.read_text().replace(f"{NAME} export", f"../{NAME} export"))
    verb(f"check {CONFIG} -c data.manifest=scans.csv")
    verb(f"train {CONFIG} -c data.manifest=scans.csv -c output=run --register m --alias best")
    verb("sample run --n 2 --out samples")
    verb("evaluate run --manifest scans.csv --n 4 --out evaluation")
    verb(
        "benchmark denoise run --manifest scans.csv --set sigma=0.1 --limit 2 --baselines none "
        "--out benchmark"
    )
    scans = tmp_path / f"{NAME} export"
    for number, name in enumerate((f"{NAME}-15", f"{NAME}-11.nii.gz", f"{NAME}-12.nrrd")):
        results = api.run("denoise", "run", [[scans / name]], sigma=0.1, seed=0)
        results[0].save(work / f"result{number}.nii.gz")
    verb("export run --out copy")
    verb("export models:/m@best --out from-registry")
    verb("manifest build --out built.csv", str(scans))
    verb("deidentify --dates shift", str(scans), "clean")
    monkeypatch.setattr("sys.argv", ["medidiff", "find-phi", "clean", "--out", "phi.json"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert found_in(scans)
    for made in ("run/model", "samples", "evaluation", "benchmark", "copy", "clean", "mlflow.db"):
        assert (work / made).exists(), made
    assert len(list((work / "clean").rglob("*.dcm"))) == 4
    linked.unlink()
    shown = told()
    assert not any(form in shown for form in FORMS), shown
    # a manifest that is built says where the scans lie, and others' names are their subjects
    for stays in ("built.csv", "built.series"):
        path = work / stays
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert found_in(work) == []
    assert caught.value.code in (0, 1, None)
    private = (tmp_path / "home" / "private.log").read_text()
    assert NAME in private
