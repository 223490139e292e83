"""What is a log entry, and what marks a group of them; in every header that MessagePack has for it."""

import msgpack
import pytest

from plugin.encoding.log_entry import GROUP_END, GROUP_START, are_all_of_records, is_entry, marker, split
from tests.support import event_time

FLOAT32 = b"\xca\x3f\x80\0\0"


def pair(*items, header=b"\x92"):
    return header + b"".join(items)


TIMES = [
    *map(msgpack.packb, (0, 1, -1, 1 << 31, 1 << 40, -(1 << 40), 1.5, None, event_time(1))),
    *(FLOAT32, b"\xc7\x08\0" + b"\0\0\0\1" * 2, b"\xc8\0\x08\0" + b"\0\0\0\1" * 2, b"\xd6\0abcd"),
]
NO_TIMES = [*map(msgpack.packb, ("a", "", b"a", True, False, {}, {"a": 1}, [], ["a", {}], [True, {}]))]
PAIR_HEADERS = [b"\x92", b"\xdc\0\2", b"\xdd\0\0\0\2"]
EVENT_TIME_HEADERS = [b"\xd7\0", b"\xc7\x08\0", b"\xc8\0\x08\0", b"\xc9\0\0\0\x08\0"]


@pytest.mark.parametrize("header", PAIR_HEADERS)
def test_a_log_entry_has_a_time_or_a_time_and_metadata_as_its_head(header):
    for time in TIMES:
        for head in (time, pair(time, b"\x80", header=header)):
            sent = pair(head, b"\x81\xa1a\1", header=header)
            assert is_entry(sent)
            assert list(map(bytes, split(sent))) == [head, b"\x81\xa1a\1"]
            assert marker(head) is None
            assert are_all_of_records([head, head])
    for no_time in NO_TIMES:
        for head in (no_time, pair(no_time, b"\x80", header=header)):
            with pytest.raises(ValueError, match="not"):
                marker(head)
            assert not are_all_of_records([TIMES[0], head])


@pytest.mark.parametrize(
    "sent", [b"\x90", b"\x91\1", b"\x93\1\2\3", b"\xdc\0\3\1\2\3", b"\xdd\0\0\0\1\1", b"\x80", b"\1"]
)
def test_what_is_no_array_of_two_is_no_log_entry(sent):
    with pytest.raises(ValueError, match="not an array of two"):
        split(sent)


@pytest.mark.parametrize("header", PAIR_HEADERS)
@pytest.mark.parametrize("ext", EVENT_TIME_HEADERS)
def test_a_time_of_minus_one_or_two_seconds_marks_a_group(header, ext):
    for seconds, expected in ((b"\xff\xff\xff\xff", GROUP_START), (b"\xff\xff\xff\xfe", GROUP_END)):
        for time, found in (
            (seconds + b"\0" * 4, expected),
            (seconds + b"\0\0\0\1", None),
            (seconds[::-1] * 2, None),
        ):
            for head in (ext + time, pair(ext + time, b"\x80", header=header)):
                assert marker(head) is found
                assert not (found and are_all_of_records([TIMES[0], head]))
    for other in (b"\xff\xff\xff\xfd", b"\0\0\0\1"):
        assert marker(pair(ext + other + b"\0" * 4, b"\x80", header=header)) is None


@pytest.mark.parametrize("first", range(256), ids=hex)
def test_a_time_is_a_number_nil_or_an_ext(first):
    unpacker = msgpack.Unpacker(strict_map_key=False)
    unpacker.feed(bytes([first]) + b"\0" * 20)
    try:
        value = unpacker.unpack()
    except (msgpack.FormatError, msgpack.OutOfData):
        value = ""  # nothing at all, or a container or string
    is_time = type(value) in (int, float, type(None), msgpack.ExtType)
    head = bytes([first]) + b"\0" * 20
    if first != 0x92:  # that of an array of two, which begins with a time here
        assert are_all_of_records([head]) is is_time
    assert are_all_of_records([b"\x92" + head]) is is_time


@pytest.mark.parametrize(
    "head", [*PAIR_HEADERS, b"\xdc\0\3\1\2\3", b"\xdd\0\0\0\3\1\2\3", b"\xdc\0\0", b"\x91\1"]
)
def test_a_head_that_is_an_array_is_one_of_two(head):
    assert not are_all_of_records([head])
    with pytest.raises(ValueError, match="not"):
        marker(head)
