"""Files named on the command line: one that is not there is a wrong command line."""

from pathlib import Path

import typer

from countersign.manifests import STANDARD_INPUT


def there_or_dash(file: Path | None) -> Path | None:
    """The callback of an option that takes a file, or - for standard input.

    Typer's own `exists` takes the dash of a `Path` for a file's name.

    Raises:
        typer.BadParameter: There is no such file.
    """
    if file is not None and file != STANDARD_INPUT and not file.exists():
        raise typer.BadParameter(f"{file} does not exist")
    return file
