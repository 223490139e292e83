"""``python -m kube_audit_filter``, and the command ``kube-audit-filter``."""

from __future__ import annotations

import sys

from .service.signals import hold_back

# An agent may signal its whole process group at any moment, and a filter has to survive that. Its handlers
# can't work before they are imported. So signals are held back from here on, before the rest is imported.
if sys.argv[1:2] in (["exec"], ["forward"]):
    hold_back()


def main() -> None:
    """Run the command line and exit."""
    from .cli.main import main as run  # noqa: PLC0415

    run()


if __name__ == "__main__":
    main()
