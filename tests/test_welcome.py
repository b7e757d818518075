"""What the demo prints at its end promises no client that cannot connect."""

from pathlib import Path

WELCOME = Path(__file__).parent.parent / "compose/demo/welcome.py"
README = WELCOME.parents[2] / "README.md"


def test_no_configuration_is_offered_to_clients_that_cannot_connect() -> None:
    assert "mcpServers" not in WELCOME.read_text()
    for page in (WELCOME, README):
        assert "(DPoP)" in page.read_text()
