"""Reads Keycloak's admin API. The one file that knows python-keycloak.

The library is synchronous, so it runs in a thread; and whatever it sends goes through our own
guarded fetcher (`_ThroughFetcher`), which vets the address, verifies TLS, follows no redirect and
bounds time and size of every answer. After any failure the connection with its token is thrown
away: the next call logs in anew, so a Keycloak that was restarted is found again.

Left out: writing. The service account needs the role `view-events` and no other.
"""

import asyncio
import io
from collections.abc import Callable, Coroutine, Iterable, Mapping
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

import anyio
import anyio.from_thread
import anyio.to_thread
from keycloak import KeycloakAdmin, KeycloakOpenIDConnection
from keycloak.exceptions import KeycloakError, KeycloakGetError, raise_error_from_response
from keycloak.urls_patterns import URL_ADMIN_EVENTS_CONFIG
from requests import PreparedRequest, Response
from requests.adapters import BaseAdapter
from requests.exceptions import RequestException

from idp_connectors.workforce.keycloak_realm import AdminAccess
from idp_connectors.workforce.person_changes import ChangesUnavailableError
from outbound.fetcher import Fetched, Fetcher, FetchError, FetchPolicy

MAXIMUM_THREADS: Final = 4  # of one connector; more wait
_FORWARDED_HEADERS: Final = frozenset(("authorization", "accept"))
_FORM: Final = "application/x-www-form-urlencoded"

Result = TypeVar("Result")


class KeycloakDirectory:
    """The admin API of one realm, read as one service account."""

    def __init__(
        self,
        access: Callable[[], Coroutine[Any, Any, AdminAccess]],
        fetcher: Fetcher,
        policy: FetchPolicy,
    ) -> None:
        self._access = access
        self._fetcher = fetcher
        self._policy = policy
        self._admin: KeycloakAdmin | None = None
        self._threads = anyio.CapacityLimiter(MAXIMUM_THREADS)

    async def admin_events(self, query: Mapping[str, object]) -> tuple[Mapping[str, Any], ...]:
        """One page of admin events.

        Raises:
            ChangesUnavailableError: see there.
        """
        return _events(await self._call(lambda admin: admin.get_admin_events(dict(query))))

    async def user_events(self, query: Mapping[str, object]) -> tuple[Mapping[str, Any], ...]:
        """One page of user events.

        Raises:
            ChangesUnavailableError: see there.
        """
        return _events(await self._call(lambda admin: admin.get_events(dict(query))))

    async def events_config(self) -> Mapping[str, Any]:
        """Which events the realm keeps at all.

        Raises:
            ChangesUnavailableError: see there.
        """
        config = await self._call(_events_config)
        if not isinstance(config, dict):
            raise ChangesUnavailableError("malformed")
        return config

    async def _call(self, ask: Callable[[KeycloakAdmin], Result]) -> Result:
        loop = asyncio.get_running_loop()
        try:
            return await anyio.to_thread.run_sync(
                partial(self._ask, loop, ask), limiter=self._threads
            )
        except (KeycloakError, RequestException, TypeError, ValueError) as error:
            self._admin = None
            raise ChangesUnavailableError(_code_of(error)) from None

    def _ask(
        self, loop: asyncio.AbstractEventLoop, ask: Callable[[KeycloakAdmin], Result]
    ) -> Result:
        if self._admin is None:
            self._admin = self._connect(loop)
        return ask(self._admin)

    def _connect(self, loop: asyncio.AbstractEventLoop) -> KeycloakAdmin:
        access = anyio.from_thread.run(self._access)
        connection = KeycloakOpenIDConnection(
            server_url=f"{access.base_url}/",  # the library joins paths to it
            realm_name=access.realm,
            client_id=access.client_id,
            client_secret_key=access.client_secret,
            max_retries=0,
        )
        transport = _ThroughFetcher(loop, self._fetcher, self._policy)
        # The library has no way to be given a transport; its sessions are all it connects with.
        for manager in (connection, connection.keycloak_openid.connection):
            session = manager._s  # noqa: SLF001
            session.trust_env = False
            session.adapters.clear()
            session.mount("https://", transport)
            session.mount("http://", transport)
        return KeycloakAdmin(connection=connection)


class _ThroughFetcher(BaseAdapter):
    """Sends what `requests` would send, by the guarded fetcher on the event loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, fetcher: Fetcher, policy: FetchPolicy
    ) -> None:
        super().__init__()
        self._loop = loop
        self._fetcher = fetcher
        self._policy = policy

    def send(  # noqa: PLR0917 - the library's signature
        self,
        request: PreparedRequest,
        stream: bool = False,
        timeout: object = None,
        verify: object = True,
        cert: object = None,
        proxies: object = None,
    ) -> Response:
        """Send it; the options of the library's own transport are the policy's to decide."""
        del stream, timeout, verify, cert, proxies
        asked = asyncio.run_coroutine_threadsafe(self._send(request), self._loop)
        try:
            # The fetcher has a deadline of its own; a loop that is gone must not hold the thread.
            fetched = asked.result(self._policy.total_seconds + 1)
        except TimeoutError:
            asked.cancel()
            raise FetchError("timeout") from None
        response = Response()
        response.status_code = fetched.status
        response.headers.update(fetched.headers)
        response.raw = io.BytesIO(fetched.body)
        response.url = request.url or ""
        response.request = request
        response.encoding = "utf-8"
        return response

    async def _send(self, request: PreparedRequest) -> Fetched:
        url, headers = request.url or "", tuple(_forwarded(request.headers.items()))
        if request.method == "GET":
            return await self._fetcher.get(url, self._policy, headers=headers)
        if request.method == "POST" and request.headers.get("Content-Type") == _FORM:
            form = dict(parse_qsl(_text(request.body), keep_blank_values=True))
            return await self._fetcher.post_form(url, form, self._policy, headers=headers)
        raise FetchError("address_refused", "the admin API is only read")

    def close(self) -> None:
        """Nothing is kept open."""


def _events_config(admin: KeycloakAdmin) -> object:
    connection = admin.connection
    path = URL_ADMIN_EVENTS_CONFIG.format(**{"realm-name": connection.realm_name})
    return raise_error_from_response(connection.raw_get(path), KeycloakGetError)


def _forwarded(headers: Iterable[tuple[str, str | bytes]]) -> Iterable[tuple[str, str]]:
    return ((name, _text(value)) for name, value in headers if name.lower() in _FORWARDED_HEADERS)


def _text(body: object) -> str:
    return body.decode("ascii") if isinstance(body, bytes) else str(body or "")


def _events(answer: object) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(answer, list) or not all(isinstance(event, dict) for event in answer):
        raise ChangesUnavailableError("malformed")
    return tuple(answer)


def _code_of(error: BaseException) -> str:
    """Why, in one word: an error's text may hold what the server or we have sent."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, FetchError):
            return cause.code
        if isinstance(cause, KeycloakError) and cause.response_code:
            return f"status_{cause.response_code}"
        cause = cause.__cause__ or cause.__context__
    return "malformed" if isinstance(error, TypeError | ValueError) else "unreachable"
