"""Persons as operators name them: by user name, displayed name or opaque id."""

from typing import Annotated, Final

from pydantic import Field

from admin_console.errors import AdminError, not_found
from admin_console.facts import PersonFacts
from admin_console.operation import AdminCall
from admin_console.parts import AdminParts
from admin_console.wire import Wire
from policies.problems import did_you_mean
from registry.declared import Problem

MAXIMUM_LOGINS_BYTES: Final = 1_048_576  # a thousand of the longest ids


class PersonsQuery(Wire):
    """`name`: a user name, a displayed name (in any case) or an id."""

    name: str = Field(min_length=1, max_length=512)


class PersonItem(Wire):
    """One person. `sub` is null for an account nobody has logged in to yet.

    `by_shown_name`: the name is only what they are shown as, which they may have chosen.
    """

    sub: str | None
    identity_provider: str
    login: str
    by_shown_name: bool = False


class PersonsAnswer(Wire):
    """Everybody of that name; two identity providers may mean different people by it.

    `meant`: where it is nobody's, how a sentence that says so goes on, empty if no name is near.
    """

    persons: list[PersonItem]
    meant: str = ""


class LoginsBody(Wire):
    """Ids of people, or what history calls them as authors (`PROVIDER/SUBJECT`)."""

    ids: list[Annotated[str, Field(min_length=1, max_length=512)]] = Field(max_length=1000)


class LoginsAnswer(Wire):
    """What those are called that are known here, by what was asked.

    `sure`: those of them whose name is their user name here and no other account's; every other
    name may be one they chose at an identity provider, and be somebody else's too.
    """

    logins: dict[str, str]
    sure: list[str]


async def find_persons(call: AdminCall) -> PersonsAnswer:
    """Who is meant by a name."""
    name = call.query_as(PersonsQuery).name
    found = await call.parts.people.named(name)
    return PersonsAnswer(
        persons=[
            PersonItem(
                sub=each.sub or None,
                identity_provider=each.identity_provider,
                login=each.login,
                by_shown_name=each.by_shown_name,
            )
            for each in found
        ],
        meant="" if found else await _meant(call.parts, name),
    )


async def name_persons(call: AdminCall) -> LoginsAnswer:
    """What people are called, many at once: for whoever reads ids."""
    wanted = frozenset(call.body_as(LoginsBody).ids)
    called = await call.parts.people.logins(wanted)
    return LoginsAnswer(
        logins={each: facts.name for each, facts in called.items()},
        sure=sorted(each for each, facts in called.items() if facts.is_sure),
    )


async def one_person(parts: AdminParts, name: str) -> PersonFacts:
    """The one person of a name.

    Raises:
        AdminError: 404: nobody; 409: several.
    """
    found = await parts.people.named(name)
    if not found:
        meant = await _meant(parts, name)
        description = f"Nobody called {name!r} has an account here or ever logged in"
        raise not_found(f"{description}{meant or '.'}")
    if len(found) > 1:
        raise AdminError(
            409,
            "ambiguous",
            f"{name!r} is more than one person; say which, by id.",
            "admin.person",
            problems=tuple(
                Problem("person", each.sub or "never logged in", "", _described(each))
                for each in found
            ),
        )
    return found[0]


async def _meant(parts: AdminParts, name: str) -> str:
    return did_you_mean(name, await parts.people.names())


def _described(person: PersonFacts) -> str:
    return f"{person.login} of {person.identity_provider}"
