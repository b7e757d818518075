"""`make mutation`: change the two pure packages in every small way; the tests must notice.

Runs mutmut over both, prints which mutants survived, and fails below the floor. A survivor is
either a missing test or a change nobody can observe; read them before lowering anything.
"""

import subprocess
import sys
from pathlib import Path
from typing import Final

FLOOR: Final = 0.90
MUTMUT: Final = str(Path(sys.executable).with_name("mutmut"))


def main() -> None:
    """Run, count, judge."""
    arguments = sys.argv[1:]  # such as "token_exchange.*" for one package
    subprocess.run([MUTMUT, "run", "--max-children", "2", *arguments], check=True)  # noqa: S603
    listed = subprocess.run(  # noqa: S603
        [MUTMUT, "results", "--all", "true"], check=True, capture_output=True, text=True
    ).stdout
    verdicts = [line.rsplit(": ", 1) for line in listed.splitlines() if ": " in line]
    counted = [verdict for _, verdict in verdicts if verdict not in {"not checked", "skipped"}]
    survived = [name.strip() for name, verdict in verdicts if verdict in {"survived", "no tests"}]
    if not counted:
        sys.exit("no mutant was run")
    killed = 1 - len(survived) / len(counted)
    for name in survived:
        sys.stdout.write(f"survived: {name}\n")
    sys.stdout.write(f"{killed:.1%} of {len(counted)} mutants were caught (floor {FLOOR:.0%})\n")
    if killed < FLOOR:
        sys.exit(1)


if __name__ == "__main__":
    main()
