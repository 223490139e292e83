"""The command line. Results go to stdout, diagnostics to stderr.

Exit status: 0 done; 1 wrong usage, or input or output failed; 2 the policy can't be used.
"""

from __future__ import annotations

import re
import sys
from typing import NoReturn

import click

from filter_engine import Policy, PolicyError, PolicyEvaluator
from filter_engine.evaluator import LevelMatch
from plugin import exec_filter, policies
from plugin.diagnostics import Diagnostics
from plugin.envelope import Step, parse_event_path
from plugin.framing import Framing, JSONLinesFraming, MsgpackFraming
from plugin.record_filter import Format, RecordFilter
from plugin.stream import FilterStream

EXIT_FAILED, EXIT_POLICY = 1, 2
MAX_GRACE = 86_400


def main() -> NoReturn:
    """Run the command line and exit."""
    try:
        # A command returns its exit status; so does click, after --help and --version.
        sys.exit(cli.main(prog_name="kube-audit-filter", standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(EXIT_FAILED)
    except click.Abort:
        sys.exit(EXIT_FAILED)
    except PolicyError as error:
        _report_policy_error(error)
        sys.exit(EXIT_POLICY)
    except OSError as error:
        Diagnostics().say(f"{error.filename or 'error'}: {error.strerror}")
        sys.exit(EXIT_FAILED)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="kube-audit-filter")
def cli() -> None:
    """Apply a Kubernetes audit policy in the log pipeline.

    A log agent hands its records to this filter; the filter decides with an ordinary
    audit.k8s.io/v1 Policy, as kube-apiserver would, and hands back those worth keeping, byte for
    byte as they came.
    """


def _event_path(_: click.Context, __: click.Parameter, text: str | None) -> tuple[Step, ...] | None:
    try:
        return None if text is None else parse_event_path(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _byte_size(_: click.Context, __: click.Parameter, text: str) -> int:
    units = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    match = re.fullmatch(r"([0-9]{1,10})([KMG]?)", text, re.IGNORECASE)
    size = int(match[1]) * units[match[2].upper()] if match else 0
    if not 0 < size <= units["G"]:
        raise click.BadParameter(f"expected bytes, at most 1G, such as 65536, 512K or 64M; found {text!r}")
    return size


def _seconds(_: click.Context, __: click.Parameter, seconds: float) -> float:
    if not 0 <= seconds <= MAX_GRACE:
        raise click.BadParameter(f"expected seconds, from 0 to {MAX_GRACE}; found {seconds}")
    return seconds


@cli.command("exec", short_help="Filter records from stdin to stdout.")
@click.option(
    "--policy",
    "policy_name",
    required=True,
    metavar="FILE",
    help=f"The audit policy, YAML or JSON; {policies.PREFIX}NAME is one that ships with this program"
    f" ({', '.join(policies.names())}).",
)
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
    "--event-key",
    "event_path",
    metavar="PATH",
    callback=_event_path,
    help="Where in a record the event is: a key, keys separated by dots, [] for each element of an"
    " array, as in 'records[].properties.log'. What is there may be JSON text, or a list of"
    " events. Without this option: the record itself, else under 'log' or 'message'.",
)
@click.option(
    "--reduce",
    is_flag=True,
    help="Lower retained events to the level of their rule: take out the bodies that kube-apiserver"
    " would not have recorded.",
)
@click.option(
    "--level-match",
    type=click.Choice(["kubernetes", "exact"]),
    default="kubernetes",
    show_default=True,
    help="exact: read the policy as k8s-audit-filter documents it: a rule of level Metadata, Request"
    " or RequestResponse matches only events recorded at that level, and rules may have 'codes'.",
)
@click.option(
    "--lenient",
    is_flag=True,
    help="Accept unknown and duplicate fields in the policy with a warning, as kube-apiserver does.",
)
@click.option(
    "--max-record-size",
    default="64M",
    show_default=True,
    metavar="BYTES",
    callback=_byte_size,
    help="A larger record is not held in memory: it passes on undecided.",
)
@click.option(
    "--shutdown-grace",
    type=float,
    callback=_seconds,
    default=8.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to go on after SIGTERM or SIGINT while the input has not ended.",
)
def exec_command(
    policy_name: str,
    format_: Format,
    event_path: tuple[Step, ...] | None,
    reduce: bool,
    level_match: LevelMatch,
    lenient: bool,
    max_record_size: int,
    shutdown_grace: float,
) -> int:
    """Read records on stdin, write those that the policy keeps to stdout.

    For Fluentd's exec_filter, and for shell pipes:

    \b
      kube-audit-filter exec --format json --policy builtin:recommended < audit.log > kept.log

    Only an audit event that the policy does not keep is dropped. What is no audit event, or can't
    be read, passes on and is counted. The last line on stderr sums up. The filter ends when its
    input ends.
    """
    diagnostics = Diagnostics()
    out = exec_filter.take_stdout()
    policy = _load_policy(policy_name, strict=not lenient, codes=level_match == "exact")
    for warning in policy.warnings:
        diagnostics.say(f"warning: {warning}")
    framing: Framing = (
        MsgpackFraming(max_record_size) if format_ == "msgpack" else JSONLinesFraming(max_record_size)
    )
    records = RecordFilter(
        PolicyEvaluator(policy, level_match=level_match),
        format=format_,
        event_path=event_path,
        reduce=reduce,
        on_error=lambda error: diagnostics.rarely("error", f"a record passed on undecided: {error!r}"),
    )
    stream = FilterStream(framing, records)
    status = exec_filter.run(stream, out, diagnostics, shutdown_grace)
    if stream.undecided == stream.totals.records > 0:
        diagnostics.say("no record was an audit event: see --format and --event-key")
    diagnostics.say(stream.summary())
    return status


def _load_policy(name: str, *, strict: bool, codes: bool) -> Policy:
    if not name.startswith(policies.PREFIX):
        return Policy.from_file(name, strict=strict, codes=codes)
    try:
        path = policies.path(name.removeprefix(policies.PREFIX))
    except KeyError:
        known = ", ".join(policies.PREFIX + known for known in policies.names())
        raise click.BadParameter(
            f"{name!r} is not built in; there is {known}", param_hint="--policy"
        ) from None
    return Policy.from_file(path, strict=strict, codes=codes)


def _report_policy_error(error: PolicyError) -> None:
    count = len(error.problems)
    message = f"{error}\n{error.source} is not used: {count} error{'s' if count > 1 else ''}"
    if all(problem.lenient for problem in error.problems):
        message += "; --lenient accepts it as kube-apiserver would"
    Diagnostics().say(message)
