"""`python -m countersign`: the same command as `countersign`."""

from countersign.cli.main import main

main()
