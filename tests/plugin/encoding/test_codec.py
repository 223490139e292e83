"""One level of a value taken apart and put together again is the same bytes."""

import json

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from plugin.encoding.codec import DECODE_ERRORS, JSON, MSGPACK, TooManyItemsError
from plugin.encoding.msgpack_format import map_header
from tests.support import event_time, line

texts = st.text(max_size=4) | st.sampled_from(["a", "verb", "\ud7ff", "é" * 20, "x" * 40])
encoded_keys = st.one_of(
    texts.map(msgpack.packb),
    texts.map(lambda text: msgpack.packb(text.encode())),
    st.binary(max_size=4).map(msgpack.packb),
    st.sampled_from([b"\xa1\xff", b"\xa3\xed\xa0\x80", b"\xd9\x01\xfe"]),  # strings that are no UTF-8
    st.one_of(st.none(), st.booleans(), st.integers(-200, 1 << 33), st.floats()).map(msgpack.packb),
    st.sampled_from([b"\x80", b"\x81\xa1a\x01", b"\xd4\x05a", b"\x91\x80", b"\x90"]),
)
by_each_codec = pytest.mark.parametrize(
    ("codec", "encode"), [(MSGPACK, msgpack.packb), (JSON, lambda value: json.dumps(value).encode())]
)
encoded_values = st.sampled_from([b"\xc0", b"\x01", b"\xca\x3f\x80\0\0", b"\xa1\xff", b"\x92\x01\xd4\x05a"])


@given(st.dictionaries(encoded_keys, encoded_values, max_size=20))
def test_a_map_keeps_keys_and_values_of_any_type_in_their_order(members):
    sent = map_header(len(members)) + b"".join(key + value for key, value in members.items())
    read = MSGPACK.members(sent)
    assert MSGPACK.encode(read) == sent
    assert [bytes(value) for value in read.values()] == list(members.values())


@pytest.mark.parametrize("first", ["text", "binary"])
def test_of_a_key_that_is_text_and_binary_the_text_counts(first):
    pairs = [b"\xa1k\x01", b"\xc4\x01k\x02"]
    for others in (b"", b"\xa1\xff\x03", b"\x05\x03"):
        pair = pairs if first == "text" else pairs[::-1]
        sent = map_header(2 + bool(others)) + b"".join(pair) + others
        read = MSGPACK.members(sent)
        assert (bytes(read["k"]), MSGPACK.encode(read)) == (b"\x01", sent)


@pytest.mark.parametrize("others", [b"", b"\xa1x\x03", b"\xa1\xff\x03", b"\x05\x03", b"\xc4\x01\xff\x03"])
def test_a_binary_key_is_found_by_its_text(others):
    sent = map_header(1 + bool(others)) + b"\xc4\x01k\x02" + others
    assert bytes(MSGPACK.members(sent)["k"]) == b"\x02"


@pytest.mark.parametrize(
    "key", [b"\xa1\xff", b"\x05", b"\xc0", b"\x91\xa1k", b"\xd4\x05k", b"\xcb" + b"k" * 8]
)
def test_a_key_that_is_no_text_is_found_by_none(key):
    read = MSGPACK.members(b"\x82\xa1k\x01" + key + b"\x02")
    assert [name for name in read if name.isascii()] == ["k"]
    assert not set(read) & {key.decode("latin-1"), key.decode("utf-8", "surrogateescape"), "\udcff"}
    assert bytes(read["k"]) == b"\x01"


def test_of_a_key_that_is_there_twice_the_last_value_counts():
    for more in (b"", b"\x05\x03"):
        sent = map_header(2 + bool(more)) + b"\xa1k\x01\xa1k\x02" + more
        assert bytes(MSGPACK.members(sent)["k"]) == b"\x02"
    assert bytes(JSON.members(b'{"k":1,"k":2}')["k"]) == b"2"


@pytest.mark.parametrize(
    "broken", [b"\x82\xa1k\x01", b"\x81\xa1k", b"\x81", b"\x82\x05\x01\xa1", b"\x81\x05\xc1", b"\xde\0"]
)
def test_a_map_that_is_cut_off_or_broken_cannot_be_read(broken):
    with pytest.raises((*DECODE_ERRORS, msgpack.OutOfData, msgpack.FormatError)):
        MSGPACK.members(broken)


@pytest.mark.parametrize("size", [0, 1, 31, 32, 255, 256, 65_535, 65_536])
@pytest.mark.parametrize("like", ["x", b"x"])
def test_a_string_is_written_with_the_shortest_header_of_its_type(size, like):
    text = b"\xc3\xa9" * (size // 2) + b"x" * (size % 2)
    expected = msgpack.packb(text if isinstance(like, bytes) else text.decode())
    assert MSGPACK.encode_string(text, msgpack.packb(like)) == expected
    assert bytes(MSGPACK.string(expected)) == text
    assert MSGPACK.text(expected) == text.decode()
    assert MSGPACK.kind(expected) == "string"
    assert JSON.encode_string(text, b'"x"') == json.dumps(text.decode(), ensure_ascii=False).encode()


KINDS = {
    "map": [{}, {"a": 1}, dict.fromkeys(map(str, range(16))), dict.fromkeys(map(str, range(70_000)))],
    "array": [[], [1], [0] * 16, [0] * 70_000],
    "string": ["", "a" * 32, "a" * 256, "a" * 70_000],
    "other": [None, True, False, 0, 127, 128, -1, -32, -33, 1 << 16, 1 << 63, 1.5],
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_byte_of_a_value_says_what_it_is(kind):
    for value in KINDS[kind]:
        assert (MSGPACK.kind(msgpack.packb(value)), JSON.kind(json.dumps(value).encode())) == (kind, kind)
        if kind == "string":
            assert MSGPACK.kind(msgpack.packb(value.encode())) == "string"
    assert MSGPACK.kind(msgpack.packb(event_time(1))) == MSGPACK.kind(b"\xc7\x01\x05a") == "other"


@by_each_codec
def test_an_integer_is_one_and_nothing_else_is(codec, encode):
    for value in (0, -1, 403, -(1 << 63), (1 << 64) - 1):
        assert codec.integer(encode(value)) == value
    for value in (None, True, False, 1.5, "403", [403], {}):
        assert codec.integer(encode(value)) is None


@by_each_codec
@pytest.mark.parametrize("count", [1, 15, 16, 17, 65_535, 65_536])
def test_a_list_is_taken_apart_up_to_its_limit(codec, encode, count):
    sent = encode([0] * count)
    assert list(map(bytes, codec.elements(sent, count))) == [encode(0)] * count
    if count > 1:
        with pytest.raises(TooManyItemsError, match=f"more than {count - 1} items"):
            codec.elements(sent, count - 1)


def test_a_name_may_stand_in_a_value_only_where_it_does():
    for codec, encode in ((MSGPACK, msgpack.packb), (JSON, line)):
        sent = encode({"a": ["managedFields"]})
        assert codec.may_contain(sent, "managedFields")
        assert codec.may_contain(Raw(sent), "managedFields")
        assert not codec.may_contain(sent, "managedfields")
    assert JSON.may_contain(rb'{"managedField\u0073":1}', "managedFields")
    assert not JSON.may_contain(rb'{"managedField\\n":1}', "managedFields")
