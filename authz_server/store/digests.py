"""Bearer values are stored only as digests: whoever reads the database can use none of them.

A plain SHA-256 is enough because every value has at least 128 bits of randomness; a slow hash is
for passwords people choose.
"""

import hashlib
from base64 import urlsafe_b64encode
from collections.abc import Callable
from typing import Final

SECRET_BYTES: Final = 32  # RFC 6749 §10.10 asks for 128 bits; we take 256


def new_secret(random: Callable[[int], bytes]) -> str:
    """A fresh bearer value: 43 characters of base64url."""
    return urlsafe_b64encode(random(SECRET_BYTES)).rstrip(b"=").decode()


def digest_of(secret: str) -> str:
    """What is stored and looked up instead of `secret`; any text is accepted."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
