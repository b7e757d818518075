"""What the methods of client authentication take and give back, and how each of them fails."""

from dataclasses import dataclass
from typing import Final

from authz_server.parameters import Parameters
from authz_server.store.replay import UsedOnce
from authz_server.token_request import AuthenticatedClient
from token_exchange.claims import Refusal

FAILED: Final = "invalid_client"
SENTENCE: Final = "Client authentication failed."


@dataclass(frozen=True, slots=True)
class Presented:
    """What a token request says of its client. Unverified.

    `unverified_issuer` is whose assertion it says it is, once looked at; "" without one.
    `peer_certificates` (DER, the leaf first) are of a TLS connection: their key is proved, no more.
    """

    parameters: Parameters
    has_authorization_header: bool
    now: int
    unverified_issuer: str = ""
    peer_certificates: tuple[bytes, ...] = ()

    @property
    def unverified_assertion(self) -> str:
        """The client assertion, if there is one."""
        return self.parameters.one("client_assertion") or ""


@dataclass(frozen=True, slots=True)
class Authenticated:
    """An authenticated client, and what has to be used once before it counts."""

    client: AuthenticatedClient
    uses: tuple[UsedOnce, ...] = ()


def failed(rule: str, detail: str) -> Refusal:
    """One sentence for every cause: which clients exist is nobody's business."""
    return Refusal(FAILED, SENTENCE, detail, rule)
