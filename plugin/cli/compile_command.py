"""``kube-audit-filter compile``: a policy as a Lua script for Fluent Bit."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import click

from filter_engine import Policy
from filter_engine.evaluator import LevelMatch

from .. import policies
from ..compiler.lua.compiler import REPORT_INTERVAL, LuaOptions, compile_policy
from ..records.event_path import Step
from ..service.diagnostics import Diagnostics
from ..service.files import replace_file
from ..service.policy_watch import open_policy, read_limited, warn_of
from .options import reading_options, record_options

STDIO = "-"


@click.command("compile", short_help="Write a policy as a Lua script for Fluent Bit.")
@click.argument("policy_name", metavar="POLICY")
@click.option(
    "-o",
    "--output",
    default=STDIO,
    show_default=True,
    metavar="FILE",
    help="Where to write the script; - is stdout. A file is replaced as a whole, or not at all.",
)
@reading_options
@record_options
@click.option(
    "--report-interval",
    type=click.IntRange(0, 86_400),
    default=REPORT_INTERVAL,
    show_default=True,
    metavar="SECONDS",
    help="How often the script writes its counters to Fluent Bit's stderr; 0: only when it ends.",
)
@click.pass_obj
def compile_command(
    diagnostics: Diagnostics,
    *,
    policy_name: str,
    output: str,
    lenient: bool,
    level_match: LevelMatch,
    event_path: tuple[Step, ...] | None,
    reduce: bool,
    report_interval: int,
) -> None:
    """Write a policy as one Lua script, which Fluent Bit runs without Python.

    POLICY is the audit policy, YAML or JSON; builtin:NAME is one that ships with this program, and -
    is stdin.

    \b
      kube-audit-filter compile policy.yaml -o policy.lua

    \b
      [FILTER]
          Name    lua
          Match   kube-audit.*
          Script  /etc/fluent-bit/policy.lua
          Call    kube_audit_filter

    The script decides as exec does: only an audit event that the policy does not keep is dropped.
    """
    path = _path(policy_name)
    source = _read(path)
    name = "standard input" if path == STDIO else path
    policy = Policy.from_yaml(
        source,
        source=name,
        strict=not lenient,
        codes=level_match == "exact",
    )
    warn_of(policy, name, level_match, diagnostics)
    script = compile_policy(
        policy,
        source=source,
        name="standard input" if path == STDIO else Path(path).name,
        version=version("kube-audit-filter"),
        options=LuaOptions(event_path, reduce, level_match, lenient, report_interval),
    ).encode("ascii")
    if output == STDIO:
        sys.stdout.buffer.write(script)
        sys.stdout.buffer.flush()
    else:
        replace_file(output, script)


def _path(name: str) -> str:
    if not name.startswith(policies.PREFIX):
        return name
    try:
        return str(policies.path(name.removeprefix(policies.PREFIX)))
    except KeyError:
        known = ", ".join(policies.PREFIX + known for known in policies.names())
        raise click.BadParameter(f"{name!r} is not built in; there is {known}", param_hint="POLICY") from None


def _read(path: str) -> bytes:
    if path == STDIO:
        return read_limited(sys.stdin.buffer, path)
    with open_policy(path) as file:
        return read_limited(file, path)
