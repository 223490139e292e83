"""Messages in JSON: as Fluentd's in_forward takes them, and as servers read them then."""

import contextlib
import json
import struct

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin.forward.protocol.json_message import (
    MAX_LEVELS,
    MAX_RECORD_VALUES,
    MAX_VALUES,
    JSONMessageReader,
)
from plugin.forward.protocol.message import MessageReader, ProtocolError
from tests.support import DROPPED, KEPT, event, event_time
from tests.support.forward_peers import Client, Proxy, Receiver, entry, packed
from tests.support.processes import status_of


def read(*pieces, max_size=1 << 24):
    """The messages in pieces of a stream, and the reader."""
    reader = JSONMessageReader(max_size)
    messages = []
    for piece in pieces:
        reader.feed(piece)
        while (message := reader.next_message()) is not None:
            messages.append(message)
    return messages, reader


def read_one(text):
    (message,), _ = read(text if isinstance(text, bytes) else text.encode())
    return message


def decoded(message):
    return msgpack.unpackb(message.frame, strict_map_key=False)


# As MessageChunk.MarshalJSON of fluent-logger-golang 1.10 writes them (fluent/fluent.go), without its record.
GOLANG = b'["tag.name",1482493046,{"foo":"bar","n":1.5},{"chunk":"tu9dWAAAAAABAgME"}]'
GOLANG_NO_ACK = b'["tag.name",1482493046,{"foo":"bar"},{}]'


@pytest.mark.parametrize(
    ("text", "mode", "same"),
    [
        (GOLANG, "message", json.loads(GOLANG)),
        (GOLANG_NO_ACK, "message", ["tag.name", 1482493046, {"foo": "bar"}, {}]),
        (b'["t", 1, {"a": [true, null]}]', "message", ["t", 1, {"a": [True, None]}]),
        (b'["t", 1, {}, null]', "message", ["t", 1, {}, None]),
        (b'["t", [[1, {"a": 1}], [2, {}]]]', "forward", ["t", [[1, {"a": 1}], [2, {}]]]),
        (b'["t",[[1,{}]],{"size":1,"chunk":"c"}]', "forward", ["t", [[1, {}]], {"size": 1, "chunk": "c"}]),
        (b'["t", [[[1, {"m": 1}], {}]]]', "forward", ["t", [[[1, {"m": 1}], {}]]]),
        (b'["t", [], {}]', "forward", ["t", [], {}]),
        (b'["t", [1, [2], [3, {}, 4]]]', "forward", ["t", [1, [2], [3, {}, 4]]]),
        (b'["t", "\\u0092\\u0001", {}]', "packed", ["t", "\x92\x01", {}]),
        (b'["t", 1, {}, {}, "more"]', "message", ["t", 1, {}, {}]),
        (b'\n[ "\\u00fc\\"]" , 1 , { "a" : "\\\\" } ]\r\n', "message", ['ü"]', 1, {"a": "\\"}]),
    ],
)
def test_a_message_in_json_becomes_the_same_in_messagepack(text, mode, same):
    message = read_one(text)
    assert decoded(message) == same
    assert message.mode == mode
    (again,), _ = _read_msgpack(message.frame)
    assert (again.body, again.ends, again.tag) == (message.body, message.ends, message.tag)


def _read_msgpack(data):
    reader = MessageReader(1 << 30)
    reader.feed(data)
    return [reader.next_message()], reader


@pytest.mark.parametrize(
    ("time", "encoded"),
    [
        (b"1700000000", msgpack.packb(1700000000)),
        (b"1700000000.123456789", msgpack.packb(event_time(1_700_000_000, 123_456_789))),
        (b"1.7e9", msgpack.packb(event_time(1_700_000_000, 0))),
        (b"0.5", msgpack.packb(event_time(0, 500_000_000))),
        (b"-1.5", msgpack.packb(-1.5)),
        (b"1e300", msgpack.packb(1e300)),
        (b"null", b"\xc0"),
    ],
)
def test_a_time_with_a_fraction_becomes_an_event_time_for_servers_take_no_float(time, encoded):
    assert read_one(b'["t", %b, {}]' % time).body == encoded + b"\x80"
    assert read_one(b'["t", [[%b, {}]]]' % time).body == b"\x92" + encoded + b"\x80"


@pytest.mark.parametrize(
    ("value", "becomes"),
    [
        (b"18446744073709551615", (1 << 64) - 1),
        (b"-9223372036854775808", -(1 << 63)),
        (b"18446744073709551616", float(1 << 64)),
        (b"9" * 5000, float("inf")),
        (b"1e999", float("inf")),
        (b'"\\ud83d\\ude00"', "\U0001f600"),
        (b'"\\ud83d\\\\ud83d\\uDE00"', "\ufffd\\ud83d\ufffd"),
        (b'"a\xffb"', "a\ufffdb"),
    ],
)
def test_what_messagepack_can_not_hold_becomes_what_comes_next_to_it(value, becomes):
    assert decoded(read_one(b'["t", 1, {"a": %b}]' % value))[2] == {"a": becomes}


def test_order_of_keys_stays():
    names = [f"key{number * 7919 % 100}" for number in range(100)]
    record = dict.fromkeys(names, 1)
    assert list(decoded(read_one(json.dumps(["t", 1, record])))[2]) == names


@pytest.mark.parametrize("chunk", [b'"abc"', b'"a\\u0062c\\n"', b"7", b'{"a":[1]}'])
def test_the_acknowledgement_is_json_and_repeats_the_chunk_as_it_came(chunk):
    message = read_one(b'["t", 1, {}, {"chunk": %b, "size": 1}]' % chunk)
    assert message.acknowledgement() == b'{"ack":%b}' % chunk
    assert msgpack.unpackb(message.option.chunk) == json.loads(chunk)


@pytest.mark.parametrize("option", [b"", b",{}", b",null", b',{"chunk":null}', b",[]", b',"chunk"'])
def test_without_a_chunk_no_acknowledgement_is_wanted(option):
    assert read_one(b'["t", 1, {}%b]' % option).option.chunk is None


NESTED = b'["t", 1, {"a": ' + b"[" * MAX_LEVELS
FAULTS = {
    "other first": (b'{"tag": 1}', 'not the forward protocol: it starts with b\'{"tag": 1}'),
    "MessagePack after JSON": (
        GOLANG + packed("t", [entry(KEPT)]),
        r"began with JSON goes on with b'\x93\xa1t",
    ),
    "number": (GOLANG + b"12 ", "goes on with b'12 '"),
    "truncated word": (GOLANG + b"nul]", "goes on with b'nul]'"),
    "brackets": (b'["t", 1, {]]', "JSON is malformed"),
    "comma": (b'["t", 1, {},]', "JSON is malformed"),
    "inner": (b'["t", 1, {"a": 01}]', "malformed|delimiter"),
    "no UTF-8 where no string is": (b'["t", 1, \xff]', "malformed|can't be read"),
    "one element": (b'["t"]', "can't be read: Expected `array` of at least length 2"),
    "no record": (b'["t", 1]', "no record"),
    "tag": (b"[1, 2, {}]", "tag is no string"),
    "nested": (NESTED, "nested too deeply"),
    "size": (b'["t", 1, {"a": "' + b"x" * (1 << 16), "larger than 65536 bytes: see --max-message-size"),
}


@pytest.mark.parametrize(("text", "fault"), FAULTS.values(), ids=FAULTS)
def test_what_can_not_be_read_on_is_refused_with_a_reason(text, fault):
    with pytest.raises(ProtocolError) as refusal:
        read(text, max_size=1 << 16)
    assert any(each in str(refusal.value) for each in fault.split("|")), refusal.value


def test_messages_of_too_many_values_are_refused_before_they_are_taken_apart():
    with pytest.raises(ProtocolError, match=f"more than {MAX_VALUES} values"):
        read(b'["t", [' + b"[]," * (MAX_VALUES + 1))
    with pytest.raises(ProtocolError, match=f"more than {MAX_RECORD_VALUES} values"):
        read(b'["t", 1, {"a": [' + b"{}," * MAX_RECORD_VALUES + b"0]}]")


def test_json_after_messagepack_is_refused():
    with pytest.raises(ProtocolError, match="JSON after MessagePack"):
        list(iter(_reader(packed("t", [entry(KEPT)]) + GOLANG).next_message, None))


def _reader(data):
    reader = MessageReader(1 << 20)
    reader.feed(data)
    return reader


def test_nulls_are_heartbeats_and_objects_are_ignored_after_a_message():
    messages, reader = read(b'["t", 1, {}]null{"a": "]}"}  null\n["t", 2, {}]')
    assert [decoded(message)[1] for message in messages] == [1, 2]
    assert (reader.heartbeats, reader.ignored) == (2, 1)
    assert not reader.is_amid


texts = st.one_of(st.text(max_size=8), st.sampled_from(['"', "\\", '\\"', "[", "}", "\\u0022", ",", "é"]))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(1 << 63), (1 << 64) - 1), st.floats(-1e9, 1e9), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=12,
)
records = st.dictionaries(texts, values, max_size=4)
times = st.integers(0, 2**32 - 1)
options = st.fixed_dictionaries({}, optional={"chunk": texts, "size": st.integers(0, 9), "later": values})
messages = st.one_of(
    st.builds(lambda *parts: list(parts), texts, times, records),
    st.builds(lambda *parts: list(parts), texts, times, records, options),
    st.builds(lambda *parts: list(parts), texts, st.lists(st.tuples(times, records).map(list), max_size=4)),
    st.builds(
        lambda *parts: list(parts), texts, st.lists(st.tuples(times, records).map(list), max_size=4), options
    ),
)


@given(st.lists(messages, max_size=5), st.booleans(), st.sampled_from(["", " ", "\n", "null"]), st.data())
def test_any_messages_are_read_however_they_are_cut(some, ascii_only, between, data):
    stream = "".join(json.dumps(each, ensure_ascii=ascii_only) + between for each in some).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    found, reader = read(*pieces)
    assert [decoded(message) for message in found] == some
    assert not reader.is_amid
    assert reader.heartbeats == (len(some) if between == "null" else 0)


@given(st.binary(max_size=300), st.integers(1, 50))
def test_of_garbage_no_more_is_held_than_may_be(data, step):
    reader = JSONMessageReader(200)
    with contextlib.suppress(ProtocolError):
        for at in range(0, len(data), step):
            reader.feed((b"[" if at == 0 else b"") + data[at : at + step])
            while reader.next_message() is not None:
                pass
            assert reader.held <= 200


# Through the proxy.


@pytest.fixture
def receiver():
    with Receiver() as server:
        yield server


@pytest.fixture
def proxy(tmp_path, policy_file, receiver):
    arguments = ["--metrics-listen", "127.0.0.1:0"]
    with Proxy(tmp_path, policy_file, receiver.address, arguments=arguments) as one:
        yield one


def answer(client):
    """The JSON that the proxy sends next, as a decoder for a stream finds it."""
    text = ""
    while True:
        with contextlib.suppress(ValueError):
            return json.JSONDecoder().raw_decode(text)[0]
        piece = client.socket.recv(1)
        assert piece, f"the connection was closed behind {text!r}"
        text += piece.decode()


def test_json_is_filtered_sent_on_as_messagepack_and_acknowledged_as_json(proxy, receiver):
    with Client(proxy.address) as client:
        for chunk, record in enumerate([KEPT, DROPPED, KEPT]):
            client.send(json.dumps(["audit", 1_700_000_000, record, {"chunk": f"c{chunk}"}]).encode())
            assert answer(client) == {"ack": f"c{chunk}"}
        entries = [[1_700_000_000, each] for each in (KEPT, DROPPED, DROPPED)]
        client.send(json.dumps(["audit", entries, {"chunk": "more", "size": 3}]).encode())
        assert answer(client) == {"ack": "more"}
    arrived = [msgpack.unpackb(frame) for frame in receiver.frames]
    assert arrived == [
        ["audit", 1_700_000_000, KEPT, {"chunk": "c0"}],
        ["audit", 1_700_000_000, KEPT, {"chunk": "c2"}],
        ["audit", [[1_700_000_000, KEPT]], {"chunk": "more", "size": 1}],
    ]
    metrics = proxy.metrics()
    assert (metrics["records_in_total"], metrics["records_out_total"]) == (6, 3)


def test_json_of_a_client_that_wants_no_acknowledgement_arrives_all_of_it(proxy, receiver):
    events = [event(auditID=str(number)) for number in range(150)]
    with Client(proxy.address) as client:
        for each in events:
            client.send(json.dumps(["audit", 1_700_000_000, each, {}]).encode())
    receiver.wait_for(150)
    assert [msgpack.unpackb(frame)[2] for frame in receiver.frames] == events


def test_a_client_that_sends_broken_json_is_sent_away_and_told_of(proxy, receiver):
    with Client(proxy.address) as client:
        client.send(json.dumps(["audit", 1_700_000_000, KEPT]).encode() + b'["audit", 1, {,}]')
        assert client.is_cut_off()
    proxy.wait_for_log("a message in JSON that can't be read: JSON is malformed: ")
    receiver.wait_for(1)


def test_hostile_json_takes_no_more_memory_than_may_be(proxy):
    before = status_of(proxy.process, "VmRSS")
    for hostile in (
        b'["t",[' + b'[{"a":{}},0],' * 1_000_000,
        b'["t",1,{"a":[' + b'{"a":1},' * 200_000 + b"0]}]",
        b'["t",1,' + b"[" * 4_000_000,
        b'["t",1,"' + b"\\u0000" * 2_000_000 + b'"]',
        b"[" + b"[]" * 2_000_000,
    ):
        with Client(proxy.address) as client, contextlib.suppress(ConnectionError):
            client.send(hostile)
            client.socket.shutdown(1)
            client.is_cut_off()
    assert status_of(proxy.process, "VmHWM") - before < 250 << 10


def test_event_times_are_those_of_the_specification():
    body = read_one(b'["t", 1700000000.25, {}]').body
    assert bytes(body[:10]) == b"\xd7\x00" + struct.pack(">II", 1_700_000_000, 250_000_000)
