"""Asks a process of this machine whether it serves: what an image without a shell can run.

    python -m countersign.health 8700

Exits 0 only for a 200 of `/healthz`: a gateway that has no snapshot or lost its lease is up, but
should get no calls.
"""

import http.client
import sys
from typing import Final

SECONDS: Final = 2.0
PATH: Final = "/healthz"


def is_healthy(port: int) -> bool:
    """Whether the process that listens at this loopback port serves."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request("GET", PATH)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def main() -> None:
    """Exit 0 or 1, or 2 for a wrong command line."""
    if len(sys.argv) != 2 or not sys.argv[1].isdigit():  # noqa: PLR2004 - the program and a port
        sys.stderr.write("usage: python -m countersign.health PORT\n")
        sys.exit(2)
    sys.exit(0 if is_healthy(int(sys.argv[1])) else 1)


if __name__ == "__main__":
    main()
