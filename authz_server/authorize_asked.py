"""One request to /authorize beside what it is judged against; nothing in it is proved.

The checks (`authorize_checks`) judge it; what passes is accepted (`authorize_accepted`). Nothing is
fetched or written here.
"""

from dataclasses import dataclass
from functools import cached_property

from authz_server.parameters import Parameters
from authz_server.requested_access import (
    ServerAtEndpoint,
    exact_tools,
    reachable_endpoint,
    requested_details,
)
from registry.blocks import BlockState
from registry.snapshot import AgentRecord, ClientRecord, RegistrySnapshot
from token_exchange.claims import AuthorizationDetail


@dataclass(frozen=True)
class Asked:
    """One request and what it is judged against. `now` is NumericDate seconds.

    `document` is the client of this id that describes itself, read before (`clients.documents`).

    What costs is worked out once: strangers may ask.
    """

    parameters: Parameters
    snapshot: RegistrySnapshot
    blocks: BlockState
    now: int
    document: ClientRecord | None = None

    def one(self, name: str) -> str | None:
        """The value of a parameter."""
        return self.parameters.one(name)

    @property
    def client(self) -> ClientRecord | None:
        """The client that asks, if there is one of this id."""
        return self.document or self.snapshot.clients.get(self.one("client_id") or "")

    @property
    def agent(self) -> AgentRecord | None:
        """The Agent the client belongs to."""
        client = self.client
        return None if client is None else self.snapshot.agents.get(client.agent or "")

    @cached_property
    def endpoint(self) -> ServerAtEndpoint | None:
        """The server behind the resource, if this client may ask for it."""
        client, agent = self.client, self.agent
        if client is None or agent is None:
            return None
        return reachable_endpoint(self.snapshot, client, agent, self.one("resource") or "")

    @cached_property
    def details(self) -> tuple[AuthorizationDetail, ...] | None:
        """The authorization_details, if they are acceptable at the endpoint."""
        encoded, endpoint = self.one("authorization_details"), self.endpoint
        if encoded is None or endpoint is None:
            return None
        return requested_details(encoded, endpoint.server.name)

    @cached_property
    def tools(self) -> tuple[str, ...]:
        """The exact tools asked for; none for what is no endpoint, or for wrong details."""
        if self.endpoint is None:
            return ()
        if self.details is None and self.one("authorization_details") is not None:
            return ()
        return exact_tools(self.endpoint, self.details)

    @property
    def is_for_admin(self) -> bool:
        """Whether the resource is our own administration interface."""
        return self.one("resource") == f"{self.snapshot.issuer}/admin"

    @property
    def prompts(self) -> frozenset[str]:
        """The values of `prompt`, known or not."""
        return frozenset((self.one("prompt") or "").split())

    def repeats(self, name: str) -> bool:
        """Whether a parameter is given more than once."""
        return len(self.parameters.values.get(name, ())) > 1
