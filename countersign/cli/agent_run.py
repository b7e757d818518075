"""`agent run`: an unchanged MCP agent becomes an attested one."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from countersign.admin_client import AdminError
from countersign.agent_run.addresses import endpoints_of
from countersign.agent_run.browser_login import Login
from countersign.agent_run.errors import AgentRunError, UsageError
from countersign.agent_run.platform_proofs import ProofKind, proof_source
from countersign.cli.context import CommandContext, clock, context_of, visible
from countersign.code_request import LoginError
from countersign.public_url import require_public_url
from countersign.settings import environment_for_child

CANCELLED = 130


def run(
    command: typer.Context,
    cmd: Annotated[list[str], typer.Argument(metavar="CMD...", help="What to run, after `--`.")],
    *,
    server: Annotated[
        list[str] | None, typer.Option(help="A server the agent needs. May be repeated.")
    ] = None,
    gateway: Annotated[
        str,
        typer.Option(
            envvar="COUNTERSIGN_GATEWAY_URL", show_envvar=False, help="The gateway of --server."
        ),
    ] = "http://127.0.0.1:8701",
    resource: Annotated[
        list[str] | None,
        typer.Option(help="A whole endpoint, https://GATEWAY/SERVER/mcp. May be repeated."),
    ] = None,
    alone: Annotated[
        bool, typer.Option("--alone", help="The agent acts for itself: nobody logs in.")
    ] = False,
    agent: Annotated[
        str | None,
        typer.Option(
            envvar="COUNTERSIGN_AGENT",
            show_envvar=False,
            help="The Agent object this is, for the person's login.",
        ),
    ] = None,
    proof: Annotated[
        ProofKind,
        typer.Option(
            metavar="PROOF",
            help=f"What vouches for this process: {', '.join(ProofKind)}; auto: what is there.",
        ),
    ] = ProofKind.AUTO,
    workload_api: Annotated[
        str | None,
        typer.Option(
            envvar="SPIFFE_ENDPOINT_SOCKET", show_envvar=False, help="The SPIFFE Workload API."
        ),
    ] = None,
    spiffe_id: Annotated[
        str | None, typer.Option(help="Which of several identities of the Workload API.")
    ] = None,
    attestation_socket: Annotated[
        Path,
        typer.Option(
            envvar="COUNTERSIGN_ATTESTATION_SOCKET", show_envvar=False, help="The server's socket."
        ),
    ] = Path("countersign-run/attest.sock"),
    provider: Annotated[
        str, typer.Option(help="The TrustProvider object behind that socket.")
    ] = "local",
    token_file: Annotated[
        Path | None, typer.Option(help="The platform's token; read anew at each use.")
    ] = None,
    port: Annotated[
        int,
        typer.Option(
            min=0, max=65535, metavar="PORT", help="The loopback port; 0 takes a free one."
        ),
    ] = 0,
    no_browser: Annotated[
        bool,
        typer.Option("--no-browser", help="Only print the login's link; do not open a browser."),
    ] = False,
    wait: Annotated[
        float,
        typer.Option(min=1, max=3600, help="Seconds a person has to log in and allow a server."),
    ] = 300,
) -> None:
    """Run CMD as an attested agent: it speaks plain MCP to loopback, we add token and proof.

        countersign agent run --server crm --agent helpdesk-bot -- python my_agent.py

    CMD finds the address in COUNTERSIGN_MCP_URL (and COUNTERSIGN_MCP_URL_CRM, one for each
    server). It needs no key, token or login of its own and cannot see ours: they are in this
    process's memory alone. Nobody but CMD and the processes it starts is served there, whoever
    knows the address (Linux only; elsewhere nothing starts).

    With --alone the agent acts for itself. Otherwise a person logs in at start, in a browser,
    allows each server, and the agent acts for them until CMD ends or the login does.

    What vouches for this process: --token-file, else the SPIFFE Workload API, else the server's
    attestation socket. When CMD ends, its run ends at the server as well: every gateway refuses
    its tokens at once. CMD's exit code is ours.

    COUNTERSIGN_GATEWAY_URL, COUNTERSIGN_AGENT, COUNTERSIGN_ATTESTATION_SOCKET and
    SPIFFE_ENDPOINT_SOCKET stand in for --gateway, --agent, --attestation-socket, --workload-api.
    """
    # Here, because it brings an HTTP server, for which every other command would wait.
    from countersign.agent_run.run import RunPlan, run_agent  # noqa: PLC0415

    context = context_of(command)
    try:
        login = None if alone else _login(context, agent, browser=not no_browser, wait=wait)
        plan = RunPlan(
            issuer=context.settings.issuer,
            endpoints=endpoints_of(_gateway(gateway), server or (), resource or ()),
            proofs=proof_source(
                proof,
                issuer=context.settings.issuer,
                workload_api=workload_api,
                spiffe_id=spiffe_id,
                socket=attestation_socket,
                provider=provider,
                token_file=token_file,
            ),
            login=login,
            command=cmd,
            environment=environment_for_child(),
            port=port,
            ca_file=context.settings.ca_file,
        )
        code = asyncio.run(run_agent(plan, clock, lambda line: _tell(context, line)))
    except UsageError as error:
        raise typer.BadParameter(error.description) from error
    except (AgentRunError, LoginError) as error:
        raise AdminError(error.code, error.description) from error
    except asyncio.CancelledError:
        raise typer.Exit(CANCELLED) from None
    raise typer.Exit(code)


def _gateway(given: str) -> str:
    try:
        return require_public_url(given)
    except ValueError as error:
        raise UsageError(f"--gateway: {error}") from error


def _login(context: CommandContext, agent: str | None, *, browser: bool, wait: float) -> Login:
    if agent is None:
        message = "say which Agent this is with --agent, or that it acts --alone"
        raise UsageError(message)
    return Login(
        client_id=agent,
        opens_browser=browser,
        wait_seconds=wait,
        invite=lambda line: _print(context, line),
        tell=lambda line: _tell(context, line),
    )


def _tell(context: CommandContext, line: str) -> None:
    """A line for people, on standard error: standard output is the command's."""
    if not context.quiet:
        _print(context, line)


def _print(context: CommandContext, line: str) -> None:
    for each in line.split("\n"):
        text = visible(each)
        prefix = "" if text.startswith("http") else "countersign: "
        context.errors.print(prefix + text, highlight=False, markup=False, soft_wrap=True)
