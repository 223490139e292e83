"""conf/fluent-bit/exec_filter.lua in LuaJIT, and the processes that it starts."""

import gc
import os
from pathlib import Path

from tests.support import ROOT
from tests.support.lua_filter import LuaFilter

SCRIPT = (ROOT / "conf/fluent-bit/exec_filter.lua").read_text()
KEEP, DROP, CHANGE = 0, -1, 2
UNCHANGED = object()


class ExecFilter(LuaFilter):
    """The script in a Lua state of its own, with its child.

    Args:
        changes: texts of the script, and what to put in their places.
    """

    def __init__(self, changes):
        script = SCRIPT
        for old, new in changes.items():
            assert old in script, old
            script = script.replace(old, new)
        super().__init__(script=script)

    def __call__(self, record):
        """The code, and the record that takes the place of this one, or UNCHANGED."""
        code, value = self.call(record)
        return code, UNCHANGED if value == 0 else self.from_lua(value)

    def execute(self, text):
        self.lua.execute(text.encode())

    def close(self):
        """Close the Lua state, as Fluent Bit does when it stops."""
        self.__dict__.clear()
        gc.collect()


def children():
    """The processes that this one has started and not waited for."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has just ended
            continue
        if parent == os.getpid():
            found.append(int(path.parent.name))
    return found


def descriptors():
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())
