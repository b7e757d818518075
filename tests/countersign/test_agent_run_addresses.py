"""What a run is for, and what its command is told."""

import pytest

from countersign.agent_run.addresses import Endpoint, endpoints_of, environment_of
from countersign.agent_run.errors import AgentRunError

GATEWAY = "http://127.0.0.1:8701"
CRM = Endpoint("crm", f"{GATEWAY}/crm/mcp")


def test_servers_and_resources_are_endpoints_in_order() -> None:
    given = endpoints_of(GATEWAY, ["crm"], ["https://gw.example.com/base/notes-2/mcp"])
    assert given == (CRM, Endpoint("notes-2", "https://gw.example.com/base/notes-2/mcp"))
    assert [each.path for each in given] == ["/crm/mcp", "/notes-2/mcp"]


@pytest.mark.parametrize(
    "resource",
    [
        "http://gw.example.com/crm/mcp",
        "http://localhost.example.com/crm/mcp",
        "ftp://127.0.0.1/crm/mcp",
        "https://gw.example.com/crm",
        "https://gw.example.com/mcp",
        "https://gw.example.com/crm/mcp?x=1",
        "https://gw.example.com/crm/mcp#x",
        "https://user@gw.example.com/crm/mcp",
        "https:///crm/mcp",
        "https://gw.example.com/../mcp",
        "https://gw.example.com/CRM/mcp",
        "",
    ],
)
def test_resource_of_another_form_is_refused(resource: str) -> None:
    with pytest.raises(AgentRunError):
        endpoints_of(GATEWAY, [], [resource])


def test_run_for_nothing_is_refused() -> None:
    with pytest.raises(AgentRunError, match="--server"):
        endpoints_of(GATEWAY, [], [])


def test_two_servers_of_one_variable_are_refused() -> None:
    with pytest.raises(AgentRunError, match="COUNTERSIGN_MCP_URL_A_B"):
        endpoints_of(GATEWAY, ["a-b", "a.b"], [])


def test_command_gets_addresses_and_nothing_of_an_outer_run() -> None:
    inherited = {
        "PATH": "/bin",
        "COUNTERSIGN_ISSUER": "https://as.example.com",
        "COUNTERSIGN_MCP_URL": "outer",
        "COUNTERSIGN_MCP_URL_LEDGER": "outer",
    }
    notes = Endpoint("notes.v2", f"{GATEWAY}/notes.v2/mcp")
    assert environment_of(inherited, (CRM, notes), 4711) == {
        "PATH": "/bin",
        "COUNTERSIGN_ISSUER": "https://as.example.com",
        "COUNTERSIGN_MCP_URL": "http://127.0.0.1:4711/crm/mcp",
        "COUNTERSIGN_MCP_URL_CRM": "http://127.0.0.1:4711/crm/mcp",
        "COUNTERSIGN_MCP_URL_NOTES_V2": "http://127.0.0.1:4711/notes.v2/mcp",
    }
