"""The faults that are put into code are those that are meant, and nothing else of a module changes."""

import pytest

from tests.mutation.mutants import mutants_of
from tests.mutation.run import COPIED, ROOMS, ROOT

FAULTS = {
    "a < b": {"(a <= b)"},
    "a == b": {"(a != b)"},
    "a is not None": {"(a is None)"},
    "0 < a <= 1": {"(0 <= a <= 1)", "(0 < a < 1)", "1 < a <= 1", "-1 < a <= 1", "0 < a <= 2", "0 < a <= 0"},
    "a and b and c": {"(a or b or c)", "(b and c)", "(a and c)", "(a and b)"},
    "not a": {"(a)"},
    "a + b": {"(a - b)"},
    "a if b else c": {"(a)", "(c)"},
    "f(a, b, c=d)": {"(f(b, a, c=d))"},
    "[True]": {"[False]"},
    "'a'": {"'aX'"},
    "{b'a': c}": {"{b'aX': c}"},
    "f'{a + 1} b'": set(),
    "a.b": set(),
}


@pytest.mark.parametrize(("expression", "others"), FAULTS.items())
def test_the_faults_of_an_expression(expression, others):
    found = {mutant.source.removeprefix("x = ") for mutant in mutants_of(f"x = {expression}")}
    assert found == others


STATEMENTS = {
    "def f():\n    g()\n": {"def f():\n    pass\n"},
    "def f():\n    '''What it does.'''\n    a += b\n": {"def f():\n    '''What it does.'''\n    pass\n"},
    "def f(a: int = b) -> Literal['c']:\n    return d\n": {
        "def f(a: int = b) -> Literal['c']:\n    return None\n"
    },
    "def f():\n    return None\n": set(),
    "if a:\n    raise ValueError(f'{a + 1}', 2)\n": {"if a:\n    pass\n"},
    "while a:\n    break\n": {"while a:\n    continue\n"},
    "import a\n'''About.'''\n": set(),
    "Kind = Literal['a'] | int\n": set(),
    "__slots__ = ('a',)\n": set(),
}


@pytest.mark.parametrize(("statement", "others"), STATEMENTS.items())
def test_the_faults_of_a_statement(statement, others):
    assert {mutant.source for mutant in mutants_of(statement)} == others


def test_rooms_and_their_tests_are_there_and_copied():
    for target, tests in ROOMS.items():
        for name in (target, *tests):
            assert (ROOT / name).exists()
            assert name.split("/")[0] in COPIED
    assert all((ROOT / name).exists() for name in COPIED)
