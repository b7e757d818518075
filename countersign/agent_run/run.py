"""One run from beginning to end: proof, key, tokens, loopback endpoint, command, end of all.

In this order: peers can be told apart here, or nothing is done → our memory is closed to others →
a key, in memory alone → the first tokens (or the person's login) → the listener → orphans fall to
us → the command → at its end, or 10 s after we were asked to end: no connection any more, the run
ended at the authorization server. Its exit code is ours.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx2
from joserfc.jwk import ECKey

from countersign.agent_run.addresses import HOST, Endpoint, environment_of
from countersign.agent_run.authority import Authority
from countersign.agent_run.browser_login import Login, log_in
from countersign.agent_run.child import CannotStartError, Child
from countersign.agent_run.connections import MAXIMUM_CONNECTIONS, run_members_only
from countersign.agent_run.errors import AgentRunError
from countersign.agent_run.platform_proofs import ProofSource
from countersign.agent_run.process_tree import adopt_orphans, hide_memory, unsupported_reason
from countersign.agent_run.proxy import LoopbackProxy
from countersign.agent_run.run_tokens import RunTokens, Tell
from countersign.login_file import ProofKey
from countersign.trusted_authorities import tls_context
from countersign.web_server import listen, web_server

STOP_SECONDS: Final = 10.0  # for a command that was asked to end
CLOSE_SECONDS: Final = 1.0  # for answers under way when the run is over
STRANGERS_TOLD: Final = 5  # then silence: a port scanner must not fill the terminal


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What to run and as what. `login` is None for an agent alone; `port` 0 takes a free one.

    `ca_file` holds the authorities of the issuer and the gateways, where they are not the system's.
    """

    issuer: str
    endpoints: tuple[Endpoint, ...]
    proofs: ProofSource
    login: Login | None
    command: Sequence[str]
    environment: Mapping[str, str]
    port: int
    ca_file: Path | None = None


async def run_agent(plan: RunPlan, clock: Callable[[], float], tell: Tell) -> int:
    """Run the command; its exit code.

    Raises:
        AgentRunError: It could not start, with what is wrong.
        LoginError: The person did not log in.
        OSError: The port is taken.
    """
    reason = unsupported_reason()
    if reason is not None:
        raise AgentRunError("unsupported", reason)
    hide_memory()
    _cancel_when_asked_to_end()
    key = ProofKey(ECKey.generate_key("P-256"), clock)
    limits = httpx2.Limits(max_connections=MAXIMUM_CONNECTIONS)
    urls = (plan.issuer, *(endpoint.resource for endpoint in plan.endpoints))
    tls = tls_context(plan.ca_file, *urls)
    async with httpx2.AsyncClient(
        trust_env=False, follow_redirects=False, limits=limits, verify=tls
    ) as http:
        authority = Authority(plan.issuer, http, key, plan.proofs, clock)
        tokens = RunTokens(authority, clock, tell)
        tell(f"this process is vouched for by {plan.proofs.description}")
        try:
            await _begin(plan, authority, tokens)
            tell(f"run {', '.join(tokens.invocations)}")
            async with _loopback(plan, tokens, key, http, tell) as port:
                return await _run_command(plan, port, tell)
        finally:
            await tokens.end()


def _cancel_when_asked_to_end() -> None:
    """Until there is a command to tell, SIGTERM ends the run as Ctrl-C does."""
    running = asyncio.current_task()
    if running is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)


async def _begin(plan: RunPlan, authority: Authority, tokens: RunTokens) -> None:
    if plan.login is not None:
        await authority.require_proof()
        await log_in(authority, plan.endpoints, plan.login, tokens.begin_with)
        return
    for endpoint in plan.endpoints:
        await tokens.begin_alone(endpoint)


@contextlib.asynccontextmanager
async def _loopback(
    plan: RunPlan, tokens: RunTokens, key: ProofKey, http: httpx2.AsyncClient, tell: Tell
) -> AsyncGenerator[int, None]:
    """The listener, for as long as the block lasts; its port."""
    listener = listen(HOST, plan.port, setting="--port", backlog=MAXIMUM_CONNECTIONS)
    port = int(listener.getsockname()[1])
    by_path = {endpoint.path: endpoint for endpoint in plan.endpoints}
    strangers = _Strangers(tell)
    # The proxy says what went wrong, without a text that may hold a token.
    logging.getLogger("uvicorn.error").disabled = True
    server = web_server(
        LoopbackProxy(by_path, port, tokens, key, http, tell=tell),
        shutdown_seconds=CLOSE_SECONDS,
        http=run_members_only(strangers.turned_away),
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    for endpoint in plan.endpoints:
        tell(f"{endpoint.server} is at http://{HOST}:{port}{endpoint.path}")
    try:
        yield port
    finally:
        await server.stop(serving)
        listener.close()


async def _run_command(plan: RunPlan, port: int, tell: Tell) -> int:
    adopt_orphans()
    environment = environment_of(plan.environment, plan.endpoints, port)
    try:
        child = Child(plan.command, environment)
    except CannotStartError as error:
        tell(str(error))
        return error.exit_code
    ended = asyncio.create_task(child.exit_code())
    asked = asyncio.create_task(child.asked_to_end.wait())
    await asyncio.wait((ended, asked), return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    try:
        async with asyncio.timeout(None if ended.done() else STOP_SECONDS):
            return await ended
    except TimeoutError:
        child.kill()
    return await child.exit_code()


class _Strangers:
    """Says that somebody else knocked, a few times."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._count = 0

    def turned_away(self) -> None:
        """One more."""
        self._count += 1
        if self._count <= STRANGERS_TOLD:
            self._tell("a process outside the run connected and was turned away")
