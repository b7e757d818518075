from pathlib import Path

import pytest
from joserfc.jwk import ECKey

from audit_log.event import EventType, Outcome
from audit_log.transaction_log import SOURCE as DATABASE
from credential_providers.vault.seal import seal_secret
from registry.acks import Ack
from tests.admin_console.stack import CONTROL_THUMBPRINT, PERSON_KEY, VAULT_KEY, AdminStack
from tests.token_exchange.signing import NOW, STRANGER, public_jwk

PASSWORD = "correct horse battery staple"


@pytest.mark.requirement("admin-secrets")
def test_secret_sealed_elsewhere_is_stored_and_never_shown(stack: AdminStack) -> None:
    key = stack.call("GET", "/vault-key", who="usr_olga").json["jwk"]
    sealed = seal_secret("notes-key", "the-api-key", key)

    stored = stack.call("PUT", "/secrets/notes-key", body={"sealed": sealed}, who="usr_olga")
    again = stack.call("PUT", "/secrets/notes-key", body={"sealed": sealed}, who="usr_olga")
    listed = stack.call("GET", "/secrets", who="usr_vera")

    assert "d" not in key
    assert (stored.json["version"], again.json["version"]) == (1, 2)
    assert [(each["name"], each["version"]) for each in listed.json["secrets"]] == [
        ("notes-key", 2)
    ]
    assert sealed not in str(listed.json)
    assert stored.json["key_id"] == VAULT_KEY.thumbprint()
    event = stack.events(EventType.SECRET_SEALED)[0]
    assert (event.object_ref, event.author) == ("Secret/notes-key", "local/acc_olga")


@pytest.mark.requirement("admin-secrets")
@pytest.mark.parametrize(
    "sealed",
    [
        "the-api-key in clear",
        seal_secret("other-name", "the-api-key", public_jwk(VAULT_KEY)),
        seal_secret("notes-key", "the-api-key", public_jwk(STRANGER)),
    ],
)
def test_secret_not_sealed_for_its_name_and_our_key_is_refused(
    stack: AdminStack, sealed: str
) -> None:
    answer = stack.call("PUT", "/secrets/notes-key", body={"sealed": sealed})

    assert (answer.status, answer.json["error"]) == (400, "invalid_request")
    assert sealed not in str(answer.json)
    assert stack.call("GET", "/secrets").json == {"secrets": []}


@pytest.mark.requirement("admin-accounts")
def test_account_is_added_and_its_password_is_nowhere(stack: AdminStack) -> None:
    body = {
        "identity_provider": "local",
        "username": "Bob",
        "password": PASSWORD,
        "groups": ["support"],
    }

    added = stack.call("POST", "/accounts", body=body, who="usr_alice")

    assert (added.status, added.json["username"]) == (200, "bob")
    listed = stack.call("GET", "/accounts", who="usr_olga").json["accounts"]
    assert [(each["username"], each["groups"], each["disabled"]) for each in listed] == [
        ("bob", ["support"], False)
    ]
    (event,) = stack.events(EventType.ACCOUNT_ADDED)
    assert (event.user_name, event.detail) == ("bob", "groups: support")
    assert event.source == DATABASE
    for path in Path(stack.database.path.parent).rglob("*"):
        if path.is_file():
            assert PASSWORD.encode() not in path.read_bytes(), path


@pytest.mark.requirement("admin-accounts")
@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"password": "short"}, 400),
        ({"username": "no spaces"}, 400),
        ({"groups": ["/support"]}, 400),
        ({"identity_provider": "keycloak"}, 404),
    ],
)
def test_account_that_breaks_a_rule_is_refused(
    stack: AdminStack, changes: dict[str, object], status: int
) -> None:
    body = {
        "identity_provider": "local",
        "username": "bob",
        "password": PASSWORD,
        **changes,
    }

    assert stack.call("POST", "/accounts", body=body).status == status
    assert stack.call("GET", "/accounts").json == {"accounts": []}


@pytest.mark.requirement("admin-accounts")
def test_account_of_a_taken_name_is_refused(stack: AdminStack) -> None:
    body = {"identity_provider": "local", "username": "bob", "password": PASSWORD}
    stack.call("POST", "/accounts", body=body)

    answer = stack.call("POST", "/accounts", body=body)

    assert (answer.status, answer.json["error"]) == (400, "invalid_request")


@pytest.mark.requirement("admin-gateways")
def test_gateway_join_code_enrols_once_and_carries_the_control_key(stack: AdminStack) -> None:
    answer = stack.call("POST", "/gateways/demo/join", who="usr_alice").json

    code, _, thumbprint = answer["join_code"].partition(".")
    enrolment, key = stack.parts.enrolment, public_jwk(STRANGER)
    first = stack.run(enrolment.consume_code(code, key, NOW))
    second = stack.run(enrolment.consume_code(code, key, NOW))
    assert (answer["gateway"], answer["expires_in"], thumbprint) == (
        "demo",
        600,
        CONTROL_THUMBPRINT,
    )
    assert (first, second) == ("demo", None)
    assert code not in str(stack.events())
    (event,) = stack.events(EventType.GATEWAY_INVITED)
    assert (event.object_ref, event.author) == ("Gateway/demo", "local/acc_alice")


@pytest.mark.requirement("admin-gateways")
def test_gateways_list_their_live_workers(stack: AdminStack) -> None:
    ack = Ack("demo", "gateway.demo.a", 5, 3, NOW * 1000, NOW * 1000)
    stack.run(stack.parts.acks.record_ack(ack))

    answer = stack.call("GET", "/gateways", who="usr_vera").json

    (gateway,) = answer["gateways"]
    assert (gateway["name"], gateway["base_url"], gateway["servers"], gateway["keys"]) == (
        "demo",
        "http://127.0.0.1:8701",
        ["crm"],
        [],
    )
    (worker,) = gateway["workers"]
    assert (worker["worker"], worker["version"], worker["sequence"]) == ("gateway.demo.a", 3, 5)


@pytest.mark.requirement("admin-gateways")
def test_gateway_key_is_taken_back_alone_and_recorded(stack: AdminStack) -> None:
    lost, kept = (enrol(stack, key) for key in (STRANGER, PERSON_KEY))

    answer = stack.call("DELETE", f"/gateways/demo/keys/{lost}", who="usr_olga")

    assert answer.json == {"gateway": "demo", "thumbprint": lost}
    assert [key["thumbprint"] for key in keys_of_demo(stack)] == [kept]
    entry = stack.parts.live.snapshot.gateways["demo"]
    assert [jwk["kid"] for jwk in entry.jwks] == [kept]
    (event,) = stack.events(EventType.GATEWAY_KEY_REMOVED)
    assert (event.object_ref, event.detail) == ("Gateway/demo", f"key {lost}")
    assert (event.author, event.outcome) == ("local/acc_olga", Outcome.REVOKED)
    assert event.source == DATABASE


@pytest.mark.requirement("admin-gateways")
@pytest.mark.parametrize("gateway", ["demo", "other"])
def test_gateway_key_that_is_not_its_own_is_not_taken_back(stack: AdminStack, gateway: str) -> None:
    kept = enrol(stack, STRANGER)
    misspelt = kept[:-1] + ("A" if kept[-1] != "A" else "B")

    name = misspelt if gateway == "demo" else kept
    answer = stack.call("DELETE", f"/gateways/{gateway}/keys/{name}", who="usr_olga")

    assert answer.status == 404
    assert (f"did you mean '{kept}'" in answer.json["error_description"]) == (gateway == "demo")
    assert [key["thumbprint"] for key in keys_of_demo(stack)] == [kept]
    assert stack.events(EventType.GATEWAY_KEY_REMOVED) == []
    (refused,) = stack.events(EventType.ADMIN_REFUSED)
    assert refused.reasons == ("admin.not_found",)


def enrol(stack: AdminStack, key: ECKey) -> str:
    """The thumbprint of a key that is enrolled into `demo`."""
    code = stack.run(stack.parts.enrolment.create_code("demo", "test", NOW))
    assert stack.run(stack.parts.enrolment.consume_code(code, public_jwk(key), NOW)) == "demo"
    stack.run(stack.parts.live.refresh())
    return key.thumbprint()


def keys_of_demo(stack: AdminStack) -> list[dict[str, str]]:
    (gateway,) = stack.call("GET", "/gateways", who="usr_vera").json["gateways"]
    keys: list[dict[str, str]] = gateway["keys"]
    return keys
