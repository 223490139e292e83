"""New tags for messages, for the way back into the agent that they came from."""

from __future__ import annotations

from dataclasses import dataclass

from ...encoding.codec import MSGPACK, Buffer


@dataclass(frozen=True)
class TagChange:
    """What becomes of a message's tag.

    Attributes:
        remove: a prefix to take off, where it is there.
        add: a prefix to put in front.
        replace: the tag of every message; None: its own.
    """

    remove: bytes = b""
    add: bytes = b""
    replace: bytes | None = None

    def apply(self, tag: Buffer) -> Buffer:
        """The new tag for an encoded one, as a value of the same type; the very same if nothing changes."""
        old = bytes(MSGPACK.string(tag))
        new = self.add + old.removeprefix(self.remove) if self.replace is None else self.replace
        return tag if new == old else MSGPACK.encode_string(new, tag)
