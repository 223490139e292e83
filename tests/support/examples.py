"""Examples in the documentation: a policy, events, and what becomes of each.

An example is a fenced block ``yaml`` with the policy and, before the next policy or heading, a fenced block
``jsonl`` with the events, one a line:

    {"drop": EVENT}
    {"keep": EVENT, "level": "Metadata", "rule": "secrets", "becomes": {"requestObject": null}}

EVENT has the fields that matter, ``verb`` and ``user`` at least; USUAL has what it leaves out. The other keys
are optional: the level and the name (or index) of the rule that decides, and fields of the event that goes
on, null for those that it has no more. Without ``becomes``, an event goes on with the bytes that came in.
"""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import msgpack

from filter_engine import Policy, PolicyEvaluator
from tests.support import filter_bytes, line

USUAL = {
    "kind": "Event",
    "apiVersion": "audit.k8s.io/v1",
    "level": "Metadata",
    "auditID": "6f1a8a2c-5d5e-4c3b-9a55-0c1f5a6f7b11",
    "stage": "ResponseComplete",
}
_KEYS = {"keep", "drop", "level", "rule", "becomes"}
_PIECE = re.compile(r"^(#+ [^\n]*)$|^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Example(NamedTuple):
    """An example: the heading above it, the line where its policy begins, the policy and its cases."""

    heading: str
    number: int
    policy: str
    cases: list[dict[str, Any]]


def read_examples(page: Path) -> list[Example]:
    """The examples of a page, in order. A policy without events is none."""
    text = page.read_text()
    examples = []
    heading = policy = ""
    number = 0
    for found in _PIECE.finditer(text):
        title, language, body = found.groups()
        if title:
            heading, policy = title.lstrip("# "), ""
        elif language == "yaml":
            policy, number = body, text.count("\n", 0, found.start()) + 2
        elif language == "jsonl":
            assert policy, f"{page.name}: events under {heading!r} without a policy above them"
            examples.append(Example(heading, number, policy, [json.loads(row) for row in body.splitlines()]))
    return examples


def check_example(example: Example, **options: Any) -> None:
    """Put the events of an example through the filter, and compare what becomes of them with what it says.

    Args:
        example: the example.
        options: options of :func:`tests.support.make_stream`.
    """
    policy = Policy.from_yaml(example.policy)
    evaluator = PolicyEvaluator(policy)
    for case in example.cases:
        (fate,) = case.keys() & {"keep", "drop"}
        assert case.keys() <= _KEYS, f"unknown keys in {case}"
        sent = USUAL | case[fate]
        assert {"verb", "user"} <= sent.keys(), f"no verb or no user: {case}"
        decision = evaluator.evaluate(sent)
        if "level" in case:
            assert decision.level == case["level"], f"{decision}: {case}"
        if "rule" in case:
            assert policy.rule_name(decision.rule) == case["rule"], f"{decision}: {case}"
        for format, encode, decode in (
            ("json", line, json.loads),
            ("msgpack", msgpack.packb, msgpack.unpackb),
        ):
            data = encode(sent)
            stream, out = filter_bytes(data, format=format, policy_text=example.policy, **options)
            kept = 1 if fate == "keep" else 0
            assert (stream.counters.kept, stream.counters.dropped) == (kept, 1 - kept), f"{decision}: {case}"
            if "becomes" in case:
                became = decode(out)
                assert {key: became.get(key) for key in case["becomes"]} == case["becomes"], case
            else:
                assert out == data * kept, case


def check_example_in_lua(example: Example) -> None:
    """The same with the example's policy compiled to Lua, and the events as maps and as lines of text."""
    from tests.support.lua_filter import LuaFilter, compiled  # it skips a test where there is no LuaJIT

    script = compiled(example.policy)
    for case in example.cases:
        lua = LuaFilter(script=script)
        (fate,) = case.keys() & {"keep", "drop"}
        sent = USUAL | case[fate]
        for record, read in ((sent, dict), ({"log": json.dumps(sent)}, lambda left: json.loads(left["log"]))):
            left = lua.filter(record)
            if fate == "drop":
                assert left is None, case
            elif "becomes" in case:
                became = read(left)
                assert {key: became.get(key) for key in case["becomes"]} == case["becomes"], case
            else:
                assert left is record, case
        if "rule" in case:
            report = lua.end().replace("because no rule matched: ", "by rule: none=")
            assert re.findall(r"events (?:kept|dropped) by rule: ([^;]*);", report) == [f"{case['rule']}=2"]
