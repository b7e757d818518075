"""The tokens of one run: one per endpoint, renewed before they end, ended with the run.

An agent alone asks by client_credentials; its later tokens, for whichever endpoint, are of the run
of its first (`invocation_token`). For a person each endpoint's first token comes from the browser,
later ones from its refresh token. One request at a time, so that no refresh token is used twice.
A run that was ended or cut off, as a whole or in one of its parts, is over: it never begins anew by
itself, or a kill would be worth nothing.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, Protocol

from countersign.agent_run.addresses import Endpoint
from countersign.agent_run.authority import HeldToken
from countersign.agent_run.errors import AgentRunError, RunOverError, UnavailableError
from token_exchange.token_types import GRANT_CLIENT_CREDENTIALS, GRANT_REFRESH_TOKEN, SCOPE_TOOLS

RENEW_SECONDS: Final = 60.0  # before the end
RENEW_PART: Final = 5  # of a short life: the last fifth
PAUSE_SECONDS: Final = 5.0  # after a failure, while the token still serves

Tell = Callable[[str], None]


class TokenServer(Protocol):
    """What of the authorization server is needed here."""

    async def token(self, form: Mapping[str, str]) -> HeldToken:
        """One token request."""

    async def end(self, held: HeldToken) -> None:
        """End the run of a token."""


class RunTokens:
    """Every token of the run. Begin each endpoint (`begin_alone`, `begin_with`), then ask."""

    def __init__(self, server: TokenServer, clock: Callable[[], float], tell: Tell) -> None:
        self._server = server
        self._clock = clock
        self._tell = tell
        self._held: dict[Endpoint, HeldToken] = {}
        self._last_alone: HeldToken | None = None
        self._turn = asyncio.Lock()
        self._pause_until = 0.0
        self._over: RunOverError | None = None
        self._working: set[asyncio.Task[str]] = set()  # `end` waits for its turn, so for them

    @property
    def invocations(self) -> tuple[str, ...]:
        """The ids of the run: one, or for a person one for each endpoint."""
        return tuple(dict.fromkeys(held.invocation for held in self._held.values()))

    async def begin_alone(self, endpoint: Endpoint) -> None:
        """Get the first token of an endpoint for the agent alone."""
        self._held[endpoint] = await self._alone(endpoint)

    def begin_with(self, endpoint: Endpoint, held: HeldToken) -> None:
        """Take the first token of an endpoint, from a login."""
        self._held[endpoint] = held

    async def current(self, endpoint: Endpoint) -> str:
        """A token that serves now.

        Raises:
            RunOverError: The run was ended or cut off.
            UnavailableError: The authorization server cannot be asked now.
            AgentRunError: It refuses.
        """
        if not self._is_due(self._held[endpoint]):
            return self._unless_over(self._held[endpoint])
        return await self._apart(self._in_time(endpoint))

    async def after_refusal(self, endpoint: Endpoint, refused: str) -> str:
        """Another token than the one a gateway refused.

        Raises:
            As `current`.
        """
        return await self._apart(self._another(endpoint, refused))

    async def end(self) -> None:
        """End the run, whatever it still has; failures are told, not raised."""
        async with self._turn:
            ended = {held.invocation: held for held in self._held.values()}
            self._over = self._over or RunOverError("run_over", "The run has ended.")
            for held in ended.values():
                try:
                    await self._server.end(held)
                except AgentRunError as error:
                    self._tell(
                        f"the run {held.invocation} could not be ended ({error});"
                        " its tokens live until they expire, and nobody has their key"
                    )

    async def _apart(self, work: Coroutine[Any, Any, str]) -> str:
        """`work`, done to its end even if who waits for it leaves.

        INVARIANT: the answer to a refresh token that was sent is never thrown away; the next use of
        the same token would end the run.
        """
        task = asyncio.create_task(work)
        self._working.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: asyncio.Task[str]) -> None:
        self._working.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited has it; nobody may be left

    async def _in_time(self, endpoint: Endpoint) -> str:
        async with self._turn:
            held = self._held[endpoint]
            if self._is_due(held):
                held = await self._renewed_in_time(endpoint, held)
            return self._unless_over(held)

    async def _another(self, endpoint: Endpoint, refused: str) -> str:
        async with self._turn:
            held = self._held[endpoint]
            if held.token == refused:
                held = await self._renewed(endpoint, held)
            return self._unless_over(held)

    def _is_due(self, held: HeldToken) -> bool:
        life = held.expires_at - held.obtained_at
        return self._clock() >= held.expires_at - min(RENEW_SECONDS, life / RENEW_PART)

    def _unless_over(self, held: HeldToken) -> str:
        if self._over is not None:
            raise self._over
        return held.token

    async def _renewed_in_time(self, endpoint: Endpoint, held: HeldToken) -> HeldToken:
        """A new token; what cannot be renewed just now serves until its end."""
        serves = self._clock() < held.expires_at
        if serves and self._clock() < self._pause_until:
            return held
        try:
            return await self._renewed(endpoint, held)
        except UnavailableError:
            if not serves:
                raise
            self._pause_until = self._clock() + PAUSE_SECONDS
            return held

    async def _renewed(self, endpoint: Endpoint, held: HeldToken) -> HeldToken:
        self._unless_over(held)
        try:
            if self._last_alone is not None:
                new = await self._alone(endpoint)
            else:
                new = await self._refreshed(held)
        except RunOverError as error:
            text = f"The run was ended or cut off: {error.description}"
            self._over = RunOverError("run_over", text)
            self._tell(text)
            raise self._over from error
        self._held[endpoint] = new
        return new

    async def _alone(self, endpoint: Endpoint) -> HeldToken:
        form = {
            "grant_type": GRANT_CLIENT_CREDENTIALS,
            "resource": endpoint.resource,
            "scope": SCOPE_TOOLS,
        }
        if self._last_alone is not None:
            form["invocation_token"] = self._last_alone.token
        self._last_alone = await self._server.token(form)
        return self._last_alone

    async def _refreshed(self, held: HeldToken) -> HeldToken:
        if held.refresh_token is None:
            raise RunOverError("login_over", "The person's login is over; start the run again.")
        form = {"grant_type": GRANT_REFRESH_TOKEN, "refresh_token": held.refresh_token}
        return await self._server.token(form)
