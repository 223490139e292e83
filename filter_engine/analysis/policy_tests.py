"""Tests of a policy: what it has to do with requests and events, and whether it does.

A file of tests stands beside the policy that it names; docs/policy-tests.md is its reference. This module
reads such files and runs them; it prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod
from typing import Any

from filter_engine.analysis.explain import Explained, Explainer
from filter_engine.analysis.requests import event_of
from filter_engine.errors import PolicyError, PolicyProblem, Problems, shortened
from filter_engine.loading import json_document, yaml_document
from filter_engine.loading.document import DocumentError, Node
from filter_engine.loading.filter_policy_validation import LEVELS, Fault, unsupported
from filter_engine.loading.schema import Decoder, List, Path, Struct, dotted
from filter_engine.loading.validation import is_at_or_below, line_at
from filter_engine.model import STAGES
from filter_engine.policy import Policy

_STRINGS = List(str)
_REQUESTS = Struct(
    "Requests",
    {
        "users": _STRINGS,
        "groups": _STRINGS,
        "verbs": _STRINGS,
        "resources": _STRINGS,
        "namespaces": _STRINGS,
        "names": _STRINGS,
        "urls": _STRINGS,
        "codes": List(int),
        "stages": _STRINGS,
    },
)
_TEST = Struct(
    "Test",
    {
        "name": str,
        "requests": _REQUESTS,
        "event": None,
        "events": List(None),
        "level": str,
        "keep": bool,
        "rule": str,
        "becomes": None,
    },
)
FILE = Struct("PolicyTests", {"policy": str, "reduce": bool, "tests": List(_TEST)})
_HOMES = {"the file": FILE, "the test": _TEST, "requests": _REQUESTS}
# Each combination is a request.
_MAX_REQUESTS = 100_000
# In place of a field that a test says nothing of.
_ANYTHING = object()


@dataclass(frozen=True)
class Case:
    """An event, and what has to become of it.

    Attributes:
        test: the name of the test.
        line: the line of the test in its file; None if it is not known.
        event: the event.
        keep: whether it has to be kept; None for either.
        level: the level that its decision has to have; None for any.
        rule: the name or index of the rule that has to decide, ``none`` for none; None for any.
        becomes: fields of the event that goes on, None for those that it may not have; None for any.
    """

    test: str
    line: int | None
    event: Mapping[str, Any]
    keep: bool | None = None
    level: str | None = None
    rule: str | None = None
    becomes: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class PolicyTests:
    """A file of tests.

    Attributes:
        policy: the name of the policy, as the file has it.
        reduce: whether kept events are reduced if the policy says nothing of it.
        cases: what is tested, in order.
    """

    policy: str
    reduce: bool
    cases: tuple[Case, ...]


@dataclass(frozen=True)
class Result:
    """What became of an event.

    Attributes:
        case: the case.
        explained: what the policy does with the event.
        faults: what is not as it has to be; empty if the case passed.
    """

    case: Case
    explained: Explained
    faults: tuple[str, ...]


@dataclass
class Coverage:
    """What of a policy its tests have used.

    Attributes:
        rules: how many events each rule decided on.
        conditions: for each condition of a rule, by index and name: whether it was met, and not met.
    """

    rules: list[int] = field(default_factory=list)
    conditions: dict[tuple[int, str], set[bool]] = field(default_factory=dict)

    def add(self, explained: Explained) -> None:
        """Add what the policy did with an event."""
        for rule in explained.rules:
            if rule.matched:
                self.rules[rule.rule] += 1
            for looked in rule.looked:
                self.conditions.setdefault((rule.rule, looked.name), set()).add(looked.is_met)


def read_tests(data: bytes, *, source: str) -> PolicyTests:
    """Read a file of tests.

    Args:
        data: the text, YAML or JSON.
        source: what errors call it.

    Raises:
        PolicyError: the text has no tests that can be run; the exception has all errors.
    """
    try:
        root = json_document.read(data) if data.lstrip().startswith(b"{") else yaml_document.read(data)
    except DocumentError as error:
        raise PolicyError(source, [PolicyProblem("", str(error), error.line, hint=error.hint)]) from None
    problems = Problems()
    fields = Decoder(_HOMES, problems, lambda *_: "", is_kubernetes=False).decode(root, FILE, ())
    undecoded = problems.fields_at_fault()
    for fault in _faults(fields):
        name = dotted(fault.path)
        if not is_at_or_below(name, undecoded) and problems.takes(lenient=False):
            message = f"{name}: {fault.message}" if name else fault.message
            problems.add(PolicyProblem(name, message, line_at(root, fault.path), hint=fault.hint))
    if problems.errors:
        raise PolicyError(source, problems.in_order(), problems.count)
    lines = _lines(root)
    cases = [case for test, line in zip(fields["tests"], lines, strict=True) for case in _cases(test, line)]
    return PolicyTests(fields["policy"], fields.get("reduce", False), tuple(cases))


def _lines(root: Node) -> list[int | None]:
    tests = root.value.get("tests") if isinstance(root.value, dict) else None
    return [each.line for each in tests.value] if tests and isinstance(tests.value, list) else []


def _faults(fields: Mapping[str, Any]) -> Iterator[Fault]:
    if not fields.get("policy"):
        hint = "a path from this file, or builtin:NAME"
        yield Fault(("policy",), "expected the policy that is tested, found nothing", hint)
    if not fields.get("tests"):
        yield Fault(("tests",), "there are no tests")
    for index, test in enumerate(fields.get("tests", ())):
        yield from _test_faults(test, ("tests", index))


def _test_faults(test: Mapping[str, Any], path: Path) -> Iterator[Fault]:
    given = [name for name in ("requests", "event", "events") if name in test]
    if len(given) != 1:
        found = " and ".join(given) or "nothing"
        yield Fault(path, f"expected one of requests, event and events, found {found}")
    if not test.keys() & {"level", "keep", "rule", "becomes"}:
        hint = "level: None for what has to be dropped"
        yield Fault(path, "it expects nothing: give it level, keep, rule or becomes", hint)
    if test.get("level", "None") not in LEVELS:
        yield unsupported((*path, "level"), test["level"], LEVELS)
    if "requests" in test:
        yield from _request_faults(test["requests"], (*path, "requests"))
    events = [test["event"]] if "event" in test else test.get("events", ())
    for number, event in enumerate(events):
        where = (*path, "event") if "event" in test else (*path, "events", number)
        if not isinstance(event, dict) or "verb" not in event:
            yield Fault(where, "expected an audit event with a verb")
    if not isinstance(test.get("becomes", {}), dict):
        yield Fault((*path, "becomes"), "expected fields of the event that goes on")


def _request_faults(requests: Mapping[str, Any], path: Path) -> Iterator[Fault]:
    if not requests.get("verbs"):
        yield Fault((*path, "verbs"), "expected the verbs of the requests, found nothing")
    if bool(requests.get("resources")) == bool(requests.get("urls")):
        yield Fault(path, "expected either resources or urls")
    for number, stage in enumerate(requests.get("stages", ())):
        if stage not in STAGES:
            yield unsupported((*path, "stages", number), stage, STAGES)
    count = prod(max(len(values), 1) for values in requests.values())
    if count > _MAX_REQUESTS:
        yield Fault(path, f"these are {count:,} requests: expected at most {_MAX_REQUESTS:,}")


def _cases(test: Mapping[str, Any], line: int | None) -> Iterator[Case]:
    name = test.get("name") or ("unnamed" if line is None else f"line {line}")
    for event in _events(test):
        yield Case(
            name, line, event, test.get("keep"), test.get("level"), test.get("rule"), test.get("becomes")
        )


def _events(test: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if "requests" not in test:
        for event in [test["event"]] if "event" in test else test["events"]:
            yield {
                "auditID": "test",
                "stage": "ResponseComplete",
                "level": "RequestResponse",
                "user": {},
                **event,
            }
        return
    given = test["requests"]
    empty: tuple[str, ...] = ("",)
    for user, verb, resource, url, namespace, name, code, stage in product(
        given.get("users", empty),
        given["verbs"],
        given.get("resources", empty),
        given.get("urls", empty),
        given.get("namespaces", empty),
        given.get("names", empty),
        given.get("codes", (None,)),
        given.get("stages", ("ResponseComplete",)),
    ):
        yield event_of(
            user=user, groups=given.get("groups", ()), verb=verb, resource=resource, url=url,
            namespace=namespace, name=name, code=code, stage=stage,
        )  # fmt: skip


def run(
    tests: PolicyTests, policy: Policy, *, wanted: Callable[[str], bool] = lambda _: True
) -> tuple[list[Result], Coverage]:
    """Run tests.

    Args:
        tests: the tests.
        policy: the policy that they name.
        wanted: whether to run the tests of a name.

    Returns:
        A result for each event, and what of the policy was used.
    """
    explainer = Explainer(policy, reduce=tests.reduce)
    coverage = Coverage([0] * len(policy.rules))
    results = []
    for case in tests.cases:
        if wanted(case.test):
            explained = explainer.explain(case.event)
            coverage.add(explained)
            results.append(Result(case, explained, tuple(_wrong(case, policy, explained))))
    return results, coverage


def _wrong(case: Case, policy: Policy, explained: Explained) -> Iterator[str]:
    decision, is_kept = explained.decision, explained.changed is not None
    if case.keep is not None and case.keep is not is_kept:
        wanted, found = ("kept" if each else "dropped" for each in (case.keep, is_kept))
        yield f"expected it to be {wanted}, and it is {found}"
    level = decision.level.value if decision.keep else "None"
    if case.level is not None and case.level != level:
        yield f"expected level {case.level}, found {level}"
    name = policy.rule_name(decision.rule)
    if case.rule is not None and case.rule not in (name, str(decision.rule)):
        yield f"expected rule {shortened(case.rule)} to decide, found {name}"
    if case.becomes is None:
        return
    if explained.changed is None:
        yield "expected an event that goes on, and it is dropped"
        return
    yield from _differences(case.becomes, explained.changed.event, "")


def _differences(expected: Any, found: Any, path: str) -> Iterator[str]:
    """Where an event is not what was expected: fields that are not named may be anything."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for name, value in expected.items():
            where = f"{path}.{name}" if path else name
            if value is None:
                if found.get(name) is not None:
                    yield f"expected no {where}, found {_shown(found[name])}"
            else:
                yield from _differences(value, found.get(name, _ANYTHING), where)
    elif found is _ANYTHING:
        yield f"{path}: expected {_shown(expected)}, found nothing"
    elif expected != found:
        yield f"{path}: expected {_shown(expected)}, found {_shown(found)}"


def _shown(value: Any) -> str:
    return shortened(repr(value), 200)


def unused(policy: Policy, coverage: Coverage) -> Iterator[tuple[int, Sequence[str]]]:
    """Rules that decided on nothing, and conditions that were never met or always met.

    Args:
        policy: the policy.
        coverage: what its tests used of it, of all files together.

    Yields:
        The index of a rule, and sentences about it.
    """
    for index, count in enumerate(coverage.rules):
        found = [] if count else ["decides on no event of the tests"]
        for (rule, name), seen in coverage.conditions.items():
            if rule == index and count and seen == {True}:
                found.append(f"{name} is met by all events that come so far")
        if found:
            yield index, found
