"""What /authorize requires of a request, as one table in the order it is enforced.

A row is a check: its rule id, who may be told, and the function that refuses. Until the client and
its redirect URI are proved nobody but the person is told (a 400 page; RFC 6749 §4.1.2.1, RFC 9700
§4.11); after that the client is, by redirect. The first refusal ends it; nothing is written and
nothing is fetched. What passes all rows is accepted (`authorize_accepted`).

Left out: who the person is and whether they agree (`endpoints.authorize` goes on from here),
pushed and signed requests (refused by name), and relying parties without a resource.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from authz_server.authorize_asked import Asked
from authz_server.redirect_uris import matches
from authz_server.requested_access import (
    ADMIN_SCOPES,
    ENDPOINT_SCOPES,
    requested_scope,
    requires_bound_tokens,
)
from registry.blocks import BlockKind, Subject
from token_exchange.authorization_details import MAXIMUM_DETAIL_TOOLS
from token_exchange.claims import Refusal
from token_exchange.token_types import GRANT_AUTHORIZATION_CODE

MAXIMUM_STATE: Final = 2048  # returned verbatim in a URL
MAXIMUM_NONCE: Final = 512
PROMPTS: Final = frozenset({"none", "login", "consent", "select_account"})

_CLIENT_ID = re.compile(r"[\x21-\x7e]{1,512}")
# RFC 7636 §4.2: S256 gives exactly 43 characters of base64url.
_CHALLENGE = re.compile(r"[A-Za-z0-9\-_]{43}")
_THUMBPRINT = re.compile(r"[A-Za-z0-9\-_]{43}")  # RFC 7638 with SHA-256
_SECONDS = re.compile(r"[0-9]{1,9}")


class Tell(StrEnum):
    """Who learns of a refusal."""

    PERSON = "person"  # a page; there is no proved place to redirect to
    CLIENT = "client"  # a redirect with `error`, `state` and `iss`


@dataclass(frozen=True, slots=True)
class Check:
    """One row of the table. `refuses` gives the text for the person or client, or None."""

    rule: str
    tell: Tell
    code: str
    refuses: Callable[[Asked], str | None]


@dataclass(frozen=True, slots=True)
class Refused:
    """A refused request. `redirect_uri` is set when it is proved and the client may be told."""

    refusal: Refusal
    redirect_uri: str | None
    state: str | None


def first_refusal(asked: Asked, checks: Iterable[Check]) -> Refused | None:
    """The first of some rows that refuses."""
    for check in checks:
        description = check.refuses(asked)
        if description is not None:
            detail = f"client {_shown(asked.one('client_id'))}, rule {check.rule}"
            refusal = Refusal(check.code, description, detail, check.rule)
            proved = asked.one("redirect_uri") if check.tell is Tell.CLIENT else None
            return Refused(refusal, proved, _state(asked))
    return None


def _shown(unverified_text: str | None) -> str:
    return ascii(unverified_text)[:80]


def _state(asked: Asked) -> str | None:
    """`state`, unless it is one of the things that are wrong."""
    return None if _state_is_too_long(asked) or asked.repeats("state") else asked.one("state")


def _client_is_unknown(asked: Asked) -> str | None:
    client_id = asked.one("client_id")
    if client_id is None or asked.repeats("client_id"):
        return "The request does not say exactly one client_id."
    if _CLIENT_ID.fullmatch(client_id) is None or asked.client is None:
        return "The program that sent you here is not registered."
    return None


def _redirect_uri_is_foreign(asked: Asked) -> str | None:
    redirect_uri, client = asked.one("redirect_uri"), asked.client
    if redirect_uri is None or asked.repeats("redirect_uri"):
        return "The request does not say exactly one redirect_uri."
    if client is None or not matches(client, redirect_uri):
        return "The address to return to is not registered for this program."
    return None


def _parameter_is_repeated(asked: Asked) -> str | None:
    # RFC 6749 §3.1; RFC 8707 §2 allows several `resource`, which has its own row.
    if any(name != "resource" for name in asked.parameters.repeated()):
        return "A parameter is given more than once."
    return None


def _state_is_too_long(asked: Asked) -> str | None:
    return "The state is too long." if len(asked.one("state") or "") > MAXIMUM_STATE else None


def _nonce_is_too_long(asked: Asked) -> str | None:
    return "The nonce is too long." if len(asked.one("nonce") or "") > MAXIMUM_NONCE else None


def _has_request_object(asked: Asked) -> str | None:
    return None if asked.one("request") is None else "Request objects are not supported."


def _has_request_uri(asked: Asked) -> str | None:
    return None if asked.one("request_uri") is None else "A request_uri is not supported."


def _client_may_not_use_codes(asked: Asked) -> str | None:
    client = asked.client
    if client is None or GRANT_AUTHORIZATION_CODE not in client.grant_types:
        return "This client may not use the authorization code grant."
    return None


def _agent_acts_for_nobody(asked: Asked) -> str | None:
    client, agent = asked.client, asked.agent
    if client is not None and client.kind == "cli":
        return None
    if agent is None or not agent.acts_for_groups:
        return "This client is no agent that acts for people."
    return None


def _client_is_blocked(asked: Asked) -> str | None:
    subjects = [Subject(BlockKind.CLIENT, asked.one("client_id") or "")]
    if asked.agent is not None:
        subjects.append(Subject(BlockKind.AGENT, asked.agent.entry.name))
        subjects.extend(Subject(BlockKind.AGENT_GROUP, group) for group in asked.agent.entry.groups)
    if asked.blocks.first_hit(subjects, asked.now) is not None:
        return "This client is blocked."
    return None


def _response_type_is_wrong(asked: Asked) -> str | None:
    return None if asked.one("response_type") == "code" else "The only response_type is code."


def _response_mode_is_wrong(asked: Asked) -> str | None:
    if asked.one("response_mode") in (None, "query"):
        return None
    return "The only response_mode is query."


def _challenge_is_missing(asked: Asked) -> str | None:
    # RFC 9700 §2.1.1: of every client, confidential ones too.
    if asked.one("code_challenge") is None:
        return "A code_challenge is required."
    return None


def _challenge_is_not_s256(asked: Asked) -> str | None:
    # An absent method means `plain` (RFC 7636 §4.3), which shows the verifier to whoever looks.
    if asked.one("code_challenge_method") != "S256":
        return "The code_challenge_method must be S256."
    if _CHALLENGE.fullmatch(asked.one("code_challenge") or "") is None:
        return "The code_challenge is not the 43 characters of S256."
    return None


def _resource_is_not_one(asked: Asked) -> str | None:
    if len(asked.parameters.values.get("resource", ())) != 1:
        return "Exactly one resource is required."
    return None


def _resource_is_foreign(asked: Asked) -> str | None:
    """One sentence for unknown, target, control and foreign: nobody can map what exists."""
    client = asked.client
    allowed = (
        asked.is_for_admin
        if client is not None and client.kind == "cli"
        else asked.endpoint is not None
    )
    if allowed:
        return None
    # No secret: the endpoint itself says so to everybody who shows it a token that is not bound.
    if requires_bound_tokens(asked.snapshot, client, asked.one("resource") or ""):
        return (
            "This resource takes tokens bound to a key of an attested agent; this client has none."
        )
    return "This client may not ask for this resource."


def _scope_is_not_allowed(asked: Asked) -> str | None:
    allowed = ADMIN_SCOPES if asked.is_for_admin else ENDPOINT_SCOPES
    if requested_scope(asked.one("scope"), allowed) is None:
        return "The scope is not one that may be asked for here."
    return None


def _details_are_wrong(asked: Asked) -> str | None:
    if asked.one("authorization_details") is None or asked.details is not None:
        return None
    return (
        "The authorization_details are not a list of mcp_tool for this resource with at most"
        f" {MAXIMUM_DETAIL_TOOLS} tools."
    )


def _no_tool_is_left(asked: Asked) -> str | None:
    if asked.endpoint is not None and not asked.tools:
        return "None of the tools asked for can be had, or there are too many of them."
    return None


def _key_thumbprint_is_malformed(asked: Asked) -> str | None:
    thumbprint = asked.one("dpop_jkt")
    if thumbprint is None or _THUMBPRINT.fullmatch(thumbprint) is not None:
        return None
    return "The dpop_jkt is not a SHA-256 thumbprint."


def _prompt_is_unknown(asked: Asked) -> str | None:
    prompts = asked.prompts
    if not prompts <= PROMPTS or ("none" in prompts and len(prompts) > 1):
        return "The prompt is unknown, or none together with another."
    return None


def _max_age_is_no_number(asked: Asked) -> str | None:
    if asked.one("max_age") is None or _SECONDS.fullmatch(asked.one("max_age") or "") is not None:
        return None
    return "The max_age is not a number of seconds."


_PERSON, _CLIENT = Tell.PERSON, Tell.CLIENT

CHECKS: Final = (
    Check("authorize.client", _PERSON, "invalid_request", _client_is_unknown),
    Check("authorize.redirect_uri", _PERSON, "invalid_request", _redirect_uri_is_foreign),
    Check("authorize.repeated", _CLIENT, "invalid_request", _parameter_is_repeated),
    Check("authorize.state", _CLIENT, "invalid_request", _state_is_too_long),
    Check("authorize.request", _CLIENT, "request_not_supported", _has_request_object),
    Check("authorize.request_uri", _CLIENT, "request_uri_not_supported", _has_request_uri),
    Check("authorize.grant_type", _CLIENT, "unauthorized_client", _client_may_not_use_codes),
    Check("authorize.acts_for", _CLIENT, "unauthorized_client", _agent_acts_for_nobody),
    Check("authorize.blocked", _CLIENT, "access_denied", _client_is_blocked),
    Check("authorize.response_type", _CLIENT, "unsupported_response_type", _response_type_is_wrong),
    Check("authorize.response_mode", _CLIENT, "invalid_request", _response_mode_is_wrong),
    Check("authorize.pkce_missing", _CLIENT, "invalid_request", _challenge_is_missing),
    Check("authorize.pkce_method", _CLIENT, "invalid_request", _challenge_is_not_s256),
    Check("authorize.resource_count", _CLIENT, "invalid_target", _resource_is_not_one),
    Check("authorize.resource", _CLIENT, "invalid_target", _resource_is_foreign),
    Check("authorize.scope", _CLIENT, "invalid_scope", _scope_is_not_allowed),
    Check("authorize.details", _CLIENT, "invalid_authorization_details", _details_are_wrong),
    Check("authorize.no_tools", _CLIENT, "invalid_authorization_details", _no_tool_is_left),
    Check("authorize.dpop_jkt", _CLIENT, "invalid_request", _key_thumbprint_is_malformed),
    Check("authorize.nonce", _CLIENT, "invalid_request", _nonce_is_too_long),
    Check("authorize.prompt", _CLIENT, "invalid_request", _prompt_is_unknown),
    Check("authorize.max_age", _CLIENT, "invalid_request", _max_age_is_no_number),
)  # fmt: skip
