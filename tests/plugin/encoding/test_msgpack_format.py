"""Headers as MessagePack has them, and the ends of values."""

import msgpack
import pytest

from plugin.encoding.msgpack_format import Skipper, array_header, map_header


@pytest.mark.parametrize("size", [0, 1, 15, 16, 65_535, 65_536])
def test_headers_are_those_of_msgpack(size):
    assert msgpack.packb([0] * size) == array_header(size) + b"\0" * size
    assert msgpack.packb(dict.fromkeys(range(size), 0)).startswith(map_header(size))


ONE_EACH = [
    None,
    *(True, 0, 127, 128, 1 << 8, 1 << 16, 1 << 32, -1, -33, -(1 << 8), -(1 << 16), -(1 << 32), 1.5),
    *("", "a" * 31, "a" * 32, "a" * 256, "a" * 65_536, b"", b"a" * 256, b"a" * 65_536),
    *([], [1] * 15, [1] * 16, [[]] * 65_536, {}, {"a": [{}]}, dict.fromkeys(range(16), 0.5)),
    dict.fromkeys(range(65_536), "a"),
    *(msgpack.ExtType(5, b"a" * size) for size in (0, 1, 2, 3, 4, 8, 16, 17, 256, 65_536)),
]
FLOAT32 = b"\xca\x3f\x80\0\0"


@pytest.mark.parametrize("encoded", [*map(msgpack.packb, ONE_EACH), FLOAT32], ids=lambda each: each[:6].hex())
def test_the_end_of_a_value_is_found_wherever_its_bytes_are_cut(encoded):
    cuts = {0, *range(min(len(encoded), 12)), len(encoded) // 2, len(encoded) - 1, len(encoded)}
    for cut in sorted(cuts):
        skipper = Skipper()
        first, second = encoded[:cut], encoded[cut:] + b"next"
        assert skipper.missing <= len(encoded)
        if cut < len(encoded):
            assert skipper.skip(memoryview(first)) is None
            assert 0 < skipper.missing <= len(encoded) - cut + 8
            assert skipper.skip(memoryview(second)) == len(encoded) - cut
        else:
            assert skipper.skip(memoryview(first + b"next")) == len(encoded)


@pytest.mark.parametrize("cut", range(5))
def test_a_byte_that_starts_no_value_is_told_where_it_is(cut):
    skipper = Skipper()
    sent = b"\x92\xcd\1\2\xc1\0"
    assert skipper.skip(memoryview(sent[:cut])) is None
    with pytest.raises(msgpack.FormatError):
        skipper.skip(memoryview(sent[cut:]))
    assert skipper.at == 4 - cut
