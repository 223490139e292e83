"""Questions about policies, answered as data. Prints nothing."""

from filter_engine.analysis.finding import IDS, Finding
from filter_engine.analysis.findings import find

__all__ = ["IDS", "Finding", "find"]
