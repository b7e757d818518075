"""Starts gateway processes one after another, quickly: what a gateway imports is loaded once.

Each line on standard input forks one `countersign mcp-gateway` with this process's environment,
once the one before, which the test has killed, is gone and its port free; its process id is
answered. Ends, and ends the last gateway, at end of input. Only for tests that
start hundreds of gateways: half of a start is spent importing.
"""

import contextlib
import ctypes
import os
import signal
import sys

import countersign.cli.main
import countersign.gateway_process
import mcp_gateway.enrolment  # noqa: F401 - loaded before the fork

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Fork until the end of input."""
    prctl = ctypes.CDLL(None).prctl
    sys.argv = ["countersign", "mcp-gateway"]
    child = 0
    for _ in sys.stdin:
        if child:
            os.waitpid(child, 0)
        child = os.fork()
        if child == 0:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            os.dup2(2, 1)
            countersign.cli.main.main()
            os._exit(0)
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()
    if child:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGTERM)


if __name__ == "__main__":
    main()
