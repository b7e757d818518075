"""A gateway and an accepted token, for requests in which one thing is wrong.

Everything that is not wrong in a case is right: token, proof, headers and body, byte for byte.
"""

import json
from typing import Any, Final

from tests.stack import TestAgent, mcp_headers, tool_call
from tests.wire import Answer, assert_says_nothing, say

TARGET: Final = "/crm/mcp"
TOOLS: Final = ["get_account", "list_hours", "refund", "watch_account"]
CHUNKED: Final = ("transfer-encoding", "chunked")
GOOD: Final = tool_call("get_account", {"id": 17})
Headers = list[tuple[str, str]]


def is_served(agent: TestAgent) -> bool:
    answer = agent.call("crm", "get_account", {"id": 17})
    return answer.status_code == 200 and "Ada Lovelace" in answer.text


def headers_for(
    agent: TestAgent, method: str = "tools/call", name: str | None = "get_account"
) -> Headers:
    """Everything a good request needs but its length."""
    stack = agent.stack
    own = agent.headers("POST", stack.endpoint("crm"), agent.tokens["crm"])
    lines = {"host": f"127.0.0.1:{stack.ports.gateway}", "connection": "close"}
    return list((lines | mcp_headers(method, name) | own).items())


def changed(headers: Headers, **changes: str | list[str] | None) -> Headers:
    """The headers with some replaced (underscores are dashes), removed (None) or repeated."""
    wanted = {name.replace("_", "-"): value for name, value in changes.items()}
    kept = [(name, value) for name, value in headers if name not in wanted]
    for name, value in wanted.items():
        values = value if isinstance(value, list) else [] if value is None else [value]
        kept += [(name, each) for each in values]
    return kept


def send(agent: TestAgent, data: bytes, **options: Any) -> Answer:
    return say(agent.stack.ports.gateway, data, **options)


def refused(
    agent: TestAgent, answer: Answer, status: int | tuple[int, ...], code: int | None = None
) -> None:
    """The expected error, and nothing of ours or the caller's in it."""
    assert answer.status in ((status,) if isinstance(status, int) else status), answer
    if code is not None:
        assert answer.error == code, answer
    assert_says_nothing(answer, agent.tokens["crm"], agent.stack.notes_key)


def body_of(**changes: object) -> bytes:
    """The good body with members of the envelope replaced; None removes."""
    return json.dumps({k: v for k, v in (GOOD | changes).items() if v is not ...}).encode()


def params_of(**changes: object) -> bytes:
    params = GOOD["params"] | changes
    return body_of(params={k: v for k, v in params.items() if v is not ...})


def arguments_of(text: str) -> bytes:
    """The good body with its arguments as this very text."""
    whole = json.dumps(tool_call("get_account", {"id": "HERE"}))
    return whole.replace('{"id": "HERE"}', text).encode()
