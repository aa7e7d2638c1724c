"""Which rows are trained on, chosen by, and reported."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from medidiff.data.rows import Manifest, Row
from medidiff.errors import ManifestError


@dataclass(frozen=True)
class Splits:
    """Names of a manifest's splits; `holdout` makes a validation split where there is none."""

    train: str = "train"
    validation: str = "val"
    holdout: float = 0.0
    """Share of the train subjects held out for validation, chosen by a hash of the subject."""

    def rows(self, manifest: Manifest, name: str) -> list[Row]:
        """The rows of a split, with held-out subjects where they belong.

        Errors: ManifestError if there are none.
        """
        if self.holdout > 0 and manifest.split(self.validation):
            raise ManifestError(
                f"{manifest.path}: it has a split {self.validation!r}, and a share of "
                f"{self.train!r} is to be held out as well; choose one of the two"
            )
        if self.holdout > 0 and name == self.validation:
            found = [row for row in manifest.split(self.train) if self._is_held_out(row)]
        elif self.holdout > 0 and name == self.train:
            found = [row for row in manifest.split(self.train) if not self._is_held_out(row)]
        else:
            found = list(manifest.split(name))
        if not found:
            raise ManifestError(self._nothing(manifest, name))
        return found

    def stored(self, *names: str) -> list[str]:
        """The splits of these that must be in the manifest itself."""
        return [name for name in names if self.holdout == 0 or name != self.validation]

    def _is_held_out(self, row: Row) -> bool:
        # a hash, not a draw: the same subjects are held out whatever else the manifest holds
        number = int.from_bytes(hashlib.sha256(row.subject.encode()).digest()[:8], "big")
        return number / 2**64 < self.holdout

    def _nothing(self, manifest: Manifest, name: str) -> str:
        there = manifest.splits_shown()
        if self.holdout > 0:
            return (
                f"{manifest.path}: holding out {self.holdout:g} of the subjects of {self.train!r} "
                f"leaves no row for {name!r} (splits: {there}); choose another share"
            )
        advice = ""
        if name == self.validation:
            advice = (
                ". Add one, or hold out a share of the training subjects "
                "(data.holdout=0.15 in a configuration, --holdout 0.15 on the command line)"
            )
        return f"{manifest.path}: no row is in split {name!r} (splits: {there}){advice}"
