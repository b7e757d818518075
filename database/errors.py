"""What can go wrong between us and the database, as one tree."""


class DatabaseError(Exception):
    """The database did not do what was asked; nothing of the work was committed.

    With one exception that nobody can exclude: a connection that is lost while PostgreSQL commits.
    What was written may then stand although its caller was refused.
    """


class UnsupportedDatabaseError(DatabaseError):
    """The URL names a database this release cannot use."""


class DatabaseUnavailableError(DatabaseError):
    """The database cannot be opened or reached."""


class UnstorableValueError(DatabaseError):
    """A value is none the database can hold: a text with NUL, one too long, a number too large.

    Says PostgreSQL; SQLite keeps nearly everything. The same request will fail again.
    """


class DatabaseBusyError(DatabaseError):
    """Too many works wait, one waited for too long, or another process kept the write lock."""


class DatabaseClosedError(DatabaseError):
    """The database was closed before the work was done."""
