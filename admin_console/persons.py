"""Persons as operators name them: by user name, displayed name or opaque id."""

from pydantic import Field

from admin_console.errors import AdminError, not_found
from admin_console.facts import PersonFacts
from admin_console.operation import AdminCall
from admin_console.parts import AdminParts
from admin_console.wire import Wire
from registry.declared import Problem


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
    """Everybody of that name; two identity providers may mean different people by it."""

    persons: list[PersonItem]


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
        ]
    )


async def one_person(parts: AdminParts, name: str) -> PersonFacts:
    """The one person of a name.

    Raises:
        AdminError: 404: nobody; 409: several.
    """
    found = await parts.people.named(name)
    if not found:
        raise not_found(f"Nobody called {name!r} has an account here or has ever logged in.")
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


def _described(person: PersonFacts) -> str:
    return f"{person.login} of {person.identity_provider}"
