"""Steps 10 to 13: another person, a way around, the end of an agent, and what was written down."""

import json
import time
from typing import Any

from compose.demo.browser import Browser, Page, RefusedError
from compose.demo.steps import Story
from compose.demo.steps_token import CALLBACK

LONGEST_KILL_SECONDS = 20  # the command's own start included; then the callers give up


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
