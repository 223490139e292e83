"""The command line. Results go to stdout, diagnostics to stderr.

Exit status: 0 done; 1 wrong usage, or input or output failed; 2 the policy can't be used; 130 (as a
shell says it) stopped by SIGINT.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import NoReturn

import click

from filter_engine import PolicyError

from ..service.diagnostics import Diagnostics
from ..service.policy_watch import refusal

EXIT_FAILED, EXIT_POLICY = 1, 2
# The status that shells give to a process that SIGINT ended. A command that has to end so returns it.
EXIT_INTERRUPTED = 128 + signal.SIGINT


def main() -> NoReturn:
    """Run the command line and exit."""
    diagnostics = Diagnostics()
    try:
        # A command returns its exit status; so does click, after --help and --version.
        status = cli.main(prog_name="kube-audit-filter", standalone_mode=False, obj=diagnostics)
    except click.ClickException as error:
        error.show()
        sys.exit(EXIT_FAILED)
    except click.Abort:
        sys.exit(EXIT_FAILED)
    except PolicyError as error:
        diagnostics.error(*refusal(error))
        sys.exit(EXIT_POLICY)
    except OSError as error:
        diagnostics.error(f"{error.filename or 'error'}: {error.strerror}")
        sys.exit(EXIT_FAILED)
    if status == EXIT_INTERRUPTED:
        _end_by(signal.SIGINT)
    sys.exit(status)


def _end_by(number: signal.Signals) -> None:
    """End by a signal, as if it were not handled, so that a shell's loop around this process ends too."""
    signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    os.kill(os.getpid(), number)


class _Commands(click.Group):
    """The commands. Each is imported when it is used: exec must not wait for what only forward needs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return ["compile", "convert", "exec", "explain", "forward", "schema", "test"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        name = f"{cmd_name}_command"
        command = getattr(importlib.import_module(f"{__package__}.{name}"), name)
        assert isinstance(command, click.Command)
        return command


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="kube-audit-filter")
def cli() -> None:
    """Apply a Kubernetes audit policy in the log pipeline.

    A log agent hands its records to this filter. The filter decides on each of them by an ordinary
    audit.k8s.io/v1 Policy, as kube-apiserver would, and hands back the records that the policy keeps,
    byte for byte as they came.
    """
