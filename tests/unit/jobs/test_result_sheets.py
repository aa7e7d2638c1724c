"""The picture beside a result shows the input, the result and the deviation, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from medidiff.cli import app
from medidiff.data.intensity import FittedIntensity
from medidiff.data.options import Slices, Space
from medidiff.jobs import result_sheets
from medidiff.jobs.result_sheets import save_sheet, sheet_file
from medidiff.model import Model
from medidiff.networks import NetworkShape, UNetOptions, build
from medidiff.spec import ModelSpec
from medidiff.tasks import Denoising, Head, Reconstruction, SuperResolution
from medidiff.tasks.results import Result

NETWORK = UNetOptions(channels=(8,), blocks=1, attention=(False,), groups=2)
SIZE = (16, 12)


def model_of(*channels: str) -> Model:
    count = len(channels)
    shape = NetworkShape(2, count, count)
    ends = tuple(100.0 * (channel + 1) for channel in range(count))
    intensity = FittedIntensity((0.0,) * count, ends, "train", None, (-1.0, 1.0))
    spec = ModelSpec("tiny", "MR", channels, Space(2, SIZE, (1.0, 1.0)), intensity, NETWORK, shape)
    return Model(spec, build(NETWORK, shape).eval())


def scan(tmp_path: Path, size: tuple[int, ...] = SIZE, name: str = "DOE") -> Path:
    values = np.linspace(0, 100, int(np.prod(size)), dtype=np.float32).reshape(*size, 1)
    file = tmp_path / f"{name}.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.squeeze(values), np.eye(4)), file)  # type: ignore
    return file


def result_of(channels: int, *size: int, n: int = 1) -> Result:
    image = np.full((channels, *size), 50, np.float32)
    maps = {} if n == 1 else {"std": np.full_like(image, 12.5)}
    return Result(image, np.eye(4), {}, maps)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What is drawn, by name; nothing is."""
    found: dict[str, Any] = {}

    def sheet(images: Any, path: Path, **told: Any) -> Path:
        found.update(told, images=images)
        return path

    monkeypatch.setattr(result_sheets, "sheet", sheet)
    return found


def test_it_shows_input_result_and_deviation_in_the_models_window(
    tmp_path: Path, drawn: dict[str, Any]
) -> None:
    files, model = [scan(tmp_path)], model_of("image")
    place = save_sheet(result_of(1, *SIZE, n=2), Denoising(), model, files, tmp_path / "a.nii.gz")
    assert place == tmp_path / "a.png"
    assert drawn["titles"] == ["input", "result", "deviation (white: 1/8 window)"]
    assert drawn["window"] == (0.0, 100.0)
    given, made, deviation = drawn["images"]
    assert float(given.max()) == 100
    assert float(made.mean()) == 50
    assert float(deviation.mean()) == 100  # an eighth of the window is white
    assert "DOE" not in str(drawn)


def test_of_a_picture_that_cannot_be_written_whole_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sheet(images: Any, path: Path, **told: Any) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(result_sheets, "sheet", sheet)
    with pytest.raises(OSError, match="no space"):
        save_sheet(
            result_of(1, *SIZE), Denoising(), model_of("a"), [scan(tmp_path)], tmp_path / "a"
        )
    assert not (tmp_path / "a.png").exists()


def test_each_channel_has_a_row_and_its_own_window(tmp_path: Path, drawn: dict[str, Any]) -> None:
    files, model = [scan(tmp_path), scan(tmp_path, name="B")], model_of("t1", "t2")
    save_sheet(result_of(2, *SIZE), Denoising(), model, files, tmp_path / "a.nii.gz")
    assert drawn["titles"] == ["input\nt1", "result\nt1", "input\nt2", "result\nt2"]
    assert (drawn["columns"], drawn["window"]) == (2, (0.0, 1.0))
    assert [float(image.max()) for image in drawn["images"]] == [1.0, 0.5, 0.5, 0.25]


def test_a_volume_that_a_model_of_slabs_took_has_one_channel(
    tmp_path: Path, drawn: dict[str, Any]
) -> None:
    model = model_of("image-1", "image", "image+1")
    model.spec = replace(model.spec, slices=Slices(thickness=3))
    files = [scan(tmp_path, (*SIZE, 5))]
    save_sheet(result_of(1, *SIZE, 5), Denoising(), model, files, tmp_path / "a.nii.gz")
    assert (drawn["titles"], drawn["window"]) == (["input", "result"], (0.0, 100.0))


def test_an_input_that_is_nearly_all_padding_is_shown_in_the_window_of_its_result(
    tmp_path: Path, drawn: dict[str, Any]
) -> None:
    model, file = model_of("image"), tmp_path / "padded.nii.gz"
    intensity = replace(model.spec.intensity, scope="image", percentiles=(1.0, 50.0))
    model.spec = replace(model.spec, intensity=intensity)
    values = np.zeros((*SIZE, 1), np.float32)
    values[0] = 9
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), file)  # type: ignore[attr-defined]
    save_sheet(result_of(1, *SIZE), Denoising(), model, [file], tmp_path / "a.nii.gz")
    assert drawn["window"] == (50.0, 51.0)


@pytest.mark.parametrize(
    ("head", "size", "titles"),
    [
        (SuperResolution(factor=4), (4, 3), ["input", "result"]),
        (Denoising(), (5, 3), ["result"]),  # on no grid that fits
        (Reconstruction(), None, ["result"]),
    ],
)
def test_a_coarser_input_is_shown_by_its_voxels_and_a_measurement_not_at_all(
    head: Head, size: tuple[int, int] | None, titles: list[str], tmp_path: Path, drawn: Any
) -> None:
    files = ["k.npy"] if size is None else [scan(tmp_path, size)]
    result = replace(result_of(1, *SIZE), image=np.arange(192, dtype=np.float32).reshape(1, *SIZE))
    save_sheet(result, head, model_of("image"), files, tmp_path / "a.nii.gz")
    assert drawn["titles"] == titles
    assert {tuple(image.shape) for image in drawn["images"]} == {(1, *SIZE)}
    assert drawn["window"][0] < drawn["window"][1]


def test_the_command_line_writes_it_beside_the_result_and_overwrites_nothing(
    tmp_path: Path,
) -> None:
    folder, file, out = model_of("image").save(tmp_path / "model"), scan(tmp_path), tmp_path / "o"
    words = ["run", "denoise", str(folder), str(file), "--out", str(out), "--sheet"]
    found = CliRunner().invoke(app, [*words, "--set", "sigma=0.1", "--mismatch", "warn"])
    assert found.exit_code == 0, found.output
    picture = sheet_file(out / "DOE-denoise.nii.gz")
    assert str(picture) in found.output
    with Image.open(picture) as image:
        assert image.width > image.height
        assert not any("DOE" in str(value) for value in image.info.values())
    (out / "DOE-denoise.nii.gz").unlink()
    (out / "DOE-denoise.json").unlink()
    again = CliRunner().invoke(app, words)
    assert again.exit_code != 0
    assert [each.name for each in out.iterdir()] == ["DOE-denoise.png"]
