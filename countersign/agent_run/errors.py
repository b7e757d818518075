"""Why a run cannot start, go on or be served just now. Every text is safe to print and to send."""


class AgentRunError(Exception):
    """What went wrong, as a code and a sentence."""

    def __init__(self, code: str, description: str) -> None:
        super().__init__(f"{code}: {description}")
        self.code = code
        self.description = description


class UsageError(AgentRunError):
    """The command line is wrong, whatever the rest of the world does."""

    def __init__(self, description: str) -> None:
        super().__init__("usage", description)


class UnavailableError(AgentRunError):
    """The other side cannot answer now; the same may work in a moment."""


class RunOverError(AgentRunError):
    """The run was ended or cut off: it gets no token any more."""
