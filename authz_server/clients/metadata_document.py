"""What a client says of itself in its Client ID Metadata Document, and which of it we take. Pure.

draft-ietf-oauth-client-id-metadata-document-02. The client id is an https URL and the document is
what was found there; nobody vouches for it but whoever owns the host. In this order: the URL (§3),
`client_id` equal to it byte for byte (§4), no shared secret in any form (§4), a name a person can
read, redirect URIs, how it authenticates, its keys.

Redirect URIs count if they are https on the document's own origin, because only there the answer
goes to who wrote the document, or on the person's own machine. Others are left out, and a document
that has no other is refused. What is unknown to us is ignored (§4). Left out: software statements,
logos, other links (nothing of them is shown), and response encryption.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from authz_server.redirect_uris import is_loopback_redirect, is_safe
from outbound.public_keys import ForeignKeys
from registry.clients import DOCUMENT_CLIENT, NO_AUTHENTICATION, PRIVATE_KEY_JWT
from registry.snapshot import ClientRecord
from registry.unattested import UNATTESTED_AGENT
from token_exchange.claims import Refusal
from token_exchange.token_types import GRANT_AUTHORIZATION_CODE, GRANT_REFRESH_TOKEN

MAXIMUM_CLIENT_ID: Final = 512
MAXIMUM_NAME: Final = 64  # a longer one pushes what matters off the page
MAXIMUM_REDIRECTS: Final = 16  # they are kept with every request in progress
MAXIMUM_REDIRECT: Final = 256
MAXIMUM_KEYS: Final = 8  # importing one costs time, for a stranger

# One spelling: lower case, plain path, no query (§3 advises against it), no dot segments.
_CLIENT_ID: Final = re.compile(r"https://[a-z0-9.\-]+(?::[1-9][0-9]{0,4})?/[\x21-\x7e]+")
_NOT_IN_PATH: Final = frozenset('?#\\"<>^`{|}@')
_METHODS: Final = frozenset({NO_AUTHENTICATION, PRIVATE_KEY_JWT})
_REDIRECT: Final = re.compile(r"[\x21\x23-\x3b\x3d\x3f-\x5b\x5d\x5f\x61-\x7a\x7e]+")


@dataclass(frozen=True, slots=True)
class DocumentKeys:
    """Where a client that authenticates has its keys: in its document, or at its own origin."""

    listed: ForeignKeys | None = None
    uri: str | None = None


@dataclass(frozen=True, slots=True)
class ClientDocument:
    """An accepted document. `client` carries its digest."""

    client: ClientRecord
    keys: DocumentKeys


def is_document_url(client_id: str) -> bool:
    """Whether this client id may be the URL of a document at all (§3)."""
    if len(client_id) > MAXIMUM_CLIENT_ID or _CLIENT_ID.fullmatch(client_id) is None:
        return False
    path = client_id.split("/", 3)[3]
    dots = {".", "..", "%2e", "%2e%2e", ".%2e", "%2e."}
    segments = (segment.lower() for segment in path.split("/"))
    return _NOT_IN_PATH.isdisjoint(path) and dots.isdisjoint(segments)


def host_of(client_id: str) -> str:
    """The host, and port if there is one, of a document's URL: the part of its name to trust."""
    return client_id.split("/", 3)[2]


def read_document(
    client_id: str, document: Mapping[str, Any], issuer: str
) -> ClientDocument | Refusal:
    """The client that a document describes. `issuer` is ours: no answer may go to its host."""
    problem = _problem_of(client_id, document)
    if problem is not None:
        return problem
    redirects = _redirects(document.get("redirect_uris"), client_id, issuer)
    if isinstance(redirects, Refusal):
        return redirects
    method = _method_of(document)
    keys = _keys(document, client_id) if method == PRIVATE_KEY_JWT else DocumentKeys()
    if isinstance(keys, Refusal):
        return keys
    client = ClientRecord(
        client_id=client_id,
        kind=DOCUMENT_CLIENT,
        display_name=document["client_name"],
        redirect_uris=redirects,
        authentication=(method,),
        grant_types=(GRANT_AUTHORIZATION_CODE, GRANT_REFRESH_TOKEN),
        wants_refresh=_wants_refresh(document),
        agent=UNATTESTED_AGENT,
        jwks_uri=keys.uri,
        document_digest=digest_of_document(document),
        is_native=_is_native(document, redirects),
    )
    return ClientDocument(client, keys)


def _problem_of(client_id: str, document: Mapping[str, Any]) -> Refusal | None:
    if document.get("client_id") != client_id:
        return refused("client_id", "client_id is another than its URL")
    if any(member.startswith("client_secret") for member in document):
        return refused("secret", "a public document has a client_secret")
    if not _is_readable(document.get("client_name")):
        return refused("name", "client_name is missing, too long or not readable")
    if _method_of(document) not in _METHODS:
        return refused("method", "token_endpoint_auth_method is neither none nor private_key_jwt")
    return None


def _method_of(document: Mapping[str, Any]) -> str:
    method = document.get("token_endpoint_auth_method", NO_AUTHENTICATION)
    return method if isinstance(method, str) else ""


def digest_of_document(document: Mapping[str, Any]) -> str:
    """The same for the same members, whatever their order and spacing."""
    canonical = msgspec.json.encode(document, order="deterministic")
    return f"sha-256:{sha256(canonical).hexdigest()}"


def refused(rule: str, detail: str) -> Refusal:
    """A document that is none: what the person reads, and what the audit learns."""
    return Refusal(
        "invalid_request",
        f"The program that sent you here does not describe itself properly: {detail}.",
        detail,
        f"client_document.{rule}",
    )


def _is_readable(name: object) -> bool:
    """Letters and signs in one line: no control, direction or invisible character."""
    if not isinstance(name, str):
        return False
    return 1 <= len(name) <= MAXIMUM_NAME and name.isprintable() and name.strip() == name


def _redirects(listed: object, client_id: str, issuer: str) -> tuple[str, ...] | Refusal:
    if not isinstance(listed, list) or not 1 <= len(listed) <= MAXIMUM_REDIRECTS:
        return refused("redirect_uris", "redirect_uris is no list of at least one, or too long")
    if not all(isinstance(uri, str) and _is_plain(uri) for uri in listed):
        return refused("redirect_uris", "a redirect_uri is not one that may be used")
    own = tuple(uri for uri in listed if _is_own(uri, client_id))
    # Cookies know no ports (RFC 6265 §8.5): ours would reach whoever listens on our host.
    ours = urlsplit(issuer)
    if ours.scheme == "https" and any(urlsplit(uri).hostname == ours.hostname for uri in own):
        return refused("redirect_host", "a redirect_uri is on this server's own host")
    return own or refused(
        "redirect_origin", "no redirect_uri is on its own origin or on this computer"
    )


def _is_plain(uri: str) -> bool:
    if len(uri) > MAXIMUM_REDIRECT or _REDIRECT.fullmatch(uri) is None or "#" in uri:
        return False
    try:
        return "@" not in urlsplit(uri).netloc
    except ValueError:
        return False


def _is_own(uri: str, client_id: str) -> bool:
    if not is_safe(uri):
        return False
    return is_loopback_redirect(uri) or uri.startswith(f"https://{host_of(client_id)}/")


def _is_native(document: Mapping[str, Any], redirects: tuple[str, ...]) -> bool:
    """RFC 8252 §7.3 is for those that say that they are native, or can be nothing else."""
    stated = document.get("application_type")
    if stated is None:
        return all(is_loopback_redirect(uri) for uri in redirects)
    return bool(stated == "native")


def _wants_refresh(document: Mapping[str, Any]) -> bool:
    """RFC 7591 §2: it says that it will use the refresh token grant."""
    listed = document.get("grant_types")
    return isinstance(listed, list) and GRANT_REFRESH_TOKEN in listed


def _keys(document: Mapping[str, Any], client_id: str) -> DocumentKeys | Refusal:
    jwks, uri = document.get("jwks"), document.get("jwks_uri")
    if (jwks is None) == (uri is None):
        return refused("keys", "private_key_jwt needs jwks or jwks_uri, and not both")
    if uri is not None:
        # Whoever else answered for its keys could become it; and we would fetch from there.
        if not isinstance(uri, str) or not uri.startswith(f"https://{host_of(client_id)}/"):
            return refused("keys", "jwks_uri is not on its own origin")
        return DocumentKeys(uri=uri)
    listed = jwks.get("keys") if isinstance(jwks, dict) else None
    is_short = isinstance(listed, list) and len(listed) <= MAXIMUM_KEYS
    keys = ForeignKeys.of(listed) if is_short and isinstance(listed, list) else None
    if keys is None or not keys.by_key_id:
        return refused("keys", "jwks has no public key that can be used")
    return DocumentKeys(listed=keys)
