"""Shares computing time among clients: long work goes on in turns of some milliseconds.

A client that takes little time never has to wait. Clients that have taken more than a small share of the
time lately go on one at a time, and the one that took least goes first. So, however many such clients there
are, at most one of their turns comes between two rounds of the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from ..service.signals import block
from .protocol.entries import Step

# Seconds of a turn.
_TURN = 0.002
# Seconds that a client may compute at once, and in addition for each second that passes. Beyond that it has
# debts. Debts are bounded, so that no client has to wait for ever because it once took much.
_FREE, _SHARE, _DEBT = 0.01, 0.01, 0.5
# Threads for compression. It runs outside of Python's lock, and so takes one more core.
_THREADS = 2

T = TypeVar("T")


class Turns:
    """The state that the turns of all clients share."""

    def __init__(self) -> None:
        self._is_taken = False
        self._waiting: dict[Turn, asyncio.Future[None]] = {}
        self.threads = ThreadPoolExecutor(_THREADS, "compression", initializer=block)

    async def acquire(self, turn: Turn) -> None:
        """Wait until no other client that has taken much time goes on."""
        if not self._is_taken:
            self._is_taken = True
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[turn] = waiter
        try:
            await waiter
        except asyncio.CancelledError:
            if self._waiting.pop(turn, None) is None and waiter.done() and not waiter.cancelled():
                self.release()
            raise

    def release(self) -> None:
        """Let the next client go on."""
        if not self._waiting:
            self._is_taken = False
            return
        turn = max(self._waiting, key=lambda each: each.free)
        self._waiting.pop(turn).set_result(None)

    def close(self) -> None:
        """Begin no more pieces of work in other threads."""
        self.threads.shutdown(wait=False, cancel_futures=True)


class Turn:
    """The turns of one client.

    Args:
        turns: the state that it shares with other clients.

    Attributes:
        free: seconds that the client may compute without waiting for others; negative if it has taken more.
    """

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._has_lane = False
        self._began = self._counted = time.perf_counter()
        self.free = _FREE

    def begin(self) -> None:
        """Begin to count: the client has work to do."""
        now = time.perf_counter()
        self.free = min(_FREE, self.free + _SHARE * (now - self._counted))
        self._began = self._counted = now

    def end(self) -> None:
        """Stop counting: the client waits for something else than computing time."""
        now = time.perf_counter()
        self.free = max(-_DEBT, self.free - (now - self._counted))
        self._counted = now
        if self._has_lane:
            self._has_lane = False
            self._turns.release()

    def is_due(self) -> bool:
        """Whether others should have a turn before this one goes on."""
        used = time.perf_counter() - self._began
        return used >= _TURN or (not self._has_lane and self.free <= used)

    async def rest(self) -> None:
        """Give others a turn. It is then as after :meth:`begin`."""
        self.end()
        await asyncio.sleep(0)
        if self.free <= 0:
            await self._turns.acquire(self)
            self._has_lane = True
        self.begin()

    async def rest_if_due(self) -> None:
        """Give others a turn if one is due. Call this between two pieces of work."""
        if self.is_due():
            await self.rest()

    async def carry_out(
        self,
        work: Generator[Step, None, T],
        hold: Callable[[int], Awaitable[None]],
        look: Callable[[float], None],
    ) -> T:
        """Do some work to its end, then stop counting as :meth:`end` does.

        Args:
            work: the work, in steps.
            hold: called with the bytes that the work holds. When it returns, the work may hold them.
            look: called now and then with the seconds that the work has taken so far. An error that it raises
                ends the work.
        """
        spent, step = 0.0, _advance(work)
        try:
            while not isinstance(step, _Done):
                if step.aside or self.is_due():
                    self.end()
                    look(spent)
                    await hold(step.holds)
                    if not step.aside:
                        await self.rest()
                began = time.perf_counter()
                if step.aside:
                    loop = asyncio.get_running_loop()
                    step = await loop.run_in_executor(self._turns.threads, _advance, work)
                    self.begin()
                else:
                    step = _advance(work)
                spent += time.perf_counter() - began
        finally:
            self.end()
            with suppress(ValueError):  # another thread has not finished a step
                work.close()
        return step.result


@dataclass
class _Done(Generic[T]):
    result: T


def _advance(work: Generator[Step, None, T]) -> Step | _Done[T]:
    try:
        return next(work)
    except StopIteration as end:
        return _Done(end.value)
