"""Key-encryption keys, each in a file of its own outside the database directory."""

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final

KEK_BYTES: Final = 32


class KeyFileError(Exception):
    """A key-encryption key cannot be used as it is."""


def load_or_create_kek(path: Path) -> bytes:
    """The 32 bytes in `path`, made 0600 the first time; several processes agree on one.

    Raises:
        KeyFileError: Others may read the file, or it does not hold 32 bytes.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileExistsError):
        _create(path)
    facts = path.stat()
    if facts.st_mode & 0o077 or facts.st_uid not in {0, os.geteuid()}:
        raise KeyFileError(f"{path} must be readable by its owner alone (chmod 600)")
    kek = path.read_bytes()
    if len(kek) != KEK_BYTES:
        raise KeyFileError(f"{path} must hold exactly {KEK_BYTES} bytes")
    return kek


def _create(path: Path) -> None:
    """Whole or not at all: another process never reads half a key."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEK_BYTES))
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    finally:
        temporary.unlink()
