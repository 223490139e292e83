"""``python -m kube_audit_filter``, and the command ``kube-audit-filter``."""

from __future__ import annotations

import sys
from typing import NoReturn

from .service.signals import hold_back


def main() -> NoReturn:
    """Run the command line and exit."""
    if sys.argv[1:2] in (["exec"], ["forward"]):
        # An agent may signal its whole process group at any moment. The filter goes on then, which it
        # can't see to before the imports below are done.
        hold_back()
    from .cli.main import main as run  # noqa: PLC0415

    run()


if __name__ == "__main__":
    main()
