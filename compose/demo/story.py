"""The story of `make run`: a real agent, real people, real servers, and every step is checked.

Each step prints what it proves. A step whose check fails ends the story with its number and name
and exit status 1; nothing is printed as true that was not seen. After the story everything stays
up until Ctrl-C, unless `--once` is given.

    python -m compose.demo.story [--once] [--directory .run] [--ports 8700,8701,8711,8712]
                                 [--keycloak [8780]]
"""

import argparse
import contextlib
import json
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from compose.demo.browser import Browser, Page, RefusedError, log_in_and_allow, to_login
from compose.demo.people import PASSWORDS, LocalPeople, People, keycloak_people
from compose.demo.port_owners import owner_of
from compose.demo.stack import AgentProcess, Ports, Stack, StackError, taken_ports
from compose.demo.welcome import welcome
from compose.services.installing import CannotInstallError, DidNotStartError
from compose.services.keycloak import DOWNLOAD, is_installed

CALLBACK = "http://127.0.0.1:18080/callback"
KEYCLOAK_PORT = 8780
LOGIN_SECONDS = 20
LONGEST_KILL_SECONDS = 20  # the command's own start included; then the callers give up


class StepFailedError(Exception):
    """A step did not show what it must."""


@dataclass
class Story:
    """The running demo and what was seen so far."""

    stack: Stack
    console: Console
    people: People = field(default_factory=LocalPeople)
    started: float = field(default_factory=time.monotonic)
    agent: AgentProcess | None = None
    seen: dict[str, Any] = field(default_factory=dict)
    level: int = 1  # of the agent's evidence: 2 for an agent with a JWT-SVID

    def require(self, condition: object, message: str) -> None:
        """Fail the current step unless `condition` holds."""
        if not condition:
            raise StepFailedError(message)

    def line(self, number: str, name: str, what: str, verdict: str = "", why: str = "") -> None:
        """One line of the story."""
        colour = {"ALLOW": "green", "DENY": "red"}.get(verdict, "")
        mark = f"[{colour}]{verdict:<6}[/]" if colour else f"{verdict:<6}" if verdict else ""
        text = f"[dim]{number:>2}[/] [bold]{name:<8}[/] {what:<40} {mark}{why}"
        self.console.print(text.rstrip(), highlight=False, soft_wrap=True)

    @property
    def bot(self) -> AgentProcess:
        """The agent's process."""
        if self.agent is None:
            message = "the agent was not started"
            raise StepFailedError(message)
        return self.agent

    def person_allows(
        self, browser: Browser, name: str, server: str, tools: list[str]
    ) -> tuple[dict[str, Any], Page | None]:
        """The agent asks, the person logs in and consents, the agent redeems the code."""
        asked = self.bot.do("authorize", resource=self.stack.endpoint(server), tools=tools)
        redirect, consent = log_in_and_allow(browser, asked["url"], name, PASSWORDS[name])
        return self.bot.do("redeem", redirect=redirect), consent

    def call(self, server: str, tool: str, **arguments: object) -> dict[str, Any]:
        """One tool call through the gateway."""
        return self.bot.do(
            "call", resource=self.stack.endpoint(server), tool=tool, arguments=arguments
        )

    def recorded(self, kind: str, tool: str, since: str) -> dict[str, Any]:
        """The newest event of a kind on a tool, recorded after `since` (ISO 8601)."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            found = self.audit("--tool", tool, "--type", kind)["events"]
            if found and found[0]["timestamp"] >= since:
                return dict(found[0])
            time.sleep(0.05)
        message = f"the audit has no {kind} on {tool} since {since}"
        raise StepFailedError(message)

    def audit(self, *arguments: str) -> dict[str, Any]:
        """What `countersign audit search` answers."""
        done = self.stack.command("-o", "json", "audit", "search", "--limit", "1000", *arguments)
        return dict(json.loads(done.stdout))


def prepare(story: Story) -> None:
    """What an operator does once: start, people, first admin, secrets, objects, approval."""
    stack = story.stack
    stack.start_all()
    objects = stack.objects()
    story.people.declare(stack)
    log_in_operator(stack)
    code = (stack.directory / "run" / "setup-code").read_text().strip()
    stack.command("setup", stdin=code)
    stack.command("secret", "set", "notes-api-key", stdin=stack.notes_key)
    stack.command("apply", "-f", str(objects), "--yes")
    stack.command("tools", "approve", "crm", "--all", "--yes", "--wait", "30")
    stack.command("tools", "approve", "notes", "--all", "--yes", "--wait", "30")
    stack.command("apply", "-f", str(objects), "--yes", "--wait", "30")  # until the set is active


def log_in_operator(stack: Stack) -> None:
    """`countersign login`, with olga at the browser."""
    import subprocess  # noqa: PLC0415 - only the operator's login needs to be driven

    from compose.demo.stack import COUNTERSIGN  # noqa: PLC0415

    login = subprocess.Popen(  # noqa: S603 - our own command
        [*COUNTERSIGN, "login", "--no-browser"],
        stdout=subprocess.PIPE,
        text=True,
        env=stack.child_environment(),
    )
    if login.stdout is None:
        message = "the login command has no output"
        raise StackError(message)
    url = login.stdout.readline().strip()
    browser = Browser(stop_at="http://127.0.0.1:0/")
    try:
        page = to_login(browser, browser.open(url))
        for values in ({"username": "olga", "password": PASSWORDS["olga"]}, {}):
            if isinstance(page, Page) and page.forms:
                allow = [button for button in page.forms[0].buttons if button[1] == "allow"]
                page = browser.submit(page, values, allow[0] if allow else None)
    finally:
        browser.close()
    try:
        rest, _ = login.communicate(timeout=LOGIN_SECONDS)
    except subprocess.TimeoutExpired:
        login.kill()
        rest, _ = login.communicate()
        rest += f"the browser got stuck at {page}"
    if login.returncode != 0:
        message = f"countersign login: {rest}"
        raise StackError(message)


def step_attest(story: Story) -> None:
    story.agent = story.stack.agent()
    answer = story.bot.do("attest")
    story.require("subject" in answer, f"no attestation: {answer}")
    bound = answer["claims"].get("cnf", {}).get("jkt")
    if story.level == 1:  # an SVID names no key; the token will
        story.require(bound == answer["key"], "the attestation is not bound to the key")
    kind = "local kernel evidence, level 1; same user: for trying out"
    why = f"{answer['subject']}  ({kind if story.level == 1 else 'JWT-SVID, level 2'})"
    story.line("1", "attest", "agent support-bot", why=why)
    story.seen["key"] = answer["key"]


def step_login(story: Story) -> None:
    browser = story.seen["alice"] = Browser(stop_at=CALLBACK)
    asked = story.bot.do(
        "authorize", resource=story.stack.endpoint("crm"), tools=["get_account", "refund"]
    )
    story.require("url" in asked, f"the agent could not ask: {asked}")
    page = to_login(browser, browser.open(asked["url"]))
    story.require(asks_password(page), f"no login page: {page}")
    wrong = browser.submit(page, {"username": "alice", "password": "not-her-password"})  # type: ignore[arg-type]
    story.require(asks_password(wrong), "a wrong password must ask again")
    after = browser.submit(wrong, {"username": "alice", "password": PASSWORDS["alice"]})  # type: ignore[arg-type]
    story.require(not asks_password(after), f"alice could not log in: {after}")
    story.seen["after_login"] = after
    provider = story.people.provider
    why = f"groups: {provider}/support, {provider}/staff   via {story.people.label}"
    story.line("2", "login", "alice", why=why)


def asks_password(page: Page | str) -> bool:
    """Whether the browser shows the login form."""
    return isinstance(page, Page) and page.asks_password


def step_consent(story: Story) -> None:
    consent: Page | str = story.seen["after_login"]
    if isinstance(consent, str) or not consent.forms:
        message = f"nobody asked alice to consent: {consent}"
        raise StepFailedError(message)
    for word in (story.people.shown("alice"), "support-bot", "crm", "get_account", "refund"):
        story.require(word in consent.text, f"the consent page does not name {word}")
    story.require("delete_account" not in consent.text, "consent offers a tool nobody asked for")
    button = next((each for each in consent.forms[0].buttons if each[1] == "allow"), None)
    redirect = story.seen["alice"].submit(consent, {}, button)
    story.require(isinstance(redirect, str), f"consent did not return to the agent: {redirect}")
    story.seen["redirect"] = redirect
    story.line(
        "3",
        "consent",
        "alice lets support-bot use crm:",
        why="get_account, refund   for 30 days",
    )


def step_token(story: Story) -> None:
    body = story.bot.do("redeem", redirect=story.seen["redirect"])
    story.require("claims" in body, f"no token: {body}")
    claims = body["claims"]
    story.require(body["token_type"] == "DPoP", "the token is not bound to the key")
    story.require(
        claims.get("cnf", {}).get("jkt") == story.seen["key"], "the token is bound to another key"
    )
    story.require(claims["act"]["agent"] == "support-bot", "the token does not name the agent")
    story.require(claims["aud"] == story.stack.endpoint("crm"), "wrong audience")
    story.require(claims["exp"] - claims["iat"] <= 900, "the token lives too long")
    story.require(claims["attn"]["level"] == story.level, "wrong attestation level")
    groups = [f"{story.people.provider}/{group}" for group in ("staff", "support")]
    story.require(sorted(claims["uctx"]["groups"]) == groups, "wrong groups of alice")
    consented = [(each["server"], each["tools"]) for each in claims["authorization_details"]]
    story.require(
        consented == [("crm", ["get_account", "refund"])], f"alice consented, got {consented}"
    )
    story.seen["alice_sub"] = claims["sub"]
    story.line(
        "4",
        "token",
        claims["jti"],
        why=f"aud={claims['aud']}  {claims['exp'] - claims['iat']} s  sub=alice act=support-bot"
        "  bound to the agent's key",
    )


def step_call_account(story: Story) -> None:
    answer = story.call("crm", "get_account", id=17)
    story.require(not answer.get("is_error", True), f"refused: {answer}")
    seen = answer["structured"]["seen"]
    story.require(answer["structured"]["account"]["name"] == "Ada Lovelace", "wrong account")
    story.require(
        seen["agent"] == "support-bot" and seen["name"] == story.people.shown("alice"),
        f"crm saw {seen}",
    )
    story.require(seen["subject"] != story.seen["alice_sub"], "the target learns our own id")
    story.require(seen["token_seconds"] <= 300, "the target's token lives too long")
    story.seen["alice_at_crm"] = seen
    since = timestamp()
    again = story.call("crm", "get_account", id=17)
    story.line(
        "5",
        "call",
        'crm/get_account {"id": 17}',
        "ALLOW",
        f"{policies(story, 'crm', 'get_account', since)}   crm saw: {seen['agent']} for"
        f" {seen['name']}, token {seen['token_seconds']} s  {again['ms']:.1f} ms",
    )


def policies(story: Story, server: str, tool: str, since: str) -> str:
    """The policies behind the call just made, from the audit."""
    decided = story.recorded("call.decided", f"{server}/{tool}", since)
    matched = decided.get("policy_matched", [])
    story.require(matched, "the audit names no policy")
    return ", ".join(matched)


def timestamp() -> str:
    """Now, as the audit writes it."""
    now = datetime.now(UTC)  # noqa: TID251 - the demo's own wall clock
    return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def step_call_notes(story: Story) -> None:
    body, _ = story.person_allows(story.seen["alice"], "alice", "notes", ["search"])
    story.require("claims" in body, f"no token for notes: {body}")
    since = timestamp()
    answer = story.call("notes", "search", text="Q3")
    story.require(not answer.get("is_error", True), f"refused: {answer}")
    story.require(len(answer["structured"]["notes"]) == 1, "notes did not answer")
    story.require(story.stack.notes_key not in json.dumps(answer), "the API key reached the agent")
    why = (
        f"{policies(story, 'notes', 'search', since)}   API key from the vault, never at the agent"
    )
    story.line("6", "call", 'notes/search {"text": "Q3"}', "ALLOW", why)


def step_refund_small(story: Story) -> None:
    since = timestamp()
    answer = story.call("crm", "refund", id=17, amount=100)
    story.require(not answer.get("is_error", True), f"refused: {answer}")
    matched = policies(story, "crm", "refund", since)
    story.line("7", "call", 'crm/refund {"amount": 100}', "ALLOW", matched)


def step_refund_large(story: Story) -> None:
    before = story.call("crm", "get_account", id=17)["structured"]["account"]["balance"]
    since = timestamp()
    answer = story.call("crm", "refund", id=17, amount=900)
    story.require(answer.get("is_error"), f"a refund of 900 went through: {answer}")
    story.require("Agents may not refund more than 500." in answer["text"], "no reason given")
    after = story.call("crm", "get_account", id=17)["structured"]["account"]["balance"]
    story.require(before == after, "money moved although the call was denied")
    matched = policies(story, "crm", "refund", since)
    story.require("guard-refund-limit" in matched, f"the audit names {matched}")
    story.line("8", "call", 'crm/refund {"amount": 900}', "DENY", f'{matched}   "{answer["text"]}"')


def step_delete(story: Story) -> None:
    listed = story.bot.do("list", resource=story.stack.endpoint("crm"))
    story.require("tools" in listed, f"no list: {listed}")
    consented = ["get_account", "refund"]
    story.require(sorted(listed["tools"]) == consented, f"not what alice allowed: {listed}")
    since = timestamp()
    for tool, arguments in (("delete_account", {"id": 17}), ("list_hours", {})):
        answer = story.call("crm", tool, **arguments)
        refused = answer.get("is_error") or "error" in answer
        story.require(refused, f"{tool} went through: {answer}")
    # Policy would refuse the first as well, but here it must not even have been asked.
    beyond = story.recorded("call.refused", "crm/delete_account", since)
    story.require(beyond.get("error_code") == "beyond_ceiling", f"refused otherwise: {beyond}")
    why = "not in this agent's tools, not consented"
    story.line("9", "call", "crm/delete_account", "DENY", why)


def step_bob(story: Story) -> None:
    browser = Browser(stop_at=CALLBACK)
    alice = story.bot
    story.agent = story.stack.agent()
    try:
        body, _ = story.person_allows(browser, "bob", "crm", ["get_account", "list_hours"])
        story.require("claims" in body, f"no token for bob: {body}")
        story.require(body["claims"]["sub"] != story.seen["alice_sub"], "bob is alice")
        hours = story.call("crm", "list_hours")
        story.require(not hours.get("is_error", True), f"bob may read the hours: {hours}")
        seen = hours["structured"]["seen"]
        story.require(seen["name"] == story.people.shown("bob"), f"crm saw {seen}")
        story.require(
            seen["token_id"] != story.seen["alice_at_crm"]["token_id"], "alice's credential for bob"
        )
        account = story.call("crm", "get_account", id=17)
        refused = account.get("is_error") or "error" in account
        story.require(refused, f"bob read an account: {account}")
    finally:
        browser.close()
        story.bot.stop()
        story.agent = alice
    story.line(
        "10",
        "bob",
        "crm/list_hours ALLOW, crm/get_account DENY",
        why=f"bob is not in {story.people.provider}/support; own credential",
    )


def step_bypass(story: Story) -> None:
    answers = story.bot.do("ask_target", resource=story.stack.crm_url)
    answers.pop("done")
    for door, answer in answers.items():
        story.require(answer["status"] == 400, f"{door}: {answer}")
        story.require(answer["error"] == "invalid_target", f"{door}: {answer}")
    knocked = story.bot.do(
        "knock", resource=story.stack.endpoint("crm"), target=story.stack.crm_url
    )
    story.require(knocked["status"] == 401, f"crm lets the agent's own token in: {knocked}")
    why = f"refused: invalid_target   ({', '.join(answers)})"
    story.line("11", "bypass", "support-bot asks for crm's own token", why=why)


def step_kill(story: Story) -> None:
    body, _ = story.person_allows(
        story.seen["alice"],
        "alice",
        "crm",
        ["get_account", "refund", "watch_account", "list_hours"],
    )
    story.require("claims" in body, f"no token: {body}")
    stream = story.bot.begin(
        "call",
        resource=story.stack.endpoint("crm"),
        tool="watch_account",
        arguments={"id": 17, "seconds": LONGEST_KILL_SECONDS},
    )
    streaming = story.bot.answers(stream)
    first = next(streaming)
    story.require("progress" in first, f"the stream did not start: {first}")
    calls = story.bot.begin(
        "hammer",
        resource=story.stack.endpoint("crm"),
        tool="list_hours",
        seconds=LONGEST_KILL_SECONDS,
    )
    calling = story.bot.answers(calls)
    story.require(next(calling).get("ready"), "the second caller did not start")
    done = story.stack.command("-o", "json", "kill", "agent/support-bot", "--reason", "the story")
    event = json.loads(done.stdout)
    last = [answer for answer in calling if answer.get("done")][-1]
    ended = [answer for answer in streaming if answer.get("done")][-1]
    story.require("error" in last and last["calls"] > 0, f"calls were not refused: {last}")
    story.require("error" in ended, f"the stream was not closed: {ended}")
    took = max(0, last["refused_at_ms"] - event["at_ms"])
    story.require(took < 1000, f"the kill took {took:.0f} ms")
    again = story.call("crm", "get_account", id=17)
    story.require("error" in again, f"a killed agent's call went through: {again}")
    new, _ = renewed(story)
    story.require("error" in new, f"a killed agent got a token: {new}")
    story.line(
        "12",
        "kill",
        "support-bot",
        why=f"first refused call {took:.0f} ms after the action, open stream closed",
    )


def renewed(story: Story) -> tuple[dict[str, Any], Page | None]:
    """What a killed agent gets when it asks again."""
    try:
        return story.person_allows(story.seen["alice"], "alice", "crm", ["get_account"])
    except RefusedError as refused:
        return {"error": str(refused)}, None


def step_audit(story: Story) -> None:
    deadline = time.monotonic() + 10
    found = story.audit()
    while not found["complete"] and time.monotonic() < deadline:
        time.sleep(0.1)
        found = story.audit()
    story.require(found["complete"], f"the audit has gaps: {found['gaps']}")
    events = found["events"]
    decided = {e["decision_id"]: e for e in events if e["type"] == "call.decided"}
    finished = {e["decision_id"] for e in events if e["type"] == "call.finished"}
    allowed = {key for key, event in decided.items() if event["outcome"] == "allowed"}
    story.require(allowed, "no decision in the audit")
    story.require(not allowed - finished, f"no outcome for {allowed - finished}")
    for kind in ("token.issued", "token.exchanged", "consent.granted", "revocation.blocked"):
        story.require(any(e["type"] == kind for e in events), f"the audit has no {kind}")
    refused = [event for event in events if event["type"] in {"exchange.refused", "token.refused"}]
    story.require(refused, "the bypass attempts are not in the audit")
    denied = [event for event in decided.values() if event["outcome"] == "denied"]
    story.require(
        any("guard-refund-limit" in event.get("policy_matched", ()) for event in denied),
        "the denied refund is not in the audit",
    )
    story.line("13", "audit", f"{len(events)} events: who, for whom, what, why", why="complete")


STEPS: tuple[tuple[str, Callable[[Story], None]], ...] = (
    ("0 prepare", prepare),
    ("1 attest", step_attest),
    ("2 login", step_login),
    ("3 consent", step_consent),
    ("4 token", step_token),
    ("5 call crm/get_account", step_call_account),
    ("6 call notes/search", step_call_notes),
    ("7 call crm/refund 100", step_refund_small),
    ("8 call crm/refund 900", step_refund_large),
    ("9 call crm/delete_account", step_delete),
    ("10 bob", step_bob),
    ("11 bypass", step_bypass),
    ("12 kill", step_kill),
    ("13 audit", step_audit),
)


def play(story: Story) -> bool:
    """Every step in order; whether all held."""
    for name, step in STEPS:
        try:
            step(story)
        except Exception as error:  # noqa: BLE001 - whatever it is, the step did not hold
            story.console.print(f"[bold red]step {name} failed[/]", highlight=False)
            story.console.print(f"  {type(error).__name__}: {error}", markup=False, highlight=False)
            return False
    return True


def ports(text: str) -> Ports:
    """The value of `--ports`."""
    issuer, gateway, crm, notes = (int(number) for number in text.split(","))
    return Ports(issuer, gateway, crm, notes)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--once", action="store_true", help="end after the story")
    parser.add_argument("--directory", type=Path, default=Path(".run"))
    parser.add_argument(
        "--ports",
        type=ports,
        default=Ports(),
        help="four, with commas: authorization server, gateway, crm, notes",
    )
    parser.add_argument(
        "--keycloak",
        type=int,
        nargs="?",
        const=KEYCLOAK_PORT,
        metavar="PORT",
        help=f"people log in at a real Keycloak, on this port ({KEYCLOAK_PORT})",
    )
    return parser.parse_args()


def main() -> None:
    given = arguments()
    console = Console(highlight=False)
    taken = taken_ports([*given.ports.all, *([given.keycloak] if given.keycloak else [])])
    if taken:
        for port in taken:
            console.print(f"Port {port} is in use by {owner_of(port)}", markup=False)
        console.print("Stop that, or choose others: make run PORTS=9700,9701,9711,9712")
        sys.exit(1)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it cleans up as Ctrl-C does
    directory = given.directory.absolute()
    shutil.rmtree(directory, ignore_errors=True)
    console.print("[bold]Countersign[/]: an agent, two people, two MCP servers\n")
    with contextlib.ExitStack() as held:
        stack = Stack(directory, ports=given.ports)
        people = people_of(held, stack, given.keycloak, console)
        run(Story(held.enter_context(stack), console, people), once=given.once)


def people_of(
    held: contextlib.ExitStack, stack: Stack, keycloak_port: int | None, console: Console
) -> People:
    """Local accounts, or a Keycloak that is installed if need be, started and ended with us."""
    if keycloak_port is None:
        return LocalPeople()
    try:
        if not is_installed():
            console.print(f"downloading {DOWNLOAD}, once")
        console.print(f"starting Keycloak on port {keycloak_port} (takes 10 to 60 s)\n")
        people = held.enter_context(
            keycloak_people(stack.directory / "keycloak", keycloak_port, stack.issuer)
        )
    except (CannotInstallError, DidNotStartError) as error:
        console.print(f"Keycloak cannot be started: {error}", markup=False)
        sys.exit(1)
    people.join(stack)
    return people


def run(story: Story, *, once: bool) -> None:
    """Play the story, then stay up."""
    story.started = time.monotonic()
    try:
        held = play(story)
    except KeyboardInterrupt:
        story.console.print("\nstopping")
        held = False
    finally:
        if story.agent is not None:
            story.agent.stop()
    if not held:
        sys.exit(1)
    story.console.print(f"\nEvery step held, in {time.monotonic() - story.started:.0f} s.")
    if not once:
        welcome(story.stack, story.console)


if __name__ == "__main__":
    main()
