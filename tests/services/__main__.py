"""`make services`: installs every server and client nobody here wrote, before the tests need them.

A build takes minutes and a test may not. What is in the cache already is not touched. With
`COUNTERSIGN_REQUIRE_SERVICES` (as in CI) a failure ends this; without it the tests that need what
is missing say so and are skipped.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Final

from compose.services import keycloak
from tests.services import (
    compose_tools,
    image_build,
    mcp_clients,
    nginx,
    oidc_provider,
    postgresql,
    published_servers,
    spire,
    valkey,
)
from tests.services.common import CannotInstallError

INSTALLATIONS: Final[Mapping[str, Callable[[], object]]] = {
    "PostgreSQL": postgresql.install,
    "Valkey": valkey.install,
    "oidc-provider": oidc_provider.install,
    "server-everything": published_servers.install_everything,
    "server-filesystem": published_servers.install_filesystem,
    "mcp-server-time": published_servers.install_time,
    "mcp-server-git": published_servers.install_git,
    "MCP Python SDK 1.30": mcp_clients.install_python_legacy,
    "MCP TypeScript SDK 1.32": mcp_clients.install_typescript_legacy,
    "MCP TypeScript client 2.4": mcp_clients.install_typescript_modern,
    "MCP Inspector 2.12, Node 22": mcp_clients.install_inspector,
    "Keycloak": keycloak.install,
    "SPIRE": spire.install,
    "nginx": nginx.install,
    "compose-go, hadolint, compose-lint": compose_tools.install,
    "the locked packages of the image": image_build.install,
}


def main() -> None:
    """Install all, one after the other; say what took how long."""
    missing = []
    for name, install in INSTALLATIONS.items():
        began = time.monotonic()
        try:
            install()
        except CannotInstallError as error:
            missing.append(name)
            sys.stdout.write(f"{name}: not installed: {error}\n")
        else:
            sys.stdout.write(f"{name}: ready, {time.monotonic() - began:.0f} s\n")
        sys.stdout.flush()
    if missing and os.environ.get("COUNTERSIGN_REQUIRE_SERVICES"):  # noqa: TID251 - the tests' knob
        sys.exit(f"missing: {', '.join(missing)}")


if __name__ == "__main__":
    main()
