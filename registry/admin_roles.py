"""No role passes from one person to another because their identity provider changed. Pure.

An AdminRole names a subject, and a subject is somebody only within its issuer (OpenID Connect Core
§2). Where an IdentityProvider gets another issuer, whoever has that subject there would have the
role.
"""

from collections.abc import Iterator, Mapping

from registry.declared import DeclaredSet, ObjectKey, Problem
from registry.object_rows import StoredObject


def role_problems(
    stored: Mapping[ObjectKey, StoredObject], declared: DeclaredSet
) -> Iterator[Problem]:
    """Every role that stays for the same subject while its provider changes its issuer."""
    for name, role in declared.of_kind("AdminRole").items():
        provider = role.spec.identity_provider
        before = stored.get(("AdminRole", name))
        same_person = before is not None and all(
            before.spec.get(field) == role.given[field]
            for field in ("identity_provider", "subject")
        )
        if same_person and _issuer_changes(stored, declared, provider):
            yield Problem(
                "AdminRole",
                name,
                "spec.subject",
                f"is somebody at the issuer IdentityProvider {provider!r} has now; delete the "
                "role, and declare it again for the subject at the new one",
            )


def _issuer_changes(
    stored: Mapping[ObjectKey, StoredObject], declared: DeclaredSet, provider: str
) -> bool:
    key = ("IdentityProvider", provider)
    before, after = stored.get(key), declared.objects.get(key)
    if before is None or after is None:  # `registry.references` says so
        return False
    return bool(before.spec.get("issuer") != after.given.get("issuer"))
