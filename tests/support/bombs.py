"""Messages that are small and ask for much: cost per byte is what they are about."""

import gzip
import sys

import msgpack

from tests.support.forward_peers import entry, packed

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

EMPTY_FRAME = bytes.fromhex("28b52ffd2000010000")
# Larger than any default allows, for a length of 32 bits.
CLAIM = (0xFFFFFFF0).to_bytes(4, "big")


def compressed(entries, algorithm="zstd", **option):
    compress = zstd.compress if algorithm == "zstd" else gzip.compress
    return msgpack.packb(["t", compress(entries), {"compressed": algorithm, **option}])


def map_of_integers(count):
    pairs = b"".join(b"\xcf" + number.to_bytes(8, "big") + b"\x01" for number in range(count))
    return b"\xdf" + count.to_bytes(4, "big") + pairs


def small_bombs():
    """Messages of some bytes each, by what is wrong with them."""
    text = entry({"log": "{}"})
    return {
        "zstd of many entries": compressed(text * 30_000, chunk="b"),
        "zstd of more entries than allowed": compressed(text * 1_000_000, chunk="b"),
        "zstd of 256 MiB": compressed(b"\x90" * (256 << 20), chunk="b"),
        "zstd of one large record": compressed(entry({"log": "x" * (200 << 20)}), chunk="b"),
        "empty zstd frames": packed("t", [EMPTY_FRAME * (2 << 20)], chunk="b"),
        "empty gzip members": packed("t", [gzip.compress(b"") * (1 << 20)], chunk="b"),
        "gzip of many entries": compressed(text * 30_000, "gzip", chunk="b"),
        "many entries": packed("t", [text] * 30_000, chunk="b"),
        "many entries in Forward mode": b"\x93\xa1t\xdd"
        + (30_000).to_bytes(4, "big")
        + text * 30_000
        + b"\x81\xa5chunk\xa1b",
        "wide values": packed("t", [entry({"x": [[]] * (4 << 20)})] * 2, chunk="b"),
        "deep values": packed("t", [b"\x92\x00" + b"\x91" * 1000 + b"\xc0"] * 4_000, chunk="b"),
        "a large option": b"\x93\xa1t\xc4\x00\xdf\x00\x10\x00\x00" + b"\xa1a\x01" * (1 << 20),
        "an option of integers": b"\x93\xa1t\xc4\x00" + map_of_integers(200_000),
        "a chunk of integers": b"\x93\xa1t\xc4\x00\x81\xa5chunk" + map_of_integers(20_000),
        "many entries in JSON": b'["t",[' + b",".join([b'[1,{"log":"{}"}]'] * 30_000) + b'],{"chunk":"b"}]',
        "brackets in JSON": b'["t",1,[' + b"[]," * (1 << 18) + b'1],{"chunk":"b"}]',
        "nothing but heartbeats": b"\xc0" * (8 << 20),
        "many small messages": b"\x92\xa1t\xc4\x00" * (1 << 16),
        "a string of 4 GiB": b"\x92\xa1t\xc6" + CLAIM,
        "a tag of 4 GiB": b"\x92\xdb" + CLAIM,
        "a record of 4 GiB": b"\x93\xa1t\x00\x81\xa1x\xdb" + CLAIM + bytes(1 << 20),
        "4 GiB of entries": b"\x92\xa1t\xdd" + CLAIM,
    }
