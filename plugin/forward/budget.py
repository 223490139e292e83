"""The memory for messages of all connections together: which clients are read from, and which have to wait.

Nothing is dropped for want of memory: the proxy does not read from a client that has to wait. There are two
bounds. Up to the first bound, all clients are read from. Between the first and the second bound there is room
for one message of the largest size, and one client at a time is read from. So there is always a message that
gets to its end and frees its memory. The client is the one whose message needs the fewest bytes, and it keeps
its turn while bytes come. If it is too slow, the next client gets the turn. Only if clients that were too
slow hold everything up to the second bound, and others wait, are they disconnected. They keep what was not
acknowledged.

The bytes of a single read are held in any case. So a client whose message is not larger than that never has
to wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

# Seconds between checks whether the client that has the turn makes use of it, and the bytes that have to come
# in that time.
_LOOK = 0.5
_LEAST = 1 << 15
# Bytes that each client may hold, whatever the others hold.
SMALL = 1 << 17


class Account:
    """The memory that one client holds.

    Args:
        budget: the budget that all clients share.
        give_up: called if others wait for the memory that the client holds, and the client was too slow.

    Attributes:
        held: how many bytes the client holds.
    """

    def __init__(self, budget: Budget, give_up: Callable[[], None]) -> None:
        self.held = 0
        self.give_up = give_up
        self.missing = 0  # bytes that its message still needs
        self.chances = 0  # how many turns it has not made use of
        self._budget = budget

    async def grow(self, size: int, missing: int = 0) -> None:
        """Wait until more memory may be held, and hold it.

        Args:
            size: how many bytes more.
            missing: how many more bytes the message will need after that; 0 if it has come whole.
        """
        self.missing = missing
        await self._budget.grow(self, size)

    def settle(self, held: int) -> None:
        """Set how many bytes are held, without waiting. They may not be many more than before."""
        self._budget.settle(self, held)

    def done(self) -> None:
        """End the turn: a message is done, and another client may go beyond the limit."""
        self._budget.release(self)


class Budget:
    """Bounds the memory that all clients hold.

    Args:
        limit: the bytes up to which no client has to wait.
        reserve: the bytes that one message may take.

    Attributes:
        limit: the argument.
        held: how many bytes all clients hold.
        evicted: how many clients were disconnected because others could not go on.
    """

    def __init__(self, limit: int, reserve: int) -> None:
        self.limit = limit
        self.held = 0
        self.evicted = 0
        self._most = limit + reserve
        self._waiting: dict[Account, tuple[int, asyncio.Future[None]]] = {}
        self._accounts: set[Account] = set()
        self._first: Account | None = None  # the client that may go beyond the limit
        self._brought = 0  # how many bytes came from it since the last check
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many clients have to wait because too much is held."""
        return len(self._waiting)

    def account(self, give_up: Callable[[], None]) -> Account:
        """Open an account for one more client. Close it with :meth:`close`."""
        account = Account(self, give_up)
        self._accounts.add(account)
        return account

    def close(self, account: Account) -> None:
        """Close the account of a client that has gone."""
        self._accounts.discard(account)
        self.settle(account, 0)
        self.release(account)

    async def grow(self, account: Account, size: int) -> None:
        """Wait until an account may hold more, and let it."""
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
        """Set how many bytes an account holds."""
        self.held += held - account.held
        is_less = held < account.held
        account.held = held
        if is_less:
            self._go_on()

    def release(self, account: Account) -> None:
        """If this client may go beyond the limit, give that right to another one."""
        account.chances = 0
        if self._first is account:
            self._first = None
            self._go_on()

    def _may_grow(self, account: Account, size: int) -> bool:
        if self.held + size <= self.limit or account.held + size <= SMALL:
            return True
        # If no other client holds anything, waiting would not help.
        most = self._most + SMALL * len(self._accounts)
        return self._first is account and (self.held + size <= most or self.held == account.held)

    def _grow(self, account: Account, size: int) -> None:
        account.held += size
        self.held += size
        if self._first is account:
            self._brought += size

    def _go_on(self) -> None:
        """Let waiting clients go on that may hold more now."""
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
        """While others wait, check whether the client that may go beyond the limit makes use of it."""
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
        """Of the clients that were too slow, disconnect the one that holds the most."""
        slow = [each for each in self._accounts if each.chances and each.held and each is not self._first]
        if slow:
            worst = max(slow, key=lambda each: each.held)
            self.evicted += 1
            worst.give_up()
