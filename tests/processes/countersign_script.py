"""The command `countersign` as an installed script: a file the kernel's word can name."""

import sys

from countersign.cli.main import main

if __name__ == "__main__":
    sys.argv[0] = "countersign"
    main()
