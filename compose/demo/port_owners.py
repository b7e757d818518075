"""Who listens on a port of this machine, as far as we may look: for a message a person can use."""

from pathlib import Path

LISTENING = "0A"  # proc(5), net/tcp: the state of a listening socket


def owner_of(port: int) -> str:
    """`pid 4711: python -m countersign serve`, or that it is another user's."""
    inodes = {f"socket:[{inode}]" for inode in _inodes(port)}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(str(link.readlink()) in inodes for link in (process / "fd").iterdir()):
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                return f"pid {process.name}: {command[:120]}"
        except (OSError, UnicodeDecodeError):
            continue  # another user's, or gone meanwhile
    return "a process of another user"


def _inodes(port: int) -> set[str]:
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                found.add(fields[9])
    return found
