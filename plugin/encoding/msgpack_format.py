"""Headers of MessagePack values, and a walk over values that holds none of their bytes.

https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from __future__ import annotations

from msgpack.exceptions import FormatError


class Skipper:
    """Finds the end of one MessagePack object of any size and depth, without holding its bytes.

    It counts the values that are still to come, so it needs no stack.
    """

    def __init__(self) -> None:
        self._values = 1
        self._payload = 0
        self._header = b""
        self.at = 0

    @property
    def missing(self) -> int:
        """How many bytes are still to come, at least."""
        return self._payload + self._values

    def skip(self, data: memoryview) -> int | None:
        """Go on with the next bytes.

        Returns:
            Where in these bytes the object ends; None if its end has not come yet.

        Raises:
            FormatError: a byte can't start a value; ``at`` is its offset.
        """
        # A header that the end of the last bytes cut off is read again. Offsets then begin before data.
        before = len(self._header)
        chunk = self._header + data if before else data
        self._header = b""
        end, at, values = len(chunk), self._payload, self._values
        while values and at < end:
            first = chunk[at]
            length_size, payload, more = HEADERS[first]
            behind = at + 1 + length_size
            if behind > end:
                break
            if length_size:
                length = int.from_bytes(chunk[at + 1 : behind], "big")
                payload, more = payload + length * (more == 0), length * more
            elif first == 0xC1:
                self.at = at - before
                raise FormatError
            values += more - 1
            at = behind + payload
        self._values = values
        self._payload = max(0, at - end)
        if values == 0 and at <= end:
            return at - before
        if at < end:
            self._header = bytes(chunk[at:])
        return None


def _headers() -> list[tuple[int, int, int]]:
    """For each first byte: the size of the length behind it, how many bytes follow, how many values follow.

    If there is a length and the third number is not 0, the length counts values (pairs of values for a map).
    If the third number is 0, the length counts bytes.
    """
    table = [(0, 0, 0)] * 256  # nil, booleans, fixint
    for low in range(16):
        table[0x80 | low] = (0, 0, 2 * low)  # fixmap
        table[0x90 | low] = (0, 0, low)  # fixarray
    for low in range(32):
        table[0xA0 | low] = (0, low, 0)  # fixstr
    for power, size in enumerate((1, 2, 4)):
        table[0xC4 + power] = table[0xD9 + power] = (size, 0, 0)  # bin, str
        table[0xC7 + power] = (size, 1, 0)  # ext: a type byte and the data
    for power, size in enumerate((2, 4)):
        table[0xDC + power] = (size, 0, 1)  # array
        table[0xDE + power] = (size, 0, 2)  # map
    for power in range(4):
        table[0xCC + power] = table[0xD0 + power] = (0, 1 << power, 0)  # integers
    table[0xCA], table[0xCB] = (0, 4, 0), (0, 8, 0)  # floats
    for power in range(5):
        table[0xD4 + power] = (0, 1 + (1 << power), 0)  # fixext
    return table


HEADERS = _headers()
# First bytes of arrays and maps, and of strings of type str or bin.
ARRAYS = frozenset((*range(0x90, 0xA0), 0xDC, 0xDD))
MAPS = frozenset((*range(0x80, 0x90), 0xDE, 0xDF))
CONTAINERS = ARRAYS | MAPS
BINARIES = frozenset((0xC4, 0xC5, 0xC6))
STRINGS = frozenset((*range(0xA0, 0xC0), 0xD9, 0xDA, 0xDB)) | BINARIES
NIL = 0xC0


def array_header(size: int) -> bytes:
    """The header of an array with this number of elements."""
    return _sized(0x90, 0xDC, size)


def map_header(size: int) -> bytes:
    """The header of a map with this number of members."""
    return _sized(0x80, 0xDE, size)


def _sized(short: int, long: int, size: int) -> bytes:
    if size < 1 << 4:
        return bytes((short | size,))
    if size < 1 << 16:
        return bytes((long,)) + size.to_bytes(2, "big")
    return bytes((long + 1,)) + size.to_bytes(4, "big")
