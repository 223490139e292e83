"""What should become of a record, by the documentation and ``filter_engine``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgpack

from filter_engine import PolicyEvaluator, reduce_event
from filter_engine.request import is_event
from tests import support
from tests.fuzz.decoding import SURE_DEPTH, Reader, Record, Text, UnreadableError, as_text, is_array
from tests.fuzz.settings import POLICY, Settings
from tests.support import event_time

MAX_DEPTH = 1024  # of MessagePack, as documented
KEEP, DROP, NO_EVENT, GROUP_START, GROUP_END = "keep", "drop", "no event", "group start", "group end"


@dataclass
class New:
    """A value that is to take a record's place."""

    value: Any


@dataclass
class Expected:
    fate: Any  # a fate or New
    is_sure: bool  # False: the record may go on undecided as well
    is_ambiguous: bool
    is_loose: bool = False  # which of several events a stricter reader can read is open


class Oracle:
    """Says what should become of a record, from its documentation and ``filter_engine``."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        evaluator = PolicyEvaluator(support.policy(POLICY), level_match=settings.level_match)
        self._evaluate = evaluator.evaluate
        self._path = {None: None, "log": ["log"], r"a\.b.c": ["a.b", "c"]}.get(
            settings.event_key, ["records", [], "properties", "log"]
        )
        self._reader = Reader()

    def expect(self, record: Record) -> Expected:
        self._reader = reader = Reader()
        try:
            fate = self._msgpack(record) if self._settings.format == "msgpack" else self._json(record)
        except UnreadableError:
            return Expected(NO_EVENT, True, reader.is_ambiguous)
        if record.depth > MAX_DEPTH:
            return Expected(NO_EVENT, True, False)
        is_sure = reader.sure and record.depth < SURE_DEPTH
        is_loose = not is_sure and (reader.has_list or isinstance(fate, New))
        return Expected(fate, is_sure, reader.is_ambiguous, is_loose)

    def _msgpack(self, record: Record) -> Any:
        if record.depth > MAX_DEPTH:
            raise UnreadableError
        value = self._reader.msgpack(record.plain)
        self._reader.look_at(value, 0)
        self._reader.sure &= record.plain == record.data
        if not is_array(value):
            return self._open(value)
        if len(value) != 2:
            raise UnreadableError
        head, body = value
        mark = head[0] if is_array(head) and len(head) == 2 else head
        if not isinstance(mark, (int, float, type(None), msgpack.ExtType)) or isinstance(mark, bool):
            raise UnreadableError
        if mark in (event_time(-1), event_time(-2)):
            return GROUP_START if mark == event_time(-1) else GROUP_END
        fate = self._open(body)
        return New((head, fate.value)) if isinstance(fate, New) else fate

    def _json(self, record: Record) -> Any:
        text = re.sub(rb"^(\xef\xbb\xbf)?[ \t\r\n]*|[ \t\r\n]*$", b"", record.plain)
        return self._open(self._reader.json(text)) if text.startswith((b"{", b"[")) else NO_EVENT

    def _open(self, value: Any) -> Any:
        if self._path is not None:
            return self._follow(value, self._path)
        if not isinstance(value, dict):
            return NO_EVENT
        fate = self._map(value)
        for name in ("log", "message"):
            if fate == NO_EVENT and (key := _key(value, name)) is not None:
                fate = self._inside(value, key, [])
        return fate

    def _follow(self, value: Any, path: list[Any]) -> Any:
        if isinstance(value, (str, bytes)):
            text = self._reader.text(value)
            fate = self._follow(text.value, path) if text else NO_EVENT
            return New(Text(text.before, fate.value, text.after)) if isinstance(fate, New) else fate
        if path and path[0] == []:
            return self._each(value, path[1:]) if is_array(value) else NO_EVENT
        if not isinstance(value, dict):
            return NO_EVENT
        if not path:
            return self._map(value)
        key = _key(value, path[0])
        return NO_EVENT if key is None else self._inside(value, key, path[1:])

    def _inside(self, value: dict[Any, Any], key: Any, path: list[Any]) -> Any:
        fate = self._follow(value[key], path)
        return New({**value, key: fate.value}) if isinstance(fate, New) else fate

    def _map(self, value: dict[Any, Any]) -> Any:
        if _is_event(value):
            return self._event(value)
        items = _key(value, "items")
        if items is not None and is_array(value[items]):
            fate = self._each(value[items], None)
            return New({**value, items: fate.value}) if isinstance(fate, New) else fate
        return NO_EVENT

    def _item(self, value: Any) -> Any:
        return self._event(value) if isinstance(value, dict) and _is_event(value) else NO_EVENT

    def _each(self, values: Any, path: list[Any] | None) -> Any:
        """Follow a path in every value; None: each is an event or none."""
        self._reader.has_list = True
        fates = []
        for value in values:
            try:
                fates.append(self._item(value) if path is None else self._follow(value, path))
            except UnreadableError:
                fates.append(NO_EVENT)
        if all(fate == NO_EVENT for fate in fates):
            return NO_EVENT
        left = [
            fate.value if isinstance(fate, New) else value
            for value, fate in zip(values, fates, strict=True)
            if fate != DROP
        ]
        if len(left) == len(values) and not any(isinstance(fate, New) for fate in fates):
            return KEEP
        return New(left) if left else DROP

    def _event(self, value: dict[Any, Any]) -> Any:
        readable = with_text_keys(value)
        decision = self._evaluate(readable)
        if not decision.keep:
            return DROP
        if not self._settings.reduce:
            return KEEP
        reduced = reduce_event(readable, decision)
        return KEEP if normal(reduced) == normal(readable) else New(reduced)


def _is_event(value: dict[Any, Any]) -> bool:
    return is_event({as_text(key): item for key, item in value.items()})


def _key(value: dict[Any, Any], name: str) -> Any:
    return name if name in value else name.encode() if name.encode() in value else None


def with_text_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {as_text(key): with_text_keys(item) for key, item in value.items()}
    return [with_text_keys(item) for item in value] if is_array(value) else value


def normal(value: Any) -> str:
    """Equal for equal values: NaN too, and strings of either type."""
    if isinstance(value, Text):
        return f"{as_text(value.before)!r}{normal(value.value)}{as_text(value.after)!r}"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{normal(key)}:{normal(item)}" for key, item in value.items()) + "}"
    if is_array(value):
        return "[" + ",".join(map(normal, value)) + "]"
    return repr(as_text(value))
