"""The classes of texts are all that there are."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filter_engine.analysis import text_classes
from filter_engine.analysis.text_classes import TooManyClassesError, other_examples
from filter_engine.analysis.world import PathTracker, is_other_path
from filter_engine.patterns import Pattern, parse_pattern

TEXTS = ["".join(letters) for length in range(1, 6) for letters in product("abc", repeat=length)]
patterns = (
    st.text("ab*", min_size=1, max_size=4).map(parse_pattern).filter(lambda each: isinstance(each, Pattern))
)


@given(
    st.lists(st.lists(patterns, min_size=1, max_size=3).map(tuple), max_size=3),
    st.sets(st.sampled_from(TEXTS[:12]), max_size=4),
)
def test_there_is_an_example_of_each_class_and_no_other(sets, words):
    examples = other_examples(sets, words)

    def class_of(text):
        return frozenset(each for each in sets if any(pattern.matches(text) for pattern in each))

    assert not words & {*examples, ""}
    assert {class_of(text) for text in TEXTS if text not in words} <= set(map(class_of, examples))
    assert len(set(map(class_of, examples))) == len(examples)


def test_a_class_of_words_alone_has_no_example():
    sets = [(parse_pattern(each),) for each in ("a*", "*a", "a*a")]
    assert sorted(other_examples(sets, [])) == ["a", "aa", "ax", "x", "xa"]
    assert sorted(other_examples(sets, ["a"])) == ["aa", "ax", "x", "xa"]


def test_the_patterns_of_one_condition_do_not_multiply():
    patterns = tuple(parse_pattern(f"*a{number}*") for number in range(200))
    assert len(other_examples([patterns], [])) == 2


def test_more_classes_than_can_be_looked_at_are_an_error(monkeypatch):
    monkeypatch.setattr(text_classes, "MAX_STATES", 50)
    with pytest.raises(TooManyClassesError, match="more than 50 states"):
        other_examples([(parse_pattern(f"*{letter}*"),) for letter in "abcdefgh"], [])


@given(
    st.text("/apisx", max_size=8),
    st.sampled_from(["", "/api", "/apis", "/api/v1", "/apis/apps/v1", "/api/v1/pods"]),
)
def test_the_tracker_of_paths_agrees_with_the_parser_of_paths(text, start):
    path, tracker = start + text, PathTracker()
    state = tracker.start
    for letter in path:
        state = tracker.step(state, letter)
        if state is None:
            break
    assert (state is not None and tracker.accepts(state)) == is_other_path(path)
