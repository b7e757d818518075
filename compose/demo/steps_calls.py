"""Steps 5 to 9: what the agent may do for alice, and what not."""

import json

from compose.demo.steps import Story, policies, timestamp


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
