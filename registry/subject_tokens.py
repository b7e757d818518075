"""What an Agent's `acts_for.subject_tokens` must say: whose tokens may speak for a person. Pure.

Each entry names an OpenID provider once, whose tokens can be verified and some of whose groups the
agent acts for. Everything else would be an entry that never works, or one that works for somebody
nobody meant.
"""

from collections.abc import Iterator
from typing import Final

from registry.declared import DeclaredSet, ParsedObject, Problem
from registry.objects import SubjectTokens

FIELD: Final = "spec.acts_for.subject_tokens"


def subject_token_problems(agent: ParsedObject, declared: DeclaredSet) -> Iterator[Problem]:
    """What is wrong with the tokens an Agent may present. Whether providers exist is not ours."""
    acts_for = agent.spec.acts_for
    if acts_for is None:
        return
    if acts_for.consent == "mandate" and not acts_for.subject_tokens:
        message = "mandate is for subject_tokens, and there are none: whoever logs in is asked"
        yield _problem(agent, "spec.acts_for.consent", message)
    seen: dict[str, str] = {}
    for index, entry in enumerate(acts_for.subject_tokens):
        field = f"{FIELD}[{index}]"
        for each in ("client_ids", "types"):
            if len(set(getattr(entry, each))) < len(getattr(entry, each)):
                yield _problem(agent, f"{field}.{each}", "one is named twice")
        wrong = _provider_problem(entry, acts_for.groups, declared, seen)
        if wrong is not None:
            yield _problem(agent, f"{field}.identity_provider", wrong)


def _provider_problem(
    entry: SubjectTokens, groups: tuple[str, ...], declared: DeclaredSet, seen: dict[str, str]
) -> str | None:
    """What is wrong with the provider of an entry; `seen` are those before, by issuer."""
    name = entry.identity_provider
    provider = declared.objects.get(("IdentityProvider", name))
    if provider is None:
        return None
    issuer = provider.settings.get("issuer")
    if not isinstance(issuer, str):
        return f"people of {name!r} have no tokens of its own; name an OpenID provider"
    first = seen.get(issuer)
    seen[issuer] = name
    if first == name:
        return f"{name!r} is named twice"
    if first is not None:
        return f"has the issuer of {first!r}: whose token it is could not be told"
    if not any(group.startswith(f"{name}/") for group in groups):
        return f"acts_for.groups has no group of {name!r}, so none of its tokens would do"
    return None


def _problem(agent: ParsedObject, field: str, message: str) -> Problem:
    return Problem(agent.kind, agent.name, field, message)
