"""New tags for messages, for example for the way back into the agent that they came from."""

from __future__ import annotations

from dataclasses import dataclass

from ...encoding.codec import MSGPACK, Buffer


@dataclass(frozen=True)
class TagChange:
    """How the tags of messages are changed.

    Attributes:
        remove: a prefix to remove, if the tag has it.
        add: a prefix to put in front.
        replace: the new tag of every message; None if each keeps its own.
    """

    remove: bytes = b""
    add: bytes = b""
    replace: bytes | None = None

    def apply(self, tag: Buffer) -> Buffer:
        """The new tag for an encoded tag, as a value of the same type. If nothing changes, the old tag."""
        old = bytes(MSGPACK.string(tag))
        new = self.add + old.removeprefix(self.remove) if self.replace is None else self.replace
        return tag if new == old else MSGPACK.encode_string(new, tag)
