# mypy: ignore-errors
"""A stdio server that does what it is told, and some things it should not. Standard library only.

The tool `NAME` of a call selects what happens; `arguments` come back in the answer.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time

cancelled = []
refused = []
lock = threading.Lock()


def say(message):
    text = message if isinstance(message, str) else json.dumps(message)
    with lock:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def answer(request, result):
    say({"jsonrpc": "2.0", "id": request["id"], "result": result})


def progress(request, value):
    token = request["params"]["_meta"]["progressToken"]
    params = {"progressToken": token, "progress": value}
    say({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})


def facts():
    status = dict(
        line.split(":", 1) for line in open("/proc/self/status").read().splitlines() if ":" in line
    )
    return {
        "environment": {k: v for k, v in os.environ.items() if k != "LC_CTYPE"},
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        "core": resource.getrlimit(resource.RLIMIT_CORE)[1],
        "no_new_privileges": status["NoNewPrivs"].strip(),
        "groups": status["Groups"].strip(),
        "uid": os.getuid(),
        "cwd": os.getcwd(),
        "session": os.getsid(0) == os.getpid(),
    }


def call(request):
    name = request["params"]["name"]
    if name == "facts":
        answer(request, facts())
    elif name == "echo":
        answer(request, {"arguments": request["params"].get("arguments"), "pid": os.getpid()})
    elif name == "exact":
        say('{"jsonrpc":"2.0","id":%d,"result":{"n":12345678901234567890123}}' % request["id"])
    elif name == "progress":
        progress(request, 1)
        progress(request, 2)
        answer(request, {})
    elif name == "odd":
        say("not json")
        say("[]")
        say("")
        say({"jsonrpc": "2.0", "id": 999, "result": {}})
        say({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info"}})
        say({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1}})
        say({"jsonrpc": "2.0", "id": "s-1", "method": "sampling/createMessage", "params": {}})
        say({"jsonrpc": "2.0", "id": "s-2", "method": "ping"})
        while len(refused) < 2:
            time.sleep(0.01)
        answer(request, {"refused": refused})
    elif name == "wait":
        progress(request, 1)
    elif name == "cancelled":
        answer(request, {"cancelled": cancelled})
    elif name == "die":
        os._exit(3)
    elif name == "long":
        say("x" * 1_000_000)
    elif name == "stay":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        answer(request, {"child": child.pid, "pid": os.getpid()})
        while True:
            time.sleep(1)


def main():
    if sys.argv[1:] == ["--stubborn"]:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.argv[1:] == ["--silent"]:
        time.sleep(600)
    for line in sys.stdin:
        message = json.loads(line)
        if message.get("method") == "initialize":
            if sys.argv[1:] == ["--refuse"]:
                say({"jsonrpc": "2.0", "id": message["id"], "error": {"code": -1, "message": "no"}})
                continue
            result = {
                "protocolVersion": message["params"]["protocolVersion"],
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "odd", "version": "1"},
            }
            answer(message, result)
        elif message.get("method") == "notifications/cancelled":
            cancelled.append(message["params"]["requestId"])
        elif message.get("method") == "tools/call":
            threading.Thread(target=call, args=(message,), daemon=True).start()
        elif "method" not in message:
            refused.append(message)


main()
