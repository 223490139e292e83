"""The exact analyses and an SMT solver agree on random pairs of policies: make oracle asks about 10,000."""

import os

import pytest

from filter_engine import Policy
from filter_engine.analysis.compare import compare
from filter_engine.analysis.reachability import reachability
from tests.filter_engine.analysis.oracle import World, random_pair

PAIRS = int(os.environ.get("PAIRS", "240"))
# Each part builds a world of its own, and runs beside the others.
PARTS = 6


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(PARTS))
def test_the_solver_agrees(part):
    world = World()
    for seed in range(part, PAIRS, PARTS):
        documents = random_pair(seed)
        old, new = map(Policy.from_dict, documents)
        before, after = map(world.level, documents)
        expected = {
            "lost": world.is_possible(before > 0, after == 0),
            "gained": world.is_possible(before == 0, after > 0),
            "lower": world.is_possible(before > after, after > 0),
            "higher": world.is_possible(before > 0, before < after),
        }
        comparison = compare(old, new)
        found = {change: bool(comparison.of(change)) for change in expected}
        assert found == expected, f"seed {seed}: {documents}"
        decides = [world.is_possible(each) for each in world.matches(documents[0])]
        reach = reachability(old)
        assert [rule.witness is not None for rule in reach.rules] == decides[:-1], (
            f"seed {seed}: {documents[0]}"
        )
        assert (reach.unmatched_witness is not None) == decides[-1], f"seed {seed}: {documents[0]}"
