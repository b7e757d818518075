"""The parts of an OpenID provider's metadata that a login uses, as one frozen value.

The issuer was compared already (`outbound.discovery`). Each endpoint must be a URL we would fetch
from under the provider's own policy: the authorization endpoint too, to which people are sent.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from outbound.destination import destination_of
from outbound.fetcher import FetchError, FetchPolicy


@dataclass(frozen=True, slots=True)
class OpenIdMetadata:
    """Endpoints; `answers_with_issuer`: authorization responses carry `iss` (RFC 9207 §3)."""

    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str | None
    answers_with_issuer: bool


def openid_metadata(metadata: Mapping[str, Any], policy: FetchPolicy) -> OpenIdMetadata:
    """The metadata of a provider.

    Raises:
        FetchError: an endpoint is missing (`not_json`) or may not be used (`address_refused`).
    """

    def endpoint(name: str) -> str:
        url = metadata.get(name)
        if not isinstance(url, str):
            raise FetchError("not_json", f"no {name}")
        if destination_of(url, policy.private_hosts) is None:
            raise FetchError("address_refused", name)
        return url

    userinfo = "userinfo_endpoint" in metadata
    return OpenIdMetadata(
        authorization_endpoint=endpoint("authorization_endpoint"),
        token_endpoint=endpoint("token_endpoint"),
        jwks_uri=endpoint("jwks_uri"),
        userinfo_endpoint=endpoint("userinfo_endpoint") if userinfo else None,
        answers_with_issuer=metadata.get("authorization_response_iss_parameter_supported") is True,
    )
