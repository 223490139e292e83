"""``kube-audit-filter explain``: why a policy keeps or drops an event."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from filter_engine import Policy
from filter_engine.analysis.explain import Explainer
from filter_engine.analysis.requests import event_of
from filter_engine.evaluator import LevelMatch

from ..service.policy_source import PolicySource
from ..service.policy_watch import open_policy, read_limited
from ..workbench.events import NotAnEventError, read_events
from ..workbench.explanation import as_data, as_text, describe, verdict
from .options import LENIENT, LEVEL_MATCH, REDUCE, policy_name

STDIO = "-"


@click.command(
    "explain",
    short_help="Say why a policy keeps or drops an event.",
    params=[
        click.Argument(["name"], metavar="POLICY", callback=policy_name),
        click.Argument(["files"], metavar="[EVENT]...", nargs=-1),
        click.Option(
            ["--as", "user"], metavar="USER", help="Explain a request of this user instead of an event."
        ),
        click.Option(
            ["--group", "groups"],
            metavar="GROUP",
            multiple=True,
            help="A group of the user; may be repeated. Service accounts, nodes and system:anonymous have"
            " their own groups, everybody else system:authenticated.",
        ),
        click.Option(["--verb"], metavar="VERB", help="What the user does: get, list, create, delete, …"),
        click.Option(
            ["--resource"],
            metavar="RESOURCE[.GROUP][/SUBRESOURCE]",
            help="What it is done to: pods, deployments.apps, pods/exec.",
        ),
        click.Option(["--name", "object_name"], metavar="NAME", help="The name of the object."),
        click.Option(["--namespace", "-n"], metavar="NAMESPACE", help="The object's namespace."),
        click.Option(["--url"], metavar="PATH", help="The path of a request that is not for a resource."),
        click.Option(
            ["--code"], type=click.IntRange(100, 999), help="The response code. [default: 200 or 201]"
        ),
        click.Option(
            ["--stage"], default="ResponseComplete", show_default=True, metavar="STAGE", help="The stage."
        ),
        click.Option(["--all", "one_line"], is_flag=True, help="Write one line for each event."),
        REDUCE,
        LENIENT,
        LEVEL_MATCH,
        click.Option(
            ["--output"],
            type=click.Choice(["text", "json"]),
            default="text",
            show_default=True,
            help="text, or one JSON object for each event.",
        ),
    ],
)
def explain_command(  # noqa: PLR0913 - one for each option
    *,
    name: str,
    files: tuple[str, ...],
    one_line: bool,
    reduce: bool,
    lenient: bool,
    level_match: LevelMatch,
    output: str,
    **request: Any,
) -> None:
    """Say rule by rule why POLICY keeps or drops each EVENT: which condition decided, and what it saw.

    EVENT is a file with one or more audit events, as JSON or YAML or as lines of JSON; - or nothing is stdin.
    In place of an event, options can say what was requested.

    \b
      kube-audit-filter explain policy.yaml event.json
      kube-audit-filter explain policy.yaml --all < audit.log
      kube-audit-filter explain policy.yaml --as alice --verb delete --resource pods -n shop
    """
    policy = _read_policy(PolicySource(name, lenient, level_match))
    explainer = Explainer(policy, level_match=level_match, reduce=reduce)
    is_request = any(value for option, value in request.items() if option != "stage")
    if is_request and files:
        raise click.UsageError("explain a request (--as, --verb, …) or events, not both")
    events = iter([("request", _event(request))]) if is_request else _events(files)
    fates: Counter[str] = Counter()
    try:
        for where, event in events:
            explained = explainer.explain(event)
            fates["dropped" if explained.changed is None else "kept"] += 1
            if output == "json":
                click.echo(json.dumps(as_data(policy, explained, where), ensure_ascii=False))
            elif one_line:
                click.echo(f"{where}: {describe(event)}: {verdict(policy, explained, name)}")
            else:
                click.echo(as_text(policy, explained, event, name) + "\n")
    except NotAnEventError as error:
        raise click.ClickException(str(error)) from None
    if one_line and output == "text":
        click.echo(f"kept={fates['kept']} dropped={fates['dropped']}", err=True)


def _read_policy(source: PolicySource) -> Policy:
    path = source.path()
    with open_policy(path) as file:
        return source.parse(read_limited(file, path), source=path)


def _events(files: tuple[str, ...]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name in files or (STDIO,):
        if name == STDIO:
            yield from read_events(sys.stdin.buffer.read(), "standard input")
        else:
            yield from read_events(Path(name).read_bytes(), name)


def _event(request: Mapping[str, Any]) -> dict[str, Any]:
    """The event of a request that options describe."""
    if request["verb"] is None or (request["resource"] is None) == (request["url"] is None):
        raise click.UsageError("a request has a --verb, and either a --resource or a --url")
    given = {name: value for name, value in request.items() if value is not None}
    given["name"] = given.pop("object_name", "")
    return event_of(**given)
