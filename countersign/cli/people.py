"""Persons as operators name them, and what the ids of persons are called."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from countersign.admin_client import AdminClient, AdminError, Problem

USER_PREFIX: Final = "usr_"
MOST_ASKED: Final = 1000  # ids in one question, as the admin API takes them
LONGEST_ID: Final = 512  # characters, as well


@dataclass(frozen=True, slots=True)
class Logins:
    """What people are called, by id or as authors (`PROVIDER/SUBJECT`).

    `sure`: whose name is their login name here and no other account's. Every other name may be
    one that its owner chose at an identity provider, to be taken for somebody else.
    """

    by_id: Mapping[str, str]
    sure: Collection[str] = frozenset()

    def whole(self, person: str) -> str:
        """The name and the id, which for sure means nobody else; no name that has an id in it."""
        name = self.by_id.get(person)
        return f"{name} ({person})" if name and USER_PREFIX not in name.casefold() else person

    def brief(self, person: str) -> str:
        """The name alone where it can mean nobody else, and cannot be taken for an id."""
        name = self.by_id.get(person, "")
        is_clear = person in self.sure and USER_PREFIX not in name and "/" not in name
        return name if name and is_clear else self.whole(person)


def logins_of(admin: AdminClient, ids: Iterable[str | None]) -> Logins:
    """What these are called; whoever is not known has only the id."""
    wanted = sorted({each for each in ids if each and len(each) <= LONGEST_ID})[:MOST_ASKED]
    if not wanted:
        return Logins({})
    answer = admin.call("POST", "/persons/logins", json={"ids": wanted})
    return Logins(answer["logins"], frozenset(answer["sure"]))


def person_named(admin: AdminClient, name: str, *, surely: bool) -> str:
    """The id of the one person called so; an id is taken as it is.

    `surely`: not by what they are only shown as, which somebody else may have chosen.

    Raises:
        AdminError: nobody is called so, several are, or whoever is has never logged in.
    """
    if name.startswith(USER_PREFIX):
        return name
    found = admin.call("GET", "/persons", query={"name": name})
    persons = found["persons"]
    known = [each for each in persons if each["sub"] is not None]
    is_sure = len(persons) == 1 and not (surely and persons[0].get("by_shown_name"))
    if known and is_sure:
        return str(known[0]["sub"])
    if not persons:
        raise nobody(name, found)
    if not known:
        description = f"{name} has never logged in: nothing was ever issued for them"
        raise AdminError("never_logged_in", description)
    candidates = tuple(
        Problem("user", each["sub"] or "-", "", f"{each['login']} of {each['identity_provider']}")
        for each in persons
    )
    are = "is only a name that is shown" if len(persons) == 1 else f"is {len(persons)} people"
    raise AdminError("ambiguous", f"{name!r} {are}; name one by id", problems=candidates)


def nobody(name: str, found: Mapping[str, Any]) -> AdminError:
    """Nobody is called so, and who may have been meant."""
    description = f"nobody called {name!r} has an account here or ever logged in"
    return AdminError("not_found", description + found.get("meant", ""))
