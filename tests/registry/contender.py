"""A process of its own on a registry: `contender.py URL NAME COUNT` blocks COUNT tokens."""

import asyncio
import sys

from database.engine import Database
from registry.blocks import BlockKind
from registry.revocations import RevocationStore


async def block_many(revocations: RevocationStore, name: str, count: int) -> list[int]:
    events = await asyncio.gather(
        *(
            revocations.block(BlockKind.TOKEN, f"{name}-{number}", reason="race", author=name)
            for number in range(count)
        )
    )
    return [event.sequence for event in events]


def main() -> None:
    database = Database.open(sys.argv[1])
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    sequences = asyncio.run(
        block_many(RevocationStore(database, lambda: 1.0), sys.argv[2], int(sys.argv[3]))
    )
    sys.stdout.write(" ".join(map(str, sequences)) + "\n")
    database.close()


if __name__ == "__main__":
    main()
