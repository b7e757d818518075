"""Reads a person's token of their identity provider, for an agent that presents it (RFC 8693)."""

import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, Final

from countersign.admin_client import AdminError
from token_exchange.token_types import (
    MAXIMUM_TOKEN_BYTES,
    TOKEN_TYPE_ACCESS_TOKEN,
    TOKEN_TYPE_ID_TOKEN,
)

STANDARD_INPUT: Final = Path("-")


class PersonTokenType(StrEnum):
    """Kinds of token a provider gives for a person."""

    ID_TOKEN = "id_token"  # noqa: S105 - a kind
    ACCESS_TOKEN = "access_token"  # noqa: S105 - a kind


TOKEN_TYPES: Final[Mapping[PersonTokenType, str]] = {
    PersonTokenType.ID_TOKEN: TOKEN_TYPE_ID_TOKEN,
    PersonTokenType.ACCESS_TOKEN: TOKEN_TYPE_ACCESS_TOKEN,
}


def read_subject_token(path: Path, standard_input: BinaryIO | None = None) -> str:
    """The token, without the white space around it.

    Raises:
        AdminError: Not readable, empty, or more than a token can be. The text is never in it.
    """
    try:
        if path == STANDARD_INPUT:
            data = (standard_input or sys.stdin.buffer).read(MAXIMUM_TOKEN_BYTES + 1)
        else:
            with path.open("rb") as file:
                data = file.read(MAXIMUM_TOKEN_BYTES + 1)
        token = data.decode("ascii").strip()
    except OSError as error:
        raise AdminError("subject_token", f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise AdminError("subject_token", f"{path}: not a token, which is ASCII") from None
    if not token or len(data) > MAXIMUM_TOKEN_BYTES:
        raise AdminError("subject_token", f"{path}: empty, or too long for a token")
    return token
