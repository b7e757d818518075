"""What may be said of a client that proves no workload, in the terms of an attestation. Pure.

Level 1 takes something only one party can have: a key that was declared or is in its document, or
a document whose redirect URIs are all https on its own host, so that only who wrote it gets the
answer. Everything else is level 0, its own word: a redirect to loopback reaches whichever program
listens there, and a declared public client is whoever knows its name.
"""

from hashlib import sha256
from typing import Final

from authz_server.token_request import AuthenticatedClient
from idp_connectors.evidence import Evidence
from registry.clients import DOCUMENT_CLIENT, PRIVATE_KEY_JWT
from registry.snapshot import ClientRecord
from token_exchange.token_types import MAXIMUM_LIFETIME_SECONDS

METHOD_DOCUMENT: Final = "client_metadata"
METHOD_DECLARED: Final = "declared_client"
SELF_DECLARED_KINDS: Final = frozenset({"declared", DOCUMENT_CLIENT})


def level_of(client: ClientRecord) -> int:
    """0: only its own word. 1: nobody else can use its codes, or nobody else gets them."""
    if PRIVATE_KEY_JWT in client.authentication:
        return 1
    is_document = client.kind == DOCUMENT_CLIENT
    return int(is_document and all(uri.startswith("https://") for uri in client.redirect_uris))


def evidence_of(client: AuthenticatedClient, issuer: str, now: int) -> Evidence | None:
    """What was proved of a client, or is said of one that proves no workload."""
    if client.evidence is not None or client.record.kind not in SELF_DECLARED_KINDS:
        return client.evidence
    return _self_declared(client.record, issuer, now)


def _self_declared(client: ClientRecord, issuer: str, now: int) -> Evidence:
    """What the token says of this client as an agent: we name it ourselves (`act.iss`)."""
    digest = client.document_digest
    if digest is None:
        declared = "\n".join((client.client_id, *client.authentication, *client.redirect_uris))
        digest = f"sha-256:{sha256(declared.encode()).hexdigest()}"
    return Evidence(
        provider=issuer,  # no TrustProvider can have that name
        method=METHOD_DECLARED if client.document_digest is None else METHOD_DOCUMENT,
        level=level_of(client),
        issuer=issuer,
        subject=client.client_id,
        claims={
            "client.name": client.display_name,
            "client.authentication": client.authentication[0],
        },
        digest=digest,
        issued_at=now,
        expires_at=now + MAXIMUM_LIFETIME_SECONDS,
    )
