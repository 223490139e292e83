"""A compiled policy in LuaJIT, called as Fluent Bit's Lua filter calls it (src/flb_lua.c of Fluent Bit)."""

import json
from collections.abc import Mapping

import pytest

from filter_engine import Policy
from plugin.compiler.lua.compiler import LuaOptions, compile_policy
from plugin.records.event_path import parse_event_path

lupa = pytest.importorskip("lupa.luajit21", reason="no LuaJIT: pip install lupa")

ARRAY, MAP = 1, 2
SETUP = b"""
said, now = {}, 1000000
io.stderr = { write = function(_, ...) said[#said + 1] = table.concat({ ... }) end }
os.time = function() return now end
os.date = function() return "[now]" end
"""


def compiled(policy, *, event_key=None, **options):
    """The script for a policy: text, a mapping, or a Policy."""
    if isinstance(policy, (str, Mapping)):
        source = policy if isinstance(policy, str) else json.dumps(policy)
        policy = Policy.from_yaml(source, codes=options.get("level_match") == "exact")
    path = None if event_key is None else parse_event_path(event_key)
    options = LuaOptions(event_path=path, **options)
    return compile_policy(policy, source=b"the policy", name="policy.yaml", version="0", options=options)


class LuaFilter:
    """A script, loaded as Fluent Bit loads it.

    Args:
        policy: see :func:`compiled`.
        script: the script itself, in place of a policy.
        setup: Lua to run before.
        runtime: the class of Lua runtimes.
        options: those of :func:`compiled`.
    """

    def __init__(self, policy=None, *, script=None, setup=b"", runtime=lupa.LuaRuntime, **options):
        self.lua = runtime(encoding=None, unpack_returned_tuples=True)
        self.lua.execute(SETUP + setup)
        self.lua.execute((script or compiled(policy, **options)).encode())
        self._call = self.lua.globals()[b"kube_audit_filter"]
        self._with_type = self.lua.eval(b"function(t, kind) return setmetatable(t, { type = kind }) end")
        self._type_of = self.lua.eval(b"function(t) return (getmetatable(t) or {}).type end")
        self._null = self.lua.eval(b"flb_null")
        self._is_null = self.lua.eval(b"function(v) return flb_null ~= nil and v == flb_null end")

    def call(self, record):
        """What the script returns for a record: a code, and the third value."""
        code, _, value = self._call(b"tag", 1.5, self.to_lua(record))
        return code, value

    def split(self, record):
        """The records that the script returns in place of one; None if it does not return several."""
        code, value = self.call(record)
        records = self.from_lua(value) if code == 2 else None
        return records if isinstance(records, list) else None

    def time(self, record, timestamp=1.5):
        """The time that ``kube_audit_time`` gives a record, and the record; None where it keeps its bytes."""
        is_table = isinstance(timestamp, tuple)
        time = self.lua.table_from({b"sec": timestamp[0], b"nsec": timestamp[1]}) if is_table else timestamp
        code, time, value = self.lua.globals()[b"kube_audit_time"](b"tag", time, self.to_lua(record))
        if code == 0:
            assert value == 0
            assert not is_table or (time[b"sec"], time[b"nsec"]) == timestamp
            return None
        assert code == 1
        return ((time[b"sec"], time[b"nsec"]) if is_table else time), self.from_lua(value)

    def filter(self, record):
        """None for a record that is dropped; the very record if it is kept; else what takes its place."""
        code, value = self.call(record)
        if code == 2:
            return self.from_lua(value)
        assert value == 0
        assert code in (0, -1)
        return record if code == 0 else None

    def keeps(self, record):
        return self.filter(record) is not None

    def advance(self, seconds):
        self.lua.execute(b"now = now + %d" % seconds)

    def said(self):
        """What was written to stderr since this was last asked."""
        said = [text.decode() for text in self.lua.globals()[b"said"].values()]
        self.lua.execute(b"while #said > 0 do table.remove(said) end")
        return said

    def end(self):
        """End the script as Fluent Bit does, and return its last report: nothing if nothing came."""
        self.said()
        self.lua.execute(b"kube_audit_filter_ending = nil; collectgarbage(); collectgarbage()")
        return "".join(self.said())

    def to_lua(self, value):
        """A value as flb_lua_pushmsgpack pushes it."""
        if isinstance(value, Mapping):
            entries = {self.to_lua(key): self.to_lua(item) for key, item in value.items()}
            return self._with_type(self.lua.table_from(entries), MAP)
        if isinstance(value, (list, tuple)):
            return self._with_type(self.lua.table_from([self.to_lua(item) for item in value]), ARRAY)
        if isinstance(value, str):
            return value.encode("utf-8", "surrogateescape")
        if value is None:
            return self._null
        return value if isinstance(value, (bool, bytes)) else float(value)

    def from_lua(self, value):
        """A value as flb_lua_tomsgpack packs it."""
        if self._is_null(value):
            return None
        if lupa.lua_type(value) == "table":
            kind = self._type_of(value)
            assert kind in (ARRAY, MAP)
            if kind == ARRAY:
                return [self.from_lua(value[index]) for index in range(1, len(value) + 1)]
            return {self.from_lua(key): self.from_lua(item) for key, item in value.items()}
        if isinstance(value, bytes):
            return value.decode("utf-8", "surrogateescape")
        return int(value) if isinstance(value, float) and value.is_integer() else value
