"""Writes the documentation that is data elsewhere: `make docs`. `tests/test_docs.py` compares.

docs/settings.md comes from `countersign.settings`; docs/requirements.md from `tests.requirements`;
the tables in docs/eras.md from `tests/interop/eras.py` and `client_table.py` beside it.
"""

import json
import re
import sys
from pathlib import Path

from pydantic_core import PydanticUndefined

from countersign.settings import (
    AuthzServerSettings,
    ClientSettings,
    McpGatewaySettings,
    ProcessSettings,
    ServeSettings,
    StdioHostSettings,
)
from tests.interop.client_table import client_table
from tests.interop.eras import era_matrix
from tests.objects_page import objects_page
from tests.requirements import REQUIREMENTS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"

SETTINGS_HEAD = """# Settings

Every process reads its settings from `COUNTERSIGN_<NAME>` in the environment; the defaults are the
strict choice. All problems are reported at once, at start. This page is generated (`make docs`).

| files | what | keep |
|---|---|---|
| `data_dir/countersign.db` | registry, consents, sessions, sealed secrets, audit | back it up |
| `data_dir/spool/` | audit events not yet in the store | with the database |
| `keys_dir/signing.kek`, `vault.kek` | what keys and secrets are encrypted under | elsewhere |
| `run_dir/attest.sock` | where local agents are attested; any user may ask | recreated |
| `run_dir/admin.sock` | the admin API for the server's own user, 0600 | recreated |
| `run_dir/setup-code` | the setup code, 0600, until used or 15 minutes old | a start makes one |
| `state_dir/gateway.key`, `enrolment.json` | who a gateway is, 0600 | lost: join again |
| `state_dir/spool/` | audit events of a gateway not yet delivered | never delete |
| `state_dir/workers/` | where workers of a gateway find each other, 0600 | recreated |
| `stdio_servers` | the commands of the stdio host: as good as a shell there | with the host |
"""

REQUIREMENTS_HEAD = """# Requirements

What is required, by id, and proved by at least one test that carries the id
(`@pytest.mark.requirement`). `C` ids are what the product was asked to do, `B` ids what no other
product does, `attack-N` the attacks each of which has a refused and an accepted test, the others
sections of specifications. This page is generated from `tests/requirements.py` (`make docs`).

| id | what is required |
|---|---|
"""


def settings_page() -> str:
    """docs/settings.md."""
    shared = set(ProcessSettings.model_fields)
    served = shared | set(AuthzServerSettings.model_fields) | set(McpGatewaySettings.model_fields)
    return SETTINGS_HEAD + "".join(
        (
            _section("Authorization server: `authz-server`, `serve`", AuthzServerSettings, shared),
            _section("Gateway: `mcp-gateway`, `serve`", McpGatewaySettings, shared),
            _section("Stdio servers: `stdio-host`", StdioHostSettings, shared),
            _section("`serve` only", ServeSettings, served),
            _section("Command line", ClientSettings, shared),
            _section("Every process", ProcessSettings, set()),
        )
    )


def _section(title: str, model: type[ProcessSettings], without: set[str]) -> str:
    rows = [
        f"| `COUNTERSIGN_{name.upper()}` | {_default(field.default)} | {field.description or ''} |"
        for name, field in model.model_fields.items()
        if name not in without
    ]
    return f"\n## {title}\n\n| variable | default | |\n|---|---|---|\n" + "\n".join(rows) + "\n"


def _default(value: object) -> str:
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return ""
    if value == 0o666:
        return "`0o666`"
    # As it is written in the environment, not as Python shows it.
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, frozenset):
        return f"`{json.dumps(sorted(value))}`"
    return f"`{value}`"


def requirements_page() -> str:
    """docs/requirements.md."""
    rows = [f"| {key} | {sentence} |" for key, sentence in sorted(REQUIREMENTS.items(), key=_order)]
    return REQUIREMENTS_HEAD + "\n".join(rows) + "\n"


def _order(item: tuple[str, str]) -> tuple[str, int, str]:
    key = item[0]
    letters = key.rstrip("0123456789")
    digits = key[len(letters) :]
    return (letters, int(digits) if digits else 0, key)


SPECS_HEAD = """# Specifications

Where each section is obeyed: the code cites it at the branch that enforces it, and this page
collects the citations (`make docs`). What is not listed is not implemented yet.

| specification | status here |
|---|---|
| OAuth 2.1 (RFC 6749, 6750, 7636, 8252, 9700) | code with PKCE S256, client credentials |
| OpenID Connect Core, Discovery | login, ID token, discovery; no userinfo, no logout yet |
| RFC 8414, RFC 9207, RFC 9728 | server metadata, `iss` in responses, resource metadata |
| RFC 8707 | `resource`: exactly one; it becomes the only audience |
| RFC 9068 | access tokens; RFC 7638 key ids; RFC 8725 typed tokens |
| RFC 8693 | by gateways, for targets and discovery |
| RFC 9396 | `authorization_details`: `mcp_tool`, `mcp_tool_call`, `mcp_discovery` |
| RFC 9449 | DPoP at the token endpoint, gateway, control channel and admin API; no nonces yet |
| RFC 7523 | `private_key_jwt`, and attestations as client assertions |
| draft-ietf-oauth-spiffe-client-auth | `spiffe_jwt`, `spiffe_x509`; no WIT-SVID |
| SPIFFE-ID, JWT-SVID, X509-SVID, bundles | verified; bundle endpoints by `https_web` only |
| RFC 8705 | mutual TLS as client authentication for X.509-SVIDs; no certificate-bound tokens |
| MCP 2026-07-28 | discover, tools/list, tools/call with streaming and cancellation |
| MCP 2025-11-25, 2025-06-18 | both sides: sessions, tools, progress, cancellation; stdio servers |

| section | where |
|---|---|
"""

CITED = re.compile(
    r"(RFC \d{4}|OpenID (?:Connect )?(?:Core|Discovery)|draft-[a-z0-9-]+) ?"
    r"(§[0-9][0-9.]*[0-9]|§[0-9])"
)


def specs_page() -> str:
    """docs/specs.md."""
    where: dict[tuple[str, str], set[str]] = {}
    for package in sorted(path.parent for path in ROOT.glob("*/py.typed")):
        for file in package.rglob("*.py"):
            for found in CITED.finditer(file.read_text()):
                key = (found[1].replace("Connect ", ""), found[2])
                where.setdefault(key, set()).add(str(file.relative_to(ROOT)))
    rows = [
        f"| {spec} {section} | {', '.join(f'`{file}`' for file in sorted(where[spec, section]))} |"
        for spec, section in sorted(where, key=_section_order)
    ]
    return SPECS_HEAD + "\n".join(rows) + "\n"


def _section_order(key: tuple[str, str]) -> tuple[str, list[int]]:
    return key[0], [int(number) for number in key[1].removeprefix("§").split(".")]


def eras_page() -> str:
    """docs/eras.md: what is there, with its generated tables between the marks."""
    page = _filled((DOCS / "eras.md").read_text(), "era matrix", era_matrix())
    return _filled(page, "client table", client_table())


def _filled(page: str, name: str, table: str) -> str:
    before, begin, rest = page.partition(f"<!-- {name}: generated")
    mark, _, rest = rest.partition("\n")
    _, end, after = rest.partition(f"<!-- end of the {name} -->")
    if not (begin and end):
        message = f"the page has no place for the {name}"
        raise ValueError(message)
    return f"{before}{begin}{mark}\n\n{table}\n{end}{after}"


PAGES = {
    "eras.md": eras_page,
    "specs.md": specs_page,
    "settings.md": settings_page,
    "requirements.md": requirements_page,
    "objects.md": objects_page,
}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page())
        sys.stdout.write(f"docs/{name}\n")
