"""What several tests need: policies, events, and the filter as bytes in, bytes out."""

import gzip
import itertools
import json
import struct
import subprocess
import sys
from pathlib import Path

import msgpack

from filter_engine import Policy, PolicyEvaluator
from plugin.exec.stream import FilterStream, Replies, Spans
from plugin.records.event_path import parse_event_path
from plugin.records.limits import DEFAULT_LIMITS
from plugin.records.record_filter import RecordFilter
from plugin.scan.framing import JSONLinesFraming, MsgpackFraming
from plugin.service.summary import describe_undecided

ROOT = Path(__file__).parents[2]
CAPTURES = ROOT / "tests/captures"
EXEC = [sys.executable, "-m", "kube_audit_filter", "exec"]

POLICY = """
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  users: [system:kube-proxy, ""]
- level: Metadata
  userGroups: [developers]
  resources:
  - group: ""
    resources: [secrets, pods/*]
    resourceNames: [kept, ""]
- level: None
  nonResourceURLs: [/healthz*, /version]
- level: None
  verbs: [watch, list]
  namespaces: [noisy, ""]
- level: Request
  verbs: [create, delete, get]
"""


def verdicts(name):
    """The lines of a file of kube-apiserver's verdicts; see tests/conformance/README.md."""
    data = (ROOT / "tests/conformance/verdicts" / name).read_bytes()
    text = gzip.decompress(data) if name.endswith(".gz") else data
    return [json.loads(row) for row in text.splitlines()]


def policy(text=POLICY):
    return Policy.from_yaml(text)


def event(**fields):
    return {
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": "Metadata",
        "auditID": "6f1a8a2c-5d5e-4c3b-9a55-0c1f5a6f7b11",
        "stage": "ResponseComplete",
        "requestURI": "/api/v1/namespaces/default/pods/web",
        "verb": "get",
        "user": {"username": "alice", "groups": ["developers", "system:authenticated"]},
        "objectRef": {"resource": "pods", "namespace": "default", "name": "web", "apiVersion": "v1"},
        **fields,
    }


KEPT = event()
DROPPED = event(user={"username": "system:kube-proxy"})


def event_time(seconds, nanoseconds=0):
    return msgpack.ExtType(0, struct.pack(">II", seconds & 0xFFFFFFFF, nanoseconds))


def make_stream(
    format="msgpack",
    *,
    event_key=None,
    policy_text=POLICY,
    reduce=False,
    split=False,
    max_record_size=1 << 20,
    limits=DEFAULT_LIMITS,
    reply=False,
    **options,
):
    framing = MsgpackFraming if format == "msgpack" else JSONLinesFraming
    path = None if event_key is None else parse_event_path(event_key)
    records = RecordFilter(format=format, event_path=path, reduce=reduce, split=split, limits=limits)
    records.use(records.prepare(PolicyEvaluator(policy(policy_text), **options)))
    writer = Replies(records, format) if reply else Spans(records)
    return FilterStream(framing(max_record_size), records, writer)


def filter_bytes(data, *, cuts=(), stream=None, **options):
    """Put bytes through a filter, cut at the given offsets. Returns the stream and what came out."""
    stream = stream or make_stream(**options)
    out = b""
    bounds = [0, *sorted(cuts), len(data)]
    assert stream.counters.faults == 0
    for start, end in itertools.pairwise(bounds):
        out += b"".join(stream.feed(data[start:end]))
        if stream.error:
            return stream, out
    out += b"".join(stream.finish())
    assert stream.counters.faults == 0, "the filter itself has failed, on a record or on the short way"
    return stream, out


def line(value):
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def run_exec(data, *arguments, **options):
    """Run the real process on some input."""
    return subprocess.run(
        [*EXEC, *arguments], input=data, capture_output=True, timeout=60, check=False, **options
    )


def why_undecided(stream):
    """Reasons and counts, as the summary has them: ``not_an_event=3 undecodable=1``."""
    return describe_undecided(stream.counters)


def counts(stream):
    """How many records and bytes were counted as what."""
    names = ("records", "kept", "dropped", "rewritten", "bytes_in", "bytes_out")
    return {name: getattr(stream.counters, name) for name in names}
