"""A process of its own that writes to a database: `contender.py URL MODE NAME`."""

import sys
import threading
from functools import partial

from sqlalchemy import Connection, text

from database.engine import Database
from tests.database.samples import put_note

ROWS = 200


def say(value: object) -> None:
    sys.stdout.write(f"{value}\n")
    sys.stdout.flush()


def claim(connection: Connection, row: int, name: str) -> bool:
    statement = text("UPDATE notes SET text = :name WHERE id = :id AND text = 'free' RETURNING id")
    return connection.execute(statement, {"name": name, "id": row}).first() is not None


def race(database: Database, name: str) -> None:
    """Try to claim every row; print how many were ours."""
    won = sum(database.write_now(partial(claim, row=row, name=name)) for row in range(ROWS))
    say(won)


def count_up(database: Database) -> None:
    """Insert one row after the other from many threads; print each number once it is committed."""
    numbers = iter(range(1_000_000))
    lock = threading.Lock()

    def insert() -> None:
        while True:
            with lock:
                number = next(numbers)
            database.write_now(partial(put_note, note=number, content="counted"))
            with lock:
                say(number)

    threads = [threading.Thread(target=insert) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def hold(database: Database) -> None:
    """Keep the write lock until standard input ends."""

    def keep(_connection: Connection) -> None:
        say("held")
        sys.stdin.read()

    database.write_now(keep)


def main() -> None:
    database = Database.open(sys.argv[1])
    mode, name = sys.argv[2], sys.argv[3]
    say("ready")
    if mode == "race":
        sys.stdin.readline()
        race(database, name)
    elif mode == "count":
        count_up(database)
    else:
        hold(database)
    database.close()


if __name__ == "__main__":
    main()
