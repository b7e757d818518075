"""Runs the services of a compose file without a container engine: as plain processes.

What an engine would do is done for each service from the project as `docker compose` reads it:
its command, environment, user, mounts and secrets (as paths of this machine), and one DNS for the
names of the services. What it is not is a container: one network, one file system.

It must run in a mount and a network namespace of its own, as root (`unshare --mount --net`):
names are looked up at an address of that namespace's loopback, and its ports are free.
"""

import contextlib
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from compose.services import keycloak
from tests.services import nginx, postgresql, valkey
from tests.services.common import Server, installing, run, started
from tests.tls_front import TlsFront

ROOT: Final = Path(__file__).parents[2]
RESOLVER: Final = "127.0.0.11"  # as in a container
SECRETS: Final = Path("/run/secrets")
SUPERUSER: Final = "postgres"
PLAIN_PORT: Final = 5433
Command = list[str | Path]


def answer_names() -> None:
    """Be the DNS: every name is this machine (RFC 1035 §4.1)."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((RESOLVER, 53))

    def serve() -> None:
        while True:
            query, client = server.recvfrom(512)
            name_end = query.index(b"\0", 12) + 1
            question = query[12 : name_end + 4]
            asks_address = question[-4:] == b"\0\1\0\1"
            head = query[:2] + b"\x84\0" + struct.pack("!HHHH", 1, int(asks_address), 0, 0)
            record = b"\xc0\x0c\0\1\0\1" + struct.pack("!IH", 1, 4) + socket.inet_aton("127.0.0.1")
            server.sendto(head + question + (record if asks_address else b""), client)

    threading.Thread(target=serve, daemon=True).start()


def enter(directory: Path) -> None:
    """Make the namespaces we are in a place of their own."""
    run(["ip", "link", "set", "lo", "up"])
    (directory / "resolv.conf").write_text(f"nameserver {RESOLVER}\n")
    (directory / "hosts").write_text("127.0.0.1 localhost\n")
    # PostgreSQL wants its user to have a name; its image makes one up as well.
    users = Path("/etc/passwd").read_text() + "service:x:10001:10001::/nowhere:/bin/false\n"
    (directory / "passwd").write_text(users)
    for name in ("resolv.conf", "hosts", "passwd"):
        run(["mount", "--bind", directory / name, f"/etc/{name}"])
    run(["mount", "-t", "tmpfs", "tmpfs", "/run"])
    SECRETS.mkdir()
    answer_names()


@dataclass
class Engine:
    """The project, and what of it runs."""

    project: dict[str, Any]
    directory: Path
    running: dict[str, Server] = field(default_factory=dict)
    _held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def service(self, name: str) -> dict[str, Any]:
        return dict(self.project["services"][name])

    def place(self, name: str, text: str) -> str:
        """Paths of the service's container as paths of this machine."""
        service = self.service(name)
        mounts = {each["target"]: each["source"] for each in service.get("volumes", ())}
        for each in service.get("secrets", ()):
            target = each.get("target") or f"/run/secrets/{each['source']}"
            mounts[target] = self.project["secrets"][each["source"]]["file"]
        for path in service.get("tmpfs", ()):
            own = self.directory / name / path.partition(":")[0].strip("/")
            own.mkdir(parents=True, exist_ok=True)
            own.chmod(0o1777)
            mounts[path.partition(":")[0]] = str(own)
        if name in {"notes", "agent"}:
            mounts["/opt/demo/notes_server.py"] = str(ROOT / "compose/demo/notes_server.py")
            mounts["/opt/demo/agent_for_a_person.py"] = str(ROOT / "examples/agent_for_a_person.py")
        inside = "|".join(re.escape(path) for path in sorted(mounts, key=len, reverse=True))
        whole = rf"(?<![\w./-])({inside})(?![\w.-])"
        return re.sub(whole, lambda found: mounts[found[0]], text) if mounts else text

    def environment(self, name: str) -> dict[str, str]:
        """What the image and the file say; nothing of ours but where our code is."""
        own = {"PATH": os.defpath, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        if "COUNTERSIGN_ISSUER" in (said := self.service(name).get("environment") or {}):
            own |= image_environment()
        return {key: self.place(name, value) for key, value in (own | said).items()}

    def user(self, name: str) -> Command:
        """The service's user, who may still read an interpreter in somebody's home."""
        uid, _, gid = self.service(name)["user"].partition(":")
        only = "-all,+dac_read_search"
        return [
            *("setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"),
            *(f"--inh-caps={only}", f"--ambient-caps={only}", f"--bounding-set={only}"),
            "--no-new-privs",
        ]

    def command(self, name: str, program: Sequence[str | Path]) -> Command:
        words = [self.place(name, word) for word in self.service(name)["command"]]
        return [*self.user(name), *program, *words]

    def start(self, name: str, command: Command, is_ready: Callable[[], bool]) -> Server:
        """A service, until it is ready."""
        environment = self.environment(name)
        # Not os.environ beside it, which is what `started` adds: a container has none of it.
        cleared: Command = ["env", "-i", *(f"{key}={value}" for key, value in environment.items())]
        server = self._held.enter_context(
            started(name, [*cleared, *command], self.directory / name)
        )
        server.await_ready(is_ready, 300)
        self.running[name] = server
        return server

    def is_healthy(self, name: str) -> bool:
        """What the health check of a service of ours says, once its port is open."""
        test = self.service(name)["healthcheck"]["test"]
        assert test[:4] == ["CMD", "python", "-m", "countersign.health"], test
        if not answers_at(int(test[4])):
            return False
        done = subprocess.run([sys.executable, *test[2:]], check=False)  # noqa: S603 - our own
        return done.returncode == 0

    def countersign(self, name: str) -> Server:
        """One of our own processes."""
        command = self.command(name, [sys.executable, "-m", "countersign"])
        return self.start(name, command, lambda: self.is_healthy(name))

    def operator(self, *words: str, stdin: str = "") -> str:
        """`docker compose exec authz-server countersign …`."""
        name = "authz-server"
        placed = [self.place(name, word) for word in words]
        done = subprocess.run(  # noqa: S603 - our own command
            [
                str(word)
                for word in [*self.user(name), sys.executable, "-m", "countersign", *placed]
            ],
            env=self.environment(name) | {"HOME": "/nowhere"},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def postgres(self) -> None:
        """What the image's entry point does, then its server.

        The wheel's server was built without TLS, so another process speaks it before its port.
        """
        name, home = "postgres", postgresql.install()
        service = self.service(name)
        said = service["environment"]
        assert "ssl=on" in service["command"]
        files = [Path(self.place(name, f"/run/secrets/postgres.{end}")) for end in ("pem", "key")]
        self._held.callback(TlsFront(PLAIN_PORT, *files, port=5432).close)
        data, sockets = (self.place(name, path) for path in (said["PGDATA"], "/var/run/postgresql"))
        own = [str(word) for word in self.user(name)]
        first = [f"--pwfile={self.place(name, said['POSTGRES_PASSWORD_FILE'])}", "-U", SUPERUSER]
        first += ["--auth-local=trust", "-E", "UTF8", "--no-sync"]
        run([*own, home / "bin/initdb", "-D", data, *first, *said["POSTGRES_INITDB_ARGS"].split()])
        where = ["-p", str(PLAIN_PORT)]
        psql = [*own, str(home / "bin/psql"), "-q", "-h", sockets, *where, "-U", SUPERUSER]

        def is_ready() -> bool:
            done = subprocess.run([*psql, "-c", ""], check=False, capture_output=True)  # noqa: S603
            return done.returncode == 0

        command: Command = [*own, home / "bin/postgres", "-D", data, "-k", sockets, *where]
        command += ["-c", "fsync=off", "-c", "full_page_writes=off"]
        self.start(name, command, is_ready)
        script = self.place(name, "/docker-entrypoint-initdb.d/databases.sql")
        run([*psql, "-v", "ON_ERROR_STOP=1", "-f", script])

    def valkey(self) -> None:
        """As PostgreSQL, with another process that speaks TLS."""
        name = "valkey"
        words = [self.place(name, word) for word in self.service(name)["command"]]
        options = dict(zip(words[::2], words[1::2], strict=True))
        assert (options.pop("--port"), options.pop("--tls-port")) == ("0", "6379")
        files = (Path(options["--tls-cert-file"]), Path(options["--tls-key-file"]))
        front = TlsFront(PLAIN_PORT + 1, *files, port=6379, is_asked_for=False)
        self._held.callback(front.close)
        plain = [word for pair in options.items() if "tls" not in pair[0] for word in pair]
        command = [*self.user(name), valkey.install(), "--port", str(PLAIN_PORT + 1), *plain]
        self.start(name, command, lambda: answers_at(PLAIN_PORT + 1))

    def front(self) -> None:
        name = "front"
        configuration = self.directory / "front.conf"
        source = self.place(name, "/etc/nginx/front.conf")
        configuration.write_text(self.place(name, Path(source).read_text()))
        first, *words = self.service(name)["entrypoint"]
        assert first == "nginx"
        placed = {"/etc/nginx/front.conf": configuration}
        words = [nginx.install(), *(placed.get(word, word) for word in words)]
        self.start(name, [*self.user(name), *words], lambda: answers_at(8443))

    def notes(self) -> None:
        name = "notes"
        self.start(name, self.command(name, [sys.executable]), lambda: answers_at(8712))

    def keycloak(self) -> None:
        """A home of its own on an installation that was augmented as the Dockerfile says."""
        name, home = "keycloak", augmented_keycloak()
        own = self.directory / name / "home"
        imported = own / "data" / "import"
        imported.mkdir(parents=True)
        for part in ("conf", "lib", "providers", "themes"):
            (own / part).symlink_to(home / part)
        realm = "/opt/keycloak/data/import/corp-realm.json"
        shutil.copy(self.place(name, realm), imported / Path(realm).name)
        words = [self.place(name, word) for word in self.service(name)["command"]]
        environment = dockerfile_environment("keycloak") | keycloak.java() | keycloak.QUICK_START
        command: Command = ["env", *(f"{key}={value}" for key, value in environment.items())]
        command += [home / "bin/kc.sh", *words, f"-Dkc.home.dir={own}"]
        self.start(name, command, lambda: answers_at(9000) and self.check(name))

    def check(self, name: str) -> bool:
        """The service's own health check, for those that need only a shell."""
        words = [word.replace("$$", "$") for word in self.service(name)["healthcheck"]["test"][1:]]
        return subprocess.run(words, check=False, capture_output=True).returncode == 0  # noqa: S603

    def stop(self) -> None:
        self._held.close()


def augmented_keycloak() -> Path:
    """The installation after the RUN of the Dockerfile's stage, made once."""
    settings = dockerfile_environment("keycloak")
    with installing("keycloak-compose") as folder:
        home, built = folder / f"keycloak-{keycloak.VERSION}", folder / "built-with"
        if not built.exists() or built.read_text() != f"{home} {settings}":
            shutil.rmtree(home, ignore_errors=True)
            shutil.copytree(keycloak.install(), home, symlinks=True)
            run([home / "bin/kc.sh", "build"], environment=settings | keycloak.java())
            built.write_text(f"{home} {settings}")
        return home


def dockerfile_environment(stage: str) -> dict[str, str]:
    """The ENV of one stage of the Dockerfile."""
    text = (ROOT / "compose/Dockerfile").read_text().replace("\\\n", " ")
    part = text.partition(f" AS {stage}\n")[2].partition("\nFROM ")[0]
    lines = [line.split()[1:] for line in part.splitlines() if line.startswith("ENV ")]
    return dict(word.split("=", 1) for words in lines for word in words)


def image_environment() -> dict[str, str]:
    """What the image says, but for where its Python is."""
    said = dockerfile_environment("countersign")
    return {key: value for key, value in said.items() if key.startswith("COUNTERSIGN_")}


def answers_at(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextlib.contextmanager
def engine(project: dict[str, Any], directory: Path) -> Iterator[Engine]:
    enter(directory)
    for name, each in project["secrets"].items():  # objects name some of them
        (SECRETS / name).symlink_to(each["file"])
    made = Engine(project, directory)
    try:
        yield made
    finally:
        made.stop()


def settled(ask: Callable[[], bool], seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not ask():
        assert time.monotonic() < until, "not in time"
        time.sleep(0.1)
