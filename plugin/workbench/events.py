"""Events that somebody hands over to look at: one or several, in whatever form they were copied."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import yaml

from filter_engine.request import is_event

# Where in a record the event may be.
_KEYS = ("log", "message", "event")


class NotAnEventError(ValueError):
    """A text that holds no audit event. Its message says where and what was found."""


def read_events(data: bytes, name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The events in a text: a JSON or YAML document, JSON lines, or a list of events.

    Args:
        data: the text.
        name: what errors call it.

    Yields:
        Where each event is (``audit.log:3``), and the event.

    Raises:
        NotAnEventError: something in it is not an event.
    """
    text = data.decode("utf-8", "replace").lstrip("\ufeff")
    for where, value in _values(text, name):
        found = list(_events(value))
        if not found:
            raise NotAnEventError(f"{where}: expected an audit event, found {_described(value)}")
        for event in found:
            yield where, event


def _values(text: str, name: str) -> Iterator[tuple[str, Any]]:
    with suppress(ValueError):
        whole = json.loads(text)
        yield name, whole
        return
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if lines and all(line.lstrip().startswith(("{", "[")) for _, line in lines):
        for number, line in lines:
            try:
                yield f"{name}:{number}", json.loads(line)
            except ValueError as error:
                raise NotAnEventError(f"{name}:{number}: {error}") from None
        return
    try:
        for document in yaml.safe_load_all(text):
            if document is not None:
                yield name, document
    except yaml.YAMLError as error:
        problem = str(error).partition("\n")[0]
        raise NotAnEventError(f"{name}: expected an audit event as JSON or YAML: {problem}") from None


def _events(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, list):
        for each in value:
            yield from _events(each)
    if not isinstance(value, dict):
        return
    if is_event(value):
        yield value
    elif isinstance(value.get("items"), list):
        yield from _events(value["items"])
    else:
        for key in _KEYS:
            inner = value.get(key)
            if isinstance(inner, str) and inner.lstrip().startswith("{"):
                try:
                    inner = json.loads(inner)
                except ValueError:
                    continue
            if isinstance(inner, dict):
                yield from _events(inner)


def _described(value: Any) -> str:
    if not isinstance(value, dict):
        return "text" if isinstance(value, str) else f"a {type(value).__name__}"
    lacks = [name for name in ("auditID", "verb", "user") if name not in value]
    return f"an object without {' and '.join(lacks)}" if lacks else "an object with a field of another type"
