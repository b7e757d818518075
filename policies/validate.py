"""The engine's own validation, with its findings told by `@id` and line."""

import re
from collections.abc import Iterator, Sequence
from typing import Final

import cedarpy

from policies.documents import SourcePolicy
from policies.problems import PolicyProblem

_POSITION: Final = re.compile(r"policy([0-9]+)")
_PREFIX: Final = re.compile(r"^for policy `[^`]*`, ")
_QUOTED: Final = re.compile(r"`(?:\w+\.)*(\w+)`")  # the last name of a path


def validation_problems(
    policies: Sequence[SourcePolicy], schema: cedarpy.Schema
) -> Iterator[PolicyProblem]:
    """What does not type-check against the schema."""
    text = "\n".join(policy.statement.text for policy in policies)
    for error in cedarpy.validate_policies(text, schema).errors:
        message = _PREFIX.sub("", error.error)
        numbered = _POSITION.fullmatch(error.policy_id)
        if numbered is None:
            yield PolicyProblem("", "", 1, message)
            continue
        policy = policies[int(numbered.group(1))]
        yield policy.problem(message, *(rf"\b{name}\b" for name in _QUOTED.findall(message)))
