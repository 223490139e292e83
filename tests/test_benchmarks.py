"""``make bench``: every row is measured, and two versions are told apart."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import measure, rows
from tests.support.agents import fluent_bit_program

PROGRAM = Path(sys.executable).parent / "kube-audit-filter"
HEADINGS = ["CPU µs", "least", "without start", "x exec", "loop x", "wall µs", "kept"]


def bench(*options):
    command = [sys.executable, "-m", "benchmarks.bench", "--program", PROGRAM, "--rounds", "1", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=measure.ROOT, check=False)


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_every_row_is_measured(tmp_path):
    names = [row.name for row in rows.make_rows(PROGRAM, tmp_path)]
    saved = tmp_path / "figures.json"
    done = bench("--events", "300", "--rows", ",".join(names), "--output", "json", "--save", saved)
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert json.loads(saved.read_text()) == data
    measured = {row["row"]: row for row in data["rows"]}
    assert sorted([*measured, *data["skipped"]]) == sorted(names)
    for row in measured.values():
        assert row["failure"] is None
        assert row["microseconds_per_event"]["cpu"]["min"] > 0
    kept = {name: row["events_kept"] for name, row in measured.items()}
    assert kept["cat"] == kept["decode"] == 300
    assert 0 < kept["exec"] < 300
    for same in (
        "entries",
        "binary",
        "json",
        "log-json",
        "lists",
        "lists-json",
        "reduce-log",
        "single",
        "rules",
    ):
        assert kept[same] == kept["exec"], same


def test_versions_are_compared_and_options_that_one_lacks_are_named(tmp_path):
    refuse = 'case "$*" in *--max-depth*) echo "Error: No such option" >&2; exit 2;; esac'
    old = script(tmp_path / "old", f'{refuse}\nexec {PROGRAM} "$@"')
    done = bench("--events", "50", "--rows", "max-depth", "--baseline", f"old={old}")
    assert done.returncode == 0, done.stderr
    first, second = (line for line in done.stdout.splitlines() if line.startswith(" row "))
    assert all(heading in first for heading in HEADINGS)
    assert second.count("new/old") == 2
    (row,) = (line for line in done.stdout.splitlines() if "not there" in line)
    assert row.split()[0] == "max-depth"
    assert "max-depth: old does not run with these options: Error: No such option\n" in done.stdout
    assert "new and old write the same bytes in all rows that both have.\n" in done.stdout


def test_rows_in_which_versions_write_other_bytes_are_named(tmp_path):
    old = script(tmp_path / "old", "exec cat")
    done = bench("--events", "50", "--rows", "json", "--baseline", f"old={old}")
    assert done.returncode == 0, done.stderr
    assert "new and old write different bytes in these rows: exec, json.\n" in done.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--rows", "exec,nosuch"], "no such row: nosuch; there are cat, read, exec,"),
        (["--baseline", "/no/such/program"], "/no/such/program: there is no such program"),
        (["--baseline", f"new={PROGRAM}"], "versions need different names, not 'new', 'new'"),
    ],
)
def test_mistakes_are_explained(options, said):
    done = bench("--events", "10", *options)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_filter_that_fails_is_quoted(tmp_path):
    (tmp_path / "python").symlink_to(sys.executable)
    done = bench("--events", "10", "--program", script(tmp_path / "new", "echo broken >&2; exit 3"))
    assert done.returncode == 1
    assert "exit status 3\nbroken" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_pipe_delivers_one_record_a_read(tmp_path):
    sizes = [1, 4096, 100, 1, 2000] * 100
    source = tmp_path / "log"
    source.write_bytes(bytes(sum(sizes)))
    reads = "import os\nwhile data := os.read(0, 65536): print(len(data))"
    output = io.BytesIO()
    measure.run([sys.executable, "-c", reads], source, output, sizes=sizes)
    assert list(map(int, output.getvalue().split())) == sizes


def bench_fluent_bit(agent):
    command = [
        sys.executable,
        "-m",
        "benchmarks.fluent_bit",
        "--program",
        PROGRAM,
        "--rounds",
        "1",
        "--events",
        "200",
    ]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=measure.ROOT,
        env={**os.environ, "FLUENT_BIT": str(agent)},
        check=False,
    )


def test_every_way_in_fluent_bit_is_measured_and_the_table_is_whole_in_a_pipe():
    done = bench_fluent_bit(fluent_bit_program())
    assert done.returncode == 0, done.stderr
    measured = re.findall(r"^ \((\w)\) [^.]*[a-z](?: +[\d.,]+){6} *$", done.stdout, re.MULTILINE)
    assert measured == list("abcdefghijk")
    assert re.search(r"^\(j\) costs [\d.]+ times the CPU time of \(h\)\.$", done.stdout, re.MULTILINE)


def test_nothing_is_measured_where_fluent_bit_writes_other_events(tmp_path):
    change = """sed -i 's/"get"/"got"/' "$(dirname "$2")/out.json" """
    agent = script(tmp_path / "fluent-bit", f'{fluent_bit_program()} "$@" && {change}')
    done = bench_fluent_bit(agent)
    assert done.returncode == 1
    assert re.search(
        r"\(a\) does not let through what it should: (\d+) events .*, and \1 are there", done.stderr
    )
