from __future__ import annotations

from pathlib import Path

import pytest

from medidiff.tracking.guard import Guard, PrivacyError, flat, key_of, text_of


@pytest.mark.parametrize(
    "value",
    [
        "/data/patients/x",
        "/data",
        "~/scans",
        r"C:\scans\x",
        r"\\server\share",
        "file:///data/x",
        "read from /mnt/pacs/0012",
        '["/data"]',
        "doe_jane.nii.gz",
        "sub-01/anat/t1.nii",
        "IM0001.dcm, IM0002.dcm",
        "slice.PNG",
        "scan.mha",
    ],
)
def test_what_looks_like_a_scan_or_a_place_is_refused_and_not_repeated(value: str) -> None:
    with pytest.raises(PrivacyError) as caught:
        Guard().check_values("param", {"source": value})
    assert value not in str(caught.value)
    assert "source" in str(caught.value)
    assert value in (caught.value.private or "")


@pytest.mark.parametrize(
    "value",
    [
        "vp-linear",
        "train.csv",
        "1/2",
        "N/A",
        "mm/s",
        "http://127.0.0.1:5000/a/b",
        "sqlite:///mlflow.db",
        "models:/brain@champion",
        "t1, flair (3 T)",
        "[0.5, 99.5]",
        "png",
        "sha256:ab12",
    ],
)
def test_ordinary_values_pass(value: str) -> None:
    Guard().check_values("param", {"source": value})


def test_a_path_in_a_list_or_a_path_object_is_found() -> None:
    for value in (Path("/data/a"), [Path("/data/a")], ("x", "/data/a"), {"a": "b.nii"}):
        with pytest.raises(PrivacyError):
            Guard().check_values("param", {"source": value})


def test_a_subject_is_refused_as_a_word_in_values_and_in_names_and_is_not_repeated() -> None:
    guard = Guard(["IXI002", "ann"])
    for values in ({"note": "best on IXI002-T1"}, {"loss.IXI002": 1.0}):
        with pytest.raises(PrivacyError) as caught:
            guard.check_values("metric", values)
        assert "IXI002" not in str(caught.value)
    guard.check_values("param", {"note": "IXI0021 is another, annual too", "seed": 2})


def test_a_file_may_be_named_as_a_picture_but_not_after_a_subject() -> None:
    guard = Guard(["IXI002"])
    guard.check_file("the name of a file", "sheet.png")
    for name in ("IXI002.png", "/sheet.png"):
        with pytest.raises(PrivacyError):
            guard.check_file("the name of a file", name)


def test_nested_params_become_dotted_names() -> None:
    assert flat({"a": {"b": 1, "c": {"d": [1]}}, "e": {}}) == {"a.b": 1, "a.c.d": [1], "e": {}}


def test_two_params_of_one_name_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"a\.b"):
        flat({"a": {"b": 1}, "a.b": 2})


def test_names_become_what_mlflow_allows() -> None:
    assert key_of("psnr (dB) ± é") == "psnr _dB_ _ _"
    assert key_of("/a//../b/") == "a/_/b"
    assert len(key_of("x" * 400)) == 250


def test_values_become_text() -> None:
    assert text_of("a") == "a"
    assert text_of(None) == "null"
    assert text_of((1, 2)) == "[1, 2]"
    assert text_of(Path("a/b")) == "a/b"
