"""Broken, odd and hostile input: nothing raises, only the policy drops, order holds, and it is counted.

``settle`` puts each case between good records; ``tests.fuzz.check`` judges what is random.
"""

import copy
import functools
import itertools
import json
import math
import re
from collections import Counter

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filter_engine import PolicyEvaluator
from filter_engine.request import is_event
from plugin.service.summary import summarize
from tests.fuzz import decoding, seeds
from tests.fuzz.check import check
from tests.fuzz.settings import HEADER, Settings
from tests.support import (
    DROPPED,
    KEPT,
    POLICY,
    counts,
    event,
    event_time,
    filter_bytes,
    line,
    make_stream,
    policy,
    why_undecided,
)

TEXT = POLICY + "- level: Metadata\n  verbs: [list]\n"
EVALUATOR = PolicyEvaluator(policy(TEXT))
NO_EVENT, UNDECODABLE = {"not_an_event", "not_a_record"}, {"undecodable"}
in_both_formats = pytest.mark.parametrize("format", ["msgpack", "json"])


def write(format, value):
    """A record. Surrogate escapes become bytes that are not UTF-8."""
    if format == "json":
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        return text.encode("utf-8", "surrogateescape") + b"\n"
    return msgpack.packb(value, unicode_errors="surrogateescape", strict_types=False)


def read(format, record):
    """A record as a decoder reads it that has nothing to do with the filter's."""
    if format == "json":
        return json.loads(record.decode("utf-8", "surrogateescape"))
    return msgpack.unpackb(record, unicode_errors="surrogateescape", strict_map_key=False)


def fate_of(value):
    """What the policy says of a decoded record; a set of reasons where it has no say."""
    if not is_event(value):
        return NO_EVENT | UNDECODABLE
    return "kept" if EVALUATOR.evaluate(value).keep else "dropped"


def reasons(stream):
    return Counter({reason: int(n) for reason, n in re.findall(r"(\w+)=(\d+)", why_undecided(stream))})


def settle(format, cases):
    """Check the fate of records: ``kept``, ``dropped``, or a set of reasons for passing undecided.

    Each is followed by a record that is dropped and one that is kept. Then all of them come again,
    in one stream, byte by byte.
    """
    kept, dropped = write(format, KEPT), write(format, DROPPED)
    options = {"format": format, "policy_text": TEXT, "max_record_size": 1 << 24}
    stream, everything, left = make_stream(**options), b"", b""
    for name, record, fate in cases:
        before, counted = reasons(stream), counts(stream)
        out = b"".join(stream.feed(record + dropped + kept))
        expected = (b"" if fate == "dropped" else record) + kept
        assert out == expected, f"{name}: {record[:300]!r} is {'lost' if out == kept else 'not ' + str(fate)}"
        moved = {key: count - counted[key] for key, count in counts(stream).items()}
        assert moved["records"] == 3, name
        assert moved["kept"] == 1 + (fate == "kept"), f"{name}: {why_undecided(stream)}"
        assert moved["dropped"] == 1 + (fate == "dropped"), name
        passed = reasons(stream) - before
        assert sum(passed.values()) == isinstance(fate, set), name
        assert not isinstance(fate, set) or set(passed) <= fate, f"{name}: {passed}"
        everything += record + dropped + kept
        left += expected
    assert (stream.finish(), stream.error) == ([], None)
    step = 1 if len(everything) < 500_000 else 997
    again, out = filter_bytes(everything, cuts=range(step, len(everything), step), **options)
    assert out == left
    assert (counts(again), why_undecided(again)) == (counts(stream), why_undecided(stream))


def put(value, path, new):
    """A copy of an event with another value at a path."""
    value = copy.deepcopy(value)
    functools.reduce(lambda at, step: at[step], path[:-1], value)[path[-1]] = new
    return value


def raw(format, value, **values):
    """A record of which some fields have the given bytes."""
    sent = write(format, {**value, **dict.fromkeys(values, "@@@@")})
    for encoded in values.values():
        sent = sent.replace(write(format, "@@@@").rstrip(b"\n"), encoded, 1)
    return sent


REF = {"resource": "secrets", "subresource": "", "namespace": "noisy", "name": "kept", "apiGroup": ""}
# For each field that rules read, there is one that gets another fate without it.
BASES = [
    KEPT,
    DROPPED,
    event(verb="list", objectRef={**REF, "resource": "configmaps", "namespace": "default"}),
    event(verb="update", objectRef=REF),
    event(verb="update", objectRef={**REF, "name": "other"}),
    event(verb="update", objectRef={**REF, "subresource": "status"}),
    event(verb="get", requestURI="/healthz/etcd", objectRef=None),
    event(verb="update", objectRef={**REF, "apiGroup": "apps"}),
    event(stage="RequestReceived"),
]
FIELDS = [("auditID",), ("verb",), ("stage",), ("level",), ("requestURI",), ("user",), ("user", "username"),
          ("user", "groups"), ("user", "groups", 0), ("objectRef",),
          *(("objectRef", name) for name in REF)]  # fmt: skip
WRONG = [None, True, 0, -1, 2**63, 2**64 - 1, 1.5, math.nan, math.inf, "", [], {}, [""], {"": ""}, [[[]]]]
NUMBERS_THAT_JSON_HAS_NOT = WRONG[7:9]
WRONG_IN_MSGPACK = [b"", b"\xff", msgpack.ExtType(5, b"a"), msgpack.Timestamp(1), event_time(-1), {5: None}]


def full(base, path):
    """A base event that has every field, but no objectRef unless that is the one to be changed."""
    ref = base["objectRef"] if path[0] != "objectRef" else base["objectRef"] or {}
    ref = ref if ref is None else {**dict.fromkeys(REF, ""), **ref}
    return {**base, "user": {"groups": ["g"], **base["user"]}, "objectRef": ref}


@in_both_formats
def test_a_field_of_a_wrong_type_counts_as_empty(format):
    cases, decisive = [], set()
    wrongs = WRONG + WRONG_IN_MSGPACK * (format == "msgpack")
    for path, wrong, base in itertools.product(FIELDS, wrongs, BASES):
        changed = put(full(base, path), path, wrong)
        fate = UNDECODABLE if format == "json" and wrong in NUMBERS_THAT_JSON_HAS_NOT else fate_of(changed)
        is_plain = not isinstance(wrong, (str, bytes, list, dict)) and fate != UNDECODABLE
        if is_plain and path not in (("user",), ("user", "groups", 0)):
            assert fate == fate_of(put(changed, path, None))
        decisive |= {path} if fate not in (UNDECODABLE, fate_of(full(base, path))) else set()
        cases.append((f"{path} {wrong!r}", write(format, changed), fate))
    assert decisive == {*FIELDS} - {("level",)}
    settle(format, cases)


SPOILS = {
    "not UTF-8": lambda text: "\udce2\udc82" + text + "\udcff",
    "NUL": lambda text: "\0" + text + "\0",
    "long": lambda text: text * 300 + "x" * 70_000,
    "not ASCII": lambda text: "\u20ac\U0001f600" + text,
    "line separators": lambda text: text + "\u2028\u0085\r\n",
}


def strings(value, path=()):
    """The paths of all strings in an event, and of all maps' keys."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield (*path, key), True
            yield from strings(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from strings(item, (*path, index))
    elif isinstance(value, str):
        yield path, False


def rename(value, path, new):
    """A copy of an event with another key at a path, in the same place."""
    if len(path) > 1:
        return {**value, path[0]: rename(value[path[0]], path[1:], new)}
    return {new if key == path[0] else key: item for key, item in value.items()}


@in_both_formats
@pytest.mark.parametrize("spoil", SPOILS)
def test_each_string_may_hold_anything(format, spoil):
    """Decided on as an independent decoder reads it, unless a key can't be read in a map that rules read."""
    cases = []
    for base in BASES[:1] if spoil == "long" else BASES:
        for path, is_key in strings(base):
            text = path[-1] if is_key else functools.reduce(lambda at, step: at[step], path, base)
            changed = (rename if is_key else put)(base, path, SPOILS[spoil](text))
            record = write(format, changed)
            assert read(format, record) == changed
            fate = fate_of(changed)
            cases.append((f"{path} key={is_key}", record, fate))
    settle(format, cases)


BIG = [b"9" * 400, b"-" + b"9" * 400, b"1e400", b"-1e400", b"1E-400", b"0." + b"1" * 400]
NO_JSON = [b"NaN", b"Infinity", b"-Infinity", rb'"\ud800"', rb'"\udc00x"', rb'["\ud800\ud800"]']
TOO_BIG = [b"9" * 5000]  # Python's int takes no more than 4300 digits
BROKEN_JSON = [b"01", b"1.", b"+1", b".5", b"0x1", b"tru", b"'a'", b'"\x01"', b'"\t"', b'"\\x"', b'"\\u12"',
               b"[1,]", b"{,}", b'{"a"}', b"{1:2}", b'{"a":1,}', b"", b",", b"}", b"nan", b'"\0"',
               b"/**/1"]  # fmt: skip


def test_numbers_and_text_that_only_some_json_readers_take():
    cases = []
    for base, fate in ((KEPT, "kept"), (DROPPED, "dropped")):
        cases += [("unread", raw("json", base, odd=text), fate) for text in BIG + TOO_BIG]
        cases += [("unread", raw("json", base, odd=text), UNDECODABLE) for text in NO_JSON]
        cases += [("level", raw("json", base, level=text), fate) for text in BIG]
        cases += [("broken", raw("json", base, odd=text), UNDECODABLE) for text in BROKEN_JSON]
    # A number where a path belongs counts as absent: then nothing matches but the verb.
    cases += [("path", raw("json", BASES[6], requestURI=text), "kept") for text in BIG + TOO_BIG]
    settle("json", cases)


def nested(format, kind, depth):
    if format == "json":
        start, end = (b"[", b"]") if kind == "array" else (b'{"items":', b"}")
        return start * depth + b"0" + end * depth
    return (b"\x91" if kind == "array" else b"\x81\xa5items") * depth + b"\x00"


@in_both_formats
@pytest.mark.parametrize("kind", ["array", "map"])
@pytest.mark.parametrize("depth", [10, 500, 1000, 1022, 1023, 1024, 1025, 5000, 100_000])
def test_nesting_of_any_depth_is_decided_on_or_passes(format, kind, depth):
    """In a field that no rule reads, up to 500 levels never keep an event from its decision."""
    deep = nested(format, kind, depth)
    places = {
        "record": (deep + b"\n" * (format == "json"), False),
        "unread field": (raw(format, DROPPED, odd=deep), depth <= 500),
        "user": (raw(format, event(verb="update"), user=deep), depth <= 10 and kind == "map"),
        "list of events": (raw(format, {}, items=deep), False),
        "wrapped": (raw(format, {}, log=deep), False),
    }
    stream = make_stream(format)
    everything = left = b""
    for name, (record, must_drop) in places.items():
        before = reasons(stream)
        out = b"".join(stream.feed(record + write(format, DROPPED) + write(format, KEPT)))
        passed = reasons(stream) - before
        everything, left = everything + record + write(format, DROPPED) + write(format, KEPT), left + out
        if out == write(format, KEPT):
            assert name in ("unread field", "user"), f"{name} is lost"
            assert not passed
            assert depth <= 1023 or format == "json"
            continue
        assert (out, must_drop) == (record + write(format, KEPT), False), name
        assert (sum(passed.values()), passed["internal_error"]) == (1, 0)
        if format == "msgpack" and depth + (name != "record") > 1024:  # of msgpack's own reader
            assert passed["too_deep"] == 1, name
    assert stream.counters.records == 3 * len(places)
    step = 1 + len(everything) // 5000
    again, out = filter_bytes(everything, format=format, cuts=range(1, len(everything), step))
    assert (out, counts(again), again.error) == (left, counts(stream), None)


KEYS = [5, -5, None, True, 1.5, math.nan, b"", b"x", b"\xff", 2**64 - 1, (), (1, "a")]
ENCODED_KEYS = [b"\x80", b"\x81\xa1a\x01", b"\xd4\x05a", b"\x91\x80"]


def with_key(value, key):
    return msgpack.packb({**value, "@@@@": 1}).replace(b"\xa4@@@@", key)


PLACES = {
    "record": with_key,
    "user": lambda base, key: raw("msgpack", base, user=with_key(base["user"], key)),
    "objectRef": lambda base, key: raw("msgpack", base, objectRef=with_key(base["objectRef"], key)),
    "unread": lambda base, key: raw("msgpack", base, odd=with_key({"a": 1}, key)),
}


@pytest.mark.parametrize("place", PLACES)
def test_keys_that_are_no_strings(place):
    """An event is decided on all the same."""
    keys = [msgpack.packb(key) for key in KEYS] + ENCODED_KEYS
    cases = [
        (f"{key!r}", PLACES[place](base, key), fate_of(base))
        for key, base in itertools.product(keys, (BASES[3], KEPT, DROPPED))
    ]
    settle("msgpack", cases)


DUPLICATES = {"auditID": [None, "other"], "verb": ["list", "update", 5], "stage": ["RequestReceived", 5],
              "user": [DROPPED["user"], None], "objectRef": [REF, None], "requestURI": ["/healthz"],
              "log": [DROPPED]}  # fmt: skip


@in_both_formats
def test_of_a_key_that_is_there_twice_the_last_counts(format):
    cases = []
    for name, others in DUPLICATES.items():
        for base, other, swap in itertools.product(BASES, others, (False, True)):
            first, last = (base.get(name), other)[:: -1 if swap else 1]
            record = write(format, {**base, name: "@@@@", "####": "####"})
            for mark, value in (("@@@@", first), ("####", name), ("####", last)):
                encoded = [write(format, text).rstrip(b"\n" * (format == "json")) for text in (mark, value)]
                record = record.replace(*encoded, 1)
            assert read(format, record)[name] == last
            cases.append((f"{name} {first} {last}", record, fate_of(read(format, record))))
    settle(format, cases)


NO_EVENTS = [None, False, 0, 2**64 - 1, -1, 1.5, "", "text", {}, {"": {}}, {"items": []}, {"log": []}]
IN_MSGPACK = [b"", b"\xff", {b"": b""}, {None: None}, msgpack.ExtType(5, b""), msgpack.Timestamp(2**40),
              event_time(1), [1, {}], [event_time(1), None], [[event_time(1), {}], {}], [1, "text"],
              [1.5, [1, {}]]]  # fmt: skip
NO_ENTRIES = [[], [1], [DROPPED], [1, 2, 3], [DROPPED, DROPPED], [DROPPED, 1], ["t", DROPPED],
              [[1, {}], {}, {}]]  # fmt: skip


def test_records_that_are_nothing_like_an_event():
    cases = [(repr(value), write("msgpack", value), NO_EVENT) for value in NO_EVENTS + IN_MSGPACK]
    cases += [(repr(value), write("msgpack", value), UNDECODABLE) for value in NO_ENTRIES]
    settle("msgpack", cases)
    cases = [(repr(value), write("json", value), NO_EVENT) for value in NO_EVENTS]
    settle("json", cases + [(repr(value), write("json", value), NO_EVENT) for value in NO_ENTRIES])


KLOG = b"I1123 22:00:27.000000       1 controller.go:615] quota admission added evaluator"
BOM, EVENT = b"\xef\xbb\xbf", line(DROPPED).rstrip()
LINES_WITHOUT_EVENT = [KLOG, b"E1123 {" + EVENT + b"}", b"", b" \t ", b"\0", BOM, BOM * 2 + EVENT, b"3",
                       b"[" + EVENT + b"]", b"\xff\xfe" + EVENT.decode().encode("utf-16-le")]  # fmt: skip
BROKEN_LINES = [EVENT + EVENT, EVENT + b" " + EVENT, EVENT + b",", EVENT + b"\0", EVENT + b"\x0c",
                EVENT + KLOG, EVENT[:-1], EVENT[:-40], b"{", b'{"',
                EVENT.replace(b"proxy", b"proxy\x1f"), EVENT.replace(b"web", rb"\ud800")]  # fmt: skip
LINES_WITH_EVENT = [BOM + EVENT, b"\t " + EVENT + b" ", EVENT.replace(b"kube", rb"k\u0075be"),
                    EVENT.replace(b'"user"', rb'"\u0075ser"'), EVENT.replace(b"auditID", rb"audit\u0049D"),
                    EVENT.replace(b"web", rb"\ud83d\ude00"),
                    EVENT.replace(b",", b" , ")]  # fmt: skip


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_lines_that_a_log_may_have_between_events(ending):
    fates = ((LINES_WITHOUT_EVENT, NO_EVENT), (BROKEN_LINES, UNDECODABLE), (LINES_WITH_EVENT, "dropped"))
    settle("json", [(repr(text), text + ending, fate) for texts, fate in fates for text in texts])


@pytest.mark.parametrize("text", [rb"\ud800", rb"\udc00", rb"\ud800\u0041", rb"\ud83d", rb"a\udfff"])
def test_a_last_line_with_half_of_a_surrogate_pair_is_not_cut_off(text):
    for base, rest in itertools.product((KEPT, DROPPED), ("", "{}", "1234567")):
        record = line({**base, "odd": "@@@@", "rest": rest}).replace(b',"rest":""', b"")
        record = record.replace(b"@@@@", text)
        stream, out = filter_bytes(line(KEPT) + record.rstrip(b"\n"), format="json")
        assert (out, stream.error) == (line(KEPT) + record.rstrip(b"\n"), None)
        assert why_undecided(stream) == "undecodable=1"


SAMPLE = {"msgpack": seeds.SEEDS["groups"], "json": seeds.SEEDS["json between klog"] + KLOG}


@in_both_formats
def test_a_stream_may_end_anywhere(format):
    """What was whole before the end has its fate; what was not is reported, but for text in lines."""
    sent = SAMPLE[format][HEADER:]
    framed = decoding.frame_msgpack if format == "msgpack" else decoding.frame_json
    # In the first records at each byte.
    for end in (*range(300), *range(300, len(sent), 3), len(sent)):
        cut = sent[:end]
        _, tail = framed(cut)
        is_cut_off = bool(tail) and (
            format == "msgpack" or (tail.startswith(b"{") and sent[end] not in b"\r\n")
        )
        stream, out = filter_bytes(cut, format=format)
        whole, before = filter_bytes(cut.removesuffix(tail), format=format)
        if is_cut_off:
            assert (out, stream.counters.records) == (before, whole.counters.records)
            assert f"{len(tail)} bytes from offset {len(cut) - len(tail)} on" in stream.error
        else:
            assert stream.error is None
            assert stream.counters.records == whole.counters.records + bool(tail)
        check(Settings(format).write() + cut)


@settings(max_examples=250)
@given(
    name=st.sampled_from(sorted(seeds.SEEDS)),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4),
)
def test_flipped_bits_lose_nothing(name, flips):
    """A flip changes framing and meaning: msgpack and json alone say what is there now."""
    seed = seeds.SEEDS[name]
    damaged = bytearray(seed[HEADER:])
    for place, mask in flips:
        damaged[int(place * len(damaged))] ^= mask
    check(seed[:HEADER] + bytes(damaged))


@pytest.mark.parametrize("name", [*seeds.SEEDS, *seeds.FINDINGS])
def test_what_the_fuzzer_starts_from_and_what_it_found(name):
    check({**seeds.SEEDS, **seeds.FINDINGS}[name])


MIXED_KEYS = [({b"metadata": 1}, {"a": 1}), ({"metadata": 1, b"x": 1}, {"x": 1, b"y": 1}),
              ({b"x": 1, "x": 2}, {"a": 1}), ({}, {b"a": 1, "a": 2})]  # fmt: skip


@pytest.mark.parametrize(("more", "body"), MIXED_KEYS)
def test_a_reduced_event_keeps_the_types_of_its_keys(more, body):
    """A str key stays str though one of the same name elsewhere is bin. Both in one map: undecodable."""
    text = "apiVersion: audit.k8s.io/v1\nomitManagedFields: true\nrules: [{level: Request}]"
    sent = {
        "auditID": "",
        "verb": "get",
        "user": {},
        **more,
        "level": "RequestResponse",
        "requestObject": body,
    }
    reduced = {**sent, "level": "Request", "requestObject": {**body, "metadata": {}}}
    sent["requestObject"] = {**body, "metadata": {"managedFields": [1]}}
    stream, out = filter_bytes(write("msgpack", sent), policy_text=text, reduce=True)
    got = read("msgpack", out)
    assert got == reduced or (
        got == sent
        and ("not_reduced=1" in summarize(stream.counters) or why_undecided(stream) == "undecodable=1")
    )
