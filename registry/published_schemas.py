"""The JSON Schemas of declared objects, as published in `registry/schemas/`.

One file per kind, for editors and reviewers, and `all.json` for a file of any kind. The files are
generated from the models by `python -m registry.published_schemas`; a test holds them equal.
What a connector or provider type takes beside `type` is known to the server only, so those specs
stay open here.
"""

from pathlib import Path
from typing import Any, Final

import msgspec

from registry.objects import KINDS, NAME_PATTERN

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
FOLDER: Final = Path(__file__).parent / "schemas"


def schemas() -> dict[str, dict[str, Any]]:
    """Every published schema by its file name."""
    by_kind = {f"{kind}.json": _schema_of(kind) for kind in KINDS}
    any_kind = {
        "$schema": DIALECT,
        "title": "Countersign object",
        "oneOf": [{"$ref": file} for file in by_kind],
    }
    return {**by_kind, "all.json": any_kind}


def text_of(schema: dict[str, Any]) -> str:
    """A schema as its file has it."""
    return (
        msgspec.json.format(msgspec.json.encode(schema, order="sorted"), indent=2).decode() + "\n"
    )


def write_schemas(folder: Path = FOLDER) -> None:
    """Generate the files."""
    for name, schema in schemas().items():
        (folder / name).write_text(text_of(schema), encoding="utf-8")


def _schema_of(kind: str) -> dict[str, Any]:
    model = KINDS[kind]
    spec = model.model_json_schema(ref_template="#/$defs/{model}")
    definitions = spec.pop("$defs", {})
    return {
        "$schema": DIALECT,
        "$defs": definitions,
        "title": kind,
        "description": (model.__doc__ or "").strip(),
        "type": "object",
        "additionalProperties": False,
        "required": ["kind", "name", "spec"],
        "properties": {
            "kind": {"const": kind},
            "name": {"type": "string", "pattern": NAME_PATTERN},
            "spec": spec,
        },
    }


if __name__ == "__main__":
    write_schemas()
