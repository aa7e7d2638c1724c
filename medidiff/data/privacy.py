"""Names kept apart from everything that leaves the site: pseudonyms and the private log.

A pseudonym is an HMAC with a key that stays at the site. An unsalted hash of a record number would
be guessed by trying all numbers.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from medidiff.errors import ConfigError, MedidiffError

KEY_VARIABLE = "MEDIDIFF_SITE_KEY"
HOME_VARIABLE = "MEDIDIFF_HOME"
KEY_BYTES = 32
LEAST_KEY_BYTES = 16
LEAST_DAYS, MOST_DAYS = 365, 3650


def home() -> Path:
    """The folder for this user's key and caches: MEDIDIFF_HOME, else ~/.config/medidiff."""
    stated = os.environ.get(HOME_VARIABLE)
    return Path(stated) if stated else Path.home() / ".config" / "medidiff"


@dataclass(frozen=True)
class SiteKey:
    """The secret behind the pseudonyms; it never enters a model, a log or a server."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) < LEAST_KEY_BYTES:
            raise ConfigError(
                f"the site key has {len(self.secret)} bytes; it needs at least {LEAST_KEY_BYTES} "
                f"({2 * LEAST_KEY_BYTES} hexadecimal digits)"
            )

    @classmethod
    def load(cls) -> SiteKey:
        """The site's key: from MEDIDIFF_SITE_KEY (hexadecimal), else from `home()`/site.key.

        The file is made, readable by its owner alone, when it is first needed. Sites that compare
        results share one key.
        Errors: ConfigError if the key is not hexadecimal, too short, or readable by others.
        """
        stated = os.environ.get(KEY_VARIABLE)
        if stated:
            return cls(_from_hex(stated, KEY_VARIABLE))
        path = home() / "site.key"
        if not path.exists():
            _make_key(path)
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise ConfigError(f"{path} can be read by others; run: chmod 600 {path}")
        return cls(_from_hex(path.read_text(encoding="ascii"), str(path)))

    def pseudonym(self, subject: str) -> str:
        """The name under which a subject appears in results: "S-" and 12 hexadecimal digits.

        A pseudonym stays as it is, so that a manifest of pseudonyms and its results agree.
        """
        if re.fullmatch(r"S-[0-9a-f]{12}", subject):
            return subject
        return f"S-{self._digest(subject).hex()[:12]}"

    def uid(self, original: str) -> str:
        """The UID that stands for another: the same for the same one, wherever it is referred to.

        Under 2.25, which DICOM allows for UIDs made of UUIDs (PS3.5, B.2).
        """
        return f"2.25.{uuid.UUID(bytes=self._digest(f'uid/{original}')[:16], version=5).int}"

    def days_back(self, subject: str) -> int:
        """By how many days a subject's dates are moved into the past: one to ten years."""
        number = int.from_bytes(self._digest(f"dates/{subject}")[:8], "big")
        return LEAST_DAYS + number % (MOST_DAYS - LEAST_DAYS)

    def _digest(self, text: str) -> bytes:
        return hmac.new(self.secret, text.encode(), hashlib.sha256).digest()


def _from_hex(text: str, where: str) -> bytes:
    try:
        return bytes.fromhex(text.strip())
    except ValueError:
        raise ConfigError(f"{where} does not hold a key: hexadecimal digits are expected") from None


def _make_key(path: Path) -> None:
    """Written aside and linked into place: of two processes that start together one wins, whole."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    aside = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(KEY_BYTES) + "\n")
    try:
        os.link(aside, path)
    except FileExistsError:
        return
    finally:
        aside.unlink()


@dataclass(frozen=True)
class PrivateLog:
    """A log on the local disk, readable by its owner alone, that may name files and subjects."""

    path: Path

    def write(self, text: str) -> None:
        """Adds `text` with the time. Lines of several threads and processes do not mix."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        descriptor = os.open(self.path, flags, 0o600)
        try:
            os.fchmod(descriptor, 0o600)  # a file that was there before may be open to others
            line = f"{datetime.now(UTC).isoformat(timespec='seconds')} {text.rstrip()}\n"
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)


def keep_private(text: str) -> str:
    """Writes `text` to `home()`/private.log; gives where it is now, for messages.

    An error must reach its user even where the log cannot be written; then this says so.
    """
    log = home() / "private.log"
    try:
        PrivateLog(log).write(text)
    except OSError as error:
        return f"no log, because {log} cannot be written ({error.strerror})"
    return str(log)


@contextmanager
def names_kept_private() -> Iterator[None]:
    """What an error that leaves the block may name is written to the private log, once, and the
    error says where that is."""
    try:
        yield
    except MedidiffError as error:
        if error.private and error.private_log is None:
            error.private_log = keep_private(error.private)
            error.add_note(f"names are in {error.private_log}")
        raise
