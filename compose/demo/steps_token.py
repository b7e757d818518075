"""Steps 1 to 4: an attested agent, a person who logs in and agrees, and one token of both."""

from compose.demo.browser import Browser, Page, to_login
from compose.demo.people import PASSWORDS
from compose.demo.steps import StepFailedError, Story

CALLBACK = "http://127.0.0.1:18080/callback"


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
