"""``kube-audit-filter exec``: puts the parts of the exec filter together."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from filter_engine import PolicyError, PolicyEvaluator
from filter_engine.evaluator import LevelMatch
from plugin import policies
from plugin.diagnostics import INTERVAL, Diagnostics, Severity
from plugin.envelope import Step
from plugin.exec_filter import ExecFilter, take_stdout
from plugin.framing import Framing, JSONLinesFraming, MsgpackFraming
from plugin.housekeeping import Chore, Housekeeper
from plugin.limits import Limits
from plugin.listen import Listen
from plugin.options import (
    limit_options,
    log_options,
    metrics_options,
    policy_options,
    record_options,
    seconds,
)
from plugin.policy_watch import SETTLE, PolicyWatch, refusal
from plugin.record_filter import Format, RecordFilter
from plugin.reply import ReplyStream
from plugin.shutdown import Shutdown
from plugin.stream import FilterStream

if TYPE_CHECKING:
    from plugin.metrics_export import Exporter


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
        limits = Limits(max_record_size, max_depth, max_list_items, memo_size)
        # Up to Python 3.11, this is also the depth to which JSON and MessagePack are decoded.
        sys.setrecursionlimit(max(sys.getrecursionlimit(), limits.depth + 500))
        records = RecordFilter(
            format=format_,
            event_path=event_path,
            reduce=reduce,
            limits=limits,
            on_error=lambda error: diagnostics.rarely(
                "error", "error", f"a record passed on undecided: {error!r}"
            ),
        )
        framing: Framing = (
            MsgpackFraming(max_record_size) if format_ == "msgpack" else JSONLinesFraming(max_record_size)
        )
        stream = ReplyStream(framing, records, format_) if reply else FilterStream(framing, records)
        running = ExecFilter(stream, records, out, shutdown, diagnostics)
        try:
            policy = PolicyWatch(
                policy_name,
                strict=not lenient,
                codes=level_match == "exact",
                prepare=lambda policy: records.prepare(PolicyEvaluator(policy, level_match=level_match)),
                publish=running.use,
                diagnostics=diagnostics,
                settle=min(SETTLE, reload_interval or SETTLE),
            )
        except KeyError:
            known = ", ".join(policies.PREFIX + known for known in policies.names())
            raise click.BadParameter(
                f"{policy_name!r} is not built in; there is {known}", param_hint="--policy"
            ) from None
        _load(policy, diagnostics, wait=wait_for_policy)
        exporters: list[Exporter] = []
        if metrics_listen is not None or metrics_textfile is not None:
            from plugin.metrics import AuditCollector  # noqa: PLC0415 - slow to import
            from plugin.metrics_export import make_exporters  # noqa: PLC0415

            exporters = make_exporters(
                partial(AuditCollector, stream.totals, records, policy, diagnostics, running),
                metrics_listen,
                metrics_textfile,
                health=running,
                diagnostics=diagnostics,
            )
        housekeeper = Housekeeper(
            [
                Chore(lambda asked: diagnostics.reopen() if asked else diagnostics.flush(), INTERVAL),
                Chore(policy.check, reload_interval or None),
                *(Chore(exporter.export, exporter.interval, at_start=True) for exporter in exporters),
            ],
            diagnostics,
        )
        housekeeper.start()
        shutdown.reload_with(housekeeper.ask)
        status = running.run()
        housekeeper.stop()
        for exporter in exporters:
            exporter.close()
    diagnostics.flush(final=True)
    if stream.undecided == stream.totals.records > 0:
        diagnostics.warning("no record was an audit event: see --format and --event-key")
    diagnostics.info(stream.summary())
    return status


def _load(policy: PolicyWatch[Any], diagnostics: Diagnostics, *, wait: bool) -> None:
    try:
        policy.load()
    except (OSError, PolicyError) as error:
        if not wait:
            raise
        fault = refusal(error) if isinstance(error, PolicyError) else f"{error.filename}: {error.strerror}"
        diagnostics.error(f"{fault}; nothing is read until there is a policy that can be used")
