"""What the demo prints once the story is over and everything stays up."""

import json
import time

from rich.console import Console

from compose.demo.stack import Stack


def welcome(stack: Stack, console: Console) -> None:
    """Print where everything is and what to paste into an MCP client; stay until Ctrl-C."""
    stack.command("restore", "agent/support-bot")
    endpoint = stack.endpoint("crm")
    console.print(
        f"""
[bold]Everything stays up until Ctrl-C.[/]

  MCP endpoints    {endpoint}
                   {stack.endpoint("notes")}
  issuer           {stack.issuer}
  admin API        {stack.issuer}/admin/v1   (OpenAPI: {stack.issuer}/admin/v1/openapi.json)
  people           alice, bob and the admin olga; passwords in compose/demo/story.py
  command line     export COUNTERSIGN_CONFIG_DIR={stack.directory / "operator"}
                   .venv/bin/countersign audit search
                   .venv/bin/countersign get Agent support-bot
"""
    )
    config = {"mcpServers": {"crm": {"type": "http", "url": endpoint}}}
    console.print("MCP client configuration (Claude Desktop, VS Code, Inspector):")
    console.print_json(json.dumps(config))
    console.print(
        "Browser clients log in from the next release on (client id metadata documents); today an"
        "\nattested agent connects as in compose/demo/agent.py. For the Python client:\n"
    )
    console.print(
        f'  Client(streamable_http_client("{endpoint}", http_client=httpx2.AsyncClient('
        "auth=BoundToken(key, token))))",
        markup=False,
    )
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        console.print("\nstopping")
