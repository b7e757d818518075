"""What an operator does once, with the commands an operator has."""

import subprocess

from compose.demo.browser import Browser, Page, to_login
from compose.demo.people import PASSWORDS
from compose.demo.stack import COUNTERSIGN, Stack, StackError
from compose.demo.steps import Story

LOGIN_SECONDS = 20


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
