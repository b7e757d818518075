"""Which URLs may be fetched from at all."""

import pytest

from outbound.destination import destination_of

NOTHING: frozenset[str] = frozenset()


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("https://idp.example.com/keys?x=1", "idp.example.com", 443),
        ("https://IDP.example.com:8443/", "idp.example.com", 8443),
        ("https://93.184.216.34/", "93.184.216.34", 443),
        ("https://[2606:4700::1111]/", "2606:4700::1111", 443),
    ],
)
def test_https_url_is_accepted(url: str, host: str, port: int) -> None:
    found = destination_of(url, NOTHING)
    assert found is not None
    assert (found.host, found.port, found.is_listed) == (host, port, False)


@pytest.mark.requirement("attack-3")
@pytest.mark.parametrize(
    "url",
    [
        "http://idp.example.com/",
        "ftp://idp.example.com/",
        "file:///etc/passwd",
        "https://user@idp.example.com/",
        "https://user:pass@idp.example.com/",
        "https://@idp.example.com/",
        "https://idp.example.com/#part",
        "https://idp.example.com#",
        "https://idp.example.com:0/",
        "https://idp.example.com:99999/",
        "https://idp.example.com:port/",
        "https:///path",
        "https://",
        "https://idp.example.com./",
        "https://idp..example.com/",
        "https://-idp.example.com/",
        "https://idp.example.com\\@evil.example/",
        "https://idp example.com/",
        "https://idp.example.com/\r\nHost: evil",
        "https://idp.ex\u00e4mple.com/",
        "https://2130706433/",
        "https://127.1/",
        "https://0x7f.0.0.1/",
        "https://0177.0.0.1/",
        "https://127.0.0.1.1/",
        "https://0x7f000001/",
        "https://[fe80::1%25eth0]/",
        "https://[::1",
        "https://[2606:4700::1111]evil.example/",
        "https://[2606:4700::1111]evil.example:443/",
        "https://idp.example.com:/",
        "https://idp.example.com:0443/",
        "https://idp.example.com/" + "x" * 2048,
    ],
)
def test_url_that_could_be_read_in_two_ways_is_refused(url: str) -> None:
    assert destination_of(url, NOTHING) is None


@pytest.mark.parametrize(
    ("url", "listed"),
    [
        ("http://127.0.0.1:8080/x", "127.0.0.1:8080"),
        ("http://127.0.0.1:8080/x", "127.0.0.1"),
        ("http://[::1]:8080/x", "[::1]:8080"),
        ("http://[::1]:8080/x", "::1"),
    ],
)
def test_http_is_for_listed_loopback_literals(url: str, listed: str) -> None:
    assert destination_of(url, frozenset((listed,))) is not None
    assert destination_of(url, NOTHING) is None


@pytest.mark.parametrize("host", ["localhost", "10.0.0.1", "idp.example.com"])
def test_http_is_refused_for_other_listed_hosts(host: str) -> None:
    listed = frozenset((host,))
    assert destination_of(f"http://{host}/", listed) is None
    assert destination_of(f"https://{host}/", listed) is not None


def test_a_host_is_listed_exactly() -> None:
    listed = frozenset(("idp.example.com:8443",))
    urls = (
        "https://idp.example.com:8443/",
        "https://idp.example.com/",
        "https://x.idp.example.com:8443/",
    )
    found = [destination_of(url, listed) for url in urls]
    assert [one is not None and one.is_listed for one in found] == [True, False, False]
