"""``kube-audit-filter forward``: puts the parts of the proxy together."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import click

from ..forward.listeners import Listeners, ListenerSettings
from ..forward.own_addresses import OwnAddresses
from ..forward.protocol.entries import PayloadLimits
from ..forward.protocol.handshake import Salts
from ..forward.protocol.message_filter import MessageFilter
from ..forward.proxy import Proxy, run_loop
from ..forward.route import Upstreams
from ..forward.session import SessionContext, SessionSettings
from ..forward.tls import TLS
from ..forward.upstream import ConnectSettings
from ..service.diagnostics import Diagnostics
from ..service.housekeeping import Chore
from ..service.memory import available_memory
from ..service.recognition import Recognition
from ..service.signals import block, is_told_to_end, let_through
from ..service.summary import summarize
from . import forward_options as options
from . import forward_security as security
from .filtering import (
    configure_log,
    load_policy,
    make_exporters,
    make_records,
    start_housekeeper,
    watch_policy,
)
from .forward_settings import ForwardSettings
from .groups import GroupedCommand
from .options import LIMITS, LOG, METRICS, POLICY

if TYPE_CHECKING:
    from prometheus_client.registry import Collector


# Seconds between checks whether there is an audit event among the records.
_RECOGNIZE_INTERVAL = 5.0


@click.command(
    "forward",
    cls=GroupedCommand,
    groups=[
        POLICY,
        options.LISTEN,
        options.UPSTREAM,
        options.RECORDS,
        options.COMPAT,
        options.TAGS,
        LOG,
        METRICS,
        options.TIMEOUTS,
        options.SHUTDOWN,
        options.PROXY_LIMITS,
        LIMITS,
    ],
    settings=ForwardSettings,
    short_help="Filter between clients and servers of the forward protocol.",
)
@click.pass_obj
def forward_command(diagnostics: Diagnostics, settings: ForwardSettings) -> int:
    """Filter between clients and servers of the Fluent forward protocol.

    Clients send messages to this proxy instead of the server, and the proxy sends the records that the
    policy keeps to the server. It acknowledges a message to the client only when the server has
    acknowledged what is left of the message:

    \b
      kube-audit-filter forward --policy policy.yaml --listen 127.0.0.1:24224 --upstream logs:24224

    Only an audit event that the policy does not keep is dropped. Records that are not audit events, or
    that can't be read, go on undecided and are counted. On SIGTERM the proxy delivers what is in flight
    and ends. On SIGHUP it reads the policy and the certificates again.
    """
    configure_log(diagnostics, settings.log)
    listen, upstream, timeouts = settings.listen, settings.upstream, settings.timeouts
    own = security.certificate(listen, "tls-")
    shown = security.certificate(upstream, "upstream-tls-")
    salts, own_addresses = Salts(), OwnAddresses()
    session = SessionSettings(
        security.listen_security(listen, salts),
        settings.max_message_size,
        settings.max_entries,
        settings.max_in_flight or available_memory() // 4,
        timeouts.idle,
        timeouts.handshake,
        settings.max_handshakes,
    )
    tls = security.listen_tls(listen, own)
    where = ListenerSettings(
        listen.addresses,
        tls,
        has_key=session.security is not None,
        insecure=listen.insecure,
        udp_heartbeat=listen.udp_heartbeat,
        socket_mode=listen.socket_mode,
    )
    connect = ConnectSettings(
        security.upstream_security(upstream, listen.self_hostname, salts),
        security.upstream_tls(upstream, shown),
        upstream.tls_server_name,
        timeouts.handshake,
        own_addresses,
    )
    tags = security.tag_change(settings.tags)
    records = make_records(settings.records, settings.limits, diagnostics)
    sizes = PayloadLimits(settings.max_decompressed_size, settings.max_entries, settings.max_message_size)
    messages = MessageFilter(records, sizes, tags, settings.compat)

    recognition = Recognition(records.counters, None)

    def recognize(*, is_end: bool = False) -> None:
        if (warning := recognition.warning(b"", is_end=is_end)) is not None:
            diagnostics.warning(warning)

    async def main() -> int:
        upstreams = Upstreams(
            upstream.addresses,
            connect,
            diagnostics,
            ack_timeout=timeouts.ack,
            retry_timeout=timeouts.retry,
        )
        context = SessionContext(messages, upstreams, diagnostics, session)
        proxy = Proxy(
            context,
            records,
            diagnostics,
            max_connections=settings.max_connections,
            grace=settings.shutdown_grace,
        )
        policy = watch_policy(settings.policy, records, proxy.use, diagnostics)
        load_policy(policy, diagnostics, is_told_to_end, wait=settings.policy.wait)

        def collector(labels: dict[str, str]) -> Collector:
            from ..forward.metrics import ForwardCollector  # noqa: PLC0415 - slow to import

            return ForwardCollector(proxy, policy, diagnostics, labels)

        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(initializer=block))
        # Makes the loop start its threads while signals are blocked, so that these never take one.
        with suppress(OSError):
            await loop.getaddrinfo("localhost", None)

        exporters = make_exporters(collector, settings.metrics, proxy, diagnostics)
        housekeeper = start_housekeeper(
            policy,
            settings.policy.reload_interval,
            exporters,
            diagnostics,
            Chore(partial(_renew, (tls, connect.tls), loop, diagnostics), None),
            Chore(lambda _: recognize(), _RECOGNIZE_INTERVAL),
        )
        loop.add_signal_handler(signal.SIGHUP, housekeeper.ask)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, proxy.end, number)
        # Signals were blocked since the start of the program, so that none could end it before this.
        let_through()
        # Objects that exist now stay, and messages leave few cycles behind: garbage is seldom collected.
        gc.freeze()
        gc.set_threshold(10_000)
        listeners = Listeners(where, proxy.serve, own_addresses, diagnostics)
        try:
            return await proxy.run(listeners)
        finally:
            housekeeper.stop()
            for exporter in exporters:
                exporter.close()
            # The end of the loop takes its handlers away. A signal that comes once more, as timeout(1) sends
            # it to the process and to its group, would end the program by that signal.
            block()

    status = run_loop(main)
    diagnostics.flush(final=True)
    recognize(is_end=True)
    diagnostics.info(*summarize(records.counters).split("\n"))
    return status


def _renew(
    tls: Sequence[TLS | None], loop: asyncio.AbstractEventLoop, diagnostics: Diagnostics, _: bool
) -> None:
    """Read certificates again. Another thread than the loop's calls this."""
    for one in tls:
        if one is not None:
            try:
                new = one.read_again()
            except ValueError as error:
                diagnostics.error(f"{error}; the certificate in use stays")
            else:
                with suppress(RuntimeError):  # the loop has just ended
                    loop.call_soon_threadsafe(one.use, new)
