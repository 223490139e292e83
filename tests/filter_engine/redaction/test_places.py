"""Each place of ``builtin:secrets`` is redacted, and nothing else in its event."""

import json
import re

import msgpack
import pytest

from filter_engine import Policy, PolicyActions, PolicyEvaluator
from tests.support import ROOT, filter_bytes, line, make_stream
from tests.support.secret_places import PLACES, SECRET

PAGE = ROOT / "docs/redaction.md"
KEEP_ALL = "apiVersion: kube-audit-filter.io/v1\nkind: FilterPolicy\nrules:\n- level: RequestResponse\n"
POLICY = KEEP_ALL + "  redact: [builtin:secrets]\n"


def masked(event):
    """The event with REDACTED in place of each secret."""
    return json.loads(re.sub(rf"{SECRET}[\w-]*", "REDACTED", json.dumps(event)))


@pytest.mark.parametrize("place", PLACES)
def test_the_engine_redacts_it(place):
    event = PLACES[place]
    before = json.dumps(event)
    policy = Policy.from_yaml(POLICY)
    decision = PolicyEvaluator(policy).evaluate(event)
    assert PolicyActions(policy).of(decision).apply(event) == masked(event) != event
    assert json.dumps(event) == before


@pytest.mark.parametrize("format", ["json", "msgpack", "bin"])
@pytest.mark.parametrize("place", PLACES)
def test_the_filter_redacts_it_in_each_encoding(place, format):
    event = PLACES[place]
    encode = {
        "json": line,
        "msgpack": msgpack.packb,
        "bin": lambda each: msgpack.packb(each, use_bin_type=False),
    }
    if format == "bin":
        encode["bin"] = lambda each: msgpack.packb(binary(each))
    stream = make_stream("json" if format == "json" else "msgpack", policy_text=POLICY)
    _, out = filter_bytes(encode[format](event), stream=stream)
    assert out == encode[format](masked(event))
    assert stream.counters.not_redacted == 0
    assert sum(tally.redacted for tally in stream.counters.tallies()) == 1


def binary(value):
    """Text as bin, as Fluentd's agents send it that keep what they read as binary."""
    if isinstance(value, dict):
        return {binary(key): binary(each) for key, each in value.items()}
    if isinstance(value, list):
        return [binary(each) for each in value]
    return value.encode() if isinstance(value, str) else value


def test_the_page_lists_each_place():
    rows = re.findall(r"^\| [0-9]+ \| (.*?) \|", PAGE.read_text(), re.MULTILINE)
    assert rows == list(PLACES)
    assert len(rows) >= 40
    assert f"in {len(rows)} places" in (ROOT / "README.md").read_text().replace("\n", " ")
