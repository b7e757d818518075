"""A person at a browser without JavaScript: follows redirects, fills forms, presses buttons."""

import ssl
from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import httpx2


@dataclass
class Form:
    """One form of a page: where it goes and what it carries."""

    action: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    buttons: list[tuple[str, str]] = field(default_factory=list)


class _Forms(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self.links: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "form":
            self.forms.append(Form(given.get("action", "")))
        elif self.forms and tag == "button" and "name" in given:
            self.forms[-1].buttons.append((given["name"], given.get("value", "")))
        elif self.forms and tag == "input" and "name" in given:
            if given.get("type") in {"checkbox", "radio"} and "checked" not in given:
                return
            self.forms[-1].fields[given["name"]] = given.get("value", "")

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.text.append(data.strip())


@dataclass(frozen=True)
class Page:
    """What the person sees."""

    status: int
    url: str
    text: str
    forms: tuple[Form, ...]
    links: tuple[str, ...] = ()

    @property
    def asks_password(self) -> bool:
        """Whether this is a login form, ours or an identity provider's."""
        return any("password" in form.fields for form in self.forms)


class RefusedError(Exception):
    """The person was not let through; the text says what the page said."""


@cache
def system_authorities() -> ssl.SSLContext:
    """Whom this machine believes, read once: it takes longer than a whole login here."""
    return ssl.create_default_context()


class Browser:
    """One person's browser: it keeps cookies, and stops where the redirect leaves the server."""

    def __init__(self, stop_at: str, verify: ssl.SSLContext | None = None) -> None:
        self._http = httpx2.Client(
            timeout=20, trust_env=False, verify=verify or system_authorities()
        )
        self._stop_at = stop_at

    def close(self) -> None:
        self._http.close()

    def open(self, url: str) -> Page | str:
        """The page at `url`, or the URL of the redirect that left."""
        return self._follow(self._http.get(url))

    def submit(
        self, page: Page, values: dict[str, str], button: tuple[str, str] | None = None
    ) -> Page | str:
        """Fill the page's first form and send it, pressing `button` if one is named."""
        form = page.forms[0]
        data = form.fields | values | (dict([button]) if button else {})
        here = urlsplit(page.url)
        answer = self._http.post(
            urljoin(page.url, form.action),
            data=data,
            headers={"origin": f"{here.scheme}://{here.netloc}"},
        )
        return self._follow(answer)

    def _follow(self, answer: httpx2.Response) -> Page | str:
        for _ in range(10):
            if not answer.is_redirect:
                break
            target = urljoin(str(answer.url), answer.headers["location"])
            if target.startswith(self._stop_at):
                return target
            self._keep_secure_cookies()
            answer = self._http.get(target)
        self._keep_secure_cookies()
        parser = _Forms()
        parser.feed(answer.text)
        return Page(
            answer.status_code,
            str(answer.url),
            " ".join(parser.text),
            tuple(parser.forms),
            tuple(urljoin(str(answer.url), link) for link in parser.links),
        )

    def _keep_secure_cookies(self) -> None:
        """As browsers do, send cookies marked Secure to this machine over http as well.

        Loopback is a trustworthy origin to them (W3C Secure Contexts §3.1); Keycloak counts on it.
        """
        for cookie in self._http.cookies.jar:
            if cookie.domain == "127.0.0.1":
                cookie.secure = False


def to_login(browser: Browser, page: Page | str) -> Page | str:
    """From our login page to where the password goes: the identity provider's, if it is theirs."""
    if isinstance(page, Page) and not page.asks_password:
        there = next((link for link in page.links if "/oauth/login/" in link), None)
        return page if there is None else browser.open(there)
    return page


def log_in_and_allow(
    browser: Browser, url: str, username: str, password: str
) -> tuple[str, Page | None]:
    """Log in if asked, read the consent page, allow it; the redirect back and that page."""
    page = to_login(browser, browser.open(url))
    if isinstance(page, Page) and page.asks_password:
        page = browser.submit(page, {"username": username, "password": password})
    consent: Page | None = None
    if isinstance(page, Page) and page.forms:
        consent = page
        allow = next(
            (button for button in page.forms[0].buttons if button[1] in {"allow", "approve"}), None
        )
        page = browser.submit(page, {}, allow)
    if isinstance(page, Page):
        message = f"{page.status} {page.url}: {page.text[:300]}"
        raise RefusedError(message)
    return page, consent
