"""The command `countersign` as an installed script: a file the kernel's word can name.

With a socket as its first argument it is `tests/attest_helper.py`, so that a test can hold a token
of the very agent that runs under the command.
"""

import runpy
import sys
from pathlib import Path

from countersign.cli.main import main

if __name__ == "__main__":
    if Path(sys.argv[1]).is_socket():
        runpy.run_path(str(Path(__file__).parents[1] / "attest_helper.py"), run_name="__main__")
    else:
        main()
