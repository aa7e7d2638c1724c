"""What may leave the machine: names and values, checked before they are written anywhere.

File names of scans often hold a patient's name or number, so nothing that looks like one is logged.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import PurePath
from typing import Any

from medidiff.errors import MedidiffError

MAX_KEY = 250  # MLflow's limit for the names of params, metrics and tags

_ABSOLUTE = re.compile(r"^\s*(/\w|~/|[A-Za-z]:[\\/]|\\\\|file:)", re.IGNORECASE)
_ABSOLUTE_INSIDE = re.compile(
    r"""["'](/\w|~/)|[\s"'=,;:(\[](/[\w.-]+){2,}|[\s"'=,;(\[]([A-Za-z]:\\|file:/)"""
)
_SCAN = re.compile(
    r"\.(nii|nii\.gz|dcm|dicom|ima|mha|mhd|nrrd|nhdr|mgh|mgz|hdr|img|png|jpe?g|tiff?|bmp)\b(?!\.?\w)",
    re.IGNORECASE,
)
_NOT_IN_KEY = re.compile(r"[^\w\-. :/]", re.ASCII)


class PrivacyError(MedidiffError):
    """Something that may name a patient was about to be logged. `.private` holds it."""


class Guard:
    """Refuses names and values that look like files of scans, or that hold a subject of `subjects`.

    Subjects of fewer than four characters are not searched for: they occur in innocent values.
    """

    def __init__(self, subjects: Collection[str] = ()) -> None:
        words = sorted({re.escape(subject) for subject in subjects if len(subject) >= 4})
        self._subject = (
            re.compile(rf"(?<![0-9A-Za-z])({'|'.join(words)})(?![0-9A-Za-z])") if words else None
        )

    def check(self, what: str, text: str) -> None:
        """Errors: PrivacyError if `text` may name a patient; `what` says where it stood."""
        found = "the file name of an image" if _SCAN.search(text) else None
        self._refuse(what, text, self._place_or_subject(text) or found)

    def check_file(self, what: str, name: str) -> None:
        """As `check`, for the name that a file has in the store: it may end in .png."""
        self._refuse(what, name, self._place_or_subject(name))

    def _refuse(self, what: str, text: str, found: str | None) -> None:
        if found:
            raise PrivacyError(
                f"{what} looks like {found}, which may name a patient, so it is not logged. "
                "Log a digest, a pseudonym or a count instead.",
                private=f"{what}: {text}",
            )

    def _place_or_subject(self, text: str) -> str | None:
        if _ABSOLUTE.search(text) or _ABSOLUTE_INSIDE.search(text):
            return "an absolute path"
        if self._subject is not None and self._subject.search(text):
            return "a subject of the manifest"
        return None

    def check_values(self, what: str, values: Mapping[str, Any]) -> None:
        """Check each name and each text value. `what` is the singular: "param", "tag", "metric"."""
        for number, (key, value) in enumerate(values.items(), 1):
            self.check(f"the name of {what} {number}", key)
            if not isinstance(value, bool | int | float):
                self.check(f"{what} {key!r}", text_of(value))


def text_of(value: Any) -> str:
    """A value as MLflow stores it: text and paths as they are, all else as JSON."""
    return str(value) if isinstance(value, str | PurePath) else json.dumps(value, default=str)


def key_of(key: str) -> str:
    """The name as MLflow allows it: other characters become "_", at most 250 of them."""
    parts = [part for part in _NOT_IN_KEY.sub("_", key).split("/") if part]
    return "/".join("_" if set(part) <= {"."} else part for part in parts)[:MAX_KEY] or "_"


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted names.

    Errors: ValueError if two names become the same for MLflow.
    """
    result: dict[str, Any] = {}
    for key, value in tree.items():
        name = prefix + str(key)
        inner = (
            flat(value, name + ".")
            if isinstance(value, Mapping) and value
            else {key_of(name): value}
        )
        shared = result.keys() & inner.keys()
        if shared:
            raise ValueError(f"two params have the same name for MLflow: {sorted(shared)[0]!r}")
        result |= inner
    return result
