"""The published JSON Schemas are those of the models, and mean what the models mean."""

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped] # no stubs locked

from registry.objects import KINDS, DeclaredObject
from registry.published_schemas import FOLDER, schemas, text_of
from tests.registry.samples import small_set


def accepts(document: dict[str, Any]) -> bool:
    schema = schemas()[f"{document['kind']}.json"]
    Draft202012Validator.check_schema(schema)
    validator: Any = Draft202012Validator(schema)
    return bool(validator.is_valid(document))


def test_published_files_equal_the_models() -> None:
    files = {file.name: file.read_text(encoding="utf-8") for file in FOLDER.glob("*.json")}
    assert files == {name: text_of(schema) for name, schema in schemas().items()}


def test_every_kind_has_a_schema() -> None:
    assert {f"{kind}.json" for kind in KINDS} | {"all.json"} == set(schemas())
    assert len(schemas()["all.json"]["oneOf"]) == len(KINDS)


@pytest.mark.parametrize("declared", small_set(), ids=lambda each: each.kind)
def test_valid_object_is_accepted_by_its_schema(declared: DeclaredObject) -> None:
    assert accepts(json.loads(declared.model_dump_json()))


@pytest.mark.parametrize(
    "change",
    [
        {"name": "Not A Label"},
        {"metadata": {}},
        {"spec": {}},
        {"kind": "Agent", "spec": {"url": "https://crm.example.com/mcp"}},
    ],
)
def test_invalid_object_is_refused_by_its_schema(change: dict[str, Any]) -> None:
    server = next(each for each in small_set() if each.kind == "McpServer")
    assert not accepts({**json.loads(server.model_dump_json()), **change})
