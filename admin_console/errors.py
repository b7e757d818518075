"""How a refused or failed admin request is answered; the only place that makes error answers.

The body is `{"error", "error_description", "problems"}` (RFC 9457 media type, RFC 6749 names):
`problems` name kind, object and field. `rule` and `detail` are for the audit and never sent.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError
from starlette.responses import Response

from audit_log.spool import SpoolUnavailable
from database.errors import DatabaseError, UnstorableValueError
from idp_connectors.workforce.password_hashing import HashingBusyError
from registry.declared import Problem
from registry.policy_activation import PolicyRefusedError
from registry.problem_words import errors_in, problem_words
from registry.revocations import InvalidSubjectError
from registry.store import PlanOutdatedError, PlanRefusedError
from registry.tool_catalogue import ToolChangedError, UnknownServerError, UnknownToolError
from token_exchange.claims import Refusal

MEDIA_TYPE: Final = "application/problem+json"
HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


@dataclass(eq=False)  # not frozen: context managers write to the exceptions that pass them
class AdminError(Exception):
    """A request that is not served. `description` may be sent; `rule` and `detail` may not."""

    status: int
    code: str
    description: str
    rule: str
    detail: str | None = None
    problems: tuple[Problem, ...] = ()
    headers: Mapping[str, str] | None = None


def not_found(description: str) -> AdminError:
    """What was named does not exist."""
    return AdminError(404, "not_found", description, "admin.not_found")


def invalid_request(description: str, problems: Sequence[Problem] = ()) -> AdminError:
    """The request itself is wrong."""
    return AdminError(
        400, "invalid_request", description, "admin.request", problems=tuple(problems)
    )


def invalid_objects(problems: Sequence[Problem]) -> AdminError:
    """Declared objects are wrong."""
    return AdminError(
        400,
        "invalid_object",
        "The objects cannot be declared like this; see problems.",
        "admin.objects",
        problems=tuple(problems),
    )


def refused_by(refusal: Refusal) -> AdminError:
    """A rule of another package said no to the content of a request."""
    return AdminError(400, refusal.code, refusal.description, refusal.rule, refusal.detail)


def invalid_fields(error: ValidationError) -> AdminError:
    """Which fields of a body or query are wrong. The values are not repeated: one is a password."""
    problems = [
        Problem("", "", _path(detail["loc"]), problem_words(detail)) for detail in errors_in(error)
    ]
    return invalid_request("The request has invalid fields; see problems.", problems)


def translated(error: Exception) -> AdminError | None:
    """The answer to what the packages below raise; None for what nobody expected."""
    for kinds, answer in _ANSWERS:
        if isinstance(error, kinds):
            return answer(error)
    return None


SERVER_ERROR: Final = AdminError(500, "server_error", "Something failed here.", "admin.failed")


def error_response(error: AdminError) -> Response:
    """The one shape of every answer that is not a success."""
    body = {
        "error": error.code,
        "error_description": error.description,
        "problems": [
            {"kind": each.kind, "name": each.name, "field": each.field, "message": each.message}
            for each in error.problems
        ],
    }
    return Response(
        json.dumps(body),
        status_code=error.status,
        media_type=MEDIA_TYPE,
        headers={**HEADERS, **(error.headers or {})},
    )


def _outdated(error: Exception) -> AdminError:
    description = "Somebody changed these objects meanwhile; look again."
    return AdminError(409, "conflict", description, "admin.conflict", str(error))


def _policies_refused(error: Exception) -> AdminError:
    found = error.problems if isinstance(error, PolicyRefusedError) else ()
    return AdminError(
        409,
        "conflict",
        "The live policy set would not compile any more; see problems.",
        "admin.policies",
        problems=tuple(
            Problem("Policy", each.document, f"spec.cedar:{each.line}", each.message)
            for each in found
        ),
    )


def _tools_changed(error: Exception) -> AdminError:
    found = (error.server, error.names) if isinstance(error, ToolChangedError) else ("", ())
    server, names = found
    return AdminError(
        409,
        "conflict",
        "The server offers other definitions than were looked at; look again.",
        "admin.tools_changed",
        problems=tuple(
            Problem("McpServer", server, f"tools.{name}", "offered in another definition now")
            for name in names
        ),
    )


def _unavailable(error: Exception) -> AdminError:
    return AdminError(
        503,
        "temporarily_unavailable",
        "The request could not be recorded or carried out; try again.",
        "admin.unavailable",
        type(error).__name__,
        headers={"Retry-After": "1"},
    )


def _own(error: Exception) -> AdminError:
    return error if isinstance(error, AdminError) else SERVER_ERROR


def _plan_refused(error: Exception) -> AdminError:
    return invalid_objects(error.problems if isinstance(error, PlanRefusedError) else ())


_ANSWERS: Final[
    tuple[tuple[tuple[type[Exception], ...], Callable[[Exception], AdminError]], ...]
] = (
    ((AdminError,), _own),
    ((PlanRefusedError,), _plan_refused),
    ((PlanOutdatedError,), _outdated),
    ((PolicyRefusedError,), _policies_refused),
    ((ToolChangedError,), _tools_changed),
    ((UnknownServerError, UnknownToolError), lambda error: not_found(str(error))),
    ((InvalidSubjectError,), lambda error: invalid_request(str(error))),
    ((UnstorableValueError,), lambda _: invalid_request("A value cannot be stored.")),
    ((SpoolUnavailable, DatabaseError, HashingBusyError), _unavailable),
)


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for step in location:
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else step
    return path
