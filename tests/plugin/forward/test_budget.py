"""Memory for messages: who may read on, who has to wait, and that somebody always gets to the end."""

import asyncio
import random

import pytest

from plugin.forward import budget as budget_module
from plugin.forward.budget import Budget

LIMIT, RESERVE, PIECE = 1000, 300, 10


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Who is slow is noticed soon."""
    monkeypatch.setattr(budget_module, "_LOOK", 0.02)
    monkeypatch.setattr(budget_module, "_LEAST", PIECE)
    monkeypatch.setattr(budget_module, "SMALL", 0)


class Reader:
    """Reads a message of some size, and gives it back; keeps what it holds when it has stopped."""

    def __init__(self, budget, size, stops_at=None):
        self.account = budget.account(self._give_up)
        self.budget, self.size, self.stops_at = budget, size, size if stops_at is None else stops_at
        self.is_given_up = self.is_done = False

    def _give_up(self):
        self.is_given_up = True
        self.budget.close(self.account)

    async def read(self):
        while self.account.held < self.stops_at:
            await self.account.grow(PIECE, max(1, self.size - self.account.held - PIECE))
            assert self.budget.held <= LIMIT + RESERVE
            await asyncio.sleep(0)
        if self.stops_at == self.size:
            self.is_done = True
            self.account.settle(0)
            self.account.done()


def run(*readers):
    async def main():
        tasks = [asyncio.ensure_future(reader.read()) for reader in readers]
        await asyncio.wait_for(asyncio.gather(*tasks), 20)

    asyncio.run(main())


def test_what_fits_is_read_at_once():
    budget = Budget(LIMIT, RESERVE)

    async def main():
        account = budget.account(lambda: None)
        await account.grow(LIMIT)
        assert (budget.held, budget.waiting) == (LIMIT, 0)
        budget.close(account)
        assert budget.held == 0

    asyncio.run(main())


def test_a_hundred_clients_amid_a_message_all_come_to_its_end():
    budget = Budget(LIMIT, RESERVE)
    readers = [Reader(budget, RESERVE) for _ in range(100)]
    run(*readers)
    assert all(reader.is_done for reader in readers)
    assert (budget.held, budget.waiting, budget.evicted) == (0, 0, 0)


def test_messages_of_any_sizes_come_to_their_end():
    chance = random.Random(7)
    for _ in range(20):
        budget = Budget(LIMIT, RESERVE)
        readers = [Reader(budget, PIECE * chance.randint(1, RESERVE // PIECE)) for _ in range(50)]
        run(*readers)
        assert all(reader.is_done for reader in readers)
        assert budget.held == 0


def test_the_message_that_needs_least_goes_first():
    budget = Budget(LIMIT, RESERVE)
    order = []

    async def main():
        await budget.account(lambda: None).grow(LIMIT)
        accounts = {missing: budget.account(lambda: None) for missing in (50, 20, 90)}

        async def grow(missing):
            await accounts[missing].grow(PIECE, missing)
            order.append(missing)
            await asyncio.sleep(0)
            accounts[missing].settle(0)
            accounts[missing].done()

        # The first one to ask is let in before the others have asked.
        await asyncio.gather(*(grow(missing) for missing in (90, 50, 20)))

    asyncio.run(main())
    assert order == [90, 20, 50]


def test_those_who_stop_amid_a_message_do_not_stop_the_others():
    budget = Budget(LIMIT, RESERVE)
    stopped = [Reader(budget, RESERVE, stops_at=250) for _ in range(4)]
    others = [Reader(budget, RESERVE) for _ in range(5)]
    run(*stopped)
    run(*others)
    assert all(reader.is_done for reader in others)
    # They hold what they hold, and need not go: there is room for one message beside that.
    assert not any(reader.is_given_up for reader in stopped)


def test_those_who_stop_in_what_is_reserved_are_sent_away_when_others_wait():
    budget = Budget(LIMIT, RESERVE)
    stopped = [Reader(budget, RESERVE, stops_at=RESERVE - PIECE) for _ in range(6)]
    others = [Reader(budget, RESERVE) for _ in range(3)]
    run(*stopped, *others)
    assert all(reader.is_done for reader in others)
    assert budget.evicted == sum(reader.is_given_up for reader in stopped) > 0


def test_a_message_larger_than_all_bounds_is_read_when_nobody_else_has_one():
    budget = Budget(1, 1)

    async def main():
        account = budget.account(lambda: None)
        await asyncio.wait_for(account.grow(10, 5), 5)
        await asyncio.wait_for(account.grow(10, 0), 5)
        assert budget.held == 20

    asyncio.run(main())


def test_who_holds_little_never_waits(monkeypatch):
    monkeypatch.setattr(budget_module, "SMALL", 2 * PIECE)
    budget = Budget(LIMIT, RESERVE)

    async def main():
        holder, other = (budget.account(lambda: None) for _ in range(2))
        await holder.grow(LIMIT)
        await holder.grow(RESERVE, 1)
        await asyncio.wait_for(other.grow(2 * PIECE, LIMIT), 5)
        waiting = asyncio.ensure_future(other.grow(PIECE, LIMIT))
        await asyncio.sleep(0)
        assert budget.waiting == 1
        waiting.cancel()

    asyncio.run(main())


def test_who_is_gone_waits_no_longer_and_leaves_nothing_behind():
    budget = Budget(LIMIT, 0)

    async def main():
        holder, waiting = (budget.account(lambda: None) for _ in range(2))
        await holder.grow(LIMIT)
        task = asyncio.ensure_future(waiting.grow(PIECE, 1))
        await asyncio.sleep(0)
        assert budget.waiting == 1
        # In the same moment, there is room and nobody who wants it.
        budget.close(holder)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        budget.close(waiting)
        assert (budget.held, budget.waiting) == (0, 0)

    asyncio.run(main())
