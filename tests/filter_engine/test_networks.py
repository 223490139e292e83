"""Sets of addresses: compared with Python's own networks."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filter_engine.networks import Networks

networks = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.integers(0, 32)), st.tuples(st.ip_addresses(v=6), st.integers(0, 128))
).map(lambda found: ipaddress.ip_network(f"{found[0]}/{found[1]}", strict=False))


@given(some=st.lists(networks, min_size=1, max_size=4), data=st.data())
def test_an_address_is_in_the_set_if_it_is_in_one_of_the_networks(some, data):
    near = data.draw(st.sampled_from(some))
    offset = data.draw(st.integers(0, min(near.num_addresses, 2**16)))
    width = 32 if near.version == 4 else 128
    number = (int(near.network_address) + offset) % 2**width
    address = ipaddress.IPv4Address(number) if near.version == 4 else ipaddress.IPv6Address(number)
    # A network of IPv6 that holds all mapped addresses holds IPv4 too.
    mapped = ipaddress.IPv6Address(f"::ffff:{address}") if address.version == 4 else address
    expected = any(address in network for network in some) or any(mapped in network for network in some)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        expected = expected or any(address.ipv4_mapped in network for network in some)
    assert Networks(map(str, some)).have_all([str(address)]) is expected


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        (["10.1.2.3"], True),
        (["10.1.2.3", "10.9.9.9"], True),
        (["10.1.2.3", "8.8.8.8"], False),
        (["::ffff:10.1.2.3"], True),
        (["fd00::1", "192.168.7.7"], True),
        (["192.168.7.8"], False),
        ([], False),
        (["10.1.2.3", ""], False),
        (["10.1.2"], False),
        (["010.1.2.3"], False),
        (["unknown"], False),
    ],
)
def test_every_address_has_to_be_in_a_network(addresses, expected):
    assert Networks(["10.0.0.0/8", "fd00::/8", "192.168.7.7"]).have_all(addresses) is expected


@pytest.mark.parametrize("text", ["10.0.0.1/8", "10.0.0.0/33", "10.0.0", "", "::/129", "host"])
def test_what_is_no_network_is_refused(text):
    with pytest.raises(ValueError, match=r"host bits|does not appear|address"):
        Networks([text])
