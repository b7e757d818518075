"""A person at a browser that goes to other sites and back: links, forms, redirects, cookies."""

import re
from dataclasses import dataclass, field
from html import unescape
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx2

MAXIMUM_HOPS = 20


@dataclass(frozen=True)
class Seen:
    """What is in the window: a page, or the redirect at which the person stopped."""

    url: str
    status: int = 0
    html: str = ""

    @property
    def answer(self) -> dict[str, str]:
        """The query of the address."""
        return {name: values[0] for name, values in parse_qs(urlsplit(self.url).query).items()}

    def link(self, text: str) -> str:
        """Where the link with this text leads."""
        for target, label in re.findall(r'<a [^>]*href="([^"]+)"[^>]*>([^<]*)</a>', self.html):
            if text in unescape(label):
                return urljoin(self.url, unescape(target))
        raise AssertionError(f"no link {text!r} in {self.html}")


@dataclass
class WebPerson:
    """A fresh browser. `stop_at` are addresses it shows instead of following."""

    stop_at: tuple[str, ...]
    http: httpx2.Client = field(
        default_factory=lambda: httpx2.Client(timeout=20, trust_env=False, follow_redirects=False)
    )

    def open(self, url: str) -> Seen:
        """Follow redirects until there is a page, or a place to stop."""
        for _ in range(MAXIMUM_HOPS):
            if url.startswith(self.stop_at):
                return Seen(url)
            answer = self.http.get(url)
            if not answer.is_redirect:
                return Seen(str(answer.url), answer.status_code, answer.text)
            url = urljoin(url, answer.headers["location"])
        raise AssertionError("too many redirects")

    def submit(self, seen: Seen, **values: str) -> Seen:
        """Fill the page's only form."""
        action = re.search(r'<form method="post" action="([^"]+)"', seen.html)
        assert action is not None, seen.html
        hidden = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', seen.html)
        data = {name: unescape(value) for name, value in hidden} | values
        target = urljoin(seen.url, unescape(action.group(1)))
        answer = self.http.post(target, data=data)
        if answer.is_redirect:
            return self.open(urljoin(target, answer.headers["location"]))
        return Seen(str(answer.url), answer.status_code, answer.text)

    def stopping_at(self, *prefixes: str) -> "WebPerson":
        """The same browser, that also stops there."""
        return WebPerson((*self.stop_at, *prefixes), self.http)
