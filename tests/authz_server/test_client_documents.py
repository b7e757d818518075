"""Documents fetched for strangers: whose, how often, how many, and without a connection."""

import asyncio
import json
from collections.abc import Sequence

import pytest

from authz_server.clients.documents import (
    FETCHES_A_MINUTE,
    MAXIMUM_DOCUMENTS,
    MAXIMUM_FAILURES,
    MAXIMUM_FRESH_SECONDS,
    MAXIMUM_HOSTS,
    MAXIMUM_WAITING,
    MINIMUM_FRESH_SECONDS,
    PAUSE_SECONDS,
    USUAL_FRESH_SECONDS,
    WAITING_A_HOST,
    ClientDocuments,
    DocumentHosts,
    fresh_seconds,
)
from authz_server.clients.metadata_document import ClientDocument
from outbound.fetcher import Fetcher, FetchError
from tests.authz_server.back_half import Clock
from tests.authz_server.client_site import Site
from token_exchange.claims import Refusal

pytestmark = pytest.mark.anyio

ISSUER = "https://as.example.com"
CLIENT_ID = "https://claude.example/c.json"
REDIRECT = "https://claude.example/cb"
EVERYBODY = DocumentHosts(allowed=frozenset("*"))


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def documents(site: Site, clock: Clock) -> ClientDocuments:
    return ClientDocuments(site, EVERYBODY, ISSUER, clock)


async def rule_of(documents: ClientDocuments, client_id: str = CLIENT_ID) -> str:
    found = await documents.document(client_id)
    assert isinstance(found, Refusal), found
    return found.rule


async def name_of(documents: ClientDocuments, client_id: str = CLIENT_ID) -> str:
    found = await documents.document(client_id)
    assert isinstance(found, ClientDocument), found
    return found.client.display_name


async def test_document_is_fetched_once_while_it_is_fresh(
    documents: ClientDocuments, site: Site, clock: Clock
) -> None:
    assert await name_of(documents) == "C"
    clock.now += USUAL_FRESH_SECONDS - 1
    site.members = {"client_name": "D"}
    assert await name_of(documents) == "C"
    assert len(site.asked) == 1
    clock.now += 1
    assert await name_of(documents) == "D"
    assert len(site.asked) == 2


async def test_many_who_ask_at_once_make_one_fetch(documents: ClientDocuments, site: Site) -> None:
    names = await asyncio.gather(*(name_of(documents) for _ in range(10 * WAITING_A_HOST)))
    assert set(names) == {"C"}
    assert len(site.asked) == 1


async def test_withdrawn_document_is_used_no_longer_than_it_was_fresh(
    documents: ClientDocuments, site: Site, clock: Clock
) -> None:
    await name_of(documents)
    site.status = 404
    clock.now += USUAL_FRESH_SECONDS
    assert await rule_of(documents) == "client_document.status"


@pytest.mark.requirement("attack-3")
async def test_failure_is_not_asked_about_again_at_once(
    documents: ClientDocuments, site: Site, clock: Clock
) -> None:
    site.failure = FetchError("timeout")
    assert await rule_of(documents) == "client_document.timeout"
    site.failure = None
    assert await rule_of(documents) == "client_document.timeout"
    assert len(site.asked) == 1
    clock.now += PAUSE_SECONDS
    assert await name_of(documents) == "C"


@pytest.mark.requirement("CIMD-5")
@pytest.mark.parametrize("status", [201, 204, 301, 302, 400, 401, 404, 500])
async def test_any_status_but_200_is_no_document(
    documents: ClientDocuments, site: Site, status: int
) -> None:
    site.status = status
    assert await rule_of(documents) == "client_document.status"


@pytest.mark.requirement("CIMD-5")
@pytest.mark.parametrize("kind", ["text/html", "text/plain", "", "application/javascript", "json"])
async def test_content_of_another_type_is_no_document(
    documents: ClientDocuments, site: Site, kind: str
) -> None:
    site.headers = {"content-type": kind}
    assert await rule_of(documents) == "client_document.not_json"


@pytest.mark.parametrize(
    "kind", ["application/json", "Application/JSON; charset=utf-8", "application/client+json"]
)
async def test_json_by_any_of_its_types_is_a_document(
    documents: ClientDocuments, site: Site, kind: str
) -> None:
    site.headers = {"content-type": kind}
    assert await name_of(documents) == "C"


@pytest.mark.parametrize("member", [b'"x":"\\ud800"', b'"\\udc00":1', b'"x":1e999'])
async def test_document_that_is_no_text_is_refused_and_not_fetched_again_at_once(
    documents: ClientDocuments, site: Site, clock: Clock, member: bytes
) -> None:
    start = json.dumps({"client_id": CLIENT_ID, "client_name": "C", "redirect_uris": [REDIRECT]})
    site.body = start.encode()[:-1] + b"," + member + b"}"
    for _ in range(3):
        assert await rule_of(documents) == "client_document.not_json"
    assert len(site.asked) == 1
    site.body = None
    clock.now += PAUSE_SECONDS
    assert await name_of(documents)


async def test_document_nested_too_deep_is_refused_whichever_reader_gives_up(
    documents: ClientDocuments, site: Site, clock: Clock
) -> None:
    rules = set()
    for depth in range(800, 1100, 10):
        deep = "[" * depth + "]" * depth
        said = f'"client_id": "{CLIENT_ID}", "client_name": "C", "redirect_uris": 7, "x": {deep}'
        site.body = f"{{{said}}}".encode()
        rules.add(await rule_of(documents))
        clock.now += 60
    assert rules <= {"client_document.redirect_uris", "client_document.not_json"}


@pytest.mark.parametrize("body", [b"[]", b"null", b'{"client_id":1,"client_id":2}', b"\xff", b"<"])
async def test_wrong_content_is_no_document(
    documents: ClientDocuments, site: Site, body: bytes
) -> None:
    site.body = body
    assert await rule_of(documents) == "client_document.not_json"


@pytest.mark.requirement("attack-21")
async def test_document_of_another_url_is_refused(documents: ClientDocuments, site: Site) -> None:
    site.members = {"client_id": "https://evil.example/c.json"}
    assert await rule_of(documents) == "client_document.client_id"


@pytest.mark.parametrize(
    ("allowed", "blocked", "client_id", "is_asked"),
    [
        ({"*"}, set(), CLIENT_ID, True),
        ({"claude.example"}, set(), CLIENT_ID, True),
        ({"claude.example"}, set(), "https://claude.example:8443/c", True),
        ({"claude.example:8443"}, set(), CLIENT_ID, False),
        ({"*.example"}, set(), CLIENT_ID, True),
        ({"*.claude.example"}, set(), CLIENT_ID, False),
        ({"claude.example"}, set(), "https://evilclaude.example/c", False),
        ({"claude.example"}, set(), "https://claude.example.evil/c", False),
        ({"*"}, {"claude.example"}, CLIENT_ID, False),
        ({"*"}, {"*.example"}, CLIENT_ID, False),
        ({"*"}, {"*"}, CLIENT_ID, False),
        ({"*"}, {"other.example"}, CLIENT_ID, True),
        (set(), set(), CLIENT_ID, False),
    ],
)
async def test_only_hosts_the_operator_lets_in_are_asked(
    site: Site, *, allowed: set[str], blocked: set[str], client_id: str, is_asked: bool
) -> None:
    hosts = DocumentHosts(allowed=frozenset(allowed), blocked=frozenset(blocked))
    documents = ClientDocuments(site, hosts, ISSUER, Clock())
    if is_asked:
        assert await name_of(documents, client_id) == "C"
    else:
        assert await rule_of(documents, client_id) == "client_document.host"
    assert bool(site.asked) == is_asked


async def test_ca_bundle_is_for_private_hosts_only(site: Site, clock: Clock) -> None:
    hosts = DocumentHosts(frozenset("*"), private=frozenset({"c.intra"}), ca_bundle="/ca.pem")
    documents = ClientDocuments(site, hosts, ISSUER, clock)
    await name_of(documents, "https://c.intra/c")
    await name_of(documents, CLIENT_ID)
    private, public = (policy for _, policy in site.asked)
    assert (private.ca_bundle, private.private_hosts) == ("/ca.pem", hosts.private)
    assert public.ca_bundle is None


@pytest.mark.requirement("attack-3")
@pytest.mark.parametrize(
    ("client_id", "rule"),
    [
        ("https://127.0.0.1/c", "address_refused"),
        ("https://10.0.0.7/c", "address_refused"),
        ("https://169.254.169.254/latest", "address_refused"),
        ("https://private.example/c", "address_refused"),
        ("https://mapped.example/c", "address_refused"),
        ("https://half.example/c", "address_refused"),
        ("https://[::1]/c", "url"),
        ("https://[::ffff:127.0.0.1]/c", "url"),
        ("http://claude.example/c", "url"),
        ("https://2130706433/c", "address_refused"),
        ("https://0x7f.1/c", "address_refused"),
    ],
)
async def test_address_that_is_not_public_is_refused_without_a_socket(
    clock: Clock, client_id: str, rule: str
) -> None:
    addresses = {
        "private.example": ["192.168.7.7"],
        "mapped.example": ["::ffff:127.0.0.1"],
        "half.example": ["93.184.216.34", "127.0.0.1"],
    }

    async def resolve(host: str, _port: int) -> Sequence[str]:
        return addresses[host]

    # The real fetcher: a socket would be an error of the test run.
    documents = ClientDocuments(Fetcher(resolve), EVERYBODY, ISSUER, clock)
    assert await rule_of(documents, client_id) == f"client_document.{rule}"


@pytest.mark.requirement("attack-21")
async def test_flood_of_new_ids_of_one_host_asks_it_so_often_only(
    documents: ClientDocuments, site: Site, clock: Clock
) -> None:
    for number in range(FETCHES_A_MINUTE):
        await name_of(documents, f"https://flood.example/{number}")
    assert await rule_of(documents, "https://flood.example/more") == "client_document.busy"
    assert len(site.asked) == FETCHES_A_MINUTE
    assert await name_of(documents, "https://flood.example/0") == "C"
    assert await name_of(documents, CLIENT_ID) == "C"
    clock.now += 60
    assert await name_of(documents, "https://flood.example/more") == "C"


@pytest.mark.requirement("attack-21")
async def test_ports_of_one_host_share_what_it_may_be_asked(
    documents: ClientDocuments, site: Site
) -> None:
    site.hold = asyncio.Event()
    ids = [f"https://slow.example:{8_000 + number}/c" for number in range(WAITING_A_HOST)]
    waiting = [asyncio.ensure_future(documents.document(each)) for each in ids]
    await asyncio.sleep(0)
    assert await rule_of(documents, "https://slow.example:9000/c") == "client_document.busy"
    site.hold.set()
    await asyncio.gather(*waiting)
    for number in range(FETCHES_A_MINUTE - WAITING_A_HOST):
        await name_of(documents, f"https://slow.example:{9_000 + number}/c")
    assert await rule_of(documents, "https://slow.example/more") == "client_document.busy"
    assert len(site.asked) == FETCHES_A_MINUTE


@pytest.mark.requirement("attack-21")
async def test_those_who_wait_for_slow_sites_are_bounded(
    documents: ClientDocuments, site: Site
) -> None:
    await name_of(documents)
    site.hold = asyncio.Event()
    hosts = [f"https://slow{number}.example" for number in range(MAXIMUM_WAITING // WAITING_A_HOST)]
    ids = [f"{host}/{number}" for host in hosts for number in range(WAITING_A_HOST)]
    waiting = [asyncio.ensure_future(documents.document(each)) for each in ids[:WAITING_A_HOST]]
    await asyncio.sleep(0)
    assert await rule_of(documents, f"{hosts[0]}/more") == "client_document.busy"
    waiting += [asyncio.ensure_future(documents.document(each)) for each in ids[WAITING_A_HOST:]]
    await asyncio.sleep(0)
    assert await rule_of(documents, "https://other.example/c") == "client_document.busy"
    assert await name_of(documents) == "C"
    site.hold.set()
    assert all(isinstance(found, ClientDocument) for found in await asyncio.gather(*waiting))
    assert await name_of(documents, "https://other.example/c") == "C"


@pytest.mark.requirement("attack-21")
async def test_memory_is_bounded_and_keeps_what_is_used(
    documents: ClientDocuments, site: Site
) -> None:
    await name_of(documents)
    most = max(MAXIMUM_DOCUMENTS, MAXIMUM_FAILURES, MAXIMUM_HOSTS)
    for number in range(most):
        await name_of(documents, f"https://h{number}.example/c")
        if number % 100 == 0:
            await name_of(documents)
    asked = len(site.asked)
    assert await name_of(documents) == "C"
    assert len(site.asked) == asked
    assert await name_of(documents, "https://h0.example/c") == "C"
    assert len(site.asked) == asked + 1


@pytest.mark.requirement("CIMD-5")
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, USUAL_FRESH_SECONDS),
        ({"cache-control": "max-age=600"}, 600),
        ({"cache-control": "public, Max-Age=600", "age": "100"}, 500),
        ({"cache-control": "max-age=600", "age": "9999"}, MINIMUM_FRESH_SECONDS),
        ({"cache-control": "max-age=0"}, MINIMUM_FRESH_SECONDS),
        ({"cache-control": "no-store, max-age=600"}, MINIMUM_FRESH_SECONDS),
        ({"cache-control": "no-cache"}, MINIMUM_FRESH_SECONDS),
        ({"cache-control": "max-age=31536000"}, MAXIMUM_FRESH_SECONDS),
        ({"cache-control": "max-age=99999999999999999999"}, USUAL_FRESH_SECONDS),
        ({"cache-control": "max-age=-1"}, USUAL_FRESH_SECONDS),
        ({"cache-control": "max-age=\uff16\uff10"}, USUAL_FRESH_SECONDS),
    ],
)
def test_headers_say_how_long_within_bounds(headers: dict[str, str], seconds: int) -> None:
    assert fresh_seconds(headers) == seconds
