"""The metrics of conf/fluent-bit/exec_filter.lua: what it counts is there while no child answers, too."""

import sys

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support import DROPPED, KEPT
from tests.support.exec_filter import DROP, KEEP

pytestmark = pytest.mark.usefixtures("nothing_is_left")

PYTHON = f"{sys.executable} -IS"
UNDECIDED, NOT_REDUCED = (
    "kube_audit_filter_script_undecided_total",
    "kube_audit_filter_script_not_reduced_total",
)
REASONS = {"not_started", "ended", "timeout", "wrong_answer", "too_deep", "internal_error"}
DEEP = {"items": []}
for _ in range(200):
    DEEP = {"items": [DEEP]}


@pytest.fixture
def directory(tmp_path):
    path = tmp_path / "textfile"
    path.mkdir()
    return path


def samples(directory, number=0):
    """The samples in a filter's file: the name, then the values of its labels but that of ``script``."""
    found = {}
    text = (directory / f"kube-audit-filter-script-{number}.prom").read_text()
    for family in text_string_to_metric_families(text):
        assert family.type == "counter"
        for sample in family.samples:
            labels = dict(sample.labels)
            assert labels.pop("script") == str(number)
            found[(sample.name, *labels.values())] = sample.value
    return found


def undecided(directory, fate="kept", number=0):
    """How many records there were for each reason, if there were any."""
    found = samples(directory, number)
    return {reason: found[UNDECIDED, reason, fate] for reason in REASONS if found[UNDECIDED, reason, fate]}


def test_all_counters_are_there_before_they_grow(start, directory):
    start(metrics_textfile=directory)
    assert samples(directory) == {(NOT_REDUCED,): 0} | {(UNDECIDED, reason, "kept"): 0 for reason in REASONS}
    assert (directory / "kube-audit-filter-script-0.prom").stat().st_mode & 0o777 == 0o644


ASKED = "os.read(0, 9999)\n"


@pytest.mark.parametrize(
    ("interpreter", "body", "reason"),
    [
        ("/bin/sh", "exit 3", "ended"),
        ("/bin/sh", "exec sleep 600", "timeout"),
        (PYTHON, f"{ASKED}os.write(1, b'?')\ntime.sleep(600)", "wrong_answer"),
        ("/bin/sh", None, "not_started"),
    ],
)
@pytest.mark.parametrize(("on_failure", "fate", "code"), [("keep", "kept", KEEP), ("drop", "dropped", DROP)])
def test_records_without_an_answer_are_counted_by_what_happened_to_the_child(
    start, stand_in, directory, interpreter, body, reason, on_failure, fate, code
):
    stand_in(body or "", interpreter)
    program = "kube-audit-filter" if body else "is-not-there"
    patience = 100 if reason == "timeout" else 30_000
    audit_filter = start(
        program=program, metrics_textfile=directory, on_failure=on_failure, start_timeout_ms=patience
    )
    # The first of them fails, and the others come in the pause after it.
    assert [audit_filter(KEPT)[0] for _ in range(50)] == [code] * 50
    audit_filter.close()
    assert undecided(directory, fate) == {reason: 50}


def test_records_that_are_not_asked_about_are_counted(start, directory):
    audit_filter = start(metrics_textfile=directory)
    assert audit_filter(DEEP)[0] == KEEP
    audit_filter.close()
    assert undecided(directory) == {"too_deep": 1}


def test_faults_of_the_script_are_counted(start, directory):
    changes = {"  local asked, keys =": "  error('a fault')\n  local asked, keys ="}
    audit_filter = start(changes, metrics_textfile=directory)
    assert audit_filter(DROPPED)[0] == KEEP
    audit_filter.close()
    assert undecided(directory) == {"internal_error": 1}


def test_records_that_stay_as_they_were_are_counted(start, directory):
    audit_filter = start(metrics_textfile=directory)
    assert audit_filter({"items": [KEPT, DROPPED], "n": 2.0**60})[0] == KEEP
    audit_filter.close()
    assert samples(directory)[NOT_REDUCED,] == 1
    assert undecided(directory) == {}


def test_counts_are_written_every_15_seconds_while_records_come(start, stand_in, directory):
    stand_in("exit 3")
    audit_filter = start(metrics_textfile=directory)
    audit_filter(KEPT)
    assert undecided(directory) == {}
    audit_filter.advance(14)
    audit_filter(KEPT)
    assert undecided(directory) == {}
    audit_filter.advance(1)
    audit_filter(KEPT)
    assert undecided(directory) == {"ended": 3}
    audit_filter(KEPT)
    assert undecided(directory) == {"ended": 3}
    # A record that the child was not asked about will do; so will a clock that was set back.
    audit_filter.advance(-1000)
    audit_filter({"no": "event"})
    assert undecided(directory) == {"ended": 4}


def test_nothing_is_written_while_nothing_changes(start, directory):
    audit_filter = start(metrics_textfile=directory)
    before = (directory / "kube-audit-filter-script-0.prom").stat().st_ino
    audit_filter.advance(60)
    assert audit_filter.filter(KEPT) == KEPT
    assert audit_filter.filter(DROPPED) is None
    assert (directory / "kube-audit-filter-script-0.prom").stat().st_ino == before


def test_filters_that_share_a_directory_have_files_of_their_own(start, stand_in, directory):
    stand_in("exit 3")
    first, second = (start(metrics_textfile=directory) for _ in range(2))
    first(KEPT)
    for _ in range(2):
        second(KEPT)
    first.close()
    second.close()
    assert undecided(directory, number=0) == {"ended": 1}
    assert undecided(directory, number=1) == {"ended": 2}
    # A number is free again when its filter has ended.
    start(metrics_textfile=directory)
    assert undecided(directory, number=0) == {}
    assert sorted(path.name for path in directory.iterdir()) == [
        f"kube-audit-filter-script-{number}.{suffix}" for number in (0, 1) for suffix in ("lock", "prom")
    ]


@pytest.mark.parametrize("option", ["--metrics-textfile {}", "--metrics-textfile={}"])
def test_the_directory_of_the_child_is_used_where_no_other_is_named(start, directory, tmp_path, option):
    options = "--reduce " + option.format(directory)
    start(options=options)
    assert len(samples(directory)) == 7
    (tmp_path / "other").mkdir()
    start(options=options, metrics_textfile=tmp_path / "other")
    assert len(samples(tmp_path / "other")) == 7
    assert not (directory / "kube-audit-filter-script-1.prom").exists()


def test_without_a_directory_records_are_decided_on_and_it_is_tried_again(start, directory):
    directory.rmdir()
    audit_filter = start(metrics_textfile=directory)
    (said,) = audit_filter.said()
    assert f"no metrics in {directory}: No such file or directory" in said
    assert audit_filter.filter(DROPPED) is None
    directory.mkdir()
    audit_filter.advance(15)
    assert audit_filter.filter(DROPPED) is None
    assert len(samples(directory)) == 7
    assert audit_filter.said() == []


def test_links_that_others_have_put_there_are_not_followed(start, directory, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("precious")
    for name in ("kube-audit-filter-script-0.lock", ".kube-audit-filter-script-1.prom.new"):
        (directory / name).symlink_to(precious)
    (directory / "kube-audit-filter-script-1.prom").symlink_to(precious)
    start(metrics_textfile=directory)
    assert len(samples(directory, number=1)) == 7
    assert not (directory / "kube-audit-filter-script-1.prom").is_symlink()
    assert precious.read_text() == "precious"


def test_a_file_that_can_not_be_replaced_keeps_its_last_counts(start, stand_in, directory):
    stand_in("exit 3")
    audit_filter = start(metrics_textfile=directory)
    target = directory / "kube-audit-filter-script-0.prom"
    old = target.read_text()
    (directory / ".kube-audit-filter-script-0.prom.new" / "full").mkdir(parents=True)
    audit_filter.said()
    audit_filter.advance(60)
    assert audit_filter(KEPT)[0] == KEEP
    assert f"no metrics in {directory}: File exists; 1 records kept undecided" in audit_filter.said()[-1]
    assert target.read_text() == old
