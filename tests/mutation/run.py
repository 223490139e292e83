"""A sample of mutants, each in a copy of the tree, and those that the tests of their room let live.

A mutant that lives is a question, not a fault: is there a behaviour that no test shows, or is the mutant no
different from outside? Set in the environment: MUTANTS (how many), SEED (which), ROOM (only files whose
names begin so), MUTANT_SECONDS (no mutant is begun after so long) and JOBS (how many at a time).
"""

import difflib
import os
import queue
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutation.mutants import mutants_of

ROOT = Path(__file__).parents[2]
COPIED = ("filter_engine", "plugin", "tests", "conf", "docs", "benchmarks", "pyproject.toml", "README.md")
ENGINE = (
    *(f"tests/filter_engine/test_{name}.py" for name in ("request", "reduction", "evaluator", "vocabulary")),
    "tests/conformance",
)
RECORDS = (
    *(f"tests/plugin/{room}" for room in ("encoding", "records", "scan")),
    "tests/filter_engine/test_vocabulary.py",
)
# What is mutated, and the tests that are to notice.
ROOMS = {
    "filter_engine/evaluator.py": ENGINE,
    "filter_engine/request.py": ENGINE,
    "filter_engine/conditions.py": ENGINE,
    "filter_engine/vocabulary.py": ENGINE,
    "filter_engine/reduction.py": ENGINE,
    "plugin/records": RECORDS,
    "plugin/encoding": RECORDS,
    "plugin/scan": RECORDS,
    "plugin/forward": ("tests/plugin/forward",),
}
# Bytes of memory that a process may have: a mutant may grow without bound.
MEMORY = 8 << 30


def main():
    seed = int(os.environ.get("SEED") or random.randrange(1 << 32))
    chosen = sample(os.environ.get("ROOM", ""), int(os.environ.get("MUTANTS", "40")), seed)
    jobs = int(os.environ.get("JOBS", "2"))
    limit = time.monotonic() + float(os.environ.get("MUTANT_SECONDS", "1800"))
    print(f"{len(chosen)} mutants, SEED={seed}", flush=True)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(jobs) as pool:
        first = copy_of(ROOT, Path(scratch) / "0")
        patience = {tests: patience_with(first, tests) for tests in {tests for _, _, tests in chosen}}
        trees = queue.SimpleQueue()
        for tree in [first, *(copy_of(first, Path(scratch) / str(n)) for n in range(1, jobs))]:
            trees.put(tree)

        def settle(path, mutant, tests):
            if time.monotonic() > limit:
                return "not tried"
            tree = trees.get()
            try:
                lives = is_let_live(tree, path, mutant, tests, patience[tests])
            finally:
                trees.put(tree)
            if lives:
                print(describe(path, mutant), flush=True)
            return "alive" if lives else "noticed"

        fates = list(pool.map(lambda each: settle(*each), chosen))
    print(", ".join(f"{fates.count(fate)} {fate}" for fate in ("noticed", "alive", "not tried")))


def sample(room, number, seed):
    """Some mutants, each with the name of its file and the tests that are to notice it."""
    everything = []
    for target, tests in ROOMS.items():
        files = sorted((ROOT / target).rglob("*.py")) if (ROOT / target).is_dir() else [ROOT / target]
        for file in files:
            path = file.relative_to(ROOT).as_posix()
            if path.startswith(room):
                everything += [(path, mutant, tests) for mutant in mutants_of(file.read_text())]
    if not everything:
        sys.exit(f"ROOM={room}: no file that is mutated has a name that begins so")
    return random.Random(seed).sample(everything, min(number, len(everything)))


def copy_of(source, target):
    """A copy of the tree in which the package has its installed name too, for processes that tests start."""
    target.mkdir()
    for name in COPIED:
        copy = shutil.copytree if (source / name).is_dir() else shutil.copy2
        copy(source / name, target / name)
    (target / "kube_audit_filter").symlink_to("plugin")
    return target


def patience_with(tree, tests):
    """Seconds that tests may take with a mutant, by what they take without. Compiles all modules, too."""
    start = time.monotonic()
    if not do_pass(tree, tests, timeout=1800, writes_bytecode=True):
        sys.exit(f"{' '.join(tests)}: the tests fail without any mutant")
    return 30 + 4 * (time.monotonic() - start)


def is_let_live(tree, path, mutant, tests, timeout):
    """Whether all tests pass with a mutant. One with which they do not end is noticed."""
    (tree / path).write_text(mutant.source)
    try:
        return do_pass(tree, tests, timeout)
    finally:
        shutil.copy2(ROOT / path, tree / path)  # with its time, so that its bytecode counts again


def do_pass(tree, tests, timeout, *, writes_bytecode=False):
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command += ["--override-ini", "addopts=", *tests]
    # CI: property tests look at the same examples each time.
    environment = {**os.environ, "CI": "1", "PYTHONPATH": str(tree)}
    if not writes_bytecode:
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
    with subprocess.Popen(
        command,
        cwd=tree,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            return process.wait(timeout) == 0
        except subprocess.TimeoutExpired:
            return False
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def describe(path, mutant):
    """The mutant as a diff, under the name of its file and the number of its line."""
    before = (ROOT / path).read_text().splitlines()
    changes = list(difflib.unified_diff(before, mutant.source.splitlines(), n=0, lineterm=""))[3:]
    return "\n".join([f"{path}:{mutant.line}: no test notices", *(f"    {change}" for change in changes)])


if __name__ == "__main__":
    main()
