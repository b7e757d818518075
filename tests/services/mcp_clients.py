"""The MCP clients that people use, at the versions their tests were written for.

The Inspector needs Node 22.19; that comes from npm as well, without install scripts, so that the
machine's own Node may be older.
"""

import platform
import sys
from pathlib import Path

from tests.services.common import CannotInstallError, node_modules, python_environment

PYTHON_LEGACY = "mcp==1.30.0"
TYPESCRIPT_MODERN = "@modelcontextprotocol/client@2.4.0"
TYPESCRIPT_LEGACY = "@modelcontextprotocol/sdk@1.32.2"
INSPECTOR = "@modelcontextprotocol/inspector@2.12.0"
NODE = "22.23.3"
_MACHINES = {"x86_64": "x64", "aarch64": "arm64"}


def install_python_legacy() -> Path:
    """The interpreter that has the Python SDK of the legacy era; our own has today's."""
    return python_environment("mcp-legacy", PYTHON_LEGACY)


def install_typescript_modern() -> Path:
    """The folder with the TypeScript client of today."""
    return node_modules("mcp-typescript", TYPESCRIPT_MODERN)


def install_typescript_legacy() -> Path:
    """The folder with the TypeScript SDK of the legacy era."""
    return node_modules("mcp-legacy-typescript", TYPESCRIPT_LEGACY)


def install_inspector() -> list[str]:
    """The Inspector's command.

    Raises:
        CannotInstallError: npm has no Node for this machine.
    """
    machine = _MACHINES.get(platform.machine())
    if machine is None or sys.platform != "linux":
        message = f"no Node {NODE} for {sys.platform} {platform.machine()}"
        raise CannotInstallError(message)
    package = f"node-linux-{machine}"
    modules = node_modules("mcp-inspector", INSPECTOR, f"{package}@{NODE}") / "node_modules"
    node = modules / package / "bin" / "node"
    entry = modules / "@modelcontextprotocol/inspector/clients/launcher/build/index.js"
    return [str(node), str(entry)]
