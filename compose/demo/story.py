"""The story of `make run`: a real agent, real people, real servers, and every step is checked.

Each step prints what it proves. A step whose check fails ends the story with its number and name
and exit status 1; nothing is printed as true that was not seen. After the story everything stays
up until Ctrl-C, unless `--once` is given.

    python -m compose.demo.story [--once] [--directory DIRECTORY] [--ports 8700,8701,8711,8712]
                                 [--keycloak [8780]]
"""

import argparse
import contextlib
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from compose.demo import steps_calls, steps_limits, steps_token
from compose.demo.people import LocalPeople, People, keycloak_people
from compose.demo.port_owners import owner_of
from compose.demo.preparing import prepare
from compose.demo.stack import Ports, Stack, taken_ports
from compose.demo.steps import Story
from compose.demo.welcome import welcome
from compose.services.installing import CannotInstallError, DidNotStartError
from compose.services.keycloak import DOWNLOAD, is_installed

KEYCLOAK_PORT = 8780
PLAIN_BOT = Path(__file__).parent / "plain_bot"  # who may be tried under `agent run`

STEPS: tuple[tuple[str, Callable[[Story], None]], ...] = (
    ("0 prepare", prepare),
    ("1 attest", steps_token.step_attest),
    ("2 login", steps_token.step_login),
    ("3 consent", steps_token.step_consent),
    ("4 token", steps_token.step_token),
    ("5 call crm/get_account", steps_calls.step_call_account),
    ("6 call notes/search", steps_calls.step_call_notes),
    ("7 call crm/refund 100", steps_calls.step_refund_small),
    ("8 call crm/refund 900", steps_calls.step_refund_large),
    ("9 call crm/delete_account", steps_calls.step_delete),
    ("10 bob", steps_limits.step_bob),
    ("11 bypass", steps_limits.step_bypass),
    ("12 kill", steps_limits.step_kill),
    ("13 audit", steps_limits.step_audit),
)


def play(story: Story) -> bool:
    """Every step in order; whether all held."""
    for name, step in STEPS:
        try:
            step(story)
        except Exception as error:  # noqa: BLE001 - whatever it is, the step did not hold
            story.console.print(f"[bold red]step {name} failed[/]", highlight=False)
            story.console.print(f"  {type(error).__name__}: {error}", markup=False, highlight=False)
            return False
    return True


def ports(text: str) -> Ports:
    """The value of `--ports`."""
    issuer, gateway, crm, notes = (int(number) for number in text.split(","))
    return Ports(issuer, gateway, crm, notes)


def directory_of(ports: Ports) -> Path:
    """Where the demo at these ports keeps everything: no other demo's."""
    return Path(".run" if ports == Ports() else f".run-{ports.issuer}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--once", action="store_true", help="end after the story")
    parser.add_argument(
        "--directory",
        type=Path,
        help="emptied at the start; .run, with other ports .run-PORT: a second demo is beside it",
    )
    parser.add_argument(
        "--ports",
        type=ports,
        default=Ports(),
        help="four, with commas: authorization server, gateway, crm, notes",
    )
    parser.add_argument(
        "--keycloak",
        type=int,
        nargs="?",
        const=KEYCLOAK_PORT,
        metavar="PORT",
        help=f"people log in at a real Keycloak, on this port ({KEYCLOAK_PORT})",
    )
    return parser.parse_args()


def main() -> None:
    given = arguments()
    console = Console(highlight=False)
    taken = taken_ports([*given.ports.all, *([given.keycloak] if given.keycloak else [])])
    if taken:
        for port in taken:
            console.print(f"Port {port} is in use by {owner_of(port)}", markup=False)
        console.print("Stop that, or choose others: make run PORTS=9700,9701,9711,9712")
        sys.exit(1)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it cleans up as Ctrl-C does
    directory = (given.directory or directory_of(given.ports)).absolute()
    shutil.rmtree(directory, ignore_errors=True)
    console.print("[bold]Countersign[/]: an agent, two people, two MCP servers\n")
    with contextlib.ExitStack() as held:
        stack = Stack(directory, ports=given.ports, object_folders=(PLAIN_BOT,))
        people = people_of(held, stack, given.keycloak, console)
        run(Story(held.enter_context(stack), console, people), once=given.once)


def people_of(
    held: contextlib.ExitStack, stack: Stack, keycloak_port: int | None, console: Console
) -> People:
    """Local accounts, or a Keycloak that is installed if need be, started and ended with us."""
    if keycloak_port is None:
        return LocalPeople()
    try:
        if not is_installed():
            console.print(f"downloading {DOWNLOAD}, once")
        console.print(f"starting Keycloak on port {keycloak_port} (takes 5 to 30 s)\n")
        people = held.enter_context(
            keycloak_people(stack.directory / "keycloak", keycloak_port, stack.issuer)
        )
    except (CannotInstallError, DidNotStartError) as error:
        console.print(f"Keycloak cannot be started: {error}", markup=False)
        sys.exit(1)
    people.join(stack)
    return people


def run(story: Story, *, once: bool) -> None:
    """Play the story, then stay up."""
    story.started = time.monotonic()
    try:
        held = play(story)
    except KeyboardInterrupt:
        story.console.print("\nstopping")
        held = False
    finally:
        if story.agent is not None:
            story.agent.stop()
    if not held:
        sys.exit(1)
    story.console.print(f"\nEvery step held, in {time.monotonic() - story.started:.0f} s.")
    if not once:
        welcome(story.stack, story.console)


if __name__ == "__main__":
    main()
