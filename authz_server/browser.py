"""What ties a person's browser to their requests: cookies, and tokens against forged forms.

Two cookies. The *browser* cookie is made when an authorization request arrives and binds it to
the browser that brought it; the *session* cookie is made at login. Over https both carry the
`__Host-` prefix, so no other host or path can plant one; http is served on loopback only, where
cookies have plain names. A form's token is an HMAC by a key of the server over what the form is
for: the login form's over the browser cookie, the consent form's over the login session, so a token
from before a login is worth nothing after it.

Cookies know no ports (RFC 6265 §8.5): on a loopback issuer every local listener, an agent's
redirect among them, is the same host: it can read our cookies and plant them. So over http no
cookie travels with a redirect that leaves: both are taken away with it, a session counts for the
one request it was made in (`answers_login`), and cookies alone never open the consent page: its
form token goes to the browser that sent the password, in the answer to that very request
(`authorize_flow.go_on`).
"""

import hashlib
import hmac
import re
from collections.abc import Callable
from typing import Final, Literal

from starlette.requests import Request
from starlette.responses import Response

from authz_server.store.digests import new_secret

CookieName = Literal["browser", "session"]

# Far more than a login needs; renewed by each authorization request.
BROWSER_COOKIE_SECONDS: Final = 3_600

_COOKIE_VALUE = re.compile(r"[A-Za-z0-9\-_]{43}")


def cookie_name(issuer: str, name: CookieName) -> str:
    """The cookie's full name under this issuer."""
    prefix = "__Host-" if issuer.startswith("https://") else ""
    return f"{prefix}countersign_{name}"


def read_cookie(request: Request, issuer: str, name: CookieName) -> str | None:
    """The cookie's value, if it has the shape of one of ours."""
    value = request.cookies.get(cookie_name(issuer, name), "")
    return value if _COOKIE_VALUE.fullmatch(value) else None


def set_cookie(
    response: Response, issuer: str, name: CookieName, value: str, max_age_seconds: int
) -> None:
    """Set one of our cookies: never for scripts, never with another site's requests.

    Lax, not Strict: the person arrives from another program and must still be known.
    """
    if value and is_shared_host(issuer) and _leaves(response, issuer):
        return  # INVARIANT: what comes after such a redirect may be an agent's listener
    response.set_cookie(
        cookie_name(issuer, name),
        value,
        max_age=max_age_seconds,
        path="/",
        secure=issuer.startswith("https://"),
        httponly=True,
        samesite="lax",
    )


def clear_cookie(response: Response, issuer: str, name: CookieName) -> None:
    """Take one of our cookies away."""
    set_cookie(response, issuer, name, "", 0)


def forget_on_leaving(response: Response, issuer: str) -> None:
    """Where other programs share our host, the browser leaves without our cookies."""
    if is_shared_host(issuer):
        clear_cookie(response, issuer, "browser")
        clear_cookie(response, issuer, "session")


def is_shared_host(issuer: str) -> bool:
    """Whether other programs may listen on the issuer's host: http is loopback."""
    return issuer.startswith("http://")


def _leaves(response: Response, issuer: str) -> bool:
    location = response.headers.get("location")
    return location is not None and not location.startswith(f"{issuer}/oauth/")


def browser_secret(request: Request, issuer: str, random: Callable[[int], bytes]) -> str:
    """The browser cookie's value, or a new one: requests in several tabs share it."""
    return read_cookie(request, issuer, "browser") or new_secret(random)


def form_token(
    key: bytes, form: Literal["login", "consent"], interaction_id: str, holder: str
) -> str:
    """The token a form of ours carries. `holder`: browser cookie at login, `sid` at consent."""
    message = f"{form}:{interaction_id}:{holder}".encode()
    return hmac.new(key, message, hashlib.sha256).hexdigest()


def is_form_token(unverified_token: str | None, expected_token: str) -> bool:
    """Whether it is the token expected."""
    return hmac.compare_digest((unverified_token or "").encode(), expected_token.encode())


def is_forged(
    request: Request, unverified_token: str | None, expected_token: str, issuer: str
) -> bool:
    """Whether a POST did not come from the form we sent to this browser."""
    if not is_form_token(unverified_token, expected_token):
        return True
    # Browsers say by themselves where a form was; `null` is what our referrer policy makes them
    # say of our own pages. Programs say nothing.
    origin = request.headers.get("origin")
    site = request.headers.get("sec-fetch-site")
    scheme_and_host = "/".join(issuer.split("/", 3)[:3])
    return origin not in (None, "null", scheme_and_host) or site not in (None, "same-origin")
