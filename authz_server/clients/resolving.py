"""Which client a request names, where it may be one that describes itself.

At /authorize a document is read for whoever names one, as long as the operator declared the Agent
that such programs are. At the token endpoint it is read only for who shows a code or a refresh
token of that very client: from there no stranger makes us fetch anything.
"""

from typing import Final

from authz_server.clients.metadata_document import ClientDocument
from authz_server.parameters import Parameters
from authz_server.parts import Parts
from registry.snapshot import ClientRecord
from registry.unattested import UNATTESTED_AGENT
from token_exchange.claims import Refusal

_SCHEME: Final = "https://"


def takes_documents(parts: Parts) -> bool:
    """Whether a client id may be the URL of a document now."""
    return parts.client_documents.reads_any_host and _serves_unattested(parts)


async def document_of(parts: Parts, parameters: Parameters) -> ClientRecord | Refusal | None:
    """The self-described client of an authorization request; None where it names another kind."""
    client_id = parameters.one("client_id") or ""
    is_one = len(parameters.values.get("client_id", ())) == 1
    if not is_one or not _may_describe_itself(parts, client_id):
        return None
    document = await parts.client_documents.document(client_id)
    return document if isinstance(document, Refusal) else document.client


async def document_of_holder(
    parts: Parts, client_id: str, parameters: Parameters
) -> ClientDocument | Refusal | None:
    """The self-described client of a token request that holds something of this client's."""
    if not _may_describe_itself(parts, client_id):
        return None
    if await _holder(parts, parameters) != client_id:
        return None
    return await parts.client_documents.document(client_id)


def _may_describe_itself(parts: Parts, client_id: str) -> bool:
    return client_id.startswith(_SCHEME) and _serves_unattested(parts)


def _serves_unattested(parts: Parts) -> bool:
    return UNATTESTED_AGENT in parts.live.snapshot.agents


async def _holder(parts: Parts, parameters: Parameters) -> str | None:
    """Whose code or refresh token is in the form, used ones too: a replay must be seen."""
    code, token = parameters.one("code"), parameters.one("refresh_token")
    if code is not None:
        stored_code = await parts.codes.find(code)
        return None if stored_code is None else stored_code.grant.client_id
    if token is not None:
        stored_token = await parts.refresh_tokens.find(token)
        return None if stored_token is None else stored_token.grant.client_id
    return None
