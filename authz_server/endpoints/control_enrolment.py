"""`/control/v1/enrol`: a key joins a Gateway, by a single-use code and a proof by that key.

Order: shape → key → the code is looked at → proof → the intent is in the audit → the code is used
up, the key enrolled and that recorded, in one transaction. Without a code nothing is written, so a
stranger's proofs are not remembered. A wrong proof, or an audit that cannot be written, leaves the
code unused.
"""

from functools import partial
from typing import Any, Final

import msgspec
from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response

from audit_log.event import EventType, Outcome, PrincipalKind
from audit_log.transaction_log import append_in
from authz_server.audit_events import made, record
from authz_server.clients.proof_header import used_proof_in
from authz_server.errors import NO_STORE
from authz_server.issuing.signing_keys import KeyPurpose
from authz_server.json_body import json_of
from authz_server.parts import Parts
from token_exchange.claims import Refusal
from token_exchange.keys import public_key_of

PATH: Final = "/control/v1/enrol"
MAXIMUM_BODY: Final = 8_192

_encode: Final = msgspec.json.Encoder().encode
_CODE: Final = Refusal(
    "access_denied", "The code cannot be used.", "unknown, used or too old", "enrol.code"
)


class Enrolment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a process that joins a Gateway sends."""

    code: str
    jwk: dict[str, Any]


async def enrol(parts: Parts, request: Request) -> Response | Refusal:
    """Enrol a key into the Gateway its code was made for."""
    asked = await json_of(request, Enrolment, MAXIMUM_BODY)
    if isinstance(asked, Refusal):
        return asked
    key = public_key_of(asked.jwk)
    if isinstance(key, Refusal):
        return key
    now = int(parts.clock())
    gateway = await to_thread.run_sync(parts.enrolment.gateway_of_code, asked.code, now)
    if gateway is None:
        return _CODE
    proof = await used_proof_in(
        request.headers.getlist("dpop"),
        parts.replay,
        method="POST",
        uri=f"{parts.issuer}{PATH}",
        now=now,
        expected_thumbprint=key.thumbprint,
    )
    if isinstance(proof, Refusal):
        return proof
    about: dict[str, Any] = {
        "principal_kind": PrincipalKind.GATEWAY,
        "object_ref": f"Gateway/{gateway}",
        "detail": f"key {key.thumbprint}",
    }
    await record(parts, EventType.GATEWAY_ALLOWED, Outcome.ALLOWED, **about)
    enrolled = made(parts, EventType.GATEWAY_ENROLLED, Outcome.SUCCEEDED, **about)
    recorded = partial(append_in, events=(enrolled,), now_ms=int(parts.clock() * 1000))
    if await parts.enrolment.consume_code(asked.code, asked.jwk, now, also=recorded) is None:
        return _CODE  # somebody used it meanwhile
    await parts.live.refresh_after_commit()
    answer = {
        "client_id": f"gateway:{gateway}",
        "gateway": gateway,
        "issuer": parts.issuer,
        "control_key": parts.keys.active_public_jwk(KeyPurpose.CONTROL),
    }
    return Response(_encode(answer), media_type="application/json", headers=NO_STORE)
