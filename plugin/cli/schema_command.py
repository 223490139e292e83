"""``kube-audit-filter schema``: the JSON Schema of the policy formats, for editors."""

from __future__ import annotations

import json
import sys

import click

from filter_engine.loading.json_schema import json_schema
from filter_engine.model import Kind

from ..service.files import replace_file

STDIO = "-"


@click.command("schema", short_help="Write the JSON Schema of policies, for editors.")
@click.argument("kind", type=click.Choice(["Policy", "FilterPolicy"]), required=False)
@click.option(
    "-o",
    "--output",
    default=STDIO,
    show_default=True,
    metavar="FILE",
    help="The file to write the schema to; - is stdout. The file is replaced as a whole, or not at all.",
)
def schema_command(kind: Kind | None, output: str) -> None:
    """Write the JSON Schema (2020-12) of a kind of policies, or without a kind one that takes both.

    Editors complete and check policies with it.

    \b
      kube-audit-filter schema -o audit-policy.schema.json

    The first line of a policy then names the file:

    \b
      # yaml-language-server: $schema=audit-policy.schema.json
    """
    data = json.dumps(json_schema(kind), indent=2).encode("ascii") + b"\n"
    if output == STDIO:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        replace_file(output, data)
