"""``kube-audit-filter test``: runs the tests of policies."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click

from filter_engine import Policy
from filter_engine.analysis.policy_tests import Coverage, PolicyTests, Result, read_tests, run

from ..service.files import replace_file
from ..service.policy_source import PolicySource
from ..service.policy_watch import open_policy, read_limited
from ..workbench.events import NotAnEventError, read_events
from ..workbench.starting_tests import starting_tests
from ..workbench.test_results import coverage_lines, failures, junit
from .main import EXIT_POLICY

_SUFFIXES = (".test.yaml", ".test.yml", "_test.yaml", "_test.yml")
# Tests of a new file.
_MOST_CREATED = 200


@click.command(
    "test",
    short_help="Run the tests of policies.",
    params=[
        click.Argument(["paths"], metavar="[FILE|DIR]...", nargs=-1),
        click.Option(["--run", "pattern"], metavar="REGEX", help="Run only tests whose name this matches."),
        click.Option(
            ["--junit", "junit_file"], metavar="FILE", help="Also write the results as JUnit's XML."
        ),
        click.Option(
            ["--create"],
            nargs=2,
            metavar="POLICY LOG",
            help="Instead, write a file of tests to stdout: what the policy does today with the events of a"
            " log.",
        ),
    ],
)
def test_command(
    paths: tuple[str, ...], pattern: str | None, junit_file: str | None, create: tuple[str, str] | None
) -> int:
    """Run tests that say what a policy has to do with requests and events.

    FILE is a file of tests. In DIR, the current directory if nothing is named, files whose names end in
    .test.yaml or _test.yaml are run. A file names its policy and has a list of tests:

    \b
      policy: policy.yaml
      tests:
      - name: nobody reads secrets unseen
        requests:
          users: [alice, "system:serviceaccount:shop:web"]
          verbs: [get, list]
          resources: [secrets]
        level: Metadata

    The exit status is 2 if a test fails or there is none.
    """
    if create is not None:
        _create(*create)
        return 0
    wanted = _matcher(pattern)
    done: list[tuple[str, Policy, str, list[Result]]] = []
    coverages: dict[str, tuple[Policy, Coverage]] = {}
    for path in _files(paths or (".",)):
        with open_policy(str(path)) as file:
            tests = read_tests(read_limited(file, str(path)), source=str(path))
        name, policy = _policy_of(path, tests)
        results, coverage = run(tests, policy, wanted=lambda name: wanted.search(name) is not None)
        done.append((str(path), policy, name, results))
        _add(coverages.setdefault(name, (policy, Coverage([0] * len(policy.rules))))[1], coverage)
        for text in failures(str(path), policy, name, results):
            click.echo(text)
    if junit_file is not None:
        replace_file(junit_file, junit(done))
    return _conclude(done, coverages, is_whole=pattern is None)


def _conclude(
    done: list[tuple[str, Policy, str, list[Result]]],
    coverages: dict[str, tuple[Policy, Coverage]],
    *,
    is_whole: bool,
) -> int:
    results = [result for *_, own in done for result in own]
    if not results:
        click.echo("there is no test: name a file of tests, or a directory that has one", err=True)
        return EXIT_POLICY
    if is_whole:
        for name, (policy, coverage) in coverages.items():
            for text in coverage_lines(policy, name, coverage):
                click.echo(text)
    failed = sum(1 for result in results if result.faults)
    tests = len({(path, result.case.test) for path, *_, own in done for result in own})
    outcome = f"{failed} of them not as expected" if failed else "all as expected"
    click.echo(f"{tests} tests, {len(results)} events, {outcome}")
    return EXIT_POLICY if failed else 0


def _add(total: Coverage, more: Coverage) -> None:
    total.rules = [a + b for a, b in zip(total.rules, more.rules, strict=True)]
    for key, seen in more.conditions.items():
        total.conditions.setdefault(key, set()).update(seen)


def _matcher(pattern: str | None) -> re.Pattern[str]:
    try:
        return re.compile(pattern or "")
    except re.error as error:
        raise click.BadParameter(
            f"{pattern!r} is not a regular expression: {error}", param_hint="--run"
        ) from None


def _files(paths: tuple[str, ...]) -> Iterator[Path]:
    for name in paths:
        path = Path(name)
        if path.is_dir():
            yield from sorted(each for each in path.rglob("*") if each.name.endswith(_SUFFIXES))
        else:
            yield path


def _policy_of(path: Path, tests: PolicyTests) -> tuple[str, Policy]:
    """The policy of a file of tests, named from there, and what it is called."""
    source = PolicySource(tests.policy)
    if not source.is_builtin:
        source = PolicySource(str(path.parent / tests.policy))
    try:
        name = source.path()
    except KeyError:
        raise click.ClickException(f"{path}: policy: {tests.policy!r} is not built in") from None
    with open_policy(name) as file:
        return source.name, source.parse(read_limited(file, name), source=source.name)


def _create(name: str, log: str) -> None:
    source = PolicySource(name)
    path = source.path()
    with open_policy(path) as file:
        policy = source.parse(read_limited(file, path), source=name)
    try:
        events = [event for _, event in read_events(Path(log).read_bytes(), log)]
    except NotAnEventError as error:
        raise click.ClickException(str(error)) from None
    click.echo(starting_tests(policy, name, events, most=_MOST_CREATED), nl=False)
