"""The pages a person sees: login, consent, and messages. No decision is made here.

Every page works without JavaScript and loads nothing: its style is inline under a nonce, its
Content-Security-Policy allows no script, no frame around it and forms only to ourselves and, when
the answer is a redirect, to the client's proved origin (browsers apply `form-action` to the
redirect after a form as well). Values reach HTML only through autoescaping templates.
"""

import secrets
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse, Response

_TEMPLATES: Final = Environment(
    loader=PackageLoader("authz_server", "pages"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True, slots=True)
class Message:
    """A page that only says something. `link` is where the person may go on, already proved."""

    heading: str
    paragraphs: tuple[str, ...]
    link: str | None = None
    link_text: str = ""


@dataclass(frozen=True, slots=True)
class LoginChoice:
    """A login at another site: what its button says and where it leads, on our own pages."""

    label: str
    link: str


@dataclass(frozen=True, slots=True)
class LoginView:
    """The login page. `problem` is the one sentence after a failed attempt.

    `providers` take a password on this page; `choices` have a login page of their own.
    """

    action: str
    interaction_id: str
    csrf_token: str
    client_name: str
    providers: tuple[str, ...]
    choices: tuple[LoginChoice, ...] = ()
    username: str = ""
    problem: str | None = None
    origin: str | None = None


@dataclass(frozen=True, slots=True)
class ToolLine:
    """One tool a person is asked to allow.

    `description` is what its server says of it, in one short line; `care` what the operator says.
    """

    name: str
    read_only: bool
    care: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True)
class ProgramLine:
    """A program nobody vouches for. `name` is its own word; `host` is where it describes itself.

    `proof` is what it proves itself by, `level` as in a token. `stays_here`: the answer goes to
    this computer; `only_here`: it can go nowhere else, so whichever program listens there gets it.
    """

    name: str
    host: str | None
    proof: str
    level: int
    stays_here: bool
    only_here: bool


@dataclass(frozen=True, slots=True)
class ConsentView:
    """The consent page: who lets whom do what, where, for how long.

    `agent` is None for the person's own command line; `program` is who asks as an agent without
    proving that it is one. `destination` is where the answer goes,
    `server_place` the host of the server. `offline`: it asks for refresh tokens. `shown` are the
    marks of what this page shows, which the form brings back. `applications` are those from which
    the agent may bring a sign-in of the person, `by_mandate`: even without this consent.
    """

    action: str
    interaction_id: str
    csrf_token: str
    person: str
    identity_provider: str
    client_name: str
    destination: str
    days: int
    agent: str | None = None
    program: ProgramLine | None = None
    owner: str = ""
    environment: str = ""
    minimum_level: int = 0
    server: str = ""
    server_place: str = ""
    tools: tuple[ToolLine, ...] = ()
    offline: bool = False
    shown: str = ""
    applications: tuple[str, ...] = ()
    by_mandate: bool = False
    problem: str | None = None
    origin: str | None = None


def login_page(view: LoginView, status: int = HTTPStatus.OK) -> Response:
    """Ways to log in: other sites, and the form that asks for a username and a password."""
    return _page("login.html", status, view.origin, view=view)


def consent_page(view: ConsentView, status: int = HTTPStatus.OK) -> Response:
    """The form that asks a person to allow or deny."""
    return _page("consent.html", status, view.origin, view=view)


def message_page(message: Message, status: int) -> Response:
    """A page without a form."""
    return _page("message.html", status, None, message=message)


def page_headers(nonce: str, form_origin: str | None = None) -> dict[str, str]:
    """What every page carries against framing, injection, leaking and keeping."""
    form_action = "'self'" if form_origin is None else f"'self' {form_origin}"
    policy = (
        f"default-src 'none'; style-src 'nonce-{nonce}'; form-action {form_action}; "
        "frame-ancestors 'none'; base-uri 'none'"
    )
    return {
        "Content-Security-Policy": policy,
        "X-Frame-Options": "DENY",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
        "Pragma": "no-cache",
        "Cross-Origin-Resource-Policy": "same-origin",
    }


def _page(
    template: str,
    status: int,
    form_origin: str | None,
    **values: Any,  # noqa: ANN401 - views
) -> Response:
    nonce = secrets.token_urlsafe(16)
    html = _TEMPLATES.get_template(template).render(nonce=nonce, **values)
    return HTMLResponse(html, status_code=status, headers=page_headers(nonce, form_origin))
