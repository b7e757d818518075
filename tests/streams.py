"""A tool call that streams, open in a thread, and how it ended."""

import json
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import httpx2

from tests.stack import TestAgent, mcp_headers, tool_call

STREAM_SECONDS = 60


@dataclass
class OpenStream:
    """`watch_account` under way. `messages` is what came; `ended_at` when it was over (Unix s)."""

    agent: TestAgent
    status: int = 0
    messages: list[dict[str, Any]] = field(default_factory=list)
    ended_at: float = 0.0
    _begun: threading.Event = field(default_factory=threading.Event)
    _ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        threading.Thread(target=self._read, daemon=True).start()
        assert self._begun.wait(20), "the stream did not begin"

    @property
    def is_over(self) -> bool:
        return self._ended.is_set()

    def last(self, seconds: float) -> dict[str, Any]:
        """The last message, once the stream has ended; within `seconds`."""
        assert self._ended.wait(seconds), "the stream is still open"
        return self.messages[-1]

    def _read(self) -> None:
        try:
            self._follow()
        finally:
            self.ended_at = time.time()  # noqa: TID251 - real processes have real time
            self._begun.set()
            self._ended.set()

    def _follow(self) -> None:
        url = self.agent.stack.endpoint("crm")
        body = tool_call("watch_account", {"id": 17, "seconds": STREAM_SECONDS})
        body["params"]["_meta"]["progressToken"] = 1
        headers = mcp_headers("tools/call", "watch_account")
        headers |= self.agent.headers("POST", url, self.agent.tokens["crm"])
        client = httpx2.Client(timeout=STREAM_SECONDS, trust_env=False)
        with client, client.stream("POST", url, json=body, headers=headers) as answer:
            self.status = answer.status_code
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    self.messages.append(json.loads(line.removeprefix("data: ")))
                    self._begun.set()
