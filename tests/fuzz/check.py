"""The check of one fuzz input: what came out of the filter against what should have."""

from __future__ import annotations

import contextlib
import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.fuzz.decoding import Reader, Record, Text, UnreadableError, frame_json, frame_msgpack, is_array
from tests.fuzz.oracle import (
    DROP,
    GROUP_END,
    GROUP_START,
    NO_EVENT,
    Expected,
    New,
    Oracle,
    normal,
)
from tests.fuzz.settings import HEADER, Settings
from tests.support import why_undecided


@dataclass
class Group:
    """A group's start waits until something of the group goes on."""

    held: bytes = b""

    def __call__(self, fate: Any, record: bytes, out: bytes) -> bytes:
        """What leaves the filter when ``out`` is what is left of a record."""
        before, self.held = self.held, b""
        if fate == GROUP_START:
            self.held = record
            return before
        if fate == GROUP_END:
            return b"" if before else record
        if not out:
            self.held = before
            return b""
        return before + out


@dataclass
class Outcome:
    """What a stream did with one record."""

    fate: Any
    record: bytes
    out: bytes
    counts: Counter[str] = field(default_factory=Counter)


def check(data: bytes) -> list[Outcome]:
    """Run one fuzz input. Raises AssertionError where the filter did what it must not."""
    if len(data) < HEADER:
        return []
    settings, data = Settings.read(data[:HEADER]), data[HEADER:]
    limit = sys.getrecursionlimit()
    framed, tail = (frame_msgpack if settings.format == "msgpack" else frame_json)(data)
    oracle = Oracle(settings)
    stream, group = settings.stream(), Group()
    outcomes = []
    for record in framed:
        before = counts(stream)
        out = b"".join(stream.feed(record.data))
        sys.setrecursionlimit(limit + 20 * len(data))  # for this side alone
        try:
            outcomes.append(check_record(settings, oracle.expect(record), record.data, out, group))
        finally:
            sys.setrecursionlimit(limit)
        check_counts(outcomes[-1], counts(stream) - before)
        assert stream.error is None, stream.error
    rest = b"".join([*stream.feed(tail), *stream.finish()])
    check_tail(settings, tail, rest, group.held, stream)
    check_totals(stream, len(data))
    check_cuts(settings, data, tail, outcomes, counts(stream), rest)
    return outcomes


def counts(stream: Any) -> Counter[str]:
    totals = stream.counters
    return Counter(
        records=totals.records,
        kept=totals.kept,
        dropped=totals.dropped,
        undecided=stream.counters.undecided_records,
        rewritten=totals.rewritten,
        out=totals.bytes_out,
    )


def check_record(settings: Settings, expected: Expected, record: bytes, out: bytes, group: Group) -> Outcome:
    """What came out when a record was fed whole, nothing before it being held but a group's start."""
    held = group.held
    if expected.fate in (GROUP_START, GROUP_END):
        assert out == group(expected.fate, record, b""), "a marker did not stay with its group"
        return Outcome(expected.fate, record, b"")
    if out:
        assert out.startswith(held), "a group's start did not come before its records"
        out = out[len(held) :]
    assert held + out == group(None, record, out) or not out
    passed = out == record
    may_pass = not expected.is_sure or len(record) > settings.max_record_size
    if expected.is_ambiguous or (passed and may_pass):
        pass
    elif expected.is_loose and out:
        assert not typed_keys(decode(settings, out)) - typed_keys(decode(settings, record))
    elif isinstance(expected.fate, New):
        assert out not in (b"", record), f"not rewritten: {record!r}"
        check_rewritten(settings, expected.fate.value, record, out)
    else:
        assert passed is (expected.fate != DROP), f"expected {expected.fate}: {record!r} became {out!r}"
        assert passed or not out, f"{record!r} became {out!r}"
    is_open = may_pass or expected.is_ambiguous or expected.is_loose
    return Outcome(None if is_open else expected.fate, record, out)


_AROUND_JSON = re.compile(rb"((?:\xef\xbb\xbf)?[ \t\r\n]*).*?([ \t\r\n]*)", re.DOTALL)


def decode(settings: Settings, record: bytes) -> Any:
    if settings.format == "msgpack":
        (framed,), _ = frame_msgpack(record)
        return Reader().msgpack(framed.plain)
    return Reader().json(record.removeprefix(b"\xef\xbb\xbf").strip(b" \t\r\n"))


def check_rewritten(settings: Settings, value: Any, record: bytes, out: bytes) -> None:
    got, sent = decode(settings, out), decode(settings, record)
    if settings.format == "json":
        before, after = re.fullmatch(_AROUND_JSON, record).groups()
        assert out.startswith(before)
        assert out.endswith(after)
    assert normal(got) == normal(_unopened(value, got)), f"{record!r} became {out!r}"
    added = typed_keys(got) - typed_keys(sent)
    assert not added, f"keys became of another type: {added}"


def _unopened(expected: Any, got: Any) -> Any:
    """The expected value with its JSON text as the very text that came out, if it says the same."""
    if isinstance(expected, Text):
        text = Reader().text(got)
        assert text is not None
        same = (text.before, text.after) == (expected.before, expected.after)
        return (
            got if same and normal(text.value) == normal(_unopened(expected.value, text.value)) else expected
        )
    if isinstance(expected, dict) and isinstance(got, dict) and len(got) == len(expected):
        pairs = zip(expected.items(), got.values(), strict=True)
        return {key: _unopened(value, other) for (key, value), other in pairs}
    if is_array(expected) and is_array(got) and len(got) == len(expected):
        return [_unopened(*pair) for pair in zip(expected, got, strict=True)]
    return expected


def typed_keys(value: Any) -> Counter[str]:
    if isinstance(value, dict):
        return sum(map(typed_keys, value.values()), Counter(map(repr, value)))
    return sum(map(typed_keys, value), Counter()) if is_array(value) else Counter()


def check_counts(outcome: Outcome, moved: Counter[str]) -> None:
    if outcome.fate in (GROUP_START, GROUP_END):
        assert moved["records"] == 0, "a marker was counted"
        return
    assert moved["records"] == 1
    assert moved["kept"] + moved["dropped"] + moved["undecided"] == 1
    assert moved["dropped"] == (not outcome.out)
    assert moved["rewritten"] == (outcome.out not in (b"", outcome.record))
    assert moved["undecided"] <= (outcome.out == outcome.record)
    if outcome.fate is not None:
        assert moved["undecided"] == (outcome.fate == NO_EVENT), f"{outcome}: {moved}"


def check_tail(settings: Settings, tail: bytes, rest: bytes, held: bytes, stream: Any) -> None:
    """What comes after the last whole record."""
    rest = rest.removeprefix(held) if rest != tail else rest
    if settings.format == "msgpack":
        assert (stream.error is not None) is bool(tail)
        assert tail.startswith(rest), "bytes came out that were not in the input"
        return
    if stream.error is not None:
        with contextlib.suppress(UnreadableError):
            Reader().json(tail.removeprefix(b"\xef\xbb\xbf"))
            raise AssertionError(f"a whole record was lost: {tail!r}")
        assert tail.lstrip(b"\xef\xbb\xbf \t\r").startswith(b"{")
        assert tail.startswith(rest)
        return
    expected = Oracle(settings).expect(Record(tail, tail))
    check_record(settings, expected, tail, rest, Group())


def check_totals(stream: Any, size: int) -> None:
    assert stream.counters.bytes_in == size
    reasons = Counter({key: int(n) for key, n in re.findall(r"(\w+)=(\d+)", why_undecided(stream))})
    assert reasons["internal_error"] == 0
    assert sum(reasons.values()) == stream.counters.undecided_records


def check_cuts(
    settings: Settings,
    data: bytes,
    tail: bytes,
    outcomes: list[Outcome],
    by_record: Counter[str],
    rest: bytes,
) -> None:
    """Cut elsewhere, the same comes out; only a record over the limit may pass instead."""
    stream = settings.stream()
    out = b""
    for piece in settings.pieces(data):
        out += b"".join(stream.feed(piece))
        if stream.error is not None:
            break
    out += b"".join(stream.finish())
    check_totals(stream, stream.counters.bytes_in)
    assert stream.counters.bytes_out == len(out)
    left = {(0, b"")}  # how far the output may have been explained, and the start of a group held then
    for outcome in outcomes:
        ways = {outcome.out}
        if len(outcome.record) > settings.max_record_size:
            ways.add(outcome.record)
        explained = set()
        for at, held in left:
            for way in ways:
                group = Group(held)
                written = group(outcome.fate if way is not outcome.record else None, outcome.record, way)
                if out.startswith(written, at):
                    explained.add((at + len(written), group.held))
        left = explained
        assert left, f"cut otherwise, {outcome.record!r} or what came before has another fate"
    ends = {out[at:].removeprefix(held) if out[at:] != tail else tail for at, held in left}
    if len(tail) <= settings.max_record_size:
        rest = rest.removeprefix(next(iter(left))[1]) if rest != tail else rest
        assert rest in ends, f"cut otherwise, the end {tail!r} became {ends}, not {rest!r}"
    else:
        assert any(tail.startswith(end) for end in ends)
    if not tail:
        assert stream.counters.records == by_record["records"]
        if all(len(outcome.record) <= settings.max_record_size for outcome in outcomes):
            assert counts(stream) == by_record
