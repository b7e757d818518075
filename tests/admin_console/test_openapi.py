import json
import re
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # it has no stubs
import pytest

from admin_console.openapi import openapi_document
from admin_console.operation import Operation
from admin_console.routes import OPERATIONS
from tests.admin_console.stack import AdminStack
from tests.token_exchange.signing import ISSUER

DOCUMENT = openapi_document(OPERATIONS, ISSUER)


def references(value: Any) -> set[str]:
    return set(re.findall(r'"\$ref": "([^"]+)"', json.dumps(value)))


def operation_of(operation: Operation) -> dict[str, Any]:
    path = operation.path.replace(":path}", "}")
    found: dict[str, Any] = DOCUMENT["paths"][path][operation.method.lower()]
    return found


@pytest.mark.requirement("admin-openapi")
def test_openapi_is_served_to_anybody_and_names_this_issuer(stack: AdminStack) -> None:
    answer = stack.call("GET", "/openapi.json", extensions={})

    assert answer.status == 200
    assert answer.json == json.loads(json.dumps(DOCUMENT))
    assert answer.json["servers"] == [{"url": f"{ISSUER}/admin/v1"}]


@pytest.mark.requirement("admin-openapi")
def test_openapi_has_every_operation_once_with_its_role() -> None:
    described = [operation_of(each) for each in OPERATIONS]

    count = sum(len(item) for item in DOCUMENT["paths"].values())
    names = [each["operationId"] for each in described]
    assert count == len(OPERATIONS) == len(set(names))
    for operation, found in zip(OPERATIONS, described, strict=True):
        assert found["x-countersign-role"] == operation.access.name.lower()
        assert ("requestBody" in found) == (operation.body is not None)


@pytest.mark.requirement("admin-openapi")
def test_openapi_schemas_are_valid_and_every_reference_resolves() -> None:
    schemas = DOCUMENT["components"]["schemas"]

    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    for reference in references(DOCUMENT):
        assert reference.removeprefix("#/components/schemas/") in schemas, reference


@pytest.mark.requirement("admin-openapi")
def test_openapi_path_parameters_are_those_of_the_path() -> None:
    for path, item in DOCUMENT["paths"].items():
        for operation in item.values():
            named = [each["name"] for each in operation["parameters"] if each["in"] == "path"]
            assert named == re.findall(r"\{(\w+)\}", path)


@pytest.mark.requirement("admin-openapi")
def test_openapi_describes_the_answers_it_gets(stack: AdminStack) -> None:
    for operation in OPERATIONS:
        if operation.method != "GET" or "{" in operation.path:
            continue
        query = "?name=alice" if operation.path == "/persons" else ""
        answer = stack.call("GET", operation.path + query)
        reference = operation_of(operation)["responses"]["200"]["content"]["application/json"]
        schema = {**reference["schema"], "components": DOCUMENT["components"]}
        jsonschema.validate(answer.json, schema)


@pytest.mark.requirement("admin-openapi")
def test_openapi_has_no_place_for_a_secret_in_an_answer() -> None:
    for operation in OPERATIONS:
        fields = set(operation.answer.model_fields)
        assert not fields & {"password", "password_hash", "sealed", "value", "secret", "code"}
