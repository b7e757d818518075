"""Talks to Keycloak's admin API. The one file that knows python-keycloak.

The library is synchronous, so it is used in threads (`keycloak_directory`, which is also who loads
this file, in such a thread: it takes as long as all connectors together); and whatever it sends
goes through our own guarded fetcher (`_ThroughFetcher`), which vets the address, verifies TLS,
follows no redirect and bounds time and size of every answer.
"""

import asyncio
import contextlib
import io
from collections.abc import Iterable, Iterator, Mapping
from typing import Final
from urllib.parse import parse_qsl

from keycloak import KeycloakAdmin, KeycloakOpenIDConnection
from keycloak.exceptions import KeycloakError, KeycloakGetError, raise_error_from_response
from keycloak.urls_patterns import URL_ADMIN_EVENTS_CONFIG
from requests import PreparedRequest, Response
from requests.adapters import BaseAdapter
from requests.exceptions import RequestException

from idp_connectors.workforce.keycloak_directory import AdminAccess
from idp_connectors.workforce.person_changes import ChangesUnavailableError
from outbound.fetcher import Fetched, Fetcher, FetchError, FetchPolicy

_FORWARDED_HEADERS: Final = frozenset(("authorization", "accept"))
_FORM: Final = "application/x-www-form-urlencoded"


class RealmAdmin:
    """The admin API of one realm, logged in to as one service account. Used in threads only."""

    def __init__(
        self,
        access: AdminAccess,
        loop: asyncio.AbstractEventLoop,
        fetcher: Fetcher,
        policy: FetchPolicy,
    ) -> None:
        """Send nothing yet; `loop` is where the fetcher runs.

        Raises:
            ChangesUnavailableError: the library does not take these values.
        """
        with _failures_told():
            self._connection = KeycloakOpenIDConnection(
                server_url=f"{access.base_url}/",  # the library joins paths to it
                realm_name=access.realm,
                client_id=access.client_id,
                client_secret_key=access.client_secret,
                max_retries=0,
            )
            transport = _ThroughFetcher(loop, fetcher, policy)
            # The library cannot be given a transport; its sessions are all it connects with.
            for manager in (self._connection, self._connection.keycloak_openid.connection):
                session = manager._s  # noqa: SLF001
                session.trust_env = False
                session.adapters.clear()
                session.mount("https://", transport)
                session.mount("http://", transport)
            self._admin = KeycloakAdmin(connection=self._connection)

    def admin_events(self, query: Mapping[str, object]) -> object:
        """One page of admin events, as it came.

        Raises:
            ChangesUnavailableError: the API cannot be asked; its code says why.
        """
        with _failures_told():
            return self._admin.get_admin_events(dict(query))

    def user_events(self, query: Mapping[str, object]) -> object:
        """One page of user events, as it came.

        Raises:
            ChangesUnavailableError: as above.
        """
        with _failures_told():
            return self._admin.get_events(dict(query))

    def events_config(self) -> object:
        """Which events the realm keeps, as it came.

        Raises:
            ChangesUnavailableError: as above.
        """
        path = URL_ADMIN_EVENTS_CONFIG.format(**{"realm-name": self._connection.realm_name})
        with _failures_told():
            return raise_error_from_response(self._connection.raw_get(path), KeycloakGetError)


@contextlib.contextmanager
def _failures_told() -> Iterator[None]:
    try:
        yield
    except (KeycloakError, RequestException, TypeError, ValueError) as error:
        raise ChangesUnavailableError(_code_of(error)) from None


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


def _forwarded(headers: Iterable[tuple[str, str | bytes]]) -> Iterable[tuple[str, str]]:
    return ((name, _text(value)) for name, value in headers if name.lower() in _FORWARDED_HEADERS)


def _text(body: object) -> str:
    return body.decode("ascii") if isinstance(body, bytes) else str(body or "")


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
