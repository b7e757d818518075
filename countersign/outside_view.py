"""What a client sees of a deployment from here: names, TLS, clocks, documents. Nothing is trusted.

Order: the issuer's two documents (reachable, JSON, `issuer` byte for byte, RFC 8414 §3.3), the Date
it sends, its certificate, its JWK Set; then each Gateway: its certificate, and for every server the
protected-resource metadata, which must name exactly this endpoint and this issuer (RFC 9728 §3.3).
Requests have a deadline and a size cap, follow no redirect and use no proxy. Left out: everything
only the server knows (`GET /admin/v1/doctor`).
"""

import json
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2

from admin_console.checks.finding import Finding, fine, problem, warning
from countersign.os_error_words import words_of
from countersign.trusted_authorities import tls_context

ISSUER: Final = "issuer"
JWKS: Final = "jwks"
TLS: Final = "tls"
CLOCK: Final = "clock"
ENDPOINT: Final = "endpoint"
MAXIMUM_DOCUMENT_BYTES: Final = 1_048_576
REQUEST_SECONDS: Final = 5.0
EXPIRY_WARNING_DAYS: Final = 21
EXPIRY_PROBLEM_DAYS: Final = 3
SKEW_WARNING_SECONDS: Final = 5.0  # a Date has whole seconds, and the way takes time
SKEW_PROBLEM_SECONDS: Final = 30.0
WELL_KNOWN: Final = ("openid-configuration", "oauth-authorization-server")

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Document:
    """One JSON object from a URL, or why there is none."""

    url: str
    value: Mapping[str, Any] | None
    reason: str
    date: str | None


class OutsideView:
    """Looks at one deployment with one HTTP client. Use as a context manager of the client."""

    def __init__(self, http: httpx2.Client, clock: Clock, ca_file: Path | None = None) -> None:
        """Take a client that neither follows redirects nor reads the environment."""
        self._http = http
        self._clock = clock
        self._ca_file = ca_file

    def issuer(self, issuer: str, published_keys: Sequence[str] | None) -> Iterator[Finding]:
        """The authorization server. `published_keys`: the key ids it says it has, if it could."""
        yield from self._certificate(issuer)
        documents = [self._document(url) for url in metadata_urls(issuer)]
        for document in documents:
            yield _metadata_finding(document, issuer)
        yield from self._skew(issuer, next((each.date for each in documents if each.date), None))
        metadata = next((each.value for each in documents if each.value is not None), None)
        if metadata is not None:
            yield self._jwks(str(metadata.get("jwks_uri", "")), published_keys)
            aliases = metadata.get("mtls_endpoint_aliases")
            if isinstance(aliases, dict) and aliases:
                yield from self._certificate(str(next(iter(aliases.values()))))

    def gateway(self, issuer: str, gateway: Mapping[str, Any]) -> Iterator[Finding]:
        """One Gateway, as `GET /gateways` names it: `base_url` and `servers`."""
        base_url = str(gateway["base_url"])
        yield from self._certificate(base_url)
        for server in gateway["servers"]:
            parts = urlsplit(base_url)
            path = f"{parts.path}/{server}/mcp"
            # RFC 9728 §3.1: inserted between host and path.
            url = f"{parts.scheme}://{parts.netloc}/.well-known/oauth-protected-resource{path}"
            yield _endpoint_finding(self._document(url), f"{base_url}/{server}/mcp", issuer)

    def _certificate(self, url: str) -> Iterator[Finding]:
        yield from certificate_findings(url, self._clock(), self._ca_file)

    def _document(self, url: str) -> Document:
        try:
            with self._http.stream("GET", url, headers={"accept": "application/json"}) as answer:
                date = answer.headers.get("date")
                body = b""
                for chunk in answer.iter_bytes():
                    body += chunk
                    if len(body) > MAXIMUM_DOCUMENT_BYTES:
                        return Document(url, None, "larger than 1 MiB", date)
        except httpx2.HTTPError as error:
            return Document(url, None, words_of(error), None)
        if answer.status_code != httpx2.codes.OK:
            return Document(url, None, f"HTTP {answer.status_code}", date)
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            return Document(url, None, "not JSON", date)
        if not isinstance(value, dict):
            return Document(url, None, "not a JSON object", date)
        return Document(url, value, "", date)

    def _skew(self, issuer: str, date: str | None) -> Iterator[Finding]:
        if date is None:
            return
        try:
            off = parsedate_to_datetime(date).timestamp() - self._clock()
        except ValueError:
            yield warning(
                CLOCK, issuer, "its Date header cannot be read", "see the proxy before it"
            )
            return
        found = f"{off:+.0f} s from this machine's"
        remedy = "let an NTP client (chrony, systemd-timesyncd) keep both clocks"
        if abs(off) >= SKEW_PROBLEM_SECONDS:
            yield problem(CLOCK, issuer, found, remedy)
        elif abs(off) >= SKEW_WARNING_SECONDS:
            yield warning(CLOCK, issuer, found, remedy)
        else:
            yield fine(CLOCK, issuer, found)

    def _jwks(self, url: str, published_keys: Sequence[str] | None) -> Finding:
        document = self._document(url)
        listed = (document.value or {}).get("keys")
        if not isinstance(listed, list) or not listed:
            remedy = "clients cannot verify a token without it; see the proxy before the server"
            return problem(JWKS, url, document.reason or "no keys", remedy)
        kids = sorted(str(each.get("kid")) for each in listed if isinstance(each, dict))
        if published_keys is not None and kids != sorted(published_keys):
            found = f"other keys than the server has: {', '.join(kids)}"
            remedy = "a proxy or cache answers in its place: let it pass this URL through"
            return problem(JWKS, url, found, remedy)
        return fine(JWKS, url, f"{len(kids)} keys")


def metadata_urls(issuer: str) -> tuple[str, ...]:
    """Where clients look: appended for OpenID Discovery §4, inserted for RFC 8414 §3.1."""
    parts = urlsplit(issuer)
    return (
        f"{issuer}/.well-known/{WELL_KNOWN[0]}",
        f"{parts.scheme}://{parts.netloc}/.well-known/{WELL_KNOWN[1]}{parts.path}",
    )


def _metadata_finding(document: Document, issuer: str) -> Finding:
    if document.value is None:
        remedy = "start the server, or correct COUNTERSIGN_ISSUER, DNS or the proxy before it"
        return problem(ISSUER, document.url, document.reason, remedy)
    named = document.value.get("issuer")
    if named != issuer:
        found = f"says its issuer is {named!r}, not {issuer!r}: every client must refuse it"
        remedy = "write the same COUNTERSIGN_ISSUER everywhere, byte for byte"
        return problem(ISSUER, document.url, found, remedy)
    return fine(ISSUER, document.url, "names this issuer, byte for byte")


def _endpoint_finding(document: Document, endpoint: str, issuer: str) -> Finding:
    if document.value is None:
        remedy = "start the gateway's process, or correct base_url, DNS or the proxy before it"
        return problem(ENDPOINT, endpoint, document.reason, remedy)
    resource = document.value.get("resource")
    if resource != endpoint:
        found = f"calls itself {resource!r}: every client must refuse it"
        remedy = "another Gateway answers at this base_url: correct it, or the proxy's routes"
        return problem(ENDPOINT, endpoint, found, remedy)
    servers = document.value.get("authorization_servers")
    if servers != [issuer]:
        found = f"sends clients to {servers!r}, not to this issuer"
        return problem(ENDPOINT, endpoint, found, "join the gateway's process to this server")
    return fine(ENDPOINT, endpoint, "answers, and names this issuer")


def certificate_findings(url: str, now: float, ca_file: Path | None = None) -> Iterator[Finding]:
    """The certificate of an https URL's host. `now` is Unix seconds."""
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        return
    host, port = parts.hostname, parts.port or 443
    subject = f"{host}:{port}"
    context = tls_context(ca_file, url)
    try:
        with (
            socket.create_connection((host, port), timeout=REQUEST_SECONDS) as connection,
            context.wrap_socket(connection, server_hostname=host) as secured,
        ):
            certificate = secured.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        found = f"its certificate is not accepted here: {error.verify_message}"
        remedy = "renew it, send the whole chain, or name its authority with --ca-file"
        yield problem(TLS, subject, found, remedy)
        return
    except OSError as error:
        found = f"no TLS connection: {error.strerror or type(error).__name__}"
        yield problem(TLS, subject, found, "see that it listens there and speaks TLS 1.2 or 1.3")
        return
    yield expiry_finding(subject, str(certificate.get("notAfter", "")), now)


def expiry_finding(subject: str, not_after: str, now: float) -> Finding:
    """How long a certificate still holds. `not_after` as `ssl` writes it."""
    ends = ssl.cert_time_to_seconds(not_after)
    days = int((ends - now) // 86_400)
    found = f"its certificate ends on {datetime.fromtimestamp(ends, UTC):%Y-%m-%d}, in {days} days"
    remedy = "renew it, and see why that did not happen by itself"
    if days < EXPIRY_PROBLEM_DAYS:
        return problem(TLS, subject, found, remedy)
    if days < EXPIRY_WARNING_DAYS:
        return warning(TLS, subject, found, remedy)
    return fine(TLS, subject, found)


def new_client(timeout_seconds: float, ca_file: Path | None = None) -> httpx2.Client:
    """A client for `OutsideView`."""
    seconds = min(timeout_seconds, REQUEST_SECONDS)
    # The gateways of a plain issuer may be at https all the same.
    tls = tls_context(ca_file, "https:")
    return httpx2.Client(timeout=seconds, follow_redirects=False, trust_env=False, verify=tls)
