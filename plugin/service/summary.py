"""What a filter has done, as text: the last lines of its log, and a part of warnings."""

from __future__ import annotations

from collections import Counter

from ..records.counters import Counters


def describe_undecided(counters: Counters) -> str:
    """How many records went on without a decision, by reason: ``not_an_event=3 undecodable=1``."""
    return " ".join(f"{reason}={count}" for reason, count in sorted(counters.undecided.items()))


def summarize(counters: Counters) -> str:
    """What the rules dropped, and the totals, on a line each."""
    why = describe_undecided(counters)
    dropped: Counter[str] = Counter()
    unmatched = reduced = redacted = 0
    for tally in counters.tallies():
        reduced += tally.reduced
        redacted += tally.redacted
        if tally.drop_reason == "no_rule_matched":
            unmatched += tally.events
        elif tally.drop_reason is not None:
            dropped[tally.rule] += tally.events
    by_rule = " ".join(f"{rule}={count}" for rule, count in dropped.items() if count)
    seldom = {
        "split": counters.split,
        "split_into": counters.split and counters.split + counters.added,
        "not_split": counters.not_split,
        "redacted": redacted,
        "not_redacted": counters.not_redacted,
        "not_reduced": counters.not_reduced,
        "undecided_list_items": counters.undecided_items,
        "dropped_group_markers": counters.dropped_markers,
        "internal_errors": counters.faults,
    }
    dropped_by_rule = f"events dropped by rule: {by_rule}\n" if by_rule else ""
    dropped_by_none = f"events dropped because no rule matched: {unmatched}\n" if unmatched else ""
    return (
        f"{dropped_by_rule}{dropped_by_none}"
        f"records in={counters.records} kept={counters.kept} dropped={counters.dropped}"
        f" undecided={counters.undecided_records}{f' ({why})' if why else ''}"
        f" rewritten={counters.rewritten} reduced={reduced}"
        f"{''.join(f' {name}={count}' for name, count in seldom.items() if count)}"
        f" bytes in={counters.bytes_in} out={counters.bytes_out}{_describe_dry_run(counters)}"
    )


def _describe_dry_run(counters: Counters) -> str:
    would = counters.dry_run_bytes_out
    if would is None:
        return ""
    return f"; dry run: nothing was dropped or changed, and bytes out would have been {would}"
