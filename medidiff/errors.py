"""The errors a user can cause, each with one clear message: what, where, what was found, what to
do."""

from __future__ import annotations

from collections.abc import Sequence


class MedidiffError(Exception):
    """An error of the user's making; the command line prints it and exits with code 2.

    The message speaks of manifest rows and columns, for it may end in a shared log. `private` may
    name files and subjects: it is written to the private log only, and `private_log` then says
    where that is.
    """

    def __init__(self, message: str, *, private: str | None = None) -> None:
        super().__init__(message)
        self.private = private
        self.private_log: str | None = None


class ConfigError(MedidiffError):
    """A configuration that cannot be run."""


class ManifestError(MedidiffError):
    """A manifest whose rows cannot be used."""


class DataError(MedidiffError):
    """A scan that cannot be read or does not fit."""


class ModelError(MedidiffError):
    """A model folder that is incomplete, altered or of another kind than asked for."""


class RegistryError(MedidiffError):
    """A name, alias or run that the MLflow server does not have."""


class OutputError(MedidiffError):
    """A place for results that cannot be used, such as a folder that already holds some."""


class TrainingError(MedidiffError):
    """A training that cannot go on, because of some manifest `rows` where these are known."""

    def __init__(
        self, message: str, *, rows: Sequence[int] = (), private: str | None = None
    ) -> None:
        super().__init__(message, private=private)
        self.rows = tuple(rows)


class TaskError(MedidiffError):
    """A head that does not exist or cannot be run on this model or input."""
