"""What the demo prints once the story is over and everything stays up."""

import time

from rich.console import Console

from compose.demo.stack import Stack


def welcome(stack: Stack, console: Console) -> None:
    """Print where everything is and how an MCP client connects; stay until Ctrl-C."""
    stack.command("restore", "agent/support-bot")
    endpoint = stack.endpoint("crm")
    console.print("\n[bold]Everything stays up until Ctrl-C.[/]")
    console.print(
        f"""

  MCP endpoints    {endpoint}
                   {stack.endpoint("notes")}
  issuer           {stack.issuer}
  admin API        {stack.issuer}/admin/v1   (OpenAPI: {stack.issuer}/admin/v1/openapi.json)
  people           alice, bob and the admin olga; passwords in compose/demo/people.py
  command line     .venv/bin/countersign --issuer {stack.issuer} \\
                       --socket {stack.admin_socket} audit search
                   (the same with `get Agent support-bot`, `tools list crm`, `kill`, `--help`)
  first admin      olga, by the setup code; on a server of your own: docs/guides/first-steps.md

  Connect an agent: examples/agent_for_a_person.py is a whole one, to copy; how to declare it is
  in docs/guides/first-agent.md. All that an MCP client on the Python SDK needs is its function
  `bound`, which puts the token and a proof into each request:

      http = httpx2.AsyncClient(auth=partial(bound, token))
      Client(streamable_http_client("{endpoint}", http_client=http))

  Which clients work today: programs on the Python SDK with that function. Claude Desktop, VS Code
  and Inspector do not: they would have to register themselves and prove possession of a key (DPoP).
""",
        soft_wrap=True,
        markup=False,
    )
    try:
        while running := [each for each in stack.processes if each.popen.poll() is None]:
            if len(running) < len(stack.processes):
                gone = [each.name for each in stack.processes if each.popen.poll() is not None]
                console.print(f"{', '.join(gone)} ended; see the logs in {stack.directory}")
                return
            time.sleep(1)
    except KeyboardInterrupt:
        console.print("\nstopping")
