"""Typed paths that are not there, told at once: before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medidiff.errors import ConfigError, DataError, ManifestError


def check_scans(*places: Path) -> None:
    """FILE[2] names one image of a file.

    Errors: DataError for a folder or file of scans that is not there.
    """
    for place in places:
        whole = (
            place.with_name(place.name.rpartition("[")[0]) if place.name.endswith("]") else place
        )
        if not (place.exists() or whole.exists()):
            raise DataError(f"{place}: there is no such folder or file; check the path")


def check_manifest(place: Path) -> None:
    """Errors: ManifestError for a manifest that is not there."""
    if not place.exists():
        raise ManifestError(
            f"{place}: there is no such manifest; check the path, or write one with "
            "'medidiff manifest build'"
        )


def check_config(file: Path, changes: Sequence[str]) -> None:
    """Looks for a configuration and for the manifest that it names; all else is left to who reads
    it.

    Errors: ConfigError, ManifestError.
    """
    import yaml

    from medidiff.changes import MANIFEST, parse_change

    if not file.exists():
        raise ConfigError(
            f"{file}: there is no such configuration; check the path, or have one "
            "planned with 'medidiff plan'"
        )
    typed = dict(map(parse_change, changes)).get(MANIFEST)
    if isinstance(typed, str):
        check_manifest(Path(typed).expanduser())
    if changes:  # one of them may be misspelt, or name the data: who reads them says that first
        return
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
        named = tree["data"]["manifest"]
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
        return
    if isinstance(named, str):
        check_manifest(file.parent / named)
