"""The OpenAPI 3.1 document, made from the route table and the models: it cannot disagree."""

import re
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from admin_console.authentication import ADMIN_PATH
from admin_console.errors import MEDIA_TYPE
from admin_console.operation import Operation
from admin_console.roles import Access
from registry.objects import KINDS

_REFERENCE: Final = "#/components/schemas/{model}"
_PARAMETER: Final = re.compile(r"\{(\w+)(?::path)?\}")
_STATUS: Final = {
    "400": "The request is wrong; `problems` name the fields.",
    "401": "No valid, bound token of a person.",
    "403": "The role is not enough, or the token is an agent's.",
    "404": "There is no such thing.",
    "409": "Somebody else changed it meanwhile, or the live policies would break.",
    "503": "It could not be recorded or carried out; nothing is lost.",
}
_ERROR: Final = {
    "type": "object",
    "required": ["error", "error_description", "problems"],
    "properties": {
        "error": {"type": "string"},
        "error_description": {"type": "string"},
        "problems": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["kind", "name", "field", "message"],
                "properties": {
                    name: {"type": "string"} for name in ("kind", "name", "field", "message")
                },
            },
        },
    },
}


def openapi_document(operations: tuple[Operation, ...], issuer: str) -> dict[str, Any]:
    """The document of these operations."""
    bodies = {each.body for each in operations if each.body is not None}
    queries = {each.query for each in operations if each.query is not None}
    answers = {each.answer for each in operations}
    inputs = sorted({*bodies, *queries, *KINDS.values()}, key=lambda model: model.__name__)
    outputs = sorted(answers, key=lambda model: model.__name__)
    _, found = models_json_schema(
        [
            *((model, "validation") for model in inputs),
            *((model, "serialization") for model in outputs),
        ],
        ref_template=_REFERENCE,
    )
    schemas: dict[str, Any] = {**found["$defs"], "Error": _ERROR}
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        item = paths.setdefault(_PARAMETER.sub(r"{\1}", operation.path), {})
        item[operation.method.lower()] = _described(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Countersign admin API", "version": "1"},
        "servers": [{"url": f"{issuer}{ADMIN_PATH}"}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "dpop": {
                    "type": "http",
                    "scheme": "DPoP",
                    "description": f"An access token for {issuer}/admin, bound by RFC 9449.",
                }
            },
        },
    }


def _described(operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.handler.__name__,
        "summary": operation.summary,
        "description": f"Role: {operation.access.name.lower()}.",
        "x-countersign-role": operation.access.name.lower(),
        "security": [] if operation.access is Access.ANYONE else [{"dpop": []}],
        "parameters": [*_path_parameters(operation), *_query_parameters(operation, schemas)],
        "responses": {
            "200": {
                "description": "Done.",
                "content": {"application/json": {"schema": _reference(operation.answer)}},
            },
            **{
                status: {
                    "description": text,
                    "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Error"}}},
                }
                for status, text in _STATUS.items()
            },
        },
    }
    if operation.body is not None:
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _reference(operation.body)}},
        }
    return described


def _path_parameters(operation: Operation) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PARAMETER.findall(operation.path)
    ]


def _query_parameters(operation: Operation, schemas: dict[str, Any]) -> list[dict[str, Any]]:
    if operation.query is None:
        return []
    properties: dict[str, Any] = schemas[operation.query.__name__]["properties"]
    return [
        {"name": name, "in": "query", "required": False, "schema": schema}
        for name, schema in properties.items()
    ]


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(model=model.__name__)}
