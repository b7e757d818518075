"""`compose/` names nothing that is not there, and opens nothing that need not be open."""

import json
import re
import shlex
from pathlib import Path
from typing import Any, Final

import pytest
import typer
import yaml

from compose import prepare
from compose.services import keycloak
from countersign.cli.main import app
from countersign.settings import (
    AuthzServerSettings,
    ClientSettings,
    McpGatewaySettings,
    ProcessSettings,
)
from tests.compose_files import COMPOSE, dockerfile, document, services

ROOT: Final = COMPOSE.parent
OURS: Final = ("authz-server", "gateway-one", "gateway-two")
SETTINGS: Final[dict[str, tuple[type[ProcessSettings], ...]]] = {
    "authz-server": (AuthzServerSettings, ClientSettings),
    "gateway-one": (McpGatewaySettings,),
    "gateway-two": (McpGatewaySettings,),
}
IMAGES_OWN: Final = {  # what the images of others read
    "postgres": {"POSTGRES_PASSWORD_FILE", "POSTGRES_INITDB_ARGS", "PGDATA"},
    "keycloak": {"JAVA_OPTS_KC_HEAP"},
    "agent": set[str](),
}
TRUST: Final = {"SSL_CERT_FILE"}  # OpenSSL's own


def command_of(words: list[str]) -> Any:
    """The command a command line names."""
    commands: dict[str, Any] = vars(typer.main.get_command(app))["commands"]
    return commands[words[0]]


@pytest.mark.parametrize("name", services())
def test_every_variable_of_the_compose_file_is_a_setting_of_its_service(name: str) -> None:
    said = set(services()[name].get("environment") or {}) - TRUST
    ours = {
        f"COUNTERSIGN_{field.upper()}"
        for settings in SETTINGS.get(name, ())
        for field in settings.model_fields
    }
    assert said <= ours | IMAGES_OWN.get(name, set())


@pytest.mark.parametrize("name", OURS)
def test_settings_of_the_compose_file_are_accepted_together(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    image = {
        key: value
        for each in dockerfile()
        if (each.stage, each.name) == ("countersign", "ENV")
        for key, _, value in (word.partition("=") for word in shlex.split(each.words))
        if key.startswith("COUNTERSIGN_")
    }
    for key, value in (image | services()[name]["environment"]).items():
        monkeypatch.setenv(key, value)
    SETTINGS[name][0]()


@pytest.mark.parametrize("name", OURS)
def test_command_of_a_service_is_one_of_ours_with_options_it_takes(name: str) -> None:
    words = services()[name]["command"]
    options = {option for each in command_of(words).params for option in each.opts}
    assert {word for word in words if word.startswith("--")} <= options


def test_command_of_the_image_is_one_of_ours() -> None:
    said = {each.name: each.words for each in dockerfile() if each.stage == "countersign"}
    assert json.loads(said["ENTRYPOINT"]) == ["countersign"]
    command_of(json.loads(said["CMD"]))


@pytest.mark.parametrize("name", OURS)
def test_health_check_asks_the_port_the_service_listens_at(name: str) -> None:
    service = services()[name]
    *program, port = service["healthcheck"]["test"]
    assert program == ["CMD", "python", "-m", "countersign.health"]
    said = service["environment"]
    listens = said.get("COUNTERSIGN_GATEWAY_PORT", said.get("COUNTERSIGN_LISTEN_PORT"))
    assert port == listens
    front = (COMPOSE / "front" / "nginx.conf").read_text()
    served = re.search(rf"set \$service {name};\s+proxy_pass http://\$service:(\d+);", front)
    assert served is not None
    assert served[1] == listens


def test_front_serves_exactly_the_names_it_has_a_certificate_for() -> None:
    front = (COMPOSE / "front" / "nginx.conf").read_text()
    named = set(re.findall(r"server_name (\S+);", front))
    aliases = services()["front"]["networks"]["core"]["aliases"]
    assert named == set(prepare.CERTIFICATES["front"]) == set(aliases)


@pytest.mark.requirement("compose-secrets")
def test_every_secret_is_a_file_that_prepare_writes(tmp_path: Path) -> None:
    state = prepare.State(tmp_path / "state", tmp_path.stat().st_uid, tmp_path.stat().st_gid)
    prepare.prepare(state)
    for name, each in document()["secrets"].items():
        assert each == {"file": f"${{COUNTERSIGN_STATE:?}}/secrets/{name}"}
        mode = (state.secrets / name).stat().st_mode & 0o777
        assert mode == (0o644 if name.endswith(".pem") else 0o600)
    before = {path: path.read_bytes() for path in state.secrets.iterdir()}
    prepare.prepare(state)
    assert {path: path.read_bytes() for path in state.secrets.iterdir()} == before
    for service in services().values():
        for volume in service.get("volumes", ()):
            source = volume["source"].replace("${COUNTERSIGN_STATE:?}", str(state.directory))
            assert (COMPOSE / source).exists(), source


@pytest.mark.requirement("compose-secrets")
def test_interrupted_preparation_leaves_no_empty_secret(tmp_path: Path) -> None:
    state = prepare.State(tmp_path / "state", tmp_path.stat().st_uid, tmp_path.stat().st_gid)
    state.make_directory(state.secrets)

    def interrupted() -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        state.secret("valkey-password", interrupted)
    assert len(state.secret("valkey-password")) >= 32
    assert [path.name for path in state.secrets.iterdir()] == ["valkey-password"]
    assert (state.secrets / "valkey-password").stat().st_mode & 0o777 == 0o600


def test_gateways_may_do_no_more_to_valkey_than_the_guide_says(tmp_path: Path) -> None:
    state = prepare.State(tmp_path / "state", tmp_path.stat().st_uid, tmp_path.stat().st_gid)
    prepare.prepare(state)
    guide = (COMPOSE.parent / "docs" / "guides" / "scaling.md").read_text()
    said = next(line for line in guide.splitlines() if line.startswith("user countersign on "))
    rights = said[said.index("resetkeys") :]
    password = (state.secrets / "valkey-password").read_text()
    made = (state.secrets / "valkey.acl").read_text().splitlines()
    assert made == ["user default off", f"user countersign on >{password} {rights}"]


def test_no_secret_is_in_an_environment_or_an_argument() -> None:
    for name, service in services().items():
        for key, value in (service.get("environment") or {}).items():
            secretive = re.search("PASS|SECRET|TOKEN|_KEY", key)
            assert secretive is None or key.endswith("_FILE"), (name, key)
            assert re.search(r"://[^/@]*:[^/@]*@", value) is None, (name, key)
        for word in service.get("command", ()):
            assert re.search("(password|secret)=", word) is None, (name, word)


def test_every_secret_a_service_names_is_mounted_there() -> None:
    for name, service in services().items():
        mounted = {each if isinstance(each, str) else each["source"] for each in service["secrets"]}
        text = json.dumps([service.get(key) for key in ("environment", "command", "healthcheck")])
        assert set(re.findall(r"/run/secrets/([\w.-]+)", text)) <= mounted, name
    front = (COMPOSE / "front" / "nginx.conf").read_text()
    assert set(re.findall(r"/run/secrets/([\w.-]+);", front)) == set(services()["front"]["secrets"])


@pytest.mark.parametrize("name", services())
def test_service_is_an_unprivileged_user_on_a_read_only_root_within_limits(name: str) -> None:
    service = services()[name]
    assert not service["user"].startswith(("0:", "root"))
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    assert "privileged" not in service
    assert "cap_add" not in service


def test_agents_are_not_the_servers_own_user() -> None:
    agent = services()["agent"]["user"].partition(":")[0]
    assert agent.isdigit()
    assert int(agent) != prepare.IMAGE_USER
    declared = (COMPOSE / "objects" / "20-agents.yaml").read_text()
    assert f'unix.uid: "{agent}"' in declared


def test_images_are_pinned_and_keycloak_is_the_one_our_tests_talk_to() -> None:
    images = {service["image"] for service in services().values()}
    images |= {each.words.partition(" AS ")[0] for each in dockerfile() if each.name == "FROM"}
    stages = {each.stage for each in dockerfile()}
    (python,) = (each.words for each in dockerfile() if each.name == "ARG")
    images = images - stages - {"${PYTHON_IMAGE}"} | {python.partition("=")[2]}
    for image in images:
        tag = image.rpartition(":")[2]
        assert tag == "local" or re.search(r"\d+\.\d+", tag), image
    assert f"quay.io/keycloak/keycloak:{keycloak.VERSION}" in images


@pytest.mark.requirement("compose-networks")
def test_only_the_front_is_published_and_on_loopback_alone() -> None:
    published = {name: each["ports"] for name, each in services().items() if "ports" in each}
    assert published == {"front": ["127.0.0.1:8443:8443"]}


def networks() -> dict[str, set[str]]:
    """Who is in which network."""
    found: dict[str, set[str]] = {name: set() for name in document()["networks"]}
    for name, service in services().items():
        for network in service.get("networks", ()):
            found[network].add(name)
    return found


@pytest.mark.requirement("compose-networks")
def test_networks_let_each_reach_what_it_needs_and_no_more() -> None:
    gateways = {"gateway-one", "gateway-two"}
    assert networks() == {
        "edge": {"front"},
        "core": {"front", "authz-server", "keycloak"} | gateways,
        "database": {"authz-server", "keycloak", "postgres"},
        "memory": {"valkey"} | gateways,
        "targets": {"notes"} | gateways,
    }
    internal = {name for name, each in document()["networks"].items() if each.get("internal")}
    assert internal == set(networks()) - {"edge"}


def objects() -> list[dict[str, Any]]:
    paths = sorted((COMPOSE / "objects").glob("*.yaml"))
    return [each for path in paths for each in yaml.safe_load_all(path.read_text())]


def test_objects_name_the_secrets_and_places_of_the_compose_file() -> None:
    by_name = {(each["kind"], each["name"]): each["spec"] for each in objects()}
    assert by_name["IdentityProvider", "keycloak"]["issuer"] == f"{prepare.LOGIN}/realms/corp"
    for gateway in ("one", "two"):
        url = by_name["Gateway", gateway]["base_url"]
        assert url == f"https://{gateway}.{prepare.DOMAIN}:{prepare.PORT}"
        assert f"/{gateway}.code" in services()[f"gateway-{gateway}"]["command"][-1]
    assert services()["authz-server"]["environment"]["COUNTERSIGN_ISSUER"] == prepare.AUTHORITY


def test_image_runs_as_a_user_and_needs_no_shell() -> None:
    for each in dockerfile():
        if each.name in {"RUN", "CMD", "ENTRYPOINT"}:
            assert isinstance(json.loads(each.words), list), each
    said = {each.name: each.words for each in dockerfile() if each.stage == "countersign"}
    assert said["USER"] == f"{prepare.IMAGE_USER}:{prepare.IMAGE_USER}"
    assert said["STOPSIGNAL"] == "SIGTERM"
    assert json.loads(said["HEALTHCHECK"].rpartition("CMD ")[2])[:3] == [
        "python",
        "-m",
        "countersign.health",
    ]


def test_everything_the_image_copies_is_in_the_build_context_and_no_more() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    kept = {line[1:] for line in ignored if line.startswith("!")}
    copied = {
        path
        for each in dockerfile()
        if each.name == "COPY" and "--from" not in each.words
        for path in each.words.split()[:-1]
    }
    assert kept == copied
    assert all((ROOT / path).exists() for path in copied)
    packages = {path.parent.name for path in ROOT.glob("*/py.typed")}
    assert packages <= copied


def test_image_has_exactly_the_versions_that_are_tested() -> None:
    def pinned(name: str) -> set[str]:
        text = (ROOT / "requirements" / name).read_text()
        return set(re.findall(r"^([\w.-]+==\S+)", text, re.MULTILINE))

    assert pinned("image.lock") < pinned("run.lock")
    assert not any(each.startswith(("mcp==", "editables==")) for each in pinned("image.lock"))
