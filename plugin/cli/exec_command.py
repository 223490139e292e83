"""``kube-audit-filter exec``: puts the parts of the exec filter together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from filter_engine.evaluator import LevelMatch

from ..exec.process import ExecFilter, take_stdout
from ..exec.shutdown import Shutdown
from ..exec.stream import FilterStream, Replies, Spans
from ..records.event_path import Step
from ..records.limits import Limits
from ..records.record_filter import Format
from ..scan.framing import Framing, JSONLinesFraming, MsgpackFraming
from ..service.diagnostics import Diagnostics, Severity
from ..service.listen import Listen
from ..service.summary import summarize
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
    max_record_size_option,
    metrics_options,
    policy_options,
    record_options,
    seconds,
)

if TYPE_CHECKING:
    from prometheus_client.registry import Collector


@click.command("exec", short_help="Filter records from stdin to stdout.")
@policy_options
@click.option(
    "--format",
    "format_",
    type=click.Choice(["msgpack", "json"]),
    default="msgpack",
    show_default=True,
    help="msgpack: what Fluentd and Fluent Bit send to a child, maps and [time, map] alike."
    " json: one object a line.",
)
@click.option(
    "--reply",
    is_flag=True,
    help="Answer each record in place of handing it back: true to keep it, false to drop it, or, where"
    " not all of it is kept, what is to take its place.",
)
@record_options
@max_record_size_option
@limit_options
@click.option(
    "--shutdown-grace",
    type=float,
    callback=seconds,
    default=8.0,
    show_default=True,
    metavar="SECONDS",
    help="After SIGTERM or SIGINT, end when the input does, or when nothing has moved for so long.",
)
@log_options
@metrics_options
@click.pass_obj
def exec_command(
    diagnostics: Diagnostics,
    *,
    policy_name: str,
    lenient: bool,
    level_match: LevelMatch,
    reload_interval: float,
    wait_for_policy: bool,
    format_: Format,
    reply: bool,
    event_path: tuple[Step, ...] | None,
    reduce: bool,
    max_record_size: int,
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
    """Read records on stdin, write those that the policy keeps to stdout.

    For Fluentd's exec_filter, and for shell pipes:

    \b
      kube-audit-filter exec --format json --policy builtin:recommended < audit.log > kept.log

    Only an audit event that the policy does not keep is dropped. What is no audit event, or can't
    be read, passes on and is counted. The last line on stderr sums up. The filter ends when its
    input ends. On SIGHUP it reads the policy again.
    """
    diagnostics.configure(path=log_file, level=log_level, as_json=log_format == "json")
    out = take_stdout()
    with Shutdown(shutdown_grace, diagnostics) as shutdown:
        limits = Limits(depth=max_depth, list_items=max_list_items, memo_size=memo_size)
        records = make_records(format_, event_path, limits, diagnostics, reduce=reduce)
        framing: Framing = (
            MsgpackFraming(max_record_size) if format_ == "msgpack" else JSONLinesFraming(max_record_size)
        )
        stream = FilterStream(framing, records, Replies(records, format_) if reply else Spans(records))
        running = ExecFilter(stream, records, out, shutdown, diagnostics)
        policy = watch_policy(
            policy_name,
            records,
            running.use,
            diagnostics,
            lenient=lenient,
            level_match=level_match,
            reload_interval=reload_interval,
        )
        load_policy(policy, diagnostics, wait=wait_for_policy)

        def collector(labels: dict[str, str]) -> Collector:
            from ..service.metrics import AuditCollector  # noqa: PLC0415 - slow to import

            return AuditCollector(records.counters, policy, diagnostics, running, labels)

        exporters = make_exporters(collector, metrics_listen, metrics_textfile, running, diagnostics)
        housekeeper = start_housekeeper(policy, reload_interval, exporters, diagnostics)
        shutdown.reload_with(housekeeper.ask)
        status = running.run()
        housekeeper.stop()
        for exporter in exporters:
            exporter.close()
    diagnostics.flush(final=True)
    if records.counters.undecided_records == records.counters.records > 0:
        diagnostics.warning("no record was an audit event: see --format and --event-key")
    diagnostics.info(summarize(records.counters))
    return status
