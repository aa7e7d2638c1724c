"""Sidecars, tables and other texts looked through for what identifies."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import Any

from pydicom.datadict import tag_for_keyword

from medidiff.data.confidentiality.finding_phi import TEXT, Found, looks_identifying
from medidiff.data.confidentiality.table import rules

LARGEST_TEXT = 2**22
TOO_LARGE = "too large to be looked at"


def sidecar(content: bytes, name: str) -> list[Found]:
    """Entries named as attributes that the profile removes, and those that look identifying."""
    found = []
    for key, value in _entries(json.loads(content)):
        tag = tag_for_keyword(key)
        if (tag is not None and int(tag) in rules() and value) or looks_identifying(value):
            found.append(Found(TEXT, "entry of a JSON file", f"{key}: {value}"))
    return found


def _entries(tree: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Texts and numbers with the names that they stand under."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            yield from _entries(value, str(name))
    elif isinstance(tree, list):
        for value in tree:
            yield from _entries(value, key)
    elif isinstance(tree, str | int | float) and not isinstance(tree, bool):
        yield key, str(tree)


def table(content: bytes, name: str) -> list[Found]:
    """Lines that look identifying.

    Errors: ValueError for what is no text.
    """
    text = text_of(content)
    if text is None:
        if b"\0" in content:
            raise ValueError("no text")
        text = content.decode("latin-1")
    return _lines(text, "line of a table")


def other_text(text: str) -> list[Found]:
    """Lines that look identifying, of a text of no known kind."""
    return _lines(text, "line of a text file")


def text_of(content: bytes) -> str | None:
    """What is written in a file, in UTF-8 or after a mark of UTF-16; None for what is no text."""
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if marked else "utf-8")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def _lines(text: str, where: str) -> list[Found]:
    return [Found(TEXT, where, line) for line in text.splitlines() if looks_identifying(line)]
