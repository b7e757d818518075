"""npm `oidc-provider` 9.13.3: a certified OpenID provider nobody here wrote, as a second IdP."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from tests.services.common import Server, answers, node_modules, started

VERSION = "9.13.3"
CLIENT_ID = "countersign"
OTHER_CLIENT_ID = "other-app"
OTHER_CALLBACK = "http://127.0.0.1:18081/callback"
CLIENT_SECRET = "a-secret-of-the-test-provider"
SCRIPT = Path(__file__).with_name("oidc_provider.mjs")


@dataclass(frozen=True)
class OidcProviderServer:
    """The running provider."""

    issuer: str
    server: Server

    def change(self, person: str, **facts: Any) -> None:
        """Change a person there: `groups`, `disabled`."""
        self._control(f"/test/users/{person}", facts)

    def sign_out(self, person: str) -> None:
        """End whatever the person's logins granted."""
        self._control(f"/test/signout/{person}", {})

    def _control(self, path: str, body: dict[str, Any]) -> None:
        httpx2.post(f"{self.issuer}{path}", json=body, trust_env=False).raise_for_status()


def install() -> Path:
    """The folder with the package; idempotent."""
    return node_modules("oidc-provider", f"oidc-provider@{VERSION}")


@contextlib.contextmanager
def running(
    directory: Path, port: int, *, relying_party: str, provider_name: str
) -> Iterator[OidcProviderServer]:
    """A provider whose client `countersign` is the authorization server at `relying_party`."""
    command: list[str | Path] = ["node", SCRIPT, str(port), relying_party, provider_name]
    issuer = f"http://127.0.0.1:{port}"
    with started(
        f"oidc-provider-{port}",
        command,
        directory,
        cwd=install(),
        environment={"CLIENT_SECRET": CLIENT_SECRET},
    ) as server:
        server.await_ready(answers(f"{issuer}/.well-known/openid-configuration"))
        yield OidcProviderServer(issuer, server)
