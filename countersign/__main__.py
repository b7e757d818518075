"""`countersign`, also as `python -m countersign`: loads the command line, then runs it."""

from countersign.loading import kept_for_good

with kept_for_good():
    from countersign.cli.main import main

if __name__ == "__main__":
    main()
