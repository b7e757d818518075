"""Every client anybody can get, in each era it speaks, from the first 401 to the refreshed token.

`tests/interop/client_table.py` says who does what, and docs/eras.md shows it. A client is told the
address of the MCP endpoint and the address of its own metadata document, and nothing else.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from authz_server.issuing.signing_keys import KeyPurpose
from compose.demo.stack import Stack
from tests.forging import SigningKey, part, real_keys
from tests.interop.client_programs import ForeignClient, Place, Visitor, running
from tests.interop.client_table import AGAIN, LEGACY, MODERN, ClientRow, rows_of
from tests.interop.document_site import DocumentSite, document_site
from tests.interop.foreign_clients import AGENT, foreign_objects
from tests.services.common import service
from tests.stack import held_port, prepare, running_stack
from tests.witness import Witness
from token_exchange.token_types import ACCESS_TOKEN_TYP

pytestmark = pytest.mark.processes

SERVER = "notes"
VERSIONS = {MODERN: "2026-07-28", LEGACY: "2025-11-25"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DocumentSite]:
    with document_site(tmp_path_factory.mktemp("site")) as running_site:
        yield running_site


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, site: DocumentSite) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("stack")
    with running_stack(directory, environment=site.settings(), prepared=False) as started:
        prepare(started, foreign_objects(started))
        yield started


@pytest.fixture(scope="module")
def token_key(stack: Stack) -> SigningKey:
    return real_keys(stack)[KeyPurpose.TOKENS]


@dataclass
class Use:
    """One client in use: begun by its first request, and kept for the tests after that."""

    row: ClientRow
    client: ForeignClient
    visitor: Visitor
    place: Place
    began: Witness
    tools: list[str] = field(default_factory=list)
    version: str | None = None


@dataclass
class Uses:
    """The clients of this run; each is begun once, by whichever test needs it first."""

    stack: Stack
    site: DocumentSite
    directory: Path
    running: ExitStack
    begun: dict[str, Use] = field(default_factory=dict)

    def of(self, row: ClientRow) -> Use:
        if str(row) not in self.begun:
            self.begun[str(row)] = self._begin(row)
        return self.begun[str(row)]

    def _begin(self, row: ClientRow) -> Use:
        with ExitStack() as holding:
            redirect_uri = f"http://127.0.0.1:{held_port(holding)}/callback"
        client_id = self.site.publish(
            f"/{row}.json", client_name=row.client, redirect_uris=[redirect_uri]
        )
        place = Place(self.stack.endpoint(SERVER), client_id, redirect_uri)
        visitor = Visitor("alice", redirect_uri)
        self.running.callback(visitor.browser.close)
        home = self.directory / str(row)
        home.mkdir(exist_ok=True)
        with service(str(row)):
            client = self.running.enter_context(running(row, place, visitor, home))
        use = Use(row, client, visitor, place, Witness(self.stack))
        use.tools, use.version = client.list()
        return use


@pytest.fixture(scope="module")
def uses(
    stack: Stack, site: DocumentSite, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Uses]:
    with ExitStack() as running_clients:
        yield Uses(stack, site, tmp_path_factory.mktemp("clients"), running_clients)


def for_clients(test: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("row", rows_of(test), ids=str)


def ended(key: SigningKey, token: str) -> str:
    """The authority's own token but for its end, which has passed."""
    claims = part(token, 1)
    now = int(time.time())  # noqa: TID251 - real processes have real time
    past = {"iat": now - 700, "nbf": now - 700, "exp": now - 100}
    return key.sign({"typ": ACCESS_TOKEN_TYP}, claims | past)


@pytest.mark.requirement("client-table")
@for_clients("test_client_finds_its_way_from_the_401")
def test_client_finds_its_way_from_the_401(uses: Uses, row: ClientRow) -> None:
    """It was told the endpoint alone: the rest it has from challenge and metadata documents."""
    use = uses.of(row)
    asked = urlsplit(use.visitor.sent_to[0])
    query = {name: values[0] for name, values in parse_qs(asked.query).items()}
    assert f"{asked.scheme}://{asked.netloc}{asked.path}" == f"{uses.stack.issuer}/oauth/authorize"
    assert query["client_id"] == use.place.client_id
    assert query["resource"] == use.place.endpoint
    assert query["code_challenge_method"] == "S256"
    wanted = "mcp:tools offline_access" if row.asks_offline else "mcp:tools"
    assert query["scope"] == wanted


@pytest.mark.requirement("client-table")
@for_clients("test_person_logs_in_and_consents")
def test_person_logs_in_and_consents(uses: Uses, row: ClientRow) -> None:
    use = uses.of(row)
    assert uses.site.authority in use.visitor.consented_to[0].text
    tokens = use.client.tokens()
    assert tokens["token_type"] == ("DPoP" if row.is_bound else "Bearer")
    claims = part(tokens["access_token"], 1)
    assert (claims["aud"], claims["client_id"]) == (use.place.endpoint, use.place.client_id)
    assert claims["act"]["agent"] == AGENT
    assert ("cnf" in claims) == row.is_bound
    assert tokens["scope"] == "mcp:tools"
    assert tokens["refresh_token"]  # asked for by scope, or by the document
    assert "Stays connected" in use.visitor.consented_to[0].text


@pytest.mark.requirement("client-table")
@for_clients("test_client_lists_the_tools")
def test_client_lists_the_tools(uses: Uses, row: ClientRow) -> None:
    """In the era it was told to speak; the Inspector does not show what it spoke."""
    use = uses.of(row)
    assert use.tools == ["search"]
    said = None if row.client == "Inspector CLI" else VERSIONS[row.era]
    assert use.version == said


@pytest.mark.requirement("client-table")
@for_clients("test_client_calls_a_tool")
def test_client_calls_a_tool(uses: Uses, row: ClientRow) -> None:
    use = uses.of(row)
    witness = Witness(uses.stack)
    use.client.call("search", text="refund")
    event = witness.event("call.finished", tool="search")
    assert (event["outcome"], event["client_id"]) == ("succeeded", use.place.client_id)


@pytest.mark.requirement("client-table")
@for_clients("test_expired_token_is_challenged_and_the_client_goes_on")
def test_expired_token_is_challenged_and_the_client_goes_on(
    uses: Uses, token_key: SigningKey, row: ClientRow
) -> None:
    use = uses.of(row)
    before, asked = use.client.tokens()["access_token"], len(use.visitor.sent_to)
    use.client.expire(ended(token_key, before), by_the_clock=False)
    witness = Witness(uses.stack)
    use.client.call("search", text="refund")
    assert part(use.client.tokens()["access_token"], 1)["jti"] != part(before, 1)["jti"]
    assert len(use.visitor.sent_to) - asked == (row.says["401 on expiry"] == AGAIN)
    witness.event("caller.refused", says="expired")
    assert witness.event("call.finished", tool="search")["outcome"] == "succeeded"


@pytest.mark.requirement("client-table")
@for_clients("test_client_refreshes")
def test_client_refreshes(uses: Uses, token_key: SigningKey, row: ClientRow) -> None:
    """Nobody is asked, and the refresh token rotates."""
    use = uses.of(row)
    before, asked = use.client.tokens(), len(use.visitor.sent_to)
    use.client.expire(ended(token_key, before["access_token"]), by_the_clock=True)
    use.client.call("search", text="refund")
    after = use.client.tokens()
    assert len(use.visitor.sent_to) == asked
    assert after["refresh_token"] != before["refresh_token"]
    assert part(after["access_token"], 1)["inv"] == part(before["access_token"], 1)["inv"]
