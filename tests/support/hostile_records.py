"""Records made to cost much more than their bytes, and what they do cost."""

import json
import struct
import subprocess
import sys

import msgpack

from tests.support import EXEC, event

SIZE = 8 << 20
TEMPLATE = event(level="RequestResponse", user={"username": "u", "groups": ["g"]})


def array(element):
    return b"\xdd" + struct.pack(">I", SIZE) + element * SIZE


def map_of(key):
    """A map of as many members as fit, each of a key and an empty array."""
    count = SIZE // 6
    return b"\xdf" + struct.pack(">I", count) + b"".join(key(index) + b"\x90" for index in range(count))


def chosen_integer(index):
    """Keys that collide in a dict of Python's: all hashes are equal modulo a power of two."""
    return b"\xce" + struct.pack(">I", (index << 20) & 0xFFFFFFFF)


def short_text(index):
    return b"\xa4" + struct.pack(">I", index & 0x7F7F7F7F)


def json_array(element, first=b""):
    return b"[" + first + (element + b",") * (SIZE // (len(element) + 1)) + element + b"]"


def with_value(path, encoded, *, as_json=False):
    sent = json.loads(json.dumps(TEMPLATE))
    target = sent
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = "@@@@"
    if as_json:
        return json.dumps(sent).encode().replace(b'"@@@@"', encoded, 1) + b"\n"
    return msgpack.packb(sent).replace(b"\xa4@@@@", encoded, 1)


GROUPS, BODY = ("user", "groups"), ("responseObject",)
JSON, REDUCE = ["--format", "json"], ["--reduce"]
RECORDS = {
    "groups": (lambda: with_value(GROUPS, array(b"\x90")), []),
    "empty names of groups": (lambda: with_value(GROUPS, array(b"\xa0")), []),
    "stage": (lambda: with_value(("stage",), array(b"\x80")), []),
    "verb": (lambda: with_value(("verb",), array(b"\x90")), []),
    "user with chosen keys": (lambda: with_value(("user",), map_of(chosen_integer)), []),
    "record with chosen keys": (lambda: map_of(chosen_integer), []),
    "record with many keys": (lambda: map_of(short_text), []),
    "items": (lambda: b"\x81\xa5items" + array(b"\x80"), []),
    "body reduced": (lambda: with_value(BODY, array(b"\x90")), REDUCE),
    "annotations reduced": (lambda: with_value(("annotations",), map_of(short_text)), REDUCE),
    "text under log": (
        lambda: msgpack.packb({"log": with_value(GROUPS, json_array(b"[]"), as_json=True).decode()}),
        [],
    ),
    "json groups": (lambda: with_value(GROUPS, json_array(b"[]"), as_json=True), JSON),
    "json groups with NaN": (lambda: with_value(GROUPS, json_array(b"[]", b"NaN,"), as_json=True), JSON),
    "json stage": (lambda: with_value(("stage",), json_array(b"{}"), as_json=True), JSON),
    "json many keys": (lambda: b"{%s}\n" % b",".join(b'"%d":0' % i for i in range(SIZE // 10)), JSON),
    "json body reduced": (lambda: with_value(BODY, json_array(b"[[],[]]"), as_json=True), JSON + REDUCE),
    "json under a key": (
        lambda: b'{"a":' + with_value(GROUPS, json_array(b"[]"), as_json=True).strip() + b"}\n",
        [*JSON, "--event-key", "a"],
    ),
}


# The peak of a process counts from that of the one that started it, so a small one has to.
MEASURE = """
import os, resource, subprocess, sys
status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(status, usage.ru_maxrss << 10, usage.ru_utime + usage.ru_stime)
"""


def cost_of(policy_file, path, *options, expected=0):
    """Peak memory in bytes and CPU in seconds of the filter for one record in a file."""
    command = [*EXEC, "--policy", policy_file, "--max-record-size", "64M", *options]
    with path.open("rb") as source:
        measured = subprocess.run(
            [sys.executable, "-c", MEASURE, *command], stdin=source, capture_output=True, check=True
        )
    status, memory, time = measured.stdout.split()
    assert expected is None or int(status) == expected
    return int(memory), float(time)
