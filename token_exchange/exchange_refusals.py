"""Every way an exchange is refused, by the stable id of its rule. A table only.

Codes: `invalid_request` for the subject token, as RFC 8693 §2.2.2 demands, `invalid_target` for
the resource (RFC 8707 §2), `invalid_scope` and `invalid_authorization_details` (RFC 9396 §5).
"""

from typing import Final

from token_exchange.claims import Refusal

REFUSALS: Final = {
    refusal.rule: refusal
    for refusal in (
        Refusal(
            "invalid_request",
            "The subject token has been revoked.",
            "a block or an epoch refuses the subject token",
            "exchange.revoked",
        ),
        Refusal(
            "invalid_request",
            "The subject token is not for an endpoint of this gateway.",
            "the audience of the subject token belongs to something else",
            "exchange.subject_audience",
        ),
        Refusal(
            "invalid_request",
            "The subject token is not one of an agent.",
            "at an endpoint only an agent alone or an agent for a person holds a token",
            "exchange.subject_form",
        ),
        Refusal(
            "invalid_request",
            "The subject token is not this gateway's own.",
            "discovery needs the control token of the gateway that asks",
            "exchange.discovery_subject",
        ),
        Refusal(
            "invalid_authorization_details",
            "Exactly one authorization detail must say what the credential is for.",
            "not exactly one well-formed detail of the type for this subject token",
            "exchange.detail_form",
        ),
        Refusal(
            "invalid_authorization_details",
            "The authorization detail names another server.",
            "not the server of the subject token's audience, or none of this gateway",
            "exchange.detail_server",
        ),
        Refusal(
            "invalid_authorization_details",
            "The subject token does not grant that.",
            "the details of the subject token do not cover the detail asked for",
            "exchange.detail_widened",
        ),
        Refusal(
            "invalid_authorization_details",
            "The agent may not use this tool.",
            "the tool is not, or no longer, in Agent.tools and the approved catalogue",
            "exchange.tool",
        ),
        Refusal(
            "invalid_scope",
            "The subject token is not for calling tools.",
            "the scope of the subject token lacks mcp:tools",
            "exchange.subject_scope",
        ),
        Refusal(
            "invalid_target",
            "Exactly one resource must be named.",
            "no resource or several",
            "exchange.resource_count",
        ),
        Refusal(
            "invalid_target",
            "The resource is not the target of this endpoint.",
            "the resource is not byte for byte the url of the server",
            "exchange.resource",
        ),
        Refusal(
            "invalid_target",
            "The server has moved since the subject token was issued.",
            "the subject token is from before the server came to its present url",
            "exchange.resource_moved",
        ),
        Refusal(
            "invalid_request",
            "The server requires a subject token bound to a key.",
            "the subject token has no cnf, and the server takes no bearers (any more)",
            "exchange.unbound",
        ),
        Refusal(
            "invalid_request",
            "The requested token type is not what this target takes.",
            "the credential provider of the server makes another type",
            "exchange.token_type",
        ),
        Refusal(
            "invalid_scope",
            "The scope is wider than the subject token's.",
            "a scope token that the subject token does not have",
            "exchange.scope_widened",
        ),
        Refusal(
            "invalid_request",
            "The subject token ends too soon.",
            "no lifetime is left",
            "exchange.lifetime",
        ),
        Refusal(
            "invalid_scope",
            "No scope is left.",
            "the policies allow none of the scope",
            "exchange.scope_narrowed",
        ),
    )
}
