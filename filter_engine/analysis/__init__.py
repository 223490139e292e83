"""Questions about policies, answered as data. Nothing here prints."""

from filter_engine.analysis.finding import IDS, Finding
from filter_engine.analysis.findings import find

__all__ = ["IDS", "Finding", "find"]
