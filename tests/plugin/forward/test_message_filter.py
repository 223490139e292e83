"""What is left of a message of the forward protocol."""

import gzip
import itertools
import random
import struct
import sys

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filter_engine import PolicyEvaluator
from plugin.forward.protocol import entries as entries_module
from plugin.forward.protocol import message_filter as message_filter_module
from plugin.forward.protocol.compression import LARGEST_PIECE, Compression, Decompression
from plugin.forward.protocol.entries import PayloadError, PayloadLimits
from plugin.forward.protocol.message import MessageReader, ProtocolError
from plugin.forward.protocol.message_filter import MessageFilter
from plugin.forward.protocol.tags import TagChange
from plugin.records.record_filter import RecordFilter
from tests.support import CAPTURES, DROPPED, KEPT, event, event_time, filter_bytes, policy
from tests.support.forward_peers import decode, entry, forward, packed

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MESSAGES = sorted(CAPTURES.glob("*.bin"))
NOT_AN_EVENT = {"log": "klog line"}
GROUP_START = msgpack.packb([[event_time(0xFFFFFFFF), {"g": 1}], {}])
GROUP_END = msgpack.packb([[event_time(0xFFFFFFFE), {}], {}])
METADATA = {"source": "größe"}


def compress(buffers, algorithm):
    compression = Compression(algorithm)
    return b"".join([*map(compression.step, buffers), compression.finish()])


def make_filter(
    *, limit=1 << 20, tags=None, compat=None, reduce=False, split=False, on_error=lambda _: None, **bounds
):
    records = RecordFilter(reduce=reduce, split=split, on_error=on_error)
    records.use(records.prepare(PolicyEvaluator(policy())))
    return MessageFilter(records, PayloadLimits(limit, **bounds), tags, compat)


def parse(frame):
    reader = MessageReader(1 << 24)
    reader.feed(frame)
    return reader.next_message()


def put_through(frame, filter_=None, **options):
    """What is left of a message; None where that is nothing."""
    filter_ = filter_ or make_filter(**options)
    return b"".join(map(bytes, done(filter_.work(parse(frame))))) or None


def done(work):
    """The result of some work, all done."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def entries_of(frame):
    """The encoded entries of a message."""
    message = parse(frame)
    if message.mode == "forward":
        bounds = itertools.pairwise([0, *message.ends])
        return [bytes(message.body[start:end]) for start, end in bounds]
    payload = decode(message.body)
    if payload[:2] == b"\x1f\x8b":
        payload = gzip.decompress(payload)
    elif payload[:4] == b"\x28\xb5\x2f\xfd":
        payload = zstd.decompress(payload)
    ends = [0]
    unpacker = msgpack.Unpacker(max_buffer_size=0)
    unpacker.feed(payload)
    while ends[-1] < len(payload):
        unpacker.skip()
        ends.append(unpacker.tell())
    return [payload[start:end] for start, end in itertools.pairwise(ends)]


def compressed(tag, entries, algorithm="gzip", **option):
    payload = compress(entries, algorithm)
    return msgpack.packb([tag, payload, {"size": len(entries), "compressed": algorithm, **option}])


SHAPES = {
    "forward": forward,
    "packed": packed,
    "gzip": compressed,
    "zstd": lambda tag, entries, **option: compressed(tag, entries, "zstd", **option),
}
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


@pytest.mark.parametrize("path", MESSAGES, ids=lambda path: path.stem)
def test_of_what_agents_send_the_same_is_kept_as_by_exec(path):
    sent = path.read_bytes()
    left = put_through(sent)
    stream, kept = filter_bytes(b"".join(entries_of(sent)))
    assert 0 < stream.counters.dropped < stream.counters.records
    assert b"".join(entries_of(left)) == kept
    before, after = decode(sent), decode(left)
    assert after[0] == before[0]
    assert len(after) == len(before)
    if len(before) == 3:
        assert after[2] == {**before[2], b"size": stream.counters.kept}


some_entries = st.sampled_from(
    [
        entry(KEPT),
        entry(DROPPED),
        entry(NOT_AN_EVENT),
        msgpack.packb([event_time(5, 7), KEPT]),
        msgpack.packb([[event_time(5, 7), METADATA], KEPT]),
        msgpack.packb([[event_time(5, 7), METADATA], DROPPED]),
        GROUP_START,
        GROUP_END,
        msgpack.packb(["no entry", KEPT]),
        msgpack.packb(DROPPED),
    ]
)
entry_lists = st.lists(some_entries, max_size=12)


@given(entry_lists, st.sampled_from(sorted(SHAPES)))
def test_the_entries_left_are_those_that_exec_keeps(entries, shape):
    sent = SHAPES[shape]("kube.audit", entries, chunk="c", later=[1])
    left = put_through(sent)
    _, kept = filter_bytes(b"".join(entries))
    if left is None:
        assert entries
        assert kept == b""
    else:
        assert b"".join(entries_of(left)) == kept
        assert decode(left)[2] == {**decode(sent)[2], b"size": len(entries_of(left))}


@each_shape
def test_a_message_of_which_all_is_kept_is_the_very_same(shape):
    entries = [entry(KEPT), GROUP_START, msgpack.packb([[event_time(1), {}], KEPT]), GROUP_END]
    sent = shape("kube.audit", [*entries, entry(NOT_AN_EVENT)], chunk="c\n")
    assert put_through(sent) == sent


@each_shape
def test_nothing_is_left_of_a_message_of_which_all_is_dropped(shape):
    assert put_through(shape("t", [entry(DROPPED)] * 3)) is None
    assert put_through(shape("t", [GROUP_START, entry(DROPPED), GROUP_END])) is None


@each_shape
def test_a_message_without_entries_is_passed_on(shape):
    sent = shape("t", [], chunk="c")
    assert put_through(sent) == sent


def test_large_messages_are_decided_on_in_slices_and_stay_in_order():
    records = [DROPPED if number % 3 else event(auditID=str(number)) for number in range(3000)]
    filter_ = make_filter()
    left = put_through(forward("t", list(map(entry, records))), filter_)
    kept = [msgpack.unpackb(each)[1]["auditID"] for each in entries_of(left)]
    assert kept == [str(number) for number in range(0, 3000, 3)]
    assert (filter_.counters.records, filter_.counters.dropped) == (3000, 2000)


@pytest.mark.parametrize("option", [[], [{"chunk": "c", "metadata": {"m": 1}}]])
@pytest.mark.parametrize("time", [0, 1_700_000_000, 1.5, event_time(5, 7), None])
def test_a_single_record_is_kept_as_it_is_or_dropped(time, option):
    sent = msgpack.packb(["t", time, KEPT, *option])
    assert put_through(sent) == sent
    assert put_through(msgpack.packb(["t", time, DROPPED, *option])) is None
    sent = msgpack.packb(["t", time, NOT_AN_EVENT, *option])
    assert put_through(sent) == sent


@pytest.mark.parametrize("option", [[], [{"chunk": "c"}]])
def test_a_single_record_is_reduced_with_time_and_option_as_they_were(option):
    create = event(verb="create", requestURI="/api/v1/namespaces/default/pods")
    full = {**create, "level": "RequestResponse", "requestObject": {"a": 1}, "responseObject": {"b": 2}}
    left = msgpack.unpackb(put_through(msgpack.packb(["t", 1.5, full, *option]), reduce=True))
    assert left[:2] == ["t", 1.5]
    assert left[3:] == option
    assert left[2] == create


@each_shape
def test_entries_are_reduced_where_they_are(shape):
    full = event(level="RequestResponse", requestObject={"a": 1}, responseObject={"b": 2}, verb="create")
    filter_ = make_filter(reduce=True)
    left = put_through(shape("t", [entry(KEPT), entry(full)], chunk="c"), filter_)
    first, second = map(msgpack.unpackb, entries_of(left))
    assert first == [1_700_000_000, KEPT]
    assert "responseObject" not in second[1]
    assert filter_.counters.rewritten == 1
    assert decode(left)[2][b"size"] == 2


@each_shape
@pytest.mark.parametrize("signal", [1, 2])
def test_metrics_and_traces_are_the_very_same(shape, signal):
    sent = shape("t", [entry(DROPPED)], fluent_signal=signal, chunk="c")
    filter_ = make_filter()
    assert put_through(sent, filter_) == sent
    assert filter_.counters.records == 0


def test_a_payload_keeps_its_type():
    entries = entry(KEPT) + entry(DROPPED)
    as_str = b"\x92\xa1t\xdb" + len(entries).to_bytes(4, "big") + entries
    assert decode(put_through(as_str)) == [b"t", entry(KEPT)]
    assert 0xD9 <= put_through(as_str)[3] <= 0xDB
    as_bin = b"\x92\xa1t" + msgpack.packb(entries)
    assert 0xC4 <= put_through(as_bin)[3] <= 0xC6


def test_an_option_is_kept_whole_and_only_its_size_is_new():
    option = b"\x84\xa5chunk\xd9\x02c\n\xa4size\x02\xa5later\xc7\x01\x05z\xa3\xff\xfe\xfd\xc0"
    sent = b"\x93\xa1t\x92" + entry(KEPT) + entry(DROPPED) + option
    assert put_through(sent) == b"\x93\xa1t\x91" + entry(KEPT) + option.replace(b"size\x02", b"size\x01")
    without = b"\x93\xa1t\x92" + entry(KEPT) + entry(DROPPED) + b"\xc0"
    assert put_through(without) == b"\x93\xa1t\x91" + entry(KEPT) + b"\xc0"


def test_what_a_later_protocol_may_add_behind_the_option_is_kept():
    sent = msgpack.packb(
        ["t", [msgpack.unpackb(entry(KEPT)), msgpack.unpackb(entry(DROPPED))], {"size": 2}, 7]
    )
    assert decode(put_through(sent))[2:] == [{b"size": 1}, 7]


def test_magic_bytes_win_over_what_the_option_says():
    payload = gzip.compress(entry(KEPT) + entry(DROPPED))
    left = put_through(msgpack.packb(["t", payload, {"size": 2, "compressed": "text"}]))
    assert entries_of(left) == [entry(KEPT)]
    left = put_through(packed("t", [entry(KEPT), entry(DROPPED)], compressed="gzip"))
    assert entries_of(left) == [entry(KEPT)]


@pytest.mark.parametrize(("algorithm", "magic"), [("gzip", b"\x1f\x8b"), ("zstd", b"\x28\xb5\x2f\xfd")])
def test_what_is_left_is_compressed_as_it_came(algorithm, magic):
    left = put_through(compressed("t", [entry(KEPT), entry(DROPPED)], algorithm))
    assert decode(left)[1].startswith(magic)
    assert decode(left)[2] == {b"size": 1, b"compressed": algorithm.encode()}


def test_several_gzip_members_and_zstd_frames_are_one_payload():
    entries = [entry(KEPT), entry(DROPPED), entry(KEPT)]
    for algorithm in ("gzip", "zstd"):
        payload = b"".join(compress([each], algorithm) for each in entries)
        left = put_through(msgpack.packb(["t", payload, {"size": 3, "compressed": algorithm}]))
        assert entries_of(left) == [entry(KEPT)] * 2


def test_thousands_of_members_take_no_longer_than_their_size():
    payload = gzip.compress(entry(KEPT)) * 20_000  # some 5 MB, of which each copy of the rest would count
    sent = msgpack.packb(["t", payload + gzip.compress(entry(DROPPED))])
    assert entries_of(put_through(sent, limit=1 << 24)) == [entry(KEPT)] * 20_000


@pytest.mark.parametrize("algorithm", ["gzip", "zstd"])
@given(parts=st.lists(st.binary(max_size=300), min_size=1, max_size=30), repeat=st.integers(1, 3000))
def test_what_is_decompressed_in_pieces_is_what_was_compressed(algorithm, parts, repeat):
    parts[0] *= repeat
    data = b"".join(compress([part], algorithm) for part in parts)
    decompression = Decompression(memoryview(data), algorithm, sum(map(len, parts)), len(parts))
    pieces = []
    while not decompression.is_done:
        pieces.append(decompression.step())
    assert b"".join(pieces) == b"".join(parts)
    assert max(map(len, pieces)) <= LARGEST_PIECE


@pytest.fixture
def in_small_pieces(monkeypatch):
    """Nothing decompressed is held, and no more than a few entries are decided on at a time."""
    monkeypatch.setattr(entries_module, "_HELD", 0)
    monkeypatch.setattr(entries_module, "_SPLIT", 2)
    monkeypatch.setattr(message_filter_module, "_next_batch", lambda most, took: 3)
    monkeypatch.setattr(message_filter_module, "_FIRST_BATCH", 1)


@pytest.mark.parametrize("compat", [None, "fluentd"])
def test_a_message_in_small_pieces_comes_to_the_same(compat, request):
    chance = random.Random(1)
    kinds = [entry(KEPT), entry(DROPPED), entry(NOT_AN_EVENT), GROUP_START, GROUP_END, entry(METADATA)]
    some = [[chance.choice(kinds) for _ in range(chance.randint(0, 40))] for _ in range(60)]
    some += [[entry(KEPT)] * 20 + [entry(DROPPED)] + [entry(KEPT)] * 9]
    messages = [shape("t", entries, chunk="c") for entries in some for shape in SHAPES.values()]
    whole = [put_through(message, compat=compat) for message in messages]
    request.getfixturevalue("in_small_pieces")
    for sent, expected in zip(messages, whole, strict=True):
        left = put_through(sent, compat=compat)
        assert (left is None) == (expected is None)
        if left is not None:
            assert entries_of(left) == entries_of(expected)
            assert decode(left)[2] == decode(expected)[2]


@pytest.mark.parametrize("algorithm", ["gzip", "zstd"])
@pytest.mark.parametrize("last", [KEPT, DROPPED])
def test_of_what_is_decompressed_little_is_held(algorithm, last):
    record = {**KEPT, "requestObject": {"text": "x" * 5000}}
    sent = compressed("t", [entry(record)] * 20_000 + [entry(last)], algorithm)  # 100 MB
    work, most = make_filter(limit=1 << 30).work(parse(sent)), 0
    left = []
    try:
        while True:
            most = max(most, next(work).holds)
    except StopIteration as end:
        left = end.value
    assert most < 24 << 20
    assert b"".join(map(bytes, left)) == sent if last is KEPT else len(entries_of(b"".join(left))) == 20_000


def test_zstd_that_needs_much_memory_goes_on_undecided():
    options = {zstd.CompressionParameter.window_log: 27, zstd.CompressionParameter.checksum_flag: 0}
    compressor = zstd.ZstdCompressor(options=options)
    payload = compressor.compress(entry(DROPPED)) + compressor.flush()
    with pytest.raises(PayloadError, match="undecodable: it can't be decompressed"):
        done(make_filter().work(parse(msgpack.packb(["t", payload]))))


def test_a_packed_entry_larger_than_a_message_may_be_goes_on_undecided():
    sent = compressed("t", [entry({**DROPPED, "requestObject": "x" * (1 << 20)})])
    with pytest.raises(PayloadError, match=r"too_large.* see --max-message-size"):
        done(make_filter(limit=1 << 24, entry_size=1 << 16).work(parse(sent)))


@pytest.mark.parametrize("algorithm", ["gzip", "zstd"])
def test_of_a_bomb_no_more_is_decompressed_than_is_allowed(algorithm):
    payload = compress([bytes(1 << 20)] * 64, algorithm)  # 64 MiB
    assert len(payload) < 1 << 20
    message = parse(msgpack.packb(["t", payload]))
    with pytest.raises(ProtocolError, match="see --max-decompressed-size"):
        done(make_filter(limit=1 << 16).work(message))


@pytest.mark.parametrize("algorithm", ["gzip", "zstd"])
@pytest.mark.parametrize("size", [(1 << 16) - 1, 1 << 16])
def test_what_is_as_large_as_allowed_is_decompressed(algorithm, size):
    sent = msgpack.packb(["t", compress([entry("x" * (size - 11))], algorithm)])
    assert put_through(sent, limit=1 << 16) == sent


BROKEN = {
    "cut off gzip": (gzip.compress(entry(KEPT) * 50)[:-9], "undecodable"),
    "cut off zstd": (zstd.compress(entry(KEPT) * 50)[:-1], "undecodable"),
    "gzip with something behind it": (gzip.compress(entry(DROPPED)) + b"abc", "undecodable"),
    "bad checksum": (gzip.compress(entry(DROPPED))[:-8] + bytes(8), "undecodable"),
    "cut off entries": (entry(DROPPED) + entry(DROPPED)[:-1], "undecodable"),
    "no MessagePack": (entry(DROPPED) + b"\xc1", "undecodable"),
    "too deep": (entry(DROPPED) + b"\x91" * 3000, "too_deep"),
    "too many": (b"\x90" * ((1 << 18) + 1), "too_many_items"),
    "too many members": (gzip.compress(b"") * ((1 << 18) + 1), "too_many_items"),
    "too many frames": (zstd.compress(b"") * ((1 << 18) + 1), "too_many_items"),
}


@pytest.mark.parametrize(("payload", "reason"), BROKEN.values(), ids=BROKEN)
def test_entries_that_can_not_be_told_apart_pass_as_one_and_are_counted(payload, reason):
    filter_ = make_filter(limit=1 << 22, tags=TagChange(add=b"new."))
    message = parse(msgpack.packb(["t", payload, {"chunk": "c", "size": 2}]))
    with pytest.raises(PayloadError) as raised:
        done(filter_.work(message))
    assert raised.value.reason == reason
    assert filter_.counters.dropped == 0
    left = b"".join(map(bytes, filter_.pass_on(message, reason)))
    assert decode(left) == [b"new.t", payload, {b"chunk": b"c", b"size": 2}]
    assert (filter_.counters.records, filter_.counters.undecided_records) == (1, 1)


@pytest.mark.parametrize(
    ("change", "tag", "expected"),
    [
        (TagChange(add=b"filtered."), b"kube.audit", b"filtered.kube.audit"),
        (TagChange(remove=b"kube."), b"kube.audit", b"audit"),
        (TagChange(remove=b"kube."), b"audit", b"audit"),
        (TagChange(remove=b"raw.", add=b"ok."), b"raw.audit", b"ok.audit"),
        (TagChange(replace=b"all"), b"kube.audit", b"all"),
        (TagChange(replace=b"x" * 300), b"kube.audit", b"x" * 300),
        (TagChange(add=b"\xc3\xb6."), b"\xff", b"\xc3\xb6.\xff"),
    ],
)
@each_shape
def test_a_tag_is_changed_and_nothing_else(shape, change, tag, expected):
    for kept in ([entry(KEPT)], [entry(KEPT), entry(DROPPED)]):
        sent = shape("TAG", kept, chunk="c").replace(b"\xa3TAG", bytes([0xA0 | len(tag)]) + tag, 1)
        left = put_through(sent, tags=change)
        assert decode(left)[0] == expected
        assert decode(left)[2] == {**decode(sent)[2], b"size": 1}
        assert entries_of(left) == [entry(KEPT)]


def test_the_tag_of_a_single_record_and_of_metrics_is_changed_too():
    change = TagChange(replace=b"new")
    sent = msgpack.packb(["t", 5, KEPT, {"chunk": "c"}])
    assert decode(put_through(sent, tags=change)) == [b"new", *decode(sent)[1:]]
    sent = packed("t", [b"\x01\x02"], fluent_signal=1)
    assert decode(put_through(sent, tags=change)) == [b"new", *decode(sent)[1:]]


@each_shape
def test_for_fluentd_metadata_and_markers_are_left_out(shape):
    time = struct.pack(">II", 5, 7)
    with_metadata = msgpack.packb([[event_time(5, 7), METADATA], KEPT])
    dropped = msgpack.packb([[event_time(5, 7), {}], DROPPED])
    entries = [GROUP_START, with_metadata, GROUP_END, dropped, entry(KEPT), msgpack.packb(["?", 1])]
    left = put_through(shape("t", entries, chunk="c"), compat="fluentd")
    body = msgpack.packb(KEPT)
    assert entries_of(left) == [b"\x92\xd7\x00" + time + body, entry(KEPT), msgpack.packb(["?", 1])]
    assert decode(left)[2][b"size"] == 3


@each_shape
def test_for_fluentd_a_message_that_it_can_read_is_the_very_same(shape):
    sent = shape("t", [entry(KEPT), msgpack.packb([event_time(5, 7), KEPT])], chunk="c")
    assert put_through(sent, compat="fluentd") == sent


TIMED = event(stageTimestamp="2026-11-24T09:00:00.123456Z")
OWN_TIME = event_time(1_795_510_800, 123_456_000)


def list_of(*events):
    return {"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "metadata": {}, "items": list(events)}


@each_shape
def test_a_list_of_events_becomes_an_entry_for_each(shape):
    head = [event_time(5, 7), METADATA]
    entries = [
        entry(list_of(TIMED, DROPPED, KEPT)),
        entry(DROPPED),  # so that there are as many entries as before
        msgpack.packb([head, list_of(TIMED, TIMED)]),
        entry(KEPT),
    ]
    left = put_through(shape("t", entries, chunk="c", later=[1]), split=True)
    parts = [entry(TIMED, OWN_TIME), entry(KEPT), *[msgpack.packb([[OWN_TIME, METADATA], TIMED])] * 2]
    assert entries_of(left) == [*parts, entry(KEPT)]
    assert decode(left)[2] == {**decode(shape("t", entries, chunk="c", later=[1]))[2], b"size": 5}


@each_shape
@given(data=st.data())
def test_the_entries_of_split_lists_are_those_of_exec(shape, data):
    some = st.lists(st.sampled_from([KEPT, DROPPED, TIMED, NOT_AN_EVENT]), max_size=4)
    lists = st.builds(lambda events: entry(list_of(*events)), some)
    entries = data.draw(st.lists(lists | some_entries, max_size=8))
    left = put_through(shape("t", entries), split=True)
    _, kept = filter_bytes(b"".join(entries), split=True)
    assert b"".join(entries_of(left)) == kept if left is not None else kept == b"" and entries


@each_shape
def test_a_list_of_as_many_events_as_there_were_entries_is_split(shape):
    left = put_through(shape("t", [entry(list_of(KEPT, TIMED)), entry(DROPPED)]), split=True)
    assert entries_of(left) == [entry(KEPT), entry(TIMED, OWN_TIME)]
    left = put_through(shape("t", [entry(list_of(KEPT))]), split=True)
    assert entries_of(left) == [entry(KEPT)]


@each_shape
def test_a_group_keeps_its_markers_when_its_records_are_split(shape):
    listed = msgpack.packb([[event_time(5), {}], list_of(KEPT, KEPT)])
    left = put_through(shape("t", [GROUP_START, listed, GROUP_END]), split=True)
    kept = msgpack.packb([[event_time(5), {}], KEPT])
    assert entries_of(left) == [GROUP_START, kept, kept, GROUP_END]
    assert decode(left)[2][b"size"] == 4


@pytest.mark.parametrize("option", [[], [{"chunk": "c", "size": 1}], [{"chunk": "c"}, 7], [None]])
@pytest.mark.parametrize("time", [0, 1_700_000_000, 1.5, event_time(5, 7), None, {"odd": 1}])
def test_a_single_record_with_a_list_becomes_a_message_of_entries(time, option):
    change = TagChange(add=b"new.")
    sent = msgpack.packb(["t", time, list_of(TIMED, DROPPED, KEPT), *option])
    left = put_through(sent, split=True, tags=change)
    entries = [entry(TIMED, OWN_TIME), entry(KEPT, time)]
    assert entries_of(left) == entries
    assert decode(left)[0] == b"new.t"
    counted = [{**each, "size": 2} if isinstance(each, dict) and "size" in each else each for each in option]
    assert decode(left)[2:] == decode(msgpack.packb(counted))
    sent = msgpack.packb(["t", time, KEPT, *option])
    assert put_through(sent, split=True) == sent


@pytest.mark.parametrize("algorithm", ["gzip", "zstd"])
def test_a_large_list_is_split_in_a_compressed_message(algorithm):
    events = [event(auditID=str(number), stageTimestamp=TIMED["stageTimestamp"]) for number in range(50_000)]
    filter_ = make_filter(split=True, limit=1 << 26)
    left = put_through(compressed("t", [entry(KEPT), entry(list_of(*events))], algorithm), filter_)
    assert entries_of(left) == [entry(KEPT), *(entry(each, OWN_TIME) for each in events)]
    assert decode(left)[2][b"size"] == 50_001
    assert (filter_.counters.records, filter_.counters.split, filter_.counters.added) == (2, 1, 49_999)
