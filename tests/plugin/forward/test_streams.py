"""What asyncio's streams need help with."""

import asyncio
import socket

import pytest

from plugin.forward.streams import write
from tests.support.processes import DEADLINE


@pytest.mark.parametrize("buffers", [[b"abc", b""], [b"", b"abc"], [b"", b""], []])
def test_empty_buffers_do_not_keep_a_connection_busy(buffers):
    async def send(ours):
        _, writer = await asyncio.open_connection(sock=ours)
        write(writer, buffers)
        writer.close()
        await asyncio.wait_for(writer.wait_closed(), DEADLINE / 4)

    ours, theirs = socket.socketpair()
    with theirs:
        asyncio.run(send(ours))
        assert theirs.recv(100) == b"".join(buffers)
