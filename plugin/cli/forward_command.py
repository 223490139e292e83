"""``kube-audit-filter forward``: puts the parts of the proxy together."""

from __future__ import annotations

import asyncio
import gc
import signal
from typing import TYPE_CHECKING

import click

from filter_engine.evaluator import LevelMatch

from ..forward.address import Address
from ..forward.listeners import Listeners
from ..forward.protocol.message_filter import Compat, MessageFilter
from ..forward.proxy import Proxy, run_loop
from ..forward.route import Upstreams
from ..forward.session import SessionContext
from ..forward.upstream import UpstreamSettings
from ..records.event_path import Step
from ..records.limits import Limits
from ..service.diagnostics import Diagnostics, Severity
from ..service.housekeeping import Chore
from ..service.listen import Listen
from ..service.signals import let_through
from ..service.summary import summarize
from . import forward_options as options
from .filtering import (
    load_policy,
    make_exporters,
    make_records,
    start_housekeeper,
    watch_policy,
)
from .options import (
    limit_options,
    log_options,
    metrics_options,
    policy_options,
    record_options,
    seconds,
)

if TYPE_CHECKING:
    from prometheus_client.registry import Collector


@click.command("forward", short_help="Filter between clients and servers of the forward protocol.")
@policy_options
@options.address_options
@record_options
@options.tag_options
@options.listen_options
@options.upstream_options
@options.bound_options
@limit_options
@click.option(
    "--shutdown-grace",
    type=float,
    callback=seconds,
    default=20.0,
    show_default=True,
    metavar="SECONDS",
    help="After SIGTERM or SIGINT, deliver what is in flight for up to so long.",
)
@log_options
@metrics_options
@click.pass_obj
def forward_command(
    diagnostics: Diagnostics,
    *,
    policy_name: str,
    lenient: bool,
    level_match: LevelMatch,
    reload_interval: float,
    wait_for_policy: bool,
    upstreams: list[Address],
    listen: list[Address],
    insecure: bool,
    event_path: tuple[Step, ...] | None,
    reduce: bool,
    tag: str | None,
    tag_prefix_remove: str | None,
    tag_prefix_add: str | None,
    compat: Compat | None,
    tls_cert: str | None,
    tls_key: str | None,
    tls_client_ca: str | None,
    shared_key_file: str | None,
    users_file: str | None,
    socket_mode: int,
    self_hostname: str | None,
    upstream_tls_ca: str | None,
    upstream_tls_cert: str | None,
    upstream_tls_key: str | None,
    upstream_tls_server_name: str | None,
    upstream_tls_no_verify: bool,
    upstream_shared_key_file: str | None,
    upstream_user: str | None,
    upstream_password_file: str | None,
    max_message_size: int,
    max_decompressed_size: int,
    max_connections: int,
    idle_timeout: float,
    handshake_timeout: float,
    ack_timeout: float,
    retry_timeout: float,
    max_depth: int,
    max_list_items: int,
    memo_size: int,
    shutdown_grace: float,
    log_file: str | None,
    log_level: Severity,
    log_format: str,
    metrics_listen: Listen | None,
    metrics_textfile: str | None,
) -> int:
    """Filter between clients and servers of the Fluent forward protocol.

    Clients send as they would to the server; what the policy keeps goes there, and a message is
    acknowledged to a client only when the server has acknowledged what is left of it:

    \b
      kube-audit-filter forward --policy policy.yaml --listen 127.0.0.1:24224 --upstream logs:24224

    Only an audit event that the policy does not keep is dropped. What is no audit event, or can't be
    read, passes on and is counted. SIGTERM ends in order; on SIGHUP policy and certificates are read
    again.
    """
    diagnostics.configure(path=log_file, level=log_level, as_json=log_format == "json")
    own = options.certificate(tls_cert, tls_key, "tls-")
    shown = options.certificate(upstream_tls_cert, upstream_tls_key, "upstream-tls-")
    security = options.listen_security(shared_key_file, users_file, self_hostname)
    options.check_exposure(listen, security, insecure=insecure)
    tls = options.listen_tls(listen, own, tls_client_ca)
    settings = UpstreamSettings(
        options.upstream_security(
            upstream_shared_key_file, upstream_user, upstream_password_file, self_hostname
        ),
        options.upstream_tls(upstreams, upstream_tls_ca, shown, verify=not upstream_tls_no_verify),
        upstream_tls_server_name,
        handshake_timeout,
    )
    tags = options.tag_change(tag, tag_prefix_remove, tag_prefix_add)
    limits = Limits(depth=max_depth, list_items=max_list_items, memo_size=memo_size)
    records = make_records("msgpack", event_path, limits, diagnostics, reduce=reduce)
    messages = MessageFilter(records, max_decompressed_size, tags, compat)

    async def main() -> int:
        context = SessionContext(
            messages,
            Upstreams(upstreams, settings, diagnostics, ack_timeout=ack_timeout, retry_timeout=retry_timeout),
            diagnostics,
            security=security,
            max_message_size=max_message_size,
            idle_timeout=idle_timeout,
            handshake_timeout=handshake_timeout,
        )
        proxy = Proxy(context, records, diagnostics, max_connections=max_connections, grace=shutdown_grace)
        policy = watch_policy(
            policy_name,
            records,
            proxy.use,
            diagnostics,
            lenient=lenient,
            level_match=level_match,
            reload_interval=reload_interval,
        )
        load_policy(policy, diagnostics, wait=wait_for_policy)

        def collector(labels: dict[str, str]) -> Collector:
            from ..forward.metrics import ForwardCollector  # noqa: PLC0415 - slow to import

            return ForwardCollector(proxy, policy, diagnostics, labels)

        def renew(asked: bool) -> None:
            for certificate in (own, shown):
                if certificate is not None:
                    try:
                        certificate.reload()
                    except ValueError as error:
                        diagnostics.error(f"{error}; the certificate in use stays")

        exporters = make_exporters(collector, metrics_listen, metrics_textfile, proxy, diagnostics)
        housekeeper = start_housekeeper(policy, reload_interval, exporters, diagnostics, Chore(renew, None))
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, housekeeper.ask)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, proxy.end, number)
        # Blocked since the start of the program, so that none could end it before this.
        let_through()
        # What is there now stays, and a message leaves few cycles behind: look for them seldom.
        gc.freeze()
        gc.set_threshold(10_000)
        listeners = Listeners(listen, proxy.serve, tls=tls, socket_mode=socket_mode, diagnostics=diagnostics)
        try:
            return await proxy.run(listeners)
        finally:
            housekeeper.stop()
            for exporter in exporters:
                exporter.close()

    status = run_loop(main)
    diagnostics.flush(final=True)
    if records.counters.undecided_records == records.counters.records > 0:
        diagnostics.warning("no record was an audit event: see --event-key")
    diagnostics.info(summarize(records.counters))
    return status
