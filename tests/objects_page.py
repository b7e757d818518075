"""docs/objects.md: every kind and field, from the published schemas and the types' settings."""

from collections.abc import Iterator
from typing import Any

from countersign.composition import settings_models
from registry.published_schemas import schemas

HEAD = """# Objects

What an operator declares: `kind`, `name` (a DNS label) and `spec`, as YAML for `countersign apply`.
An unknown field is an error. Kinds with a `type` take that type's settings in the same spec. The
JSON Schemas for editors are in `registry/schemas/`. This page is generated (`make docs`).
"""
Schema = dict[str, Any]


def objects_page() -> str:
    """The page."""
    parts = [HEAD]
    for file, schema in schemas().items():
        if file == "all.json":
            continue
        kind = schema["title"]
        spec, definitions = schema["properties"]["spec"], schema["$defs"]
        parts.append(f"\n## {kind}\n\n{schema['description']}\n\n{_table(spec, definitions)}")
        for (of_kind, name), model in sorted(settings_models().items()):
            if of_kind == kind:
                own = model.model_json_schema()
                rows = _table(own, own.get("$defs", {})) if own.get("properties") else ""
                parts.append(f"\n### `type: {name}`\n\n" + (rows or "No settings.\n"))
    return "".join(parts)


def _table(schema: Schema, definitions: Schema) -> str:
    rows = "\n".join(_rows(schema, definitions, ""))
    return f"| field | what | default | |\n|---|---|---|---|\n{rows}\n"


def _rows(schema: Schema, definitions: Schema, within: str) -> Iterator[str]:
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        inner = _resolved(field, definitions)
        default = "required" if name in required else _default(field.get("default"))
        description = field.get("description", inner.get("description", ""))
        text = " ".join(description.split()).replace("|", "\\|")
        yield f"| `{within}{name}` | {_type(field, definitions)} | {default} | {text} |"
        entries = inner.get("additionalProperties")
        if isinstance(entries, dict):
            each = _resolved(entries, definitions)
            yield from _rows(each, definitions, f"{within}{name}.NAME.")
        yield from _rows(inner, definitions, f"{within}{name}.")


def _resolved(field: Schema, definitions: Schema) -> Schema:
    for option in field.get("anyOf", ()):
        if option.get("type") != "null":
            return _resolved(option, definitions)
    if "$ref" in field:
        found: Schema = definitions[field["$ref"].rpartition("/")[2]]
        return found
    return field


def _type(field: Schema, definitions: Schema) -> str:
    inner = _resolved(field, definitions)
    if "enum" in inner:
        return ", ".join(f"`{value}`" for value in inner["enum"])
    if "const" in inner:
        return f"`{inner['const']}`"
    if inner.get("type") == "array":
        return f"list of {_type(inner.get('items', {}), definitions)}"
    span = (inner.get("minimum"), inner.get("maximum"))
    if None not in span:
        return f"{inner['type']} {span[0]} to {span[1]}"
    return str(inner.get("type", "any"))


def _default(value: object) -> str:
    if value is None or value in ([], {}):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"
