"""`countersign agent run` as it is tried with the demo: the same command, in a program of its own.

Server, operator and agents of the demo are one user, and all that tells them apart is the script a
process runs, which that user could fake: the Agent `plain-bot` is whoever runs this file. On a
server of your own an agent has a user of its own, and you type `countersign agent run`.

    python compose/demo/agent_run.py --server crm --alone -- CMD...
"""

import os
import runpy
import sys
from pathlib import Path

HERE = Path(__file__).resolve()
DEFAULTS = {
    "COUNTERSIGN_ATTESTATION_SOCKET": str(HERE.parents[2] / ".run" / "run" / "attest.sock"),
    "COUNTERSIGN_AGENT": "plain-bot",
}


def main() -> None:
    if not sys.flags.safe_path:
        # The kernel tells the arguments of a process that closed its memory, not where it stands.
        command = [sys.executable, "-P", str(HERE), *sys.argv[1:]]
        os.execv(sys.executable, command)  # noqa: S606 - ourselves, by an absolute path
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)  # noqa: TID251 - read by the command, as if exported
    sys.argv = ["countersign", "agent", "run", *sys.argv[1:]]
    runpy.run_module("countersign", run_name="__main__")


if __name__ == "__main__":
    main()
