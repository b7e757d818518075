"""Key-encryption keys on disk: made once, ours alone, whole."""

import threading
from pathlib import Path

import pytest

from countersign.key_files import KEK_BYTES, KeyFileError, load_or_create_kek


def test_kek_is_made_once_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "signing.kek"
    first = load_or_create_kek(path)
    assert len(first) == KEK_BYTES
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_or_create_kek(path) == first


def test_kek_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "signing.kek"
    load_or_create_kek(path)
    path.chmod(0o640)
    with pytest.raises(KeyFileError, match="chmod 600"):
        load_or_create_kek(path)


def test_kek_of_another_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "signing.kek"
    path.write_bytes(b"short")
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match="32 bytes"):
        load_or_create_kek(path)


def test_kek_asked_for_by_many_at_once_is_one_key(tmp_path: Path) -> None:
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(load_or_create_kek(tmp_path / "a.kek")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.kek"]
