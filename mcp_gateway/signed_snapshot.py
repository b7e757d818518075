"""Whether a snapshot is the control key's word to this very Gateway. Pure."""

from typing import Final

import msgspec

from mcp_gateway.enrolment import GatewayIdentity
from registry.snapshot import EnforcementView
from token_exchange.claims import Refusal
from token_exchange.keys import VerificationKeys
from token_exchange.signed_jws import verify_jws
from token_exchange.token_types import SIGNING_ALGORITHM, SNAPSHOT_TYP

MAXIMUM_SNAPSHOT_BYTES: Final = 64 * 1024 * 1024


class SnapshotError(Exception):
    """The snapshot must not be used. The text has no secret."""


def verified_view(document: bytes, identity: GatewayIdentity) -> EnforcementView:
    """The view inside a signed snapshot.

    Raises:
        SnapshotError: another key, another issuer, another Gateway, or not a snapshot.
    """
    verified = verify_jws(
        document.decode("ascii", "replace"),
        keys=VerificationKeys.of((identity.control_key,)),
        algorithms=frozenset((SIGNING_ALGORITHM,)),
        typ=SNAPSHOT_TYP,
        maximum_bytes=MAXIMUM_SNAPSHOT_BYTES,
    )
    if isinstance(verified, Refusal):
        raise SnapshotError(verified.description)
    try:
        view = msgspec.json.decode(verified.payload, type=EnforcementView)
    except msgspec.MsgspecError as error:
        raise SnapshotError("the snapshot has another shape than this version knows") from error
    if view.issuer != identity.issuer or view.gateway.name != identity.gateway:
        raise SnapshotError("the snapshot is for another gateway")
    if view.gateway.client_id != identity.client_id:
        raise SnapshotError("the snapshot names another client")
    return view
