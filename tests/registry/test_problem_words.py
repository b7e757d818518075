"""Validation errors in the words of whoever wrote the YAML."""

from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from registry.objects import KINDS
from registry.problem_words import errors_in, problem_words

AGENT: dict[str, Any] = {
    "owner": "a@example.com",
    "attestation": {"providers": ["unix"], "match": {"unix.uid": "1"}},
    "tools": ["crm/get_*"],
}
SERVER: dict[str, Any] = {"url": "http://127.0.0.1:1/mcp", "credential": {"provider": "p"}}


class Odd(BaseModel):
    """What our own models do not have."""

    model_config = ConfigDict(extra="forbid")

    short: list[str] = Field(default=[], min_length=2, max_length=3)
    text: str = Field(default="abc", min_length=3, max_length=4, pattern="^[abc]*$")
    number: float = Field(default=1.0, lt=5)
    when: int | None = None

    @field_validator("text")
    @classmethod
    def _no_ccc(cls, text: str) -> str:
        if text == "ccc":
            raise ValueError("ccc is taken")
        return text


def words(model: type[BaseModel], given: dict[str, Any]) -> list[str]:
    try:
        model.model_validate(given)
    except ValidationError as error:
        return [problem_words(each, model) for each in errors_in(error)]
    return []


@pytest.mark.requirement("trap-problem-names-field")
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"owner": 5}, "must be text; quote it"),
        ({"owner": ""}, "must not be empty"),
        ({"tools": "crm/x"}, "must be a list"),
        ({"tools": ["nope"]}, "must be server/tool, or server/prefix* with one * at the end"),
        ({"toolz": []}, "unknown field; did you mean 'tools'?"),
        ({"attestation": {"providers": ["Unix"], "match": {"a": "b"}}},
         "must be lower-case letters, digits and inner hyphens"),
        ({"attestation": {"providers": ["unix"], "match": {"a": "b"}, "mach": {}}},
         "unknown field; did you mean 'match'?"),
        ({"attestation": []}, "must be fields, `name: value`"),
        ({"attestation": {"providers": ["unix"], "match": {"a": "b"}, "minimum_level": 9}},
         "must be at most 3"),
        ({"acts_for": {"groups": ["support"]}},
         "must be a group with its identity provider, such as keycloak/support"),
        ({"acts_for": {"groups": ["l/s"], "consent": "never"}}, "must be 'person' or 'mandate'"),
        ({"acts_for": {"groups": ["l/s"], "concent": "x"}},
         "unknown field; did you mean 'consent'?"),
        ({"invocation_seconds": "soon"}, "must be a whole number"),
        ({"invocation_seconds": 29}, "must be at least 30"),
        ({"acts_alone": "maybe"}, "must be true or false"),
        ({"redirect_uris": ["ftp://x"]}, "must be an http or https URL"),
    ],
)  # fmt: skip
def test_mistake_in_an_agent_is_told_in_words(change: dict[str, Any], expected: str) -> None:
    assert words(KINDS["Agent"], AGENT) == []
    assert words(KINDS["Agent"], AGENT | change) == [expected]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"url": "foo"}, "must be an http(s) URL, or stdio:// and the name of a server"),
        ({"timeout_seconds": 0}, "must be more than 0"),
        ({"timeout_seconds": "x"}, "must be a number"),
        ({"tools": {"refund": {"readonly": True}}}, "unknown field; did you mean 'read_only'?"),
    ],
)
def test_mistake_in_a_server_is_told_in_words(change: dict[str, Any], expected: str) -> None:
    assert words(KINDS["McpServer"], SERVER) == []
    assert words(KINDS["McpServer"], SERVER | change) == [expected]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"short": ["a"]}, "needs at least 2 entries"),
        ({"short": ["a"] * 4}, "has more than 3 entries"),
        ({"text": "ab"}, "needs at least 3 characters"),
        ({"text": "abcabc"}, "has more than 4 characters"),
        ({"text": "xyz"}, "must match ^[abc]*$"),
        ({"text": "ccc"}, "ccc is taken"),
        ({"number": 5}, "must be less than 5"),
        ({"when": 1.5}, "must be a whole number"),
    ],
)
def test_other_bounds_are_told_in_words(given: dict[str, Any], expected: str) -> None:
    assert words(Odd, given) == [expected]


def test_missing_field_is_required_and_an_unknown_one_lists_what_is_known() -> None:
    assert words(KINDS["AdminRole"], {"identity_provider": "a", "subject": "b"}) == ["is required"]
    (said,) = words(Odd, {"quite_else": 1})
    assert said == "unknown field; known: number, short, text, when"


def test_unknown_error_and_unknown_place_keep_to_what_is_certain() -> None:
    strange = {"type": "url_parsing", "loc": ("a",), "msg": "is no URL", "input": None}
    deep = {"type": "extra_forbidden", "loc": ("when", "deeper"), "msg": "", "input": None}
    assert problem_words(strange) == "is no URL"  # type: ignore[arg-type]  # the least there is
    assert problem_words(deep, Odd) == "unknown field"  # type: ignore[arg-type]  # as above
    assert problem_words(deep) == "unknown field"  # type: ignore[arg-type]  # as above


@pytest.mark.requirement("trap-problem-names-field")
def test_value_is_never_repeated() -> None:
    secret = "sk-do-not-repeat-me"
    said = words(KINDS["Agent"], AGENT | {"owner": [secret], "acts_alone": secret, "tools": secret})
    assert len(said) == 3
    assert secret not in " ".join(said)
