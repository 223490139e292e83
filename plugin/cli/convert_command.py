"""``kube-audit-filter convert``: other policies as a FilterPolicy."""

from __future__ import annotations

import sys

import click

from filter_engine.conversion import to_filter_policy, to_yaml
from filter_engine.evaluator import LevelMatch

from ..service.files import replace_file
from ..service.policy_source import PolicySource
from ..service.policy_watch import open_policy, read_limited
from .options import LENIENT, LEVEL_MATCH, policy_name

STDIO = "-"


@click.command(
    "convert",
    short_help="Rewrite a policy as a FilterPolicy.",
    params=[
        click.Argument(["name"], metavar="POLICY", callback=policy_name),
        click.Option(
            ["-o", "--output"],
            default=STDIO,
            show_default=True,
            metavar="FILE",
            help="The file to write the FilterPolicy to; - is stdout. The file is replaced as a whole, or not"
            " at all.",
        ),
        LENIENT,
        LEVEL_MATCH,
    ],
)
def convert_command(name: str, output: str, lenient: bool, level_match: LevelMatch) -> None:
    """Rewrite POLICY as a FilterPolicy that keeps and drops the same events.

    POLICY is an audit policy of Kubernetes, or OpenShift's kubeAPIAudit filter: a ClusterLogForwarder, or the
    filter alone. It may also be a built-in policy, a part of another file (FILE#PART), or - for stdin.

    \b
      kube-audit-filter convert audit-policy.yaml -o filter-policy.yaml
      kube-audit-filter convert clusterlogforwarder.yaml#my-filter

    Names with a * or a backslash in them are escaped, because these have a meaning in a FilterPolicy.
    """
    source = PolicySource(name, lenient, level_match)
    path = source.path()
    if path == STDIO:
        shown, data = "standard input", read_limited(sys.stdin.buffer, "standard input")
    else:
        with open_policy(path) as file:
            shown, data = path, read_limited(file, path)
    policy = to_filter_policy(source.parse(data, source=shown), level_match=level_match)
    text = to_yaml(policy, source="standard input" if path == STDIO else name).encode()
    if output == STDIO:
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()
    else:
        replace_file(output, text)
