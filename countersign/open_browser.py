"""Opens a URL in the person's browser, which is no child of ours.

This module is also a program, which forks and ends before the browser starts: so the browser falls
to init, never belongs to the process tree of a run, and does not end with the command.

INVARIANT: on most desktops the URL becomes part of a command line, which every user of the machine
can read (`/proc/PID/cmdline`). Whoever calls passes none that is worth anything to another user.
"""

import contextlib
import os
import subprocess
import sys
import webbrowser
from typing import Final

HELPER_SECONDS: Final = 10.0


def open_browser(url: str) -> None:
    """Ask for a browser; whether one came, nobody can say.

    `-P`: what lies in the working directory, which may be an agent's, is none of our modules.
    """
    command = [sys.executable, "-P", "-m", "countersign.open_browser"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run(  # noqa: S603 - our own module
            command, input=url.encode(), timeout=HELPER_SECONDS, check=False
        )


def main() -> None:
    """Leave, then open the URL on standard input."""
    url = sys.stdin.read()
    if os.fork() != 0:
        return
    os.setsid()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    webbrowser.open(url)


if __name__ == "__main__":
    main()
