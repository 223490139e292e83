"""The proxy as a whole: from the first connection to the orderly end."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import signal
import socket
import ssl
import time
from asyncio import FIRST_COMPLETED
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from ..records.event_filter import EventFilter
from ..records.record_filter import RecordFilter
from ..service.diagnostics import Diagnostics
from .listeners import Listeners
from .session import Session, SessionContext
from .streams import keep_alive

# Seconds for which the loop may not come round before the proxy is said to be stuck.
_STUCK_AFTER = 60.0
_PULSE = 1.0
# Seconds beyond the time for the end, after which the process is ended by force.
_MARGIN = 5.0


class Proxy:
    """Serves clients until it is told to end.

    Args:
        context: what all clients have in common.
        records: the part of the filter that has the policy. Without one, nobody can connect.
        diagnostics: where to complain.
        max_connections: clients at a time that have shaken hands, or need not.
        grace: seconds in which what is in flight has to be delivered once the proxy is told to end.

    Attributes:
        sessions: all connections.
        clients: those that have shaken hands, or need not.
        strangers: those that still have to, the oldest first.
        accepted: how many clients have connected so far.
    """

    def __init__(
        self,
        context: SessionContext,
        records: RecordFilter,
        diagnostics: Diagnostics,
        *,
        max_connections: int,
        grace: float,
    ) -> None:
        self.sessions: dict[asyncio.Task[None], Session] = {}
        self.strangers: dict[Session, None] = {}
        self.clients: set[Session] = set()
        self.accepted = 0
        self._context = context
        self._records = records
        self._diagnostics = diagnostics
        self._max_connections = max_connections
        self._grace = grace
        self._loop = asyncio.get_running_loop()
        self._has_policy = asyncio.Event()
        self._signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
        self._is_ending = False
        self._pulse = time.monotonic()

    @property
    def context(self) -> SessionContext:
        """What all clients have in common."""
        return self._context

    @property
    def last_read(self) -> float:
        """When input came last, in seconds since the epoch; 0: none came yet."""
        return self._context.last_read

    @property
    def blocked_for(self) -> float:
        """For how many seconds the message that has waited longest for a server has done so."""
        now = time.monotonic()
        waits = [session.waiting_since for session in list(self.sessions.values())]
        return max((now - since for since in waits if since is not None), default=0.0)

    def trouble(self) -> str | None:
        """Why the proxy does not work at all; None: it does, or waits for others."""
        stuck = time.monotonic() - self._pulse
        return f"nothing has been done for {stuck:.0f} s" if stuck > _STUCK_AFTER else None

    def unready(self) -> str | None:
        """Why it takes no messages; None: it does."""
        if not self._records.has_policy:
            return "there is no policy that can be used"
        if self._is_ending:
            return "the proxy is about to end"
        if not any(upstream.is_up for upstream in self._context.upstreams.all):
            return "no upstream is up"
        return self.trouble()

    def use(self, events: EventFilter) -> None:
        """Have all messages from now on decided by another policy. Any thread may call this."""
        with suppress(RuntimeError):  # it has just ended
            self._loop.call_soon_threadsafe(self._use, events)

    def _use(self, events: EventFilter) -> None:
        is_first = not self._records.has_policy
        self._records.use(events)
        self._has_policy.set()
        if not is_first:
            gc.collect()  # each policy leaves classes behind, and collections are seldom

    def end(self, number: signal.Signals) -> None:
        """End in order; told so again, end at once."""
        self._signals.put_nowait(number)

    def serve(self, connection: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Serve one client, beside the others."""
        name = _name(connection)
        self.accepted += 1
        if connection.family != socket.AF_UNIX:
            with suppress(OSError):  # it may have gone already
                keep_alive(connection)
        session = Session(self._context, connection, name, tls, self._admit)
        if not session.is_greeting and not self._admit(session):
            session.discard()
            return
        if session.is_greeting:
            if len(self.strangers) >= self._context.settings.max_handshakes:
                oldest = next(iter(self.strangers))
                del self.strangers[oldest]
                oldest.turn_out()
            self.strangers[session] = None
        task = asyncio.ensure_future(session.run())
        self.sessions[task] = session
        task.add_done_callback(self._forget)

    def _admit(self, session: Session) -> bool:
        """Whether there is room for one more client that has shaken hands."""
        if len(self.clients) < self._max_connections:
            self.strangers.pop(session, None)
            self.clients.add(session)
            return True
        self._context.ends["refused"] += 1
        self._diagnostics.rarely(
            "warning",
            "refused",
            f"client {session.name} is refused: there are {self._max_connections} already,"
            " see --max-connections",
        )
        return False

    def _forget(self, task: asyncio.Task[None]) -> None:
        session = self.sessions.pop(task)
        self.strangers.pop(session, None)
        self.clients.discard(session)
        session.discard()

    async def run(self, listeners: Listeners) -> int:
        """Listen, as soon as there is a policy, until a signal says to end.

        Returns:
            The exit status: 0, or 1 where messages were lost.

        Raises:
            OSError: an address can't be listened on, or an upstream leads back to one of them.
        """
        self._loop.set_exception_handler(self._complain)
        beating = asyncio.ensure_future(self._beat())
        told = asyncio.ensure_future(self._signals.get())
        policy = asyncio.ensure_future(self._has_policy.wait())
        tasks: list[asyncio.Future[Any]] = [beating, told, policy]
        try:
            await listeners.bind()
            for upstream in self._context.upstreams.all:
                await upstream.refuse_loop()
            await asyncio.wait({told, policy}, return_when=FIRST_COMPLETED)
            if policy.done():
                listeners.open()
                tasks += [asyncio.ensure_future(each.greet()) for each in self._context.upstreams.all]
                number = await told
                self._is_ending = True
                listeners.close()
                await self._drain(number)
        finally:
            self._is_ending = True
            for task in tasks:
                task.cancel()
            listeners.close()
            self._context.upstreams.close()
            self._context.turns.close()
            faulthandler.cancel_dump_traceback_later()
        return 1 if self._context.abandoned else 0

    async def _drain(self, number: signal.Signals) -> None:
        """Let sessions end by themselves, and after a while, or when told so again, end them."""
        self._diagnostics.info(
            f"{number.name}: no more connections; what is in flight is delivered, for up to {self._grace:g} s"
        )
        _end_within(self._grace + _MARGIN)
        again = asyncio.ensure_future(self._signals.get())
        over = asyncio.ensure_future(asyncio.sleep(self._grace))
        while self.sessions and not again.done() and not over.done():
            for task, session in self.sessions.items():
                if session.is_greeting:
                    task.cancel()  # it has handed nothing over
                else:
                    session.finish()
            # A connection may have been accepted before, and become a session only now.
            await asyncio.wait({*self.sessions, again, over}, timeout=_PULSE, return_when=FIRST_COMPLETED)
        if again.done():
            _end_within(_MARGIN)
        again.cancel()
        over.cancel()
        left = sum(not session.is_greeting for session in self.sessions.values())
        while self.sessions:
            for task in self.sessions:
                task.cancel()
            await asyncio.wait(set(self.sessions), timeout=_PULSE)
        if self._context.abandoned:
            self._diagnostics.error(
                f"{self._context.abandoned} messages that want no acknowledgement were not delivered:"
                " they are lost"
            )
        elif left:
            self._diagnostics.warning(
                f"{left} connections were cut: what was not acknowledged, their clients have to keep"
            )

    def _complain(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Take what the loop itself has to say, such as that there are too many open files."""
        error = context.get("exception")
        detail = f": {error!r}" if error is not None else ""
        self._diagnostics.rarely("error", "loop", f"{context['message']}{detail}")

    async def _beat(self) -> None:
        while True:
            self._pulse = time.monotonic()
            await asyncio.sleep(_PULSE)


def _end_within(seconds: float) -> None:
    """End the process after some seconds, even if it does not come round any longer: no Python is needed."""
    with suppress(OSError, ValueError, AttributeError):  # there is no stderr to say it on
        faulthandler.dump_traceback_later(seconds, exit=True)


def _name(connection: socket.socket) -> str:
    """What to call a client."""
    if connection.family == socket.AF_UNIX:
        return "at a Unix socket"
    try:
        host, port = connection.getpeername()[:2]
    except OSError:  # it has gone already
        return "unknown"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def run_loop(main: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Run a coroutine in an event loop: that of uvloop where it is installed."""
    try:
        import uvloop  # noqa: PLC0415 - it need not be there
    except ImportError:
        loop = asyncio.new_event_loop()
    else:
        loop = uvloop.new_event_loop()
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(main())
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        asyncio.set_event_loop(None)
        loop.close()
