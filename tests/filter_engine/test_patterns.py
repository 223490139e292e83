"""Patterns of a FilterPolicy: compared with a regular expression that says the same."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filter_engine.patterns import Pattern, PatternIndex, Texts, escaped, parse_pattern

letters = st.text("ab*\\\n", max_size=8)
some_letters = st.lists(letters, max_size=8)


def says_the_same(pattern, text):
    """Whether a text fits a pattern, by a regular expression made letter by letter."""
    expression, at = "", 0
    while at < len(pattern):
        if pattern[at : at + 2] in ("\\*", "\\\\"):
            expression += re.escape(pattern[at + 1])
            at += 1
        else:
            expression += ".*" if pattern[at] == "*" else re.escape(pattern[at])
        at += 1
    return re.fullmatch(expression, text, re.DOTALL) is not None


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("system:node:*", ["system:node:n1", "system:node:"], ["system:node", "x system:node:n1"]),
        ("*-controller", ["a-controller", "-controller"], ["a-controllers", "controller"]),
        ("a*b*c", ["abc", "a b c", "abbcc"], ["ac", "acb", "ab"]),
        ("*mid*", ["mid", "amidb"], ["mi", "im", ""]),
        ("ab*ba", ["abba", "ab ba"], ["aba", "ab"]),
        ("*", ["", "anything", "a\nb"], []),
        ("**", ["", "anything"], []),
        (r"a\*", ["a*"], ["a", "ab", "a\\*"]),
        (r"DOMAIN\user*", [r"DOMAIN\user1"], ["DOMAINuser1", "DOMAIN"]),
        (r"a\\*", ["a\\", "a\\b"], ["a", "ab"]),
        ("", [""], ["a"]),
        ("?[a]", ["?[a]"], ["xa"]),
    ],
)
def test_a_star_is_any_run_of_characters_and_everything_else_is_itself(pattern, matching, others):
    texts = Texts([pattern], patterns=True)
    assert [text for text in (*matching, *others) if texts.matches(text)] == matching


@given(pattern=letters, text=letters)
def test_a_pattern_matches_what_its_regular_expression_matches(pattern, text):
    read = parse_pattern(pattern)
    matches = read == text if isinstance(read, str) else read.matches(text)
    assert matches is says_the_same(pattern, text)
    assert parse_pattern(str(read) if isinstance(read, Pattern) else escaped(read)) == read


@given(patterns=some_letters, texts=some_letters)
def test_an_index_finds_just_the_patterns_that_match(patterns, texts):
    read = [each for each in map(parse_pattern, patterns) if isinstance(each, Pattern)]
    index = PatternIndex()
    index.add(read)
    assert set(index) == set(read)
    for text in texts:
        found = list(index.found(text))
        assert len(found) == len(set(found))
        assert set(found) == {pattern for pattern in read if pattern.matches(text)}


@given(values=some_letters, text=letters)
def test_without_patterns_a_star_is_a_star(values, text):
    assert Texts(values).matches(text) is (text in values)
    assert Texts(values).match_any([text, "c"]) is (text in values)
    with_patterns = Texts(values, patterns=True)
    assert with_patterns.matches(text) is any(says_the_same(value, text) for value in values)
    assert with_patterns.match_any(["c", text]) is any(
        says_the_same(value, each) for value in values for each in (text, "c")
    )
