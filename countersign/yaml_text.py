"""YAML for people: one document per object, texts of several lines as blocks."""

from collections.abc import Iterable
from typing import Any

import yaml

# What the registry adds to a declared object; nobody declares it.
ADDED_FIELDS = frozenset({"version", "author", "changed_at"})


class _Dumper(yaml.SafeDumper):
    """Writes a text of several lines as a block, as one would write Cedar."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def yaml_of(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """One document."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=False)
    return text


def documents_of(objects: Iterable[dict[str, Any]]) -> str:
    """Declared objects as `apply` takes them: `kind / name / spec`, parted by `---`."""
    return "---\n".join(
        yaml_of({name: value for name, value in each.items() if name not in ADDED_FIELDS})
        for each in objects
    )
