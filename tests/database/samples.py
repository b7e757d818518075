"""Two small tables to write to."""

from sqlalchemy import Connection, text


def create_notes(connection: Connection) -> None:
    connection.execute(text("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL)"))
    connection.execute(
        text(
            "CREATE TABLE replies (id INTEGER PRIMARY KEY, note INTEGER NOT NULL REFERENCES notes)"
        )
    )
    connection.execute(
        text(
            "CREATE TABLE late_replies (id INTEGER PRIMARY KEY, "
            "note INTEGER NOT NULL REFERENCES notes DEFERRABLE INITIALLY DEFERRED)"
        )
    )


def put_note(connection: Connection, note: int, content: str) -> int:
    connection.execute(text("INSERT INTO notes VALUES (:id, :text)"), {"id": note, "text": content})
    return note


def note_texts(connection: Connection) -> list[str]:
    return list(connection.execute(text("SELECT text FROM notes ORDER BY id")).scalars())
