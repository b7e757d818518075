"""Generated pages are up to date, and links inside the documentation lead somewhere."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from countersign.cli.main import app
from tests.generate_docs import DOCS, PAGES, ROOT

LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("name", PAGES)
def test_generated_page_is_what_its_source_says(name: str) -> None:
    assert (DOCS / name).read_text() == PAGES[name](), "run `make docs`"


@pytest.mark.parametrize(
    "page", sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")]), ids=lambda path: path.name
)
def test_links_between_pages_lead_to_files(page: Path) -> None:
    local = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


def commands_in(page: Path) -> list[list[str]]:
    """The words after `countersign` on every line of a code block, up to a comment or pipe."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in re.sub(r"\\\n\s*", " ", block).splitlines()]
    found = [
        re.match(r"(?:[A-Z_]+=\S+ )*countersign (.*?)(?:\s#.*|\|.*|&&.*|;.*)?$", each)
        for each in lines
    ]
    return [shlex.split(each[1].replace("…", "'…'")) for each in found if each is not None]


@pytest.mark.parametrize(
    "page", sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")]), ids=lambda path: path.name
)
def test_commands_of_the_pages_are_commands_with_options_they_take(page: Path) -> None:
    for words in commands_in(page):
        command: Any = typer.main.get_command(app)
        left = list(words)
        options = {option for each in command.params for option in each.opts}
        while left and (left[0].startswith("-") or left[0] in getattr(command, "commands", {})):
            word = left.pop(0)
            if word.startswith("-"):
                assert word in options, words
                left.pop(0)
                continue
            command = command.commands[word]
            options |= {option for each in command.params for option in each.opts}
            if not hasattr(command, "commands"):
                break
        assert not hasattr(command, "commands") or not left, words
        own = left[: left.index("--")] if "--" in left else left
        assert {each.partition("=")[0] for each in own if each.startswith("-") and each != "-"} <= (
            options
        ), words
