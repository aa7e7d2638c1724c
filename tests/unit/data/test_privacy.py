"""Names stay at the site."""

from __future__ import annotations

import hashlib
import hmac
import stat
from pathlib import Path

import pytest

from medidiff.data.privacy import PrivateLog, SiteKey
from medidiff.errors import ConfigError


def test_the_key_is_made_once_and_only_its_owner_reads_it(own_home: Path) -> None:
    first, second = SiteKey.load(), SiteKey.load()
    assert first == second
    assert stat.S_IMODE((own_home / "site.key").stat().st_mode) == 0o600
    assert [path.name for path in own_home.iterdir()] == ["site.key"]
    assert first.secret.hex() not in repr(first)


def test_the_environment_comes_before_the_file(
    monkeypatch: pytest.MonkeyPatch, own_home: Path
) -> None:
    monkeypatch.setenv("MEDIDIFF_SITE_KEY", "ab" * 32)
    assert SiteKey.load().secret == b"\xab" * 32
    assert not own_home.exists()


def test_a_pseudonym_is_a_keyed_hash(key: SiteKey) -> None:
    digest = hmac.new(key.secret, b"patient 7", hashlib.sha256).hexdigest()
    assert key.pseudonym("patient 7") == "S-" + digest[:12]
    assert SiteKey(b"another key of 16").pseudonym("patient 7") != key.pseudonym("patient 7")


@pytest.mark.parametrize("stated", ["ab" * 4, "not hexadecimal at all"])
def test_weak_keys_are_refused(monkeypatch: pytest.MonkeyPatch, stated: str) -> None:
    monkeypatch.setenv("MEDIDIFF_SITE_KEY", stated)
    with pytest.raises(ConfigError):
        SiteKey.load()


def test_a_key_that_others_can_read_is_refused(own_home: Path) -> None:
    SiteKey.load()
    (own_home / "site.key").chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        SiteKey.load()


def test_the_private_log_is_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "private.log"
    path.parent.mkdir()
    path.write_text("")
    path.chmod(0o644)
    log = PrivateLog(path)
    log.write("row 3: /scans/x.nii")
    log.write("row 4: /scans/y.nii")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [line.split(" ", 1)[1] for line in path.read_text().splitlines()] == [
        "row 3: /scans/x.nii",
        "row 4: /scans/y.nii",
    ]
