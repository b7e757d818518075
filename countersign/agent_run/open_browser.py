"""Opens the URL on standard input in a browser that is no child of ours.

A program of its own, run before the agent starts: it forks and ends, so that the browser falls to
init and never belongs to the process tree of the run.
"""

import os
import sys
import webbrowser


def main() -> None:
    """Leave, then open."""
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
