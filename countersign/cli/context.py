"""What every command shares: settings from options, the console, and errors people can act on."""

import json
import time
import unicodedata
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from countersign.admin_client import AdminClient, AdminError
from countersign.cli.tables import table_lines
from countersign.login_file import LoginDirectory
from countersign.settings import ClientSettings
from countersign.yaml_text import yaml_of

# Unicode categories: control, format (direction overrides among them), surrogate, separators.
INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})

clock: Callable[[], float] = time.time  # noqa: TID251 - the one clock of the command line


class Output(StrEnum):
    """How a command prints what it found."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"


@dataclass(frozen=True, slots=True)
class CommandContext:
    """Settings after the global options, and where to print.

    `wide`: tables are shown whole, however narrow the terminal is. `output` is then `TABLE`.
    """

    settings: ClientSettings
    output: Output
    quiet: bool
    console: Console
    errors: Console
    wide: bool = False

    def printing(self, output: Output) -> "CommandContext":
        """The same, printing as an option says."""
        is_wide = output is Output.WIDE
        return replace(self, output=Output.TABLE if is_wide else output, wide=is_wide)

    @property
    def is_whole(self) -> bool:
        """Whether a table shows all it has: asked for, or read by a program."""
        return self.wide or not self.console.is_terminal

    @property
    def logins(self) -> LoginDirectory:
        """The operator's key and last login."""
        return LoginDirectory(self.settings.config_dir, clock)

    @contextmanager
    def admin(self) -> Generator[AdminClient, None, None]:
        """The admin API, by socket if one is given, else with the saved login."""
        settings = self.settings
        if settings.admin_socket is not None:
            if not settings.admin_socket.exists():
                description = f"there is no socket {settings.admin_socket}: is the server running?"
                raise AdminError("unreachable", description)
            with AdminClient(
                settings.issuer,
                timeout_seconds=settings.timeout_seconds,
                socket=settings.admin_socket,
            ) as client:
                yield client
            return
        saved = self.logins.load(settings.issuer)
        if saved is None:
            if self.logins.has_expired(settings.issuer):
                description = f"the login at {settings.issuer} has expired; run `countersign login`"
                raise AdminError("login_expired", description)
            raise AdminError(
                "not_logged_in",
                f"no login at {settings.issuer}; run `countersign login`,"
                " or give --socket on the server's own machine",
            )
        with AdminClient(
            settings.issuer,
            timeout_seconds=settings.timeout_seconds,
            key=self.logins.key(),
            access_token=saved.access_token,
            ca_file=settings.ca_file,
        ) as client:
            yield client

    def say(self, text: str) -> None:
        """A line for people; nothing with --quiet or machine output."""
        if not self.quiet and self.output is Output.TABLE:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def write(self, text: str) -> None:
        """`text` as it is: what another program reads must not be folded or decorated."""
        self.console.out(text, highlight=False, end="")

    def show(
        self,
        value: Any,  # noqa: ANN401 - any JSON value
        columns: dict[str, Callable[[Any], str]] | None = None,
        *,
        below: int = 0,
        empty: str = "",
    ) -> None:
        """Print a value: rows as a table by `columns`, or whole as JSON or YAML.

        The last `below` columns go to a second line in a narrow terminal; `empty` is said in place
        of a table without rows. Whatever is not ASCII is escaped in JSON and YAML: agents choose
        some of the text, and a terminal obeys more than the ASCII controls.
        """
        if self.output is Output.JSON:
            self.console.print_json(json.dumps(value), ensure_ascii=True)
        elif self.output is Output.YAML or columns is None:
            self.write(yaml_of(value))
        elif empty and not value:
            self.say(empty)
        else:
            rows = [[visible(column(row)) for column in columns.values()] for row in value]
            width = None if self.is_whole else self.console.width
            for line in table_lines(tuple(columns), rows, width=width, below=below):
                self.console.print(line, soft_wrap=True)


def visible(text: str) -> str:
    """`text` with whatever a terminal would obey, or hide, written out.

    Names in the audit are partly chosen by agents: control and direction characters are shown.
    """
    return "".join(
        each if unicodedata.category(each) not in INVISIBLE else f"\\u{ord(each):04x}"
        for each in text
    )


def context_of(command: typer.Context) -> CommandContext:
    """The context `main` prepared."""
    prepared = command.find_root().obj
    if not isinstance(prepared, CommandContext):  # pragma: no cover - main always sets it
        message = "the command line was not prepared"
        raise TypeError(message)
    return prepared


def require_yes(question: str, *, yes: bool) -> None:
    """Ask, unless `--yes` was given.

    Raises:
        AdminError: Nobody is there to answer.
        typer.Exit: The answer was no.
    """
    if yes:
        return
    try:
        agreed = typer.confirm(question)
    except typer.Abort as end:
        if typer.get_text_stream("stdin").isatty():
            raise
        description = "nobody is at the terminal to answer; give --yes"
        raise AdminError("not_confirmed", description) from end
    if not agreed:
        raise typer.Exit(1)


def show_error(error: AdminError, errors: Console) -> None:
    """Say what was refused and where."""
    errors.print(Text.assemble((visible(error.code), "bold red"), ": ", visible(error.description)))
    for problem in error.problems:
        where = "/".join(part for part in (problem.kind, problem.name) if part)
        place = f"{where} {problem.field}".strip()
        text = visible(f"  {place}: {problem.message}")
        errors.print(text, highlight=False, markup=False, soft_wrap=True)  # one problem, one line


def read_secret(prompt: str, file: Path | None) -> str:
    """A secret from a file, from a pipe, or typed without echo; never from an argument."""
    if file is not None:
        return file.read_text(encoding="utf-8").rstrip("\n")
    stdin = typer.get_text_stream("stdin")
    if not stdin.isatty():
        return stdin.readline().rstrip("\n")
    value: str = typer.prompt(prompt, hide_input=True)
    return value
