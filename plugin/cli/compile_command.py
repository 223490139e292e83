"""``kube-audit-filter compile``: a policy as a Lua script for Fluent Bit."""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO

import click

from ..compiler.lua.compiler import REPORT_INTERVAL, LuaOptions, compile_policy
from ..service.diagnostics import Diagnostics
from ..service.files import replace_file
from ..service.policy_source import PolicySource
from ..service.policy_watch import open_policy, read_limited, warn_of
from .groups import GroupedCommand, OptionGroup
from .options import DRY_RUN, EVENT_KEY, LENIENT, LEVEL_MATCH, REDUCE, SPLIT, policy_name
from .settings import RecordSettings

STDIO = "-"


POLICY = OptionGroup(
    "Policy",
    [click.Argument(["policy_name"], metavar="POLICY", callback=policy_name), LENIENT, LEVEL_MATCH],
    "policy",
    PolicySource,
)
RECORDS = OptionGroup("Records", [EVENT_KEY, REDUCE, SPLIT, DRY_RUN], "records", RecordSettings)
SCRIPT = OptionGroup(
    "Script",
    [
        click.Option(
            ["-o", "--output"],
            default=STDIO,
            show_default=True,
            metavar="FILE",
            help="The file to write the script to; - is stdout. The file is replaced as a whole, or not at"
            " all.",
        ),
        click.Option(
            ["--report-interval"],
            type=click.IntRange(0, 86_400),
            default=REPORT_INTERVAL,
            show_default=True,
            metavar="SECONDS",
            help="How often the script writes its counters to Fluent Bit's stderr. With 0 it writes them"
            " only when it ends.",
        ),
    ],
)


@dataclass(frozen=True)
class CompileSettings:
    """What ``compile`` takes.

    Attributes:
        output: the file to write, or ``-`` for stdout.
        report_interval: seconds between two lines with the counters; with 0 there is only one at the end.
    """

    policy: PolicySource
    records: RecordSettings
    output: str
    report_interval: int


@click.command(
    "compile",
    cls=GroupedCommand,
    groups=[SCRIPT, POLICY, RECORDS],
    settings=CompileSettings,
    short_help="Write a policy as a Lua script for Fluent Bit.",
)
@click.pass_obj
def compile_command(diagnostics: Diagnostics, settings: CompileSettings) -> None:
    """Write a policy as one Lua script, which Fluent Bit runs without Python.

    POLICY is the audit policy, YAML or JSON. It may also be builtin:recommended, which ships with this
    program, or - for stdin.

    \b
      kube-audit-filter compile policy.yaml -o policy.lua

    \b
      [FILTER]
          Name    lua
          Match   kube-audit.*
          Script  /etc/fluent-bit/policy.lua
          Call    kube_audit_filter

    The script decides as exec does: only an audit event that the policy does not keep is dropped. A policy
    with a rule that redacts is refused, because the script can't redact: take exec or forward for it.
    """
    wanted, output = settings.policy, settings.output
    path = wanted.path()
    source = _read(path, output)
    name = "standard input" if path == STDIO else path
    policy = wanted.parse(source, source=name)
    warn_of(policy, name, wanted.level_match, diagnostics)
    script = compile_policy(
        policy,
        source=source,
        name="standard input" if path == STDIO else Path(path).name,
        version=version("kube-audit-filter"),
        options=LuaOptions(
            settings.records.event_path,
            settings.records.reduce,
            settings.records.split,
            settings.records.dry_run,
            wanted.level_match,
            wanted.lenient,
            settings.report_interval,
        ),
    ).encode("ascii")
    if output == STDIO:
        sys.stdout.buffer.write(script)
        sys.stdout.buffer.flush()
    else:
        replace_file(output, script)


def _read(path: str, output: str) -> bytes:
    """The policy's text. Raises OSError, and click.BadParameter if the output is the same file."""
    if path == STDIO:
        return _read_from(sys.stdin.buffer, "standard input", output)
    with open_policy(path) as file:
        return _read_from(file, path, output)


def _read_from(file: BinaryIO, name: str, output: str) -> bytes:
    if output != STDIO and _is_same(file, output):
        raise click.BadParameter(
            f"{output} is the policy's own file, and the script would overwrite it. Name another file, such"
            " as policy.lua",
            param_hint="--output",
        )
    return read_limited(file, name)


def _is_same(file: BinaryIO, name: str) -> bool:
    """Whether an open file is a regular file, and a name leads to it, by whatever path or link."""
    opened = os.fstat(file.fileno())
    try:
        return stat.S_ISREG(opened.st_mode) and os.path.samestat(opened, Path(name).stat())
    except OSError:
        return False  # it is a new file, or one that can't be written either
