"""docs/threat-model.md: a line for each thing that somebody could try, and a test for each line."""

import re

import pytest

from tests.support import ROOT

TEXT = (ROOT / "docs/threat-model.md").read_text()
ROWS = [
    row
    for row in re.findall(r"^\| (.*) \|$", TEXT, re.MULTILINE)
    if not row.startswith(("they could", "---"))
]


def test_it_is_one_page():
    assert len(ROWS) > 20
    assert len(TEXT.splitlines()) < 100


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.partition(" | ")[0])
def test_a_test_shows_each_line(row):
    threat, outcome, tests = row.split(" | ")
    assert threat
    assert outcome
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", tests)
    assert named
    for file, name in named:
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE), f"{file}::{name}"
