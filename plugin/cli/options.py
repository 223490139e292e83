"""Options of the command line that more than one command has, and the types of their values."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from .. import policies
from ..records.event_path import parse_event_path
from ..records.limits import MAX_DEPTH, Limits
from ..service.diagnostics import SEVERITIES
from ..service.listen import Listen

Command = TypeVar("Command", bound=Callable[..., Any])


Callback = Callable[[click.Context, click.Parameter, Any], Any]
MAX_SECONDS = 86_400


def seconds(_: click.Context, __: click.Parameter, value: float) -> float:
    """Seconds, up to a day."""
    if not 0 <= value <= MAX_SECONDS:
        raise click.BadParameter(f"expected seconds, from 0 to {MAX_SECONDS}; found {value}")
    return value


def byte_size(least: int) -> Callback:
    """Bytes, with K, M or G behind the number or without, and at least so many."""

    def convert(_: click.Context, __: click.Parameter, text: str) -> int:
        units = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
        match = re.fullmatch(r"([0-9]{1,10})([KMG]?)", text, re.IGNORECASE)
        size = int(match[1]) * units[match[2].upper()] if match else -1
        if not least <= size <= units["G"]:
            raise click.BadParameter(
                f"expected bytes, from {least} to 1G, such as 65536, 512K or 64M; found {text!r}"
            )
        return size

    return convert


def parsed(parse: Callable[[str], Any]) -> Callback:
    """What a function reads, which raises ValueError for what it does not understand."""

    def convert(_: click.Context, __: click.Parameter, text: str | None) -> Any:
        try:
            return None if text is None else parse(text)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return convert


def all_options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


# How a policy is read.
reading_options = all_options(
    click.option(
        "--lenient",
        is_flag=True,
        help="Accept unknown and duplicate fields in the policy with a warning, as kube-apiserver does.",
    ),
    click.option(
        "--level-match",
        type=click.Choice(["kubernetes", "exact"]),
        default="kubernetes",
        show_default=True,
        help="exact: read the policy as k8s-audit-filter documents it: a rule of level Metadata, Request"
        " or RequestResponse matches only events recorded at that level, and rules may have 'codes'.",
    ),
)

policy_options = all_options(
    click.option(
        "--policy",
        "policy_name",
        required=True,
        metavar="FILE",
        help=f"The audit policy, YAML or JSON; {policies.PREFIX}NAME is one that ships with this program"
        f" ({', '.join(policies.names())}).",
    ),
    reading_options,
    click.option(
        "--reload-interval",
        type=float,
        callback=seconds,
        default=5.0,
        show_default=True,
        metavar="SECONDS",
        help="How often to look whether the policy's content has changed; 0: only on SIGHUP.",
    ),
    click.option(
        "--wait-for-policy",
        is_flag=True,
        help="If the policy can't be used at the start, read nothing until it can, instead of ending.",
    ),
)

record_options = all_options(
    click.option(
        "--event-key",
        "event_path",
        metavar="PATH",
        callback=parsed(parse_event_path),
        help="Where in a record the event is: a key, keys separated by dots, [] for each element of an"
        " array, as in 'records[].properties.log'. What is there may be JSON text, or a list of"
        " events. Without this option: the record itself, else under 'log' or 'message'.",
    ),
    click.option(
        "--reduce",
        is_flag=True,
        help="Reduce kept events to the level of their rule: take out the bodies that kube-apiserver"
        " would not have recorded.",
    ),
)

max_record_size_option = click.option(
    "--max-record-size",
    callback=byte_size(1),
    default="64M",
    show_default=True,
    metavar="BYTES",
    help="A larger record is not held in memory: it goes on undecided.",
)

limit_options = all_options(
    click.option(
        "--max-depth",
        type=click.IntRange(10, MAX_DEPTH),
        default=Limits.depth,
        show_default=True,
        metavar="LEVELS",
        help="A record nested deeper goes on undecided.",
    ),
    click.option(
        "--max-list-items",
        type=click.IntRange(1, 10_000_000),
        default=Limits.list_items,
        show_default=True,
        metavar="COUNT",
        help="A record with a list of more events goes on undecided.",
    ),
    click.option(
        "--memo-size",
        callback=byte_size(0),
        default="16M",
        show_default=True,
        metavar="BYTES",
        help="Memory for decisions made; 0: decide anew on each event.",
    ),
)

log_options = all_options(
    click.option(
        "--log-file",
        metavar="FILE",
        help="Append messages to this file, not to stderr. It is opened again when it was moved away,"
        " and on SIGHUP.",
    ),
    click.option(
        "--log-level",
        type=click.Choice(SEVERITIES),
        default="info",
        show_default=True,
        help="Leave out messages below this level.",
    ),
    click.option(
        "--log-format",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="json: one object a message.",
    ),
)

metrics_options = all_options(
    click.option(
        "--metrics-listen",
        metavar="HOST:PORT[-PORT]",
        callback=parsed(Listen.parse),
        help="Serve /metrics for Prometheus, /healthz and /readyz over HTTP, on the first port of the"
        " range that is free.",
    ),
    click.option(
        "--metrics-textfile",
        metavar="DIRECTORY",
        help="Write metrics to a file in this directory every 15 s, for node_exporter's textfile collector.",
    ),
)
