"""Messages of the forward protocol, cut anywhere, from real agents and made up."""

import contextlib

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin.forward.protocol.message import MAX_ENTRIES, MessageReader, ProtocolError, comparable
from tests.support import CAPTURES, DROPPED, KEPT, event_time
from tests.support.forward_peers import decode, entry, forward, packed

MESSAGES = sorted(CAPTURES.glob("*.bin"))
each_capture = pytest.mark.parametrize("path", MESSAGES, ids=lambda path: path.stem)


def read(*pieces, max_size=1 << 20):
    """The messages in pieces of a stream, and the reader."""
    reader = MessageReader(max_size)
    messages = []
    for piece in pieces:
        reader.feed(piece)
        while (message := reader.next_message()) is not None:
            messages.append(message)
    return messages, reader


def parts(message):
    """A message's parts, as they are told apart here and by a decoder that knows nothing of this."""
    option = decode(message.option.raw) if message.option.raw else None
    return {
        "mode": message.mode,
        "tag": decode(message.tag),
        "body": bytes(message.body),
        "ends": message.ends,
        "option": option,
        "chunk": message.option.chunk,
        "signal": message.option.signal,
    }


@each_capture
def test_what_agents_send_is_read_wherever_it_is_cut(path):
    data = path.read_bytes()
    (whole,), _ = read(data)
    assert whole.frame == data
    expected = parts(whole)
    assert expected["tag"] == b"kube.audit"
    for cut in range(1, len(data)):
        (message,), reader = read(data[:cut], data[cut:])
        assert message.frame == data, cut
        assert parts(message) == expected, cut
        assert not reader.is_amid


@each_capture
def test_what_agents_send_is_read_byte_by_byte(path):
    data = path.read_bytes()
    messages, _ = read(*(data[at : at + 1] for at in range(len(data))), *[data] * 2)
    assert [bytes(message.frame) for message in messages] == [data] * 3


def test_the_parts_of_agents_messages_are_those_that_a_decoder_finds():
    for path in MESSAGES:
        (message,), _ = read(path.read_bytes())
        tag, body, *option = decode(path.read_bytes())
        assert decode(message.tag) == tag
        assert message.elements == 2 + len(option)
        if message.mode == "forward":
            starts = [0, *message.ends[:-1]]
            entries = [
                decode(message.body[start:end]) for start, end in zip(starts, message.ends, strict=True)
            ]
            assert entries == body
        else:
            assert decode(message.body) == body
        if option and b"chunk" in option[0]:
            assert decode(message.option.chunk) == option[0][b"chunk"]
            assert message.option.chunk in path.read_bytes()
        else:
            assert message.option.chunk is None


times = st.one_of(
    st.integers(0, 2**32 - 1),
    st.floats(0, 2e9),
    st.builds(event_time, st.integers(0, 2**32 - 1), st.integers(0, 999_999_999)),
)
records = st.dictionaries(st.text(max_size=5), st.one_of(st.none(), st.text(max_size=20)), max_size=3)
entries = st.builds(lambda time, record: msgpack.packb([time, record]), times, records)
options = st.dictionaries(
    st.sampled_from(["chunk", "size", "compressed", "fluent_signal", "later", "metadata"]),
    st.one_of(
        st.text(max_size=40), st.integers(0, 9), st.binary(max_size=40), st.lists(st.none(), max_size=2)
    ),
    max_size=4,
)


@st.composite
def messages(draw):
    tag = msgpack.packb(draw(st.text(max_size=300)))
    body = draw(
        st.one_of(
            st.lists(entries, max_size=20).map(
                lambda some: msgpack.Packer().pack_array_header(len(some)) + b"".join(some)
            ),
            st.lists(entries, max_size=20).map(lambda some: msgpack.packb(b"".join(some))),
            st.builds(lambda time, record: msgpack.packb(time) + msgpack.packb(record), times, records),
        )
    )
    has_option = draw(st.booleans())
    is_single = body[0] not in range(0x90, 0xA0) and body[0] not in (0xC4, 0xC5, 0xC6, 0xDC, 0xDD)
    head = bytes([0x90 | 2 + is_single + has_option])
    return head + tag + body + (msgpack.packb(draw(options)) if has_option else b"")


@given(st.lists(st.one_of(messages(), st.just(b"\xc0")), max_size=6), st.data())
def test_any_messages_are_read_however_they_are_cut(some, data):
    stream = b"".join(some)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    found, reader = read(*pieces)
    sent = [message for message in some if message != b"\xc0"]
    assert [bytes(message.frame) for message in found] == sent
    assert reader.heartbeats == len(some) - len(sent)
    assert not reader.is_amid
    for message, frame in zip(found, sent, strict=True):
        assert b"".join((frame[:1], message.tag, message.rest)) == frame
        assert bytes(message.rest).endswith(bytes(message.body) + bytes(message.tail))


@given(st.binary(max_size=300), st.integers(1, 50))
def test_of_garbage_no_more_is_held_than_may_be(data, step):
    reader = MessageReader(200)
    with contextlib.suppress(ProtocolError):
        for at in range(0, len(data), step):
            reader.feed(data[at : at + step])
            while reader.next_message() is not None:
                pass
            assert reader.held <= 200


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"GET / HTTP/1.1\r\n", "not the forward protocol: it starts with b'GET / HTTP"),
        (b"\x16\x03\x01\x02\x00", "as TLS does"),
        (b"\xc1", "malformed MessagePack"),
        (b"\x91\xa1t", "a message of 1 elements"),
        (b"\x92\x01\x90", "tag is no string"),
        (b"\x92\xa1t\x01", "no record"),
        (b"\x92\xa1t\xdd" + (MAX_ENTRIES + 1).to_bytes(4, "big"), f"{MAX_ENTRIES} are read"),
        (b"\x92\xa1t\x91" + b"\x91" * 2000, "nested too deeply"),
        (b"\x92\xa1t\xc6\x7f\xff\xff\xff" + b"x" * 2000, "larger than 1000 bytes: see --max-message-size"),
    ],
)
def test_what_can_not_be_read_on_is_refused_with_a_reason(data, fault):
    with pytest.raises(ProtocolError, match=fault):
        read(data, max_size=1000)


CLAIM = (0xFFFFFFF0).to_bytes(4, "big")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x92\xdb" + CLAIM, "larger than 1048576 bytes"),
        (b"\x92\xa1t\xc6" + CLAIM, "larger than 1048576 bytes"),
        (b"\x92\xa1t\xdb" + CLAIM, "larger than 1048576 bytes"),
        (b"\x92\xa1t\xc6\x00\x10\x00\x00", "larger than 1048576 bytes"),
        (b"\x92\xa1t\xdd\x00\x04\x00\x01", "262145 entries: 262144 are read, see --max-entries"),
        (b"\x93\xa1t\xc4\x00\xdf" + CLAIM, "an option of 4294967280 entries: 256 are read"),
        (b"\x93\xa1t\xc4\x00\xde\x01\x01", "an option of 257 entries: 256 are read"),
        # Of a value inside of another one, as soon as nothing else can be meant.
        (b"\x93\xa1t\x00\x81\xa1x\xdb" + CLAIM + bytes(70_000), "larger than 1048576 bytes"),
        (b"\x92\xa1t\x91\x92\x00\xc9" + CLAIM + bytes(70_000), "larger than 1048576 bytes"),
        (b"\x93\xa1t\xc4\x00\x81\xa5later\xc6\x00\x08\x00\x00" + bytes(300_000), "an option of more than"),
        (b"\x93\xa1t\xc4\x00\x81\xa5chunk\xc5\x10\x01" + bytes(4097), "a chunk identifier of 4100 bytes"),
        (b"\x93\xa1t\xc4\x00\x81\xa5chunk\xc7\x05\xff" + bytes(5), "a chunk identifier that is neither"),
    ],
)
def test_what_claims_to_be_too_large_is_refused_before_it_has_come(data, said):
    reader = MessageReader(1 << 20)
    reader.feed(data)
    with pytest.raises(ProtocolError, match=said):
        reader.next_message()


@pytest.mark.parametrize(
    "data",
    [
        b"\xc0" * 100_000,
        b"\x92\xa1t\xdd\x00\x01\x86\xa0" + b"\x92\x00\x80" * 100_000,
        msgpack.packb(["t", 0, {str(number): number for number in range(1)}]) * 20_000,
    ],
    ids=["heartbeats", "entries", "messages"],
)
def test_after_some_thousand_values_others_have_a_turn(data):
    reader = MessageReader(1 << 24)
    reader.feed(data)
    turns = messages = 0
    while True:
        message = reader.step()
        if message is not None:
            messages += 1
        elif reader.is_busy:
            turns += 1
        else:
            break
    assert turns >= 4
    assert not reader.is_amid
    assert messages + reader.heartbeats in (1, 20_000, 100_000)


def test_what_a_reader_holds_is_known():
    reader = MessageReader(1 << 24)
    reader.feed(b"\x92\xa1t\xc6\x00\x80\x00\x00")
    assert reader.next_message() is None
    assert (reader.held, reader.missing) == (8, 1 << 23)
    # A string in a record is also in the buffer of the unpacker, which may be twice as large.
    reader = MessageReader(1 << 24)
    reader.feed(b"\x93\xa1t\x00\x81\xa1x\xdb\x00\x10\x00\x00" + bytes(1 << 19))
    assert reader.next_message() is None
    assert reader.memory > 3 << 19
    reader.feed(bytes(1 << 19))
    assert reader.next_message() is not None
    assert reader.memory == 0


def test_of_what_others_send_only_strings_become_keys():
    """Integers can be chosen so that a dict takes time by the square of their number."""
    assert comparable(b"\x83\x01\x02\xa1a\x03\xc4\x01b\x90") == {b"a": 3, b"b": []}
    assert comparable(b"\x91\x82\x01\x02\xcf" + bytes(8) + b"\x03") == [{}]


def test_a_value_that_is_no_message_is_ignored_after_a_message():
    message = packed("t", [entry(KEPT)])
    found, reader = read(message + b"\x01\x81\xa1a\x01" + message)
    assert len(found) == 2
    assert reader.ignored == 2


def test_a_message_stays_readable_while_the_next_ones_are_read():
    first, second = packed("t", [entry(KEPT)]), forward("t", [entry(DROPPED)])
    reader = MessageReader(1 << 20)
    reader.feed(first + second[:10])
    message = reader.next_message()
    assert reader.next_message() is None
    for at in range(10, len(second)):
        reader.feed(second[at : at + 1])
    assert reader.next_message().frame == second
    assert message.frame == first


@pytest.mark.parametrize(
    ("option", "chunk", "signal"),
    [
        ({"chunk": "abc"}, msgpack.packb("abc"), 0),
        ({"chunk": b"abc"}, msgpack.packb(b"abc"), 0),
        ({b"chunk": "abc", b"fluent_signal": 1}, msgpack.packb("abc"), 1),
        ({"chunk": None, "fluent_signal": 2}, None, 2),
        ({"fluent_signal": "1"}, None, 0),
        ({"fluent_signal": [1]}, None, 0),
        ({"x" * 100: 1, 5: 6, "chunk": "c"}, msgpack.packb("c"), 0),
        (None, None, 0),
        ([], None, 0),
        ({}, None, 0),
    ],
)
def test_the_option_says_what_it_says_whatever_else_is_in_it(option, chunk, signal):
    (message,), _ = read(msgpack.packb(["t", b"", option]))
    assert (message.option.chunk, message.option.signal) == (chunk, signal)
