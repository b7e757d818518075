"""How the ids in tokens, events and decisions look. Randomness is a parameter."""

import base64
from collections.abc import Callable
from typing import Final

ID_BYTES: Final = 16  # 128 bits: an id also is what a block names, so it must not be guessable


def new_id(prefix: str, random: Callable[[int], bytes]) -> str:
    """A fresh id such as `tok_` and 26 lower-case base32 characters.

    Args:
        prefix: the kind, with or without its underscore (`tok_` and `tok` say the same).
        random: gives that many unpredictable bytes, such as `secrets.token_bytes`.

    Raises:
        ValueError: the random source gave another number of bytes.
    """
    data = random(ID_BYTES)
    if len(data) != ID_BYTES:
        raise ValueError("the random source gave the wrong number of bytes")
    text = base64.b32encode(data).decode("ascii").rstrip("=").lower()
    return f"{prefix.removesuffix('_')}_{text}"
