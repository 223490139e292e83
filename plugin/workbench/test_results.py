"""Results of a policy's tests, as text and as JUnit's XML."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from xml.etree import ElementTree

from filter_engine import Policy
from filter_engine.analysis.policy_tests import Coverage, Result, unused

from .explanation import describe, verdict

# Of a table of requests, thousands may fail for the same reason.
_SHOWN = 5


def failures(source: str, policy: Policy, policy_source: str, results: Sequence[Result]) -> Iterator[str]:
    """What is wrong, test by test.

    Args:
        source: the file of the tests.
        policy: the policy.
        policy_source: what the policy is called.
        results: the results of the file.
    """
    for name, own in _by_test(results).items():
        failed = [each for each in own if each.faults]
        if not failed:
            continue
        yield f"FAILED {source}:{failed[0].case.line}: {name}: {len(failed)} of {len(own)}"
        for result in failed[:_SHOWN]:
            yield f"  {describe(result.case.event)}"
            yield from (f"    {fault}" for fault in result.faults)
            yield f"    {verdict(policy, result.explained, policy_source)}"
        if len(failed) > _SHOWN:
            yield f"  and {len(failed) - _SHOWN} more"


def coverage_lines(policy: Policy, policy_source: str, coverage: Coverage) -> Iterator[str]:
    """How much of a policy its tests have used, and what they have not."""
    used = sum(1 for count in coverage.rules if count)
    yield f"{policy_source}: {used} of {len(policy.rules)} rules decide on an event of the tests"
    for index, sentences in unused(policy, coverage):
        name, line = policy.rule_name(index), policy.rule_line(index)
        where = policy_source if line is None else f"{policy_source}:{line}"
        yield from (f"  {where}: rule {name} {sentence}" for sentence in sentences)


def _by_test(results: Sequence[Result]) -> dict[str, list[Result]]:
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result.case.test, []).append(result)
    return found


def junit(results: Sequence[tuple[str, Policy, str, Sequence[Result]]]) -> bytes:
    """The results of several files as JUnit's XML, a case for each test.

    Args:
        results: the file, the policy, its name and the results, of each file.
    """
    root = ElementTree.Element("testsuites")
    for source, policy, policy_source, own in results:
        tests = _by_test(own)
        failed = [name for name, each in tests.items() if any(result.faults for result in each)]
        suite = ElementTree.SubElement(root, "testsuite", name=_printable(source))
        suite.attrib |= {"tests": str(len(tests)), "failures": str(len(failed))}
        for name, each in tests.items():
            case = ElementTree.SubElement(
                suite, "testcase", name=_printable(name), classname=_printable(source)
            )
            if name in failed:
                lines = list(failures(source, policy, policy_source, each))
                failure = ElementTree.SubElement(case, "failure", message=_printable(lines[0]))
                failure.text = _printable("\n".join(lines[1:]))
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _printable(text: str) -> str:
    """A text without the characters that XML can't have."""
    return "".join(each if each.isprintable() or each == "\n" else "\ufffd" for each in text)
