"""The audit event: one struct for every decision, issuance, call, login and change.

Pure values. The field names are the product's published contract (docs/audit.md). Nothing in an
event is ever a token, a secret or an argument value: digests and ids only.
"""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import msgspec

_encode = msgspec.json.Encoder().encode


class EventType(StrEnum):
    """What happened. `<noun>.<verb>`; a type is never renamed."""

    ATTESTATION_ISSUED = "attestation.issued"
    ATTESTATION_REFUSED = "attestation.refused"
    LOGIN_SUCCEEDED = "login.succeeded"
    LOGIN_FAILED = "login.failed"
    LOGOUT_SUCCEEDED = "logout.succeeded"  # an identity provider said so, over the back channel
    LOGOUT_REFUSED = "logout.refused"
    PERSON_CHANGED = "person.changed"  # at the identity provider: what was issued is out of date
    SESSION_ENDED = "session.ended"  # the identity provider no longer vouches for the person
    CONSENT_GRANTED = "consent.granted"
    CONSENT_DENIED = "consent.denied"
    AUTHORIZE_REFUSED = "authorize.refused"
    CODE_ISSUED = "code.issued"
    TOKEN_ISSUED = "token.issued"  # noqa: S105 - an event type
    TOKEN_REFUSED = "token.refused"  # noqa: S105 - an event type
    TOKEN_EXCHANGED = "token.exchanged"  # noqa: S105 - an event type
    EXCHANGE_REFUSED = "exchange.refused"
    MANDATE_USED = "mandate.used"  # a token for a person who was not asked, on an admin's word
    CALLER_REFUSED = "caller.refused"  # the gateway did not accept the presented token
    CALL_DECIDED = "call.decided"  # intent: written before anything leaves
    CALL_FINISHED = "call.finished"  # outcome: same decision_id
    CALL_REFUSED = "call.refused"  # refused before a decision could be made (shape, ceiling)
    STREAM_CLOSED = "stream.closed"
    GATEWAY_ENROLLED = "gateway.enrolled"
    GATEWAY_ALLOWED = "gateway.allowed"  # intent: written before an enrolment or new tools
    GATEWAY_INVITED = "gateway.invited"  # a join code was made
    GATEWAY_KEY_REMOVED = "gateway.key_removed"  # its holder is nobody from then on
    GATEWAY_REFUSED = "gateway.refused"  # enrolment or a control request was refused
    OBJECT_CHANGED = "object.changed"
    CATALOGUE_CHANGED = "catalogue.changed"
    POLICY_ACTIVATED = "policy.activated"
    INVOCATION_ENDED = "invocation.ended"  # by the agent itself: nothing of the run works any more
    INVOCATION_REFUSED = "invocation.refused"  # somebody tried to end a run that is not theirs
    BLOCKED = "revocation.blocked"
    RESTORED = "revocation.restored"
    ADMIN_ALLOWED = "admin.allowed"  # intent: a change was admitted, written before it is made
    ADMIN_REFUSED = "admin.refused"
    ADMIN_SETUP = "admin.setup"
    ACCOUNT_ADDED = "account.added"
    ACCOUNT_CHANGED = "account.changed"  # what was issued for the person is out of date
    SECRET_SEALED = "secret.sealed"  # noqa: S105 - an event type
    SOURCE_STARTED = "source.started"
    SOURCE_STOPPED = "source.stopped"
    SOURCE_CLOSED = "source.closed"  # by an operator: it will not be waited for any more


class Outcome(StrEnum):
    """How it ended. `unknown`: an intent whose process died before it could say."""

    ALLOWED = "allowed"
    DENIED = "denied"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REVOKED = "revoked"
    UNKNOWN = "unknown"


class PrincipalKind(StrEnum):
    """The three kinds of principal an auditor must be able to tell apart."""

    AGENT_ALONE = "agent_alone"
    AGENT_FOR_PERSON = "agent_for_person"
    PERSON = "person"
    GATEWAY = "gateway"
    OPERATOR = "operator"
    NONE = "none"


class AuditEvent(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One event. `source` and `sequence` are stamped by the spool, never by the caller.

    `timestamp` is ISO 8601 UTC with milliseconds; `latency_ms` milliseconds; `ttl_seconds` the
    life of the token issued; `argument_digest` `sha-256:<base64url>` of the canonical arguments.
    """

    event_id: str
    timestamp: str
    type: EventType
    outcome: Outcome
    source: str = ""
    sequence: int = 0
    principal_kind: PrincipalKind = PrincipalKind.NONE
    decision_id: str | None = None
    workload_svid: str | None = None  # the workload's identifier: `act.sub`
    workload_type: str | None = None  # the attestation method
    agent: str | None = None
    user: str | None = None  # opaque `sub` of the person
    user_name: str | None = None  # what the IdP calls the person; AS events only
    actor_chain: tuple[str, ...] = ()  # outermost first
    client_id: str | None = None
    target_service: str | None = None
    tool: str | None = None
    argument_digest: str | None = None
    policy_matched: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    failed_conditions: tuple[str, ...] = ()
    error_code: str | None = None
    token_issued: bool = False
    token_id: str | None = None
    presented_token_id: str | None = None
    ttl_seconds: int | None = None
    request_method: str | None = None
    request_path: str | None = None
    status: int | None = None
    latency_ms: float | None = None
    invocation: str | None = None
    session: str | None = None
    consent: str | None = None
    transaction: str | None = None
    snapshot_version: int | None = None
    policy_version: int | None = None
    object_ref: str | None = None  # "Agent/support-bot" for changes and blocks
    author: str | None = None
    evidence: dict[str, str] = {}  # verified attested claims, at issuance only
    detail: str | None = None


def encoded(event: AuditEvent) -> tuple[AuditEvent, bytes]:
    """The event as it can be written, and its JSON.

    INVARIANT: what happened is never lost to a text that somebody else wrote. Half a surrogate
    pair, which UTF-8 cannot say, becomes `?`.
    """
    try:
        return event, _encode(event)
    except UnicodeEncodeError:
        fields = {name: _in_utf8(getattr(event, name)) for name in event.__struct_fields__}
        event = AuditEvent(**fields)
        return event, _encode(event)


def _in_utf8(value: Any) -> Any:  # noqa: ANN401 - any field of an event
    """The same value, of texts that UTF-8 can say."""
    if isinstance(value, tuple):
        return tuple(map(_in_utf8, value))
    if isinstance(value, dict):
        return {_in_utf8(name): _in_utf8(each) for name, each in value.items()}
    if isinstance(value, str) and not isinstance(value, StrEnum):
        return value.encode("utf-8", "replace").decode()
    return value


def principal_kind(*, sub_profile: str, has_actor: bool) -> PrincipalKind:
    """Which of the three principals a token stands for."""
    if sub_profile == "user":
        return PrincipalKind.AGENT_FOR_PERSON if has_actor else PrincipalKind.PERSON
    if sub_profile == "ai_agent":
        return PrincipalKind.AGENT_ALONE
    return PrincipalKind.GATEWAY if sub_profile == "service" else PrincipalKind.NONE


class AuditBatch(msgspec.Struct, frozen=True):
    """Events of one source in order, as a gateway posts them to the control channel.

    `high_water` is the last sequence the source has appended, sent or not: what lies between
    the last event here and it is on its way.
    """

    source: str
    high_water: int
    events: tuple[AuditEvent, ...]


def iso_timestamp(now: float) -> str:
    """`now` (Unix seconds) as the timestamp of an event: ISO 8601, UTC, milliseconds."""
    moment = datetime.fromtimestamp(now, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def source_owner(source: str) -> str:
    """Who writes under this source id: `gateway.demo` of `gateway.demo.5b1c...`."""
    return source.rpartition(".")[0]
