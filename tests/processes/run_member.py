"""A process of a run that does as it is told, one JSON line each, and answers in one line.

{"do": "environment"}                                → {"environment": {...}}
{"do": "list", "url": U, "as": "self" | "child" | "orphan"} → {"status": ...} or {"error": ...}
{"do": "call", "url": U, "tool": T, "arguments": A}  → what the tool or the client said
{"do": "watch", "url": U, "tool": T, "arguments": A} → the first event of the answer
{"do": "hang up"} | {"do": "read on"}                → leaves it; or reads it to its end
{"do": "leave", "code": N}
"""

import http.client
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from typing import Any

HEADERS = {
    "content-type": "application/json",
    "accept": "application/json, text/event-stream",
    "mcp-protocol-version": "2026-07-28",
    "mcp-method": "tools/list",
    "authorization": "Bearer what-an-agent-makes-up",
}
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "tests", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


def asked(url: str, method: str, params: dict[str, Any], name: str | None = None) -> dict[str, Any]:
    """One modern MCP request; its status, headers and body."""
    message = {"jsonrpc": "2.0", "id": 7, "method": method, "params": {"_meta": META} | params}
    headers = HEADERS | {"mcp-method": method} | ({"mcp-name": name} if name else {})
    request = urllib.request.Request(url, json.dumps(message).encode(), headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - http, as told
            return said(answer)
    except urllib.error.HTTPError as error:
        return said(error)
    except OSError as error:
        return {"error": type(error).__name__}


def said(answer: Any) -> dict[str, Any]:
    return {
        "status": answer.status,
        "headers": {name.lower(): value for name, value in answer.headers.items()},
        "body": answer.read().decode(),
    }


def listed(url: str, member: str) -> dict[str, Any]:
    """tools/list by this process, by a child, or by a grandchild whose parent is gone."""
    if member == "self":
        return asked(url, "tools/list", {})
    program = [sys.executable, __file__, "once", url]
    if member == "orphan":
        program = ["/bin/sh", "-c", '"$@" & exit 0', "sh", *program]
    done = subprocess.run(program, capture_output=True, check=True, timeout=60)  # noqa: S603
    return dict(json.loads(done.stdout))


WATCHED: list[Any] = []


def watched(command: dict[str, Any]) -> dict[str, Any]:
    """A streaming call, up to its first event."""
    params = {"name": command["tool"], "arguments": command["arguments"]}
    params["_meta"] = META | {"progressToken": "p"}
    message = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}
    headers = HEADERS | {"mcp-method": "tools/call", "mcp-name": command["tool"]}
    request = urllib.request.Request(command["url"], json.dumps(message).encode(), headers)  # noqa: S310
    answer = urllib.request.urlopen(request, timeout=60)  # noqa: S310 - http, as told
    WATCHED.append(answer)
    while not (line := answer.readline()).startswith(b"data: {"):
        pass
    return {"type": answer.headers["content-type"], "event": line.decode()}


def read_on() -> dict[str, Any]:
    try:
        return {"rest": WATCHED.pop().read().decode()}
    except (OSError, http.client.HTTPException) as error:
        return {"error": type(error).__name__}


def performed(command: dict[str, Any]) -> dict[str, Any]:
    if command["do"] == "environment":
        return {"environment": dict(os.environ)}  # noqa: TID251 - what the run gave
    if command["do"] == "list":
        return listed(command["url"], command["as"])
    if command["do"] == "call":
        params = {"name": command["tool"], "arguments": command["arguments"]}
        return asked(command["url"], "tools/call", params, command["tool"])
    if command["do"] == "watch":
        return watched(command)
    if command["do"] == "hang up":
        WATCHED.pop().close()
        return {}
    if command["do"] == "read on":
        return read_on()
    sys.exit(command["code"])


def main() -> None:
    if sys.argv[1:2] == ["once"]:
        sys.stdout.write(json.dumps(asked(sys.argv[2], "tools/list", {})))
        return
    for line in sys.stdin:
        sys.stdout.write(json.dumps(performed(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
