"""``kube-audit-filter exec``: puts the parts of the exec filter together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from ..exec.process import STDIN, ExecFilter, take_stdout
from ..exec.shutdown import Shutdown, can_be_left
from ..exec.stream import FilterStream, Replies, Spans
from ..records.record_filter import RecordFilter
from ..scan.framing import Framing, JSONLinesFraming, MsgpackFraming
from ..service.diagnostics import Diagnostics
from ..service.summary import summarize
from .filtering import (
    configure_log,
    load_policy,
    make_exporters,
    make_records,
    start_housekeeper,
    watch_policy,
)
from .groups import GroupedCommand, OptionGroup
from .options import (
    DRY_RUN,
    EVENT_KEY,
    LIMITS,
    LOG,
    METRICS,
    POLICY,
    REDUCE,
    SPLIT,
    byte_size,
    shutdown_options,
)
from .settings import FilterSettings, RecordSettings

if TYPE_CHECKING:
    from prometheus_client.registry import Collector


RECORDS = OptionGroup(
    "Records",
    [
        click.Option(
            ["--format", "records_format"],
            type=click.Choice(["msgpack", "json"]),
            default="msgpack",
            show_default=True,
            help="msgpack: what Fluentd and Fluent Bit send to a child process, maps as well as [time, map]."
            " json: one JSON object per line.",
        ),
        EVENT_KEY,
        REDUCE,
        SPLIT,
        DRY_RUN,
    ],
    "records",
    RecordSettings,
)
REPLY = OptionGroup(
    "Records",
    [
        click.Option(
            ["--reply"],
            is_flag=True,
            help="Write an answer to each record instead of writing the kept records. true: keep the record."
            " false: drop it. A record: replace it, because only part of it is kept. Not with --split.",
        )
    ],
)
RECORD_SIZE = OptionGroup(
    "Limits",
    [
        click.Option(
            ["--max-record-size"],
            callback=byte_size(1),
            default="64M",
            show_default=True,
            metavar="BYTES",
            help="The size of the largest record that is held in memory. A larger record goes on undecided.",
        )
    ],
)
SHUTDOWN = shutdown_options(
    8.0,
    "After SIGTERM or SIGINT, go on until the input ends, or until nothing has moved for this time. Where"
    " the input is a file or a terminal, SIGINT stops the filter at the end of a record.",
)


@dataclass(frozen=True)
class ExecSettings(FilterSettings):
    """What ``exec`` takes.

    Attributes:
        reply: answer each record instead of handing kept records back.
        max_record_size: the most bytes that are held of a record that is not whole yet.
    """

    reply: bool
    max_record_size: int


@click.command(
    "exec",
    cls=GroupedCommand,
    groups=[POLICY, RECORDS, REPLY, LOG, METRICS, SHUTDOWN, RECORD_SIZE, LIMITS],
    settings=ExecSettings,
    short_help="Filter records from stdin to stdout.",
)
@click.pass_obj
def exec_command(diagnostics: Diagnostics, settings: ExecSettings) -> int:
    """Read records on stdin, and write those that the policy keeps to stdout.

    For Fluentd's exec_filter, and for shell pipes:

    \b
      kube-audit-filter exec --format json --policy builtin:recommended < audit.log > kept.log

    Only an audit event that the policy does not keep is dropped. Records that are not audit events, or
    that can't be read, go on undecided and are counted. The last lines on stderr are a summary. The
    filter ends when its input ends. On SIGHUP it reads the policy again.
    """
    if settings.reply and settings.records.split:
        raise click.UsageError(
            "--reply gives one answer to each record, so a record can't become several: leave --split out, or"
            " leave --reply out and read the records that exec writes"
        )
    configure_log(diagnostics, settings.log)
    out = take_stdout()
    can_leave = can_be_left(STDIN, out)
    with Shutdown(settings.shutdown_grace, diagnostics, can_leave=can_leave) as shutdown:
        records = make_records(settings.records, settings.limits, diagnostics)
        stream = _make_stream(settings, records)
        running = ExecFilter(stream, records, out, shutdown, diagnostics)
        policy = watch_policy(settings.policy, records, running.use, diagnostics)
        load_policy(policy, diagnostics, lambda: shutdown.has_begun, wait=settings.policy.wait)

        def collector(labels: dict[str, str]) -> Collector:
            from ..service.metrics import AuditCollector  # noqa: PLC0415 - slow to import

            return AuditCollector(records.counters, policy, diagnostics, running, labels)

        exporters = make_exporters(collector, settings.metrics, running, diagnostics)
        housekeeper = start_housekeeper(policy, settings.policy.reload_interval, exporters, diagnostics)
        shutdown.reload_with(housekeeper.ask)
        status = running.run()
        housekeeper.stop()
        for exporter in exporters:
            exporter.close()
    diagnostics.flush(final=True)
    diagnostics.info(*summarize(records.counters).split("\n"))
    return status


def _make_stream(settings: ExecSettings, records: RecordFilter) -> FilterStream:
    format_, size = settings.records.format, settings.max_record_size
    framing: Framing = MsgpackFraming(size) if format_ == "msgpack" else JSONLinesFraming(size)
    return FilterStream(framing, records, Replies(records, format_) if settings.reply else Spans(records))
