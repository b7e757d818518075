"""The policy documents every set begins with, read from the package `policies`."""

from importlib import resources
from typing import Final

from registry.snapshot import PolicyDocument

# A slash cannot be in a declared name, so no operator's document can take the place of ours.
SHIPPED_PREFIX: Final = "shipped/"


def shipped_policies() -> tuple[PolicyDocument, ...]:
    """The shipped documents in order of their names."""
    folder = resources.files("policies") / "shipped"
    return tuple(
        PolicyDocument(
            SHIPPED_PREFIX + file.name.removesuffix(".cedar"), file.read_text(encoding="utf-8")
        )
        for file in sorted(folder.iterdir(), key=lambda each: each.name)
        if file.name.endswith(".cedar")
    )
