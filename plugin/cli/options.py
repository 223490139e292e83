"""Options of the command line that more than one command has, and the types of their values."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import click

from filter_engine.loading.filter_policy_validation import METHODS
from filter_engine.model import Method, Redaction
from filter_engine.redaction.kinds import check_redact

from .. import policies
from ..records.event_path import parse_event_path
from ..records.limits import MAX_DEPTH, Limits
from ..service.diagnostics import SEVERITIES
from ..service.listen import Listen
from .groups import OptionGroup
from .settings import LogSettings, MetricsSettings, PolicySettings

Callback = Callable[[click.Context, click.Parameter, Any], Any]
MAX_SECONDS = 86_400


def seconds(_: click.Context, __: click.Parameter, value: float) -> float:
    """Seconds, up to a day."""
    if not 0 <= value <= MAX_SECONDS:
        raise click.BadParameter(f"expected seconds, from 0 to {MAX_SECONDS}; found {value}")
    return value


def byte_size(least: int, most: int = 1 << 30) -> Callback:
    """A number of bytes from ``least`` to ``most``, that may have K, M or G behind it; None stays None."""

    def convert(_: click.Context, __: click.Parameter, text: str | None) -> int | None:
        if text is None:
            return None
        units = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
        match = re.fullmatch(r"([0-9]{1,10})([KMG]?)", text, re.IGNORECASE)
        size = int(match[1]) * units[match[2].upper()] if match else -1
        if not least <= size <= most:
            raise click.BadParameter(
                f"expected bytes, from {least} to {most >> 30}G, such as 65536, 512K or 64M; found {text!r}"
            )
        return size

    return convert


def parsed(parse: Callable[[str], Any]) -> Callback:
    """The value that a function reads from the text. It raises ValueError for other texts."""

    def convert(_: click.Context, __: click.Parameter, text: str | None) -> Any:
        try:
            return None if text is None else parse(text)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return convert


def each(parse: Callable[[str], Any]) -> Callback:
    """The same for an option that may be repeated."""
    one = parsed(parse)
    return lambda context, parameter, texts: tuple(one(context, parameter, text) for text in texts)


def policy_name(_: click.Context, __: click.Parameter, name: str) -> str:
    """A file, or a policy that ships with this program."""
    if name.startswith(policies.PREFIX) and name.removeprefix(policies.PREFIX) not in policies.names():
        raise click.BadParameter(f"{name!r} is not built in; there is {BUILT_IN}")
    return name


def redact(text: str) -> str:
    """A path, or the name of a set, of what is redacted. Raises ValueError for other texts."""
    try:
        check_redact(text)
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from None
    return text


BUILT_IN = ", ".join(policies.PREFIX + name for name in policies.names())

LENIENT = click.Option(
    ["--lenient"],
    is_flag=True,
    help="Accept unknown and duplicate fields in the policy with a warning, as kube-apiserver does."
    " Without this option they are errors.",
)
LEVEL_MATCH = click.Option(
    ["--level-match"],
    type=click.Choice(["kubernetes", "exact"]),
    default="kubernetes",
    show_default=True,
    help="kubernetes: a rule may match an event of any level. exact: the policy is read as"
    " k8s-audit-filter documents it: a rule of level Metadata, Request or RequestResponse matches only"
    " events recorded at that level, and a rule may have the field 'codes'.",
)
REDACT = (
    click.Option(
        ["--redact"],
        metavar="PATH",
        multiple=True,
        callback=each(redact),
        help="Redact this in all kept events: builtin:secrets, builtin:personal, or a path such as"
        " 'requestObject.data.*'. The option may be repeated. A FilterPolicy can say the same for each rule.",
    ),
    click.Option(
        ["--redact-method"],
        type=click.Choice(METHODS),
        help="What comes in the place of a redacted value. mask: the text REDACTED. remove: nothing. hash: a"
        " keyed hash, so that equal values can be told. The default is mask, or what the policy says.",
    ),
    click.Option(
        ["--redact-key-file"],
        metavar="FILE",
        help="The key for hashes: a file of 16 to 4096 bytes.",
    ),
)


def policy_settings(
    *, redact: tuple[str, ...], redact_method: Method | None, redact_key_file: str | None, **values: Any
) -> PolicySettings:
    """The settings of the policy, from the options of their group.

    Raises:
        click.UsageError: options are missing, or don't go together.
    """
    if (redact_method == "hash") != (redact_key_file is not None):
        raise click.UsageError("--redact-method hash and --redact-key-file go together: hashes need a key")
    if redact_method and not redact:
        raise click.UsageError("--redact-method says how to redact what --redact names: --redact is missing")
    redaction = Redaction(redact_method, redact_key_file or "") if redact_method else None
    return PolicySettings(**values, redact=redact, redaction=redaction)


POLICY = OptionGroup(
    "Policy",
    [
        click.Option(
            ["--policy", "policy_name"],
            required=True,
            metavar="FILE",
            callback=policy_name,
            help="The audit policy, YAML or JSON: a Policy, a FilterPolicy, or OpenShift's kubeAPIAudit"
            " filter. FILE#PART is a part of a file, such as configmap.yaml#data.policy.yaml. FILE may also"
            f" name a policy that ships with this program: {BUILT_IN}.",
        ),
        LENIENT,
        click.Option(
            ["--wait-for-policy", "policy_wait"],
            is_flag=True,
            help="If the policy can't be used at the start, read no input until it can. Without this option,"
            " the program ends with an error.",
        ),
        click.Option(
            ["--reload-interval"],
            type=float,
            callback=seconds,
            default=PolicySettings.reload_interval,
            show_default=True,
            metavar="SECONDS",
            help="How often to check whether the policy's content has changed. 0 turns the check off; the"
            " policy is then read again only on SIGHUP.",
        ),
        LEVEL_MATCH,
        *REDACT,
    ],
    "policy",
    policy_settings,
)

EVENT_KEY = click.Option(
    ["--event-key", "event_path"],
    metavar="PATH",
    callback=parsed(parse_event_path),
    help="Where the event is in a record: a key, or keys separated by dots. [] stands for each element of"
    " an array, as in 'records[].properties.log'. The value there may also be JSON text or a list of"
    " events. Without this option the event is the record itself, or the value of 'log' or 'message'.",
)
REDUCE = click.Option(
    ["--reduce"],
    is_flag=True,
    help="Reduce kept events to the level of their rule: remove the bodies that kube-apiserver would not"
    " have recorded at that level.",
)
SPLIT = click.Option(
    ["--split"],
    is_flag=True,
    help="Let a record with a list of events, such as the audit webhook's EventList, go on as one record for"
    " each event that is left. A log entry gets the event's own time; in a compiled policy, a second filter"
    " sets it.",
)


DRY_RUN = click.Option(
    ["--dry-run"],
    is_flag=True,
    help="Decide and count as always, but drop and change nothing: every record goes on as it is. The summary"
    " and the metrics say what would have become of the records.",
)


LIMITS = OptionGroup(
    "Limits",
    [
        click.Option(
            ["--max-depth", "limits_depth"],
            type=click.IntRange(10, MAX_DEPTH),
            default=Limits.depth,
            show_default=True,
            metavar="LEVELS",
            help="How deeply a record may be nested. A record nested deeper goes on undecided.",
        ),
        click.Option(
            ["--max-list-items", "limits_list_items"],
            type=click.IntRange(1, 10_000_000),
            default=Limits.list_items,
            show_default=True,
            metavar="COUNT",
            help="How many events a list in a record may have. A record with a longer list goes on"
            " undecided.",
        ),
        click.Option(
            ["--max-groups", "limits_groups"],
            type=click.IntRange(1, 1_000_000),
            default=Limits.groups,
            show_default=True,
            metavar="COUNT",
            help="How many groups the user of an event may have, and how many addresses if the policy has"
            " sourceIPs. An event with more goes on undecided.",
        ),
        click.Option(
            ["--memo-size", "limits_memo_size"],
            callback=byte_size(0),
            default="16M",
            show_default=True,
            metavar="BYTES",
            help="Memory for remembered decisions. 0 turns remembering off.",
        ),
    ],
    "limits",
    Limits,
)

LOG = OptionGroup(
    "Logging",
    [
        click.Option(
            ["--log-file"],
            metavar="FILE",
            help="Append messages to this file instead of writing them to stderr. The file is opened again"
            " when it was moved away, and on SIGHUP.",
        ),
        click.Option(
            ["--log-level"],
            type=click.Choice(SEVERITIES),
            default="info",
            show_default=True,
            help="Write only messages of this severity or a higher one.",
        ),
        click.Option(
            ["--log-format"],
            type=click.Choice(["text", "json"]),
            default="text",
            show_default=True,
            help="text: plain lines. json: one JSON object per message.",
        ),
    ],
    "log",
    LogSettings,
)

METRICS = OptionGroup(
    "Metrics",
    [
        click.Option(
            ["--metrics-listen"],
            metavar="HOST:PORT[-PORT]",
            multiple=True,
            callback=each(Listen.parse),
            help="Serve /metrics for Prometheus, /healthz and /readyz over HTTP, on the first port of the"
            " range that is free, to anybody who can connect. The option may be repeated.",
        ),
        click.Option(
            ["--metrics-textfile"],
            metavar="DIRECTORY",
            help="Write metrics to a file in this directory every 15 s, for node_exporter's textfile"
            " collector.",
        ),
    ],
    "metrics",
    MetricsSettings,
)


def shutdown_options(default: float, text: str) -> OptionGroup:
    """The option for the grace period. Each command gives its own help text."""
    return OptionGroup(
        "Shutdown",
        [
            click.Option(
                ["--shutdown-grace"],
                type=float,
                callback=seconds,
                default=default,
                show_default=True,
                metavar="SECONDS",
                help=text,
            )
        ],
    )
