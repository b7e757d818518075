"""How a process becomes part of a Gateway, once: a single-use code against its public key.

The join string is `CODE.THUMBPRINT`: the code proves us to the authority, the thumbprint proves
the authority's control key to us. What is learnt is kept beside the key; a restart reuses it.
"""

import os
import re
from pathlib import Path
from typing import Any, Final

import msgspec

from mcp_gateway.authority import Authority, AuthorityRequest, AuthorityUnreachableError
from mcp_gateway.clock import Clock
from mcp_gateway.gateway_key import GatewayKey
from token_exchange.keys import VerificationKeys

MAXIMUM_ANSWER_BYTES: Final = 16_384
_JOIN: Final = re.compile(r"(?P<code>[^.\s]{16,256})\.(?P<thumbprint>[A-Za-z0-9_-]{43})")
_CREATED: Final = (200, 201)


class EnrolmentError(Exception):
    """Enrolment failed; the text may be shown to the operator."""


class GatewayIdentity(msgspec.Struct, frozen=True):
    """Who this process is to the authority, and the one key whose snapshots it believes."""

    client_id: str
    gateway: str
    issuer: str
    control_key: dict[str, Any]


async def enrol(
    *, authority: Authority, key: GatewayKey, issuer: str, join: str, clock: Clock
) -> GatewayIdentity:
    """Trade the join string for an identity.

    Raises:
        EnrolmentError: the string is malformed, the authority refuses or cannot be reached, or it
            answers for another issuer or with another control key than the string names.
    """
    parsed = _JOIN.fullmatch(join)
    if parsed is None:
        raise EnrolmentError("The join string is not of the form CODE.THUMBPRINT.")
    url = f"{issuer}/control/v1/enrol"
    request = AuthorityRequest(
        method="POST",
        url=url,
        headers={
            "content-type": "application/json",
            "dpop": key.dpop_proof(method="POST", uri=url, now=int(clock())),
        },
        body=msgspec.json.encode({"code": parsed["code"], "jwk": key.public_jwk}),
        maximum_bytes=MAXIMUM_ANSWER_BYTES,
    )
    try:
        answer = await authority.ask(request)
    except AuthorityUnreachableError as error:
        raise EnrolmentError(f"{issuer} could not be reached.") from error
    if answer.status not in _CREATED:
        raise EnrolmentError(f"{issuer} refused the code (HTTP {answer.status}).")
    try:
        identity = msgspec.json.decode(answer.body, type=GatewayIdentity)
        thumbprint = VerificationKeys.thumbprint_of(identity.control_key)
    except (msgspec.MsgspecError, ValueError) as error:
        raise EnrolmentError(f"{issuer} gave an answer that is not an enrolment.") from error
    # INVARIANT: only what came with the code, out of band, decides which control key is believed.
    if thumbprint != parsed["thumbprint"]:
        raise EnrolmentError(f"{issuer} answered with another control key than the code names.")
    if identity.issuer != issuer:
        raise EnrolmentError(f"{issuer} says it is another issuer.")
    return identity


def load_identity(path: Path) -> GatewayIdentity | None:
    """The identity kept at `path`, if there is one.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return msgspec.json.decode(text, type=GatewayIdentity)
    except msgspec.MsgspecError as error:
        raise ValueError(f"{path} is not a gateway's enrolment") from error


def save_identity(path: Path, identity: GatewayIdentity) -> None:
    """Keep an identity, whole or not at all."""
    draft = path.with_suffix(".new")
    with draft.open("wb") as file:
        file.write(msgspec.json.encode(identity))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
