"""What an operator does to running processes: declare something for a while, type a command.

`countersign` as a process of its own takes most of a second before it asks anything. `typed` runs
the same `main` with the same arguments, environment and standard streams; that the installed
command does no more than call it is shown wherever `Stack.command` is used.
"""

import contextlib
import io
import subprocess
import sys
import traceback
from collections.abc import Iterator
from typing import Any
from unittest import mock

from compose.demo.stack import Stack, StackError
from countersign.cli.main import main
from tests.stack import admin, await_policies


@contextlib.contextmanager
def declared(stack: Stack, objects: list[dict[str, Any]]) -> Iterator[None]:
    """These objects beside or instead of what a prepared stack has; afterwards it is as before."""
    with admin(stack) as api:
        before = [_declaration(each) for each in api.call("GET", "/objects")["objects"]]
        api.call("POST", "/objects", json={"objects": objects})
        await_policies(api)
    try:
        yield
    finally:
        known = {(each["kind"], each["name"]) for each in before}
        added = {(each["kind"], each["name"]) for each in objects} - known
        gone = [{"kind": kind, "name": name} for kind, name in sorted(added)]
        with admin(stack) as api:
            api.call("POST", "/objects", json={"objects": before, "delete": gone})
            await_policies(api)


def _declaration(item: dict[str, Any]) -> dict[str, Any]:
    return {name: item[name] for name in ("kind", "name", "spec")}


def typed(
    stack: Stack, *arguments: str, stdin: str = "", socket: bool = False, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run `countersign …` as the operator; by the admin socket if asked."""
    by = ["--socket", str(stack.admin_socket)] if socket else []
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2)]
    with (
        mock.patch.dict("os.environ", stack.child_environment(), clear=True),
        mock.patch.object(sys, "argv", ["countersign", *by, *arguments]),
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()))),
        contextlib.redirect_stdout(streams[0]),
        contextlib.redirect_stderr(streams[1]),
    ):
        status = _exit_status()
    texts = []
    for stream in streams:
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())
    done = subprocess.CompletedProcess(["countersign", *arguments], status, *texts)
    if check and status != 0:
        message = f"countersign {' '.join(arguments)}: {done.stderr or done.stdout}"
        raise StackError(message)
    return done


def _exit_status() -> int:
    """As the interpreter ends a process."""
    try:
        main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except Exception:  # noqa: BLE001 - what would be a stack trace in the process is one here
        traceback.print_exc()
        return 1
    return 0
