"""Which addresses may be connected to. Each refused form stands beside what it resembles."""

from ipaddress import IPv4Address

import pytest

from outbound.addresses import vetted

PUBLIC = ["93.184.216.34", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00::1"]
NEVER = ["169.254.169.254", "224.0.0.1", "0.0.0.0", "fe80::1", "fe80::1%eth0", "ff02::1", "::"]  # noqa: S104 - refused, not bound
PRIVATE = [
    "127.0.0.1",
    "127.8.8.8",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "192.0.0.170",
    "192.88.99.1",
    "198.18.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::1",
    "fd00::1",
    "::ffff:127.0.0.1",
    "::ffff:93.184.216.34",
    "64:ff9b::7f00:1",
    "64:ff9b::5db8:d822",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2001::1",
    "2001:db8::1",
    "3fff::1",
    "::127.0.0.1",
    "4000::1",
]


@pytest.mark.requirement("attack-3")
@pytest.mark.parametrize("address", PUBLIC)
def test_public_address_is_allowed(address: str) -> None:
    assert vetted([address], is_listed=False) == [address]


@pytest.mark.requirement("attack-3")
@pytest.mark.parametrize("address", [*PRIVATE, *NEVER])
def test_address_that_is_not_public_is_refused(address: str) -> None:
    assert vetted([address], is_listed=False) is None


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "::1", "fd00::1", "64:ff9b::a00:1"])
def test_private_address_of_a_listed_host_is_allowed(address: str) -> None:
    assert vetted([address], is_listed=True) == [address]


@pytest.mark.parametrize(
    "address", [*NEVER, "::ffff:169.254.169.254", "::ffff:0:169.254.169.254", "64:ff9b:1::a00:1"]
)
def test_metadata_services_and_groups_are_refused_even_for_a_listed_host(address: str) -> None:
    assert vetted([address], is_listed=True) is None


METADATA = [
    *("168.63.129.16", "100.100.100.200", "192.0.0.192"),
    *("fd00:ec2::254", "fd20:ce::254", "fd00:42::42"),
]


@pytest.mark.requirement("attack-3")
@pytest.mark.parametrize("address", METADATA)
def test_metadata_service_is_reached_only_when_its_very_address_is_listed(address: str) -> None:
    assert vetted([address], is_listed=False) is None
    assert vetted([address], is_listed=True) is None
    assert vetted([address], is_listed=True, is_literal=True) == [address]


@pytest.mark.requirement("attack-3")
@pytest.mark.parametrize(
    "carrier",
    [
        "::ffff:{0}",
        "::{0}",  # IPv4-compatible
        "64:ff9b::{0}",
        "2002:{1}:{2}::1",
        "2001:0:{1}:{2}::1",  # Teredo: its server
        "2001:0:5db8:d822:0:0:{3}:{4}",  # Teredo: the client, inverted
        "fd00::5efe:{0}",  # ISATAP
    ],
)
@pytest.mark.parametrize("inner", ["169.254.169.254", "100.100.100.200", "168.63.129.16"])
def test_address_inside_another_is_judged_by_itself_even_for_a_listed_host(
    carrier: str, inner: str
) -> None:
    assert vetted([carried(carrier, inner)], is_listed=True) is None
    assert vetted([carried(carrier, "10.1.2.3")], is_listed=True) is not None
    assert vetted([carried(carrier, "10.1.2.3")], is_listed=False) is None


def carried(carrier: str, inner: str) -> str:
    a, b, c, d = IPv4Address(inner).packed
    high, low = a << 8 | b, c << 8 | d
    spelled = (f"{high:x}", f"{low:x}")
    inverted = (f"{high ^ 0xFFFF:x}", f"{low ^ 0xFFFF:x}")
    return carrier.format(inner, *spelled, *inverted)


@pytest.mark.requirement("attack-3")
def test_one_private_address_among_public_ones_refuses_the_name() -> None:
    assert vetted(["93.184.216.34", "127.0.0.1"], is_listed=False) is None
    assert vetted(["93.184.216.34", "1.1.1.1"], is_listed=False) is not None


def test_name_without_an_address_or_with_nonsense_is_refused() -> None:
    assert vetted([], is_listed=False) is None
    assert vetted(["localhost"], is_listed=True) is None
