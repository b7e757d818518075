"""Which identity providers have not answered for too long, so that nobody logs in by them."""


class Unwatched:
    """Names of declared identity providers; kept by `directory_watch`, asked at each login."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def __contains__(self, provider: str) -> bool:
        return provider in self._names

    def add(self, provider: str) -> None:
        """It must be watched and cannot be."""
        self._names.add(provider)

    def discard(self, provider: str) -> None:
        """It answers again, or is no longer declared."""
        self._names.discard(provider)
