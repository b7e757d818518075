"""What the demo prints once the story is over and everything stays up."""

import time

from rich.console import Console

from compose.demo.stack import Ports, Stack


def welcome(stack: Stack, console: Console) -> None:
    """Print where everything is and how an MCP client connects; stay until Ctrl-C."""
    stack.command("restore", "agent/support-bot")
    console.print("\n[bold]Everything stays up until Ctrl-C.[/]\n\n")
    console.print(text(stack), soft_wrap=True, markup=False)
    try:
        while running := [each for each in stack.processes if each.popen.poll() is None]:
            if len(running) < len(stack.processes):
                gone = [each.name for each in stack.processes if each.popen.poll() is not None]
                console.print(f"{', '.join(gone)} ended; see the logs in {stack.directory}")
                return
            time.sleep(1)
    except KeyboardInterrupt:
        console.print("\nstopping")


def text(stack: Stack) -> str:
    """Everything a person needs to go on."""
    endpoint = stack.endpoint("crm")
    variables = "" if stack.ports == Ports() else agent_run_variables(stack)
    return f"""\
  MCP endpoints    {endpoint}
                   {stack.endpoint("notes")}
  issuer           {stack.issuer}
  admin API        {stack.issuer}/admin/v1   (OpenAPI: {stack.issuer}/admin/v1/openapi.json)
  people           alice, bob and the admin olga; passwords in compose/demo/people.py
  command line     .venv/bin/countersign --issuer {stack.issuer} \\
                       --socket {stack.admin_socket} audit search
                   (the same with `get Agent support-bot`, `tools list crm`, `kill`, `--help`)
  first admin      olga, by the setup code; on a server of your own: docs/guides/first-steps.md

  Connect an agent: any MCP client runs unchanged under `countersign agent run`. In another
  terminal, here (more in docs/guides/agent-run.md; declaring one: docs/guides/first-agent.md):

      {variables}.venv/bin/python compose/demo/agent_run.py --server crm --alone -- \\
          .venv/bin/python examples/plain_agent.py list_hours

  One that does it all by itself is examples/agent_for_a_person.py, to copy: its function `bound`
  puts the token and a proof (DPoP) into each request of the Python SDK:

      http = httpx2.AsyncClient(auth=partial(bound, token))
      Client(streamable_http_client("{endpoint}", http_client=http))

  The Python and TypeScript SDKs and the MCP Inspector connect by themselves to servers that you
  open for them: docs/guides/foreign-clients.md.
"""


def agent_run_variables(stack: Stack) -> str:
    """Where this demo is, for `agent_run.py`, which looks at the usual ports."""
    return f"COUNTERSIGN_ISSUER={stack.issuer} COUNTERSIGN_GATEWAY_URL={stack.base_url} \\\n      "
