"""What the tests run as the agent's process: it asks to be attested for a key it is told of.

python tests/attest_helper.py SOCKET PROVIDER THUMBPRINT
"""

import json
import socket
import sys

path, provider, thumbprint = sys.argv[1:]
with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
    connection.settimeout(5)
    connection.connect(path)
    connection.sendall(json.dumps({"provider": provider, "jkt": thumbprint}).encode() + b"\n")
    with connection.makefile("rb") as answer:
        sys.stdout.buffer.write(answer.readline())
