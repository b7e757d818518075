"""`describe`: one object with its versions, what names it, and how it is doing."""

from collections.abc import Callable
from typing import Annotated, Any, Final

import typer
from rich.text import Text

from audit_log.event import EventType
from countersign.admin_client import AdminClient, AdminError
from countersign.cli.context import CommandContext, Output, context_of, visible
from countersign.cli.kinds import kind_named
from countersign.cli.moments import shown_moment
from countersign.cli.people import Logins, logins_of
from countersign.relations import named_by, naming
from countersign.yaml_text import yaml_of
from registry.problem_words import suggestion

VERSIONS_SHOWN: Final = 10
EVENTS_AT_ONCE: Final = 100
MOST_PAGES: Final = 10
# What only an agent that proved itself does; a refused caller may be anybody with its token.
OWN_ACTS: Final = frozenset(
    {
        EventType.TOKEN_ISSUED,
        EventType.CALL_DECIDED,
        EventType.CALL_FINISHED,
        EventType.CALL_REFUSED,
        EventType.INVOCATION_ENDED,
    }
)
Row = dict[str, Any]


def register(app: typer.Typer) -> None:
    """Add this command to the top level."""
    app.command()(describe)


def describe(
    command: typer.Context,
    kind: Annotated[str, typer.Argument(help="A kind, such as Agent.")],
    name: Annotated[str, typer.Argument(help="The object.")],
) -> None:
    """Show an object with its versions and authors, the objects around it, and its state."""
    context = context_of(command)
    kind = kind_named(kind)
    with context.admin() as admin:
        rows = admin.call("GET", "/objects")["objects"]
        found = _found(rows, kind, name)
        history = admin.call("GET", f"/objects/{kind}/{name}/history")["history"]
        status = _STATUS.get(kind, _nothing)(admin, found)
        logins = logins_of(admin, [found["author"], *(each["author"] for each in history)])
    described = {
        "kind": kind,
        "name": name,
        "version": found["version"],
        "changed_at": found["changed_at"],
        "author": found["author"],
        "spec": found["spec"],
        "status": status,
        "names": [f"{of}/{each}" for of, each in named_by(found, rows)],
        "named_by": [f"{of}/{each}" for of, each in naming(found, rows)],
        "versions": [
            {key: each[key] for key in ("version", "action", "author", "changed_at")}
            for each in history
        ],
    }
    if context.output is Output.TABLE:
        _show(context, described, logins)
    else:
        context.show(described)


def _found(rows: list[Row], kind: str, name: str) -> Row:
    of_kind = {row["name"]: row for row in rows if row["kind"] == kind}
    if name not in of_kind:
        raise AdminError("not_found", f"there is no {kind} {name!r}{suggestion(name, of_kind)}")
    return of_kind[name]


def _show(context: CommandContext, described: Row, logins: Logins) -> None:
    def line(text: str) -> None:
        context.console.print(Text(visible(text)), soft_wrap=True)

    line(f"{described['kind']}/{described['name']}")
    changed_at = shown_moment(described["changed_at"])
    line(f"  version {described['version']}, {changed_at}, by {logins.whole(described['author'])}")
    for title, value in described["status"].items():
        entries = value if isinstance(value, list) else [value]
        for entry in entries or ["none"]:
            line(f"  {title:<12} {entry}")
    for title, key in (("names", "names"), ("named by", "named_by")):
        if described[key]:
            line(f"  {title:<12} {', '.join(described[key])}")
    line("spec:")
    for each in yaml_of(described["spec"]).splitlines():
        line(f"  {each}")
    line("versions:")
    for each in described["versions"][:VERSIONS_SHOWN]:
        changed_at = shown_moment(each["changed_at"])
        author = logins.brief(each["author"])
        line(f"  {each['version']:>4}  {changed_at}  {each['action']:<6}  {author}")
    if len(described["versions"]) > VERSIONS_SHOWN:
        line(f"  and {len(described['versions']) - VERSIONS_SHOWN} older")


def _nothing(_admin: AdminClient, _row: Row) -> Row:
    return {}


def _agent(admin: AdminClient, row: Row) -> Row:
    groups = row["spec"].get("groups", [])
    subjects = {("agent", row["name"])} | {("agent_group", each) for each in groups}
    return {"cut off": _cut_off(admin, subjects), "last seen": _last_seen(admin, row["name"])}


def _client(admin: AdminClient, row: Row) -> Row:
    return {"cut off": _cut_off(admin, {("client_id", row["name"])})}


def _cut_off(admin: AdminClient, subjects: set[tuple[str, str]]) -> list[str]:
    """Blocks, and epochs before which nothing issued is taken any more."""
    found = []
    for each in admin.call("GET", "/blocks")["blocks"]:
        if (each["kind"], each["id"]) in subjects:
            state = "blocked" if each["blocked"] else "not blocked"
            until = shown_moment(each["not_before"])
            epoch = f"; what was issued up to {until} is refused"
            found.append(f"{each['kind']}/{each['id']}: {state}{epoch}")
    return found


def _last_seen(admin: AdminClient, agent: str) -> str:
    """What the agent itself did last; most of what is recorded of it, others did to it."""
    query = {"agent": agent, "limit": str(EVENTS_AT_ONCE)}
    for _ in range(MOST_PAGES):
        found = admin.call("GET", "/audit", query=query)
        last = next((each for each in found["events"] if each["type"] in OWN_ACTS), None)
        if last is not None:
            service, tool = last.get("target_service", ""), last.get("tool", "")
            what = f"{service}/{tool}" if tool else service
            parts = (shown_moment(last["timestamp"]), last["type"], last["outcome"], what)
            return " ".join(each for each in parts if each)
        if found.get("next_before") is None:
            return "never"
        query["before"] = str(found["next_before"])
    return f"not in the last {EVENTS_AT_ONCE * MOST_PAGES} events about it"


def _server(admin: AdminClient, row: Row) -> Row:
    catalogue = admin.call("GET", f"/catalogue/{row['name']}")
    states: dict[str, list[str]] = {}
    for tool in catalogue["tools"]:
        states.setdefault(tool["state"], []).append(tool["name"])
    return {
        "health": [report_line(each) for each in catalogue["reports"]] or ["no gateway has looked"],
        "tools": [f"{state}: {', '.join(names)}" for state, names in sorted(states.items())],
    }


def report_line(report: Row) -> str:
    """What a Gateway last found of a server."""
    if report["error"]:
        since = shown_moment(report["since"])
        return f"{report['gateway']}: NOT reachable since {since}: {report['error']}"
    era = f", {report['era']} protocol" if report["era"] else ""
    return f"{report['gateway']}: answers{era}, looked at {shown_moment(report['reported_at'])}"


def _gateway(admin: AdminClient, row: Row) -> Row:
    found = admin.call("GET", "/gateways")
    (gateway,) = (each for each in found["gateways"] if each["name"] == row["name"])
    return {
        "keys": [
            f"{each['thumbprint']}, enrolled {each['enrolled_at']}" for each in gateway["keys"]
        ],
        "workers": [
            f"{each['worker']}: snapshot {each['version']} of {found['version']}, revocation "
            f"{each['sequence']} of {found['sequence']}, "
            f"confirmed {shown_moment(each['confirmed_at'])}"
            for each in gateway["workers"]
        ],
    }


def _policy(admin: AdminClient, _row: Row) -> Row:
    found = admin.call("GET", "/policies/status")
    version = found["policy_version"]
    status: Row = {"set": f"{version} decides" if version else "none: all is denied"}
    if found["waiting_for"]:
        status["waits for"] = found["waiting_for"]
    return status


def _credential_provider(admin: AdminClient, row: Row) -> Row:
    secret = row["spec"].get("secret")
    if secret is None:
        return {}
    versions = [each for each in admin.call("GET", "/secrets")["secrets"] if each["name"] == secret]
    newest = max((each["version"] for each in versions), default=0)
    return {"secret": f"{secret}, version {newest}" if newest else f"{secret}: NOT stored yet"}


_STATUS: Final[dict[str, Callable[[AdminClient, Row], Row]]] = {
    "Agent": _agent,
    "CredentialProvider": _credential_provider,
    "Gateway": _gateway,
    "McpServer": _server,
    "OAuthClient": _client,
    "Policy": _policy,
}
