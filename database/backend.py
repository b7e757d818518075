"""What `database.engine` needs of a database; one file beside this one for each."""

from typing import Protocol

from sqlalchemy import Engine


class Backend(Protocol):
    """The connections of one process to one database.

    `readers` begins a read-only transaction that is one picture. `writing` has one connection, and
    beginning on it waits until no other process is inside a write: INVARIANT: what a write read
    cannot have changed when it writes, and writes are committed in the order they began.
    """

    @property
    def readers(self) -> Engine:
        """For reads, from many threads."""

    @property
    def writing(self) -> Engine:
        """For the one writer."""

    @property
    def maximum_group(self) -> int:
        """How many works share a commit."""

    def require_reachable(self) -> None:
        """Refuse at once what would only wait for a database that is known to be away.

        Raises:
            DatabaseUnavailableError: It is.
        """

    def committed(self) -> None:
        """This process has committed: `data_version` changes before the work's caller knows."""

    def data_version(self) -> int:
        """A number that changes whenever anybody has committed.

        Raises:
            DatabaseUnavailableError: Whether anybody has is not known.
        """

    def close(self) -> None:
        """Close every connection."""
