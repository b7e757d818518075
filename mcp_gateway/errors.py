"""Every refusal's way onto the wire, and the only place that writes one.

Three shapes: an HTTP refusal before anybody is known, a 401/403 challenge (RFC 6750 §3,
RFC 9449 §7.1, RFC 9728 §5.1), and an answer in MCP's own terms (a JSON-RPC error, or for a denial
an `isError` result the model can read). No text here names a policy, an input or what exists.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from mcp_gateway.admission import NotAccepted
from mcp_gateway.caller import INVALID_PROOF, CallerRefusal
from mcp_gateway.ceiling import REQUIRED_SCOPE
from mcp_gateway.compiled_view import Endpoint
from mcp_gateway.enforcement import NotServing
from mcp_gateway.http_message import Answer, BodyProblem, RawHeaders
from mcp_gateway.inbound import Rejection, RequestId
from token_exchange.token_types import SIGNING_ALGORITHM

# -32000..-32019 are the implementation's own (MCP 2026-07-28, error codes).
CALLER_NOT_ACCEPTED: Final = -32001
NOT_SERVING: Final = -32003
UPSTREAM_FAILED: Final = -32004
AUDIT_UNAVAILABLE: Final = -32005
CREDENTIAL_UNAVAILABLE: Final = -32006
REPLY_WITHHELD: Final = -32007
CALL_ENDED: Final = -32008
HTTP_REFUSED: Final = -32009
INTERNAL_ERROR: Final = -32603

JSON_HEADERS: Final[RawHeaders] = (
    (b"content-type", b"application/json"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
)
RETRY_AFTER_SECONDS: Final = 1
MAXIMUM_MESSAGE_LENGTH: Final = 512  # ours are sentences; what a stranger put into one is cut

_encode = msgspec.json.Encoder().encode


def rpc_result(request_id: RequestId, result: Mapping[str, Any]) -> Answer:
    """A successful JSON-RPC answer."""
    return _json(200, {"jsonrpc": "2.0", "id": request_id, "result": result})


def accepted() -> Answer:
    """A notification was taken; there is nothing to say."""
    return Answer(202, ((b"content-length", b"0"), (b"cache-control", b"no-store")), b"")


def rejected(rejection: Rejection) -> Answer:
    """A message we could not take for one of ours."""
    error = _error(rejection.request_id, rejection.code, rejection.message, rejection.data)
    return _json(rejection.status, error)


def not_accepted(refusal: NotAccepted | BodyProblem) -> Answer:
    """An HTTP-level refusal."""
    headers: RawHeaders = ()
    if isinstance(refusal, NotAccepted) and refusal.allow is not None:
        headers = ((b"allow", refusal.allow.encode("ascii")),)
    return _json(refusal.status, _error(None, HTTP_REFUSED, refusal.description), headers)


def not_serving(reason: NotServing) -> Answer:
    """No lease on the truth: nothing is decided."""
    data = {"category": "temporarily_blocked", "retryable": True}
    headers = ((b"retry-after", str(RETRY_AFTER_SECONDS).encode("ascii")),)
    return _json(503, _error(None, NOT_SERVING, reason.value, data), headers)


def challenge(
    endpoint: Endpoint, refusal: CallerRefusal, request_id: RequestId | None = None
) -> Answer:
    """401 (or 400 for a malformed header): where to get a token, and what was wrong."""
    data: dict[str, Any] = {"retryable": not refusal.is_revoked}
    data["category"] = "revoked" if refusal.is_revoked else "needs_step_up"
    body = _error(request_id, CALLER_NOT_ACCEPTED, refusal.description, data)
    return _json(refusal.status, body, _challenges(endpoint, refusal))


def insufficient_scope(endpoint: Endpoint, request_id: RequestId, decision_id: str) -> Answer:
    """403: consent to more would help (RFC 6750 §3.1, MCP authorization "Scope challenge")."""
    description = "The token does not cover this tool; the person's consent could."
    header = _challenge(
        "Bearer",
        error="insufficient_scope",
        error_description=description,
        scope=REQUIRED_SCOPE,
        resource_metadata=endpoint.metadata_url,
    )
    data = denial_data(decision_id, "needs_step_up", retryable=True, remedies=("consent",))
    body = _error(request_id, CALLER_NOT_ACCEPTED, description, data)
    return _json(403, body, ((b"www-authenticate", header),))


def denial(request_id: RequestId, sentence: str, data: Mapping[str, Any]) -> Answer:
    """A policy's no, as a result the model can read and act on."""
    return rpc_result(
        request_id,
        {
            "resultType": "complete",
            "content": [{"type": "text", "text": sentence}],
            "isError": True,
            "_meta": data,
        },
    )


def denial_data(
    decision_id: str, category: str, *, retryable: bool, remedies: tuple[str, ...] = ()
) -> dict[str, Any]:
    """What a denied agent may know (docs/architecture.md, "Denials")."""
    return {
        "decision_id": decision_id,
        "category": category,
        "retryable": retryable,
        "remedies": list(remedies),
    }


def failed(
    status: int, request_id: RequestId | None, code: int, message: str, decision_id: str | None
) -> Answer:
    """A call that was allowed and could not be carried out, or not recorded."""
    data = {} if decision_id is None else {"decision_id": decision_id}
    return _json(status, _error(request_id, code, message, {**data, "retryable": status >= 500}))  # noqa: PLR2004 - the class of server errors


def internal_error() -> Answer:
    """Something broke here; what exactly is in our log."""
    return _json(500, _error(None, INTERNAL_ERROR, "Internal error."))


def document(payload: Mapping[str, Any], status: int = 200) -> Answer:
    """A well-known or health document."""
    return _json(status, payload)


def _error(
    request_id: RequestId | None,
    code: int,
    message: str,
    data: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    error: dict[str, Any] = {"code": code, "message": message[:MAXIMUM_MESSAGE_LENGTH]}
    if data is not None:
        error["data"] = data
    return {"jsonrpc": "2.0", "id": request_id, "error": error}


def _json(status: int, payload: Mapping[str, Any], headers: RawHeaders = ()) -> Answer:
    body = _encode(payload)
    length = (b"content-length", str(len(body)).encode("ascii"))
    return Answer(status, (*JSON_HEADERS, length, *headers), body)


def _challenges(endpoint: Endpoint, refusal: CallerRefusal) -> RawHeaders:
    """One Bearer challenge for MCP clients, one DPoP challenge that names the algorithm.

    RFC 6750 §3: no error code when nothing was presented.
    """
    common = {"resource_metadata": endpoint.metadata_url, "scope": REQUIRED_SCOPE}
    problem = {}
    if refusal.error is not None:
        problem = {"error": refusal.error, "error_description": refusal.description}
    is_proof = refusal.error == INVALID_PROOF
    bearer = _challenge("Bearer", **({} if is_proof else problem), **common)
    dpop = _challenge("DPoP", algs=SIGNING_ALGORITHM, **problem, **common)
    return ((b"www-authenticate", bearer), (b"www-authenticate", dpop))


def _challenge(scheme: str, **parameters: str) -> bytes:
    # Every value is ours and printable ASCII; a quote would end the quoted-string.
    listed = ", ".join(
        f'{name}="{value.replace(chr(92), "").replace(chr(34), "")}"'
        for name, value in parameters.items()
    )
    return f"{scheme} {listed}".encode("ascii", "replace")
