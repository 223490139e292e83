"""What a filter has done, in words: its last lines, and its warnings."""

from __future__ import annotations

from collections import Counter

from ..records.counters import Totals
from ..records.record_filter import RecordFilter


def describe_undecided(records: RecordFilter) -> str:
    """How many records passed without a decision, by reason: ``not_an_event=3 undecodable=1``."""
    return " ".join(f"{reason}={count}" for reason, count in sorted(records.undecided.items()))


def summarize(totals: Totals, records: RecordFilter) -> str:
    """What the rules dropped, and the totals; a line each."""
    why = describe_undecided(records)
    dropped: Counter[str] = Counter()
    reduced = 0
    for tally in records.tallies.all():
        reduced += tally.reduced
        if tally.drop_reason is not None:
            dropped[tally.rule] += tally.events
    by_rule = " ".join(f"{rule}={count}" for rule, count in dropped.items() if count)
    not_reduced = f" not_reduced={records.not_reduced}" if records.not_reduced else ""
    items = f" undecided_list_items={records.undecided_items}" if records.undecided_items else ""
    return (f"events dropped by rule: {by_rule}\n" if by_rule else "") + (
        f"records in={totals.records} kept={totals.kept} dropped={totals.dropped}"
        f" undecided={totals.undecided}{f' ({why})' if why else ''}"
        f" rewritten={totals.rewritten} reduced={reduced}{not_reduced}{items}"
        f" bytes in={totals.bytes_in} out={totals.bytes_out}"
    )
