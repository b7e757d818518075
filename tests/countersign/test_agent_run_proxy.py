"""The loopback application against a gateway that answers as it is told."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import httpx2
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey

from countersign.agent_run.addresses import Endpoint
from countersign.agent_run.authority import HeldToken
from countersign.agent_run.connections import PEER_EXTENSION
from countersign.agent_run.errors import AgentRunError, RunOverError, UnavailableError
from countersign.agent_run.proxy import LoopbackProxy
from countersign.agent_run.run_tokens import RunTokens
from countersign.login_file import ProofKey

CRM = Endpoint("crm", "https://gw.example.com/crm/mcp")
CALL = b'{"jsonrpc":"2.0","id":7,"method":"tools/list"}'
CHALLENGE = 'Bearer resource_metadata="https://gw.example.com/x", DPoP algs="ES256"'

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Somebody:
    """A peer that is of the run, or is not."""

    is_of_run = True

    async def is_member(self) -> bool:
        return self.is_of_run


class Scene:
    """A proxy between a command and a gateway, both in the test's hands."""

    def __init__(self) -> None:
        self.key = ProofKey(ECKey.generate_key("P-256"), lambda: 1_000.0)
        self.requests: list[httpx2.Request] = []
        self.answers: list[httpx2.Response] = []
        self.failure: AgentRunError | None = None
        self.peer = Somebody()
        self.tokens = RunTokens(self, lambda: 1_000.0, lambda _line: None)
        self.tokens.begin_with(CRM, HeldToken("token-0", 1_000, 1_900, "inv_1", "refresh"))
        self.renewals = 0
        self.ended = False
        self.told: list[str] = []
        transport = httpx2.MockTransport(self._answer)
        self.http = httpx2.AsyncClient(transport=transport)
        self.proxy = LoopbackProxy(
            {CRM.path: CRM}, 4711, self.tokens, self.key, self.http, tell=self.told.append
        )

    async def token(self, _form: Mapping[str, str]) -> HeldToken:
        if self.failure is not None:
            raise self.failure
        self.renewals += 1
        return HeldToken(f"token-{self.renewals}", 1_000, 1_900, "inv_1", "refresh")

    async def end(self, held: HeldToken) -> None:
        raise AssertionError(held)

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        return self.answers.pop(0)

    async def ask(
        self,
        body: bytes = CALL,
        *,
        headers: Mapping[str, str] | None = None,
        path: str = "/crm/mcp",
        leaves: asyncio.Event | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        sent: list[dict[str, Any]] = []
        given = {"host": "127.0.0.1:4711"} | dict(headers or {})
        arriving: list[dict[str, Any]] = [{"type": "http.request", "body": body}]

        async def receive() -> dict[str, Any]:
            if arriving:
                return arriving.pop()
            await (leaves or asyncio.Event()).wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in given.items()],
            "extensions": {PEER_EXTENSION: self.peer},
        }
        await self.proxy(scope, receive, send)
        if not sent:
            return 0, {}, b""
        self.ended = not sent[-1].get("more_body", False)
        head = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], head, b"".join(each["body"] for each in sent[1:])


@pytest.fixture
def scene() -> Scene:
    return Scene()


def ok(**headers: str) -> httpx2.Response:
    return httpx2.Response(200, headers=headers, stream=httpx2.ByteStream(b'{"result":1}'))


def unauthorized(**headers: str) -> httpx2.Response:
    return httpx2.Response(401, headers={"www-authenticate": CHALLENGE} | headers, content=b"{}")


def proof_of(scene: Scene, request: httpx2.Request) -> dict[str, Any]:
    return dict(jwt.decode(request.headers["dpop"], scene.key.key).claims)


async def test_request_leaves_with_our_token_and_a_proof_for_it(scene: Scene) -> None:
    scene.answers = [ok(), ok()]
    for _ in range(2):
        status, _, body = await scene.ask(headers={"authorization": "Bearer mine", "x-one": "1"})
        assert (status, body) == (200, b'{"result":1}')
    first, second = scene.requests
    assert str(first.url) == CRM.resource
    assert first.headers.get_list("authorization") == ["DPoP token-0"]
    assert first.content == CALL
    assert first.headers["host"] == "gw.example.com"
    assert first.headers["x-one"] == "1"
    assert "accept-encoding" not in first.headers  # nothing the agent did not say
    proofs = [proof_of(scene, each) for each in (first, second)]
    assert (proofs[0]["htm"], proofs[0]["htu"]) == ("POST", CRM.resource)
    assert proofs[0]["jti"] != proofs[1]["jti"]


async def test_refused_token_is_replaced_once(scene: Scene) -> None:
    scene.answers = [unauthorized(), ok()]
    status, _, _ = await scene.ask()
    assert status == 200
    assert [each.headers["authorization"] for each in scene.requests] == [
        "DPoP token-0",
        "DPoP token-1",
    ]
    assert scene.requests[1].content == CALL


async def test_second_refusal_reaches_the_agent_without_a_challenge(scene: Scene) -> None:
    scene.answers = [unauthorized(), unauthorized()]
    status, head, body = await scene.ask()
    assert status == 502
    assert "www-authenticate" not in head
    assert json.loads(body)["id"] == 7
    assert len(scene.requests) == 2


@pytest.mark.requirement("RFC9449-9")
async def test_nonce_is_taken_without_another_token_and_kept(scene: Scene) -> None:
    wants = unauthorized(**{"dpop-nonce": "n1", "www-authenticate": 'DPoP error="use_dpop_nonce"'})
    scene.answers = [wants, ok(**{"dpop-nonce": "n2"}), ok()]
    status, head, _ = await scene.ask()
    assert status == 200
    assert "dpop-nonce" not in head
    await scene.ask()
    nonces = [proof_of(scene, each).get("nonce") for each in scene.requests]
    assert nonces == [None, "n1", "n2"]
    assert scene.renewals == 0


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (RunOverError("invalid_grant", "Revoked."), 403),
        (UnavailableError("unreachable", "Nobody answers."), 503),
        (AgentRunError("invalid_client", "Client authentication failed."), 502),
    ],
)
async def test_refused_renewal_is_an_error_the_agent_can_read(
    scene: Scene, failure: AgentRunError, status: int
) -> None:
    scene.answers, scene.failure = [unauthorized()], failure
    got, head, body = await scene.ask()
    assert got == status
    assert "www-authenticate" not in head
    error = json.loads(body)["error"]
    assert failure.description in error["message"]
    assert error["data"]["retryable"] is (status == 503)


async def test_redirect_is_not_followed_nor_passed_on(scene: Scene) -> None:
    scene.answers = [httpx2.Response(307, headers={"location": "https://evil.example.com/"})]
    status, head, _ = await scene.ask()
    assert status == 502
    assert "location" not in head
    assert len(scene.requests) == 1


async def test_other_refusals_of_the_gateway_pass_without_their_challenge(scene: Scene) -> None:
    said = b'{"jsonrpc":"2.0","id":7,"error":{}}'
    scene.answers = [
        httpx2.Response(
            403, headers={"www-authenticate": CHALLENGE}, stream=httpx2.ByteStream(said)
        ),
    ]
    status, head, body = await scene.ask()
    assert (status, body) == (403, said)
    assert "www-authenticate" not in head


@pytest.mark.requirement("agent-run-tree")
async def test_connection_that_is_nobodys_of_the_run_any_more_gets_nothing(scene: Scene) -> None:
    scene.peer.is_of_run = False
    status, head, _ = await scene.ask()
    assert (status, head["connection"]) == (403, "close")
    assert scene.requests == []


async def test_too_large_a_body_is_refused_here(scene: Scene) -> None:
    status, _, _ = await scene.ask(b"x" * (4 * 1024 * 1024 + 1))
    assert status == 413
    assert scene.requests == []


class Endless(httpx2.AsyncByteStream):
    """Events without end; says when it was closed."""

    def __init__(self, began: Callable[[], None]) -> None:
        self.closed = False
        self._began = began

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        self._began()
        await asyncio.Event().wait()

    async def aclose(self) -> None:
        self.closed = True


class Broken(httpx2.AsyncByteStream):
    """A stream that the gateway cuts."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        raise httpx2.RemoteProtocolError("cut")


async def test_stream_that_the_gateway_cuts_is_cut_and_not_ended(scene: Scene) -> None:
    scene.answers = [httpx2.Response(200, stream=Broken())]
    status, _, body = await scene.ask()
    assert (status, body) == (200, b"data: 1\n\n")
    assert not scene.ended
    assert scene.told == []


async def test_agent_that_leaves_ends_the_request_at_the_gateway(scene: Scene) -> None:
    leaves = asyncio.Event()
    stream = Endless(leaves.set)
    answer = httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=stream)
    scene.answers = [answer]
    async with asyncio.timeout(5):
        status, head, body = await scene.ask(leaves=leaves)
    assert (status, head["content-type"], body) == (200, "text/event-stream", b"data: 1\n\n")
    assert stream.closed
