"""Memory for messages, in all connections together: who may read on, and who has to wait.

Nothing is dropped for want of memory: a client that has to wait is not read from. There are two bounds. Up
to the first one, everybody may read. From there to the second one, which leaves room for all that one message
may take, one client at a time may: so there is always a message that comes to its end and gives its memory
back. That is the one that needs the fewest bytes, and it stays the one as long as they come. One that is too
slow makes room for the next. Only if those who were too slow hold everything up to the second bound, and
others wait, they are sent away, and keep what was not acknowledged.

What is read from a connection at a time is held in any case, so a client with a message that is no larger
never has to wait, whoever holds the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

# Seconds between looks at whether the one who may read more makes use of it, and bytes that have to come in
# that time.
_LOOK = 0.5
_LEAST = 1 << 15
# Bytes that a client may hold whatever the others hold.
SMALL = 1 << 17


class Account:
    """What one client holds.

    Args:
        budget: shared with the others.
        give_up: called if the client holds what others wait for, and has not made use of its chance.

    Attributes:
        held: bytes.
    """

    def __init__(self, budget: Budget, give_up: Callable[[], None]) -> None:
        self.held = 0
        self.give_up = give_up
        self.missing = 0  # bytes that its message still needs
        self.chances = 0  # that it has not made use of
        self._budget = budget

    async def grow(self, size: int, missing: int = 0) -> None:
        """Hold more, as soon as that may be.

        Args:
            size: how many bytes more.
            missing: how many the message will need after that; 0: it is here, and is being worked on.
        """
        self.missing = missing
        await self._budget.grow(self, size)

    def settle(self, held: int) -> None:
        """Hold as much as that, which is not, or not much, more than before."""
        self._budget.settle(self, held)

    def done(self) -> None:
        """A message is done: others may have their chance."""
        self._budget.release(self)


class Budget:
    """Bounds what all clients hold.

    Args:
        limit: bytes, up to which nobody has to wait.
        reserve: bytes that one message may take.

    Attributes:
        limit: likewise.
        held: bytes that are held.
        evicted: how many clients were sent away because others could not go on.
    """

    def __init__(self, limit: int, reserve: int) -> None:
        self.limit = limit
        self.held = 0
        self.evicted = 0
        self._most = limit + reserve
        self._waiting: dict[Account, tuple[int, asyncio.Future[None]]] = {}
        self._accounts: set[Account] = set()
        self._first: Account | None = None  # who may go beyond the limit
        self._brought = 0  # by that one, since it was looked at
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many clients are not read from, because too much is held."""
        return len(self._waiting)

    def account(self, give_up: Callable[[], None]) -> Account:
        """An account for one more client. It is closed with :meth:`close`."""
        account = Account(self, give_up)
        self._accounts.add(account)
        return account

    def close(self, account: Account) -> None:
        """A client holds nothing any longer."""
        self._accounts.discard(account)
        self.settle(account, 0)
        self.release(account)

    async def grow(self, account: Account, size: int) -> None:
        """Let an account hold more, as soon as that may be."""
        if self._may_grow(account, size):
            self._grow(account, size)
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[account] = (size, waiter)
        self._go_on()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LOOK, self._look)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.settle(account, account.held - size)
            raise
        finally:
            if self._waiting.get(account, (0, None))[1] is waiter:
                del self._waiting[account]

    def settle(self, account: Account, held: int) -> None:
        """Note what an account holds."""
        self.held += held - account.held
        is_less = held < account.held
        account.held = held
        if is_less:
            self._go_on()

    def release(self, account: Account) -> None:
        """Let others go beyond the limit, if this one may."""
        account.chances = 0
        if self._first is account:
            self._first = None
            self._go_on()

    def _may_grow(self, account: Account, size: int) -> bool:
        if self.held + size <= self.limit or account.held + size <= SMALL:
            return True
        # Where nobody else holds anything, there is nothing to wait for.
        most = self._most + SMALL * len(self._accounts)
        return self._first is account and (self.held + size <= most or self.held == account.held)

    def _grow(self, account: Account, size: int) -> None:
        account.held += size
        self.held += size
        if self._first is account:
            self._brought += size

    def _go_on(self) -> None:
        """Let those go on who may."""
        while self._waiting:
            account = min(self._waiting, key=lambda each: (each.chances, each.missing))
            if self._first is None:
                self._first, self._brought = account, 0
            for each in (self._first, account):
                if each in self._waiting and self._may_grow(each, self._waiting[each][0]):
                    size, waiter = self._waiting.pop(each)
                    self._grow(each, size)
                    if not waiter.done():
                        waiter.set_result(None)
                    break
            else:
                return

    def _look(self) -> None:
        """See whether the one who may go beyond the limit does, while others wait."""
        self._timer = None
        if not self._waiting:
            return
        first = self._first
        if first is not None and first in self._waiting:
            self._evict()
        elif first is not None and first.missing and self._brought < _LEAST:
            first.chances += 1
            self._first = None
        self._brought = 0
        self._go_on()
        if self._waiting:
            self._timer = asyncio.get_running_loop().call_later(_LOOK, self._look)

    def _evict(self) -> None:
        """Send the client away that holds most of those who were too slow."""
        slow = [each for each in self._accounts if each.chances and each.held and each is not self._first]
        if slow:
            worst = max(slow, key=lambda each: each.held)
            self.evicted += 1
            worst.give_up()
