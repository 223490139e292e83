"""A policy as one self-contained Lua script, a filter of Fluent Bit.

The script is a header, the rules, and around them the fixed parts in ``runtime/``. What a policy
says gets into it in two ways only: as a quoted string, and as a comment of printable ASCII.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from filter_engine import GroupResources, Level, Policy, PolicyRule
from filter_engine.evaluator import LevelMatch

from ...records.event_path import Step, describe_event_path

# Seconds between two lines with the counters.
REPORT_INTERVAL = 60

_WIDTH = 100


@dataclass(frozen=True)
class LuaOptions:
    """How a policy is compiled.

    Attributes:
        event_path: the way to the event in a record; None: look for it.
        reduce: reduce kept events to the level of their rule.
        level_match: see :class:`filter_engine.PolicyEvaluator`.
        lenient: whether the policy was read so; for the header.
        report_interval: seconds between two lines with the counters; 0: only one at the end.
    """

    event_path: tuple[Step, ...] | None = None
    reduce: bool = False
    level_match: LevelMatch = "kubernetes"
    lenient: bool = False
    report_interval: int = REPORT_INTERVAL

    def __str__(self) -> str:
        """The options that are not the default ones, as on the command line."""
        given = [
            "--lenient" if self.lenient else "",
            f"--level-match {self.level_match}" if self.level_match != "kubernetes" else "",
            f"--event-key {describe_event_path(self.event_path)}" if self.event_path is not None else "",
            "--reduce" if self.reduce else "",
            f"--report-interval {self.report_interval}" if self.report_interval != REPORT_INTERVAL else "",
        ]
        return " ".join(filter(None, given)) or "none"


def compile_policy(policy: Policy, *, source: bytes, name: str, version: str, options: LuaOptions) -> str:
    """Write a policy as a Lua script.

    Args:
        policy: the policy.
        source: the text it was read from; the header has its digest.
        name: what to call the policy in the header.
        version: of this program.
        options: how to compile.

    Returns:
        The script, in ASCII; the same for the same arguments.
    """
    parts = [
        _header(policy, hashlib.sha256(source).hexdigest(), name, version, options),
        _runtime("request"),
        _rules(policy, options.level_match),
        _runtime("json"),
        _runtime("reduction") if options.reduce else "",
        _runtime("envelope"),
        _runtime("main"),
    ]
    return "\n".join(filter(None, parts))


def quote(value: str) -> str:
    """A Lua string literal in printable ASCII, whatever the value is."""
    return '"' + "".join(map(_escape, value.encode("utf-8", "surrogatepass"))) + '"'


def _escape(byte: int) -> str:
    # Three digits, so that a digit may follow.
    return chr(byte) if 0x20 <= byte < 0x7F and byte not in b'"\\' else f"\\{byte:03}"


def _comment(value: str) -> str:
    """A value in a comment: on one line, and in ASCII."""
    return quote(value)[1:-1].replace("\\034", '"')


def _runtime(name: str) -> str:
    return Path(__file__).with_name("runtime").joinpath(f"{name}.lua").read_text(encoding="ascii")


def _header(policy: Policy, digest: str, name: str, version: str, options: LuaOptions) -> str:
    path = "nil"
    if options.event_path is not None:
        steps = ["EACH" if step is None else quote(step) for step in options.event_path]
        path = f"{{ {', '.join(steps)} }}"
    return f"""\
-- An audit policy as a filter for Fluent Bit. kube-audit-filter compile has made this script of the
-- policy: don't edit it, edit the policy and compile it again.
--
--   policy     {_comment(name)}, {len(policy.rules)} rule{"s" if len(policy.rules) != 1 else ""}
--   sha256     {digest}
--   options    {_comment(str(options))}
--   generator  kube-audit-filter {_comment(version)}
--
--   [FILTER]
--       Name    lua
--       Match   *
--       Script  THIS FILE
--       Call    kube_audit_filter

local POLICY_DIGEST = {quote(digest)}
local EACH = true -- in EVENT_PATH: every element of an array
local EVENT_PATH = {path} -- the way to the event in a record; nil: look for it
local REDUCE = {_lua(options.reduce)} -- reduce kept events to the level of their rule
local REPORT_INTERVAL = {options.report_interval} -- seconds between reports; 0: only one at the end
"""


def _rules(policy: Policy, level_match: LevelMatch) -> str:
    lines = [
        "-- The policy. The first rule that matches decides.",
        "",
        "local rules = {}",
    ]
    # Each rule repeats the policy's stages, which may name one any number of times.
    policy = replace(policy, omit_stages=tuple(dict.fromkeys(policy.omit_stages)))
    for index, rule in enumerate(policy.rules):
        lines += ["", *_rule(policy, index, rule, level_match)]
    lines += [
        "",
        "-- Where no rule matches.",
        "local NO_RULE = {",
        *_indented(_outcome(policy.rule_name(None), Level.NONE, policy.omit_stages, False)),
        "}",
        "",
    ]
    return "\n".join(lines)


def _rule(policy: Policy, index: int, rule: PolicyRule, level_match: LevelMatch) -> Iterator[str]:
    sets: list[str] = []
    conditions: list[str] = []

    def condition(name: str, values: tuple[str, ...], test: str) -> None:
        if values:
            sets.extend(_table(f"local {name} = ", values))
            conditions.append(test)

    condition("users", rule.users, "users[user]")
    condition("user_groups", rule.user_groups, "in_one_of(user_groups)")
    condition("verbs", rule.verbs, "verbs[verb]")
    if level_match == "exact" and rule.level is not Level.NONE:
        conditions.append(f"recorded_level == {quote(rule.level.value)}")
    if rule.codes:
        codes = ", ".join(f"[{code}] = true" for code in dict.fromkeys(rule.codes))
        sets.append(f"local codes = {{ {codes} }}")
        conditions.append("codes[code]")
    if rule.namespaces or rule.resources:
        conditions.append("is_resource")
        condition("namespaces", rule.namespaces, "namespaces[namespace]")
        if rule.resources:
            sets.extend(_resources(rule.resources))
            conditions.append("is_covered(resources)")
    elif rule.non_resource_urls:
        conditions.append("not is_resource")
        if "*" not in rule.non_resource_urls:
            sets.extend(_table("local paths = ", rule.non_resource_urls))
            prefixes = [url.rstrip("*") for url in rule.non_resource_urls if url.endswith("*")]
            if prefixes:
                sets.append(f"local prefixes = {{ {', '.join(map(quote, prefixes))} }}")
            conditions.append("(paths[path] or starts_with(prefixes))" if prefixes else "paths[path]")

    omit = policy.omit_managed_fields if rule.omit_managed_fields is None else rule.omit_managed_fields
    name = policy.rule_name(index)
    yield f"-- Rule {index}{f', {_comment(name)}' if name != str(index) else ''}: level {rule.level}."
    yield "do"
    yield from _indented(sets)
    yield f"  rules[{index + 1}] = {{"
    yield from _indented(_outcome(name, rule.level, policy.omit_stages + rule.omit_stages, omit), 2)
    yield "    matches = function()"
    yield from _indented(_conjunction(conditions), 3)
    yield "    end,"
    yield "  }"
    yield "end"


def _outcome(name: str, level: Level, omit_stages: tuple[str, ...], omit_managed_fields: bool) -> list[str]:
    return [
        f"name = {quote(name)}, level = {quote(level.value)}, keeps = {_lua(level is not Level.NONE)},",
        *_table("omit_stages = ", omit_stages, end=","),
        f"omit_managed_fields = {_lua(omit_managed_fields)}, kept = 0, dropped = 0,",
    ]


def _conjunction(conditions: list[str]) -> list[str]:
    if not conditions:
        return ["return true"]
    # A condition a line, unless they are few: lines of Lua are what an error in the log names.
    joined = f"return {' and '.join(conditions)}"
    if len(joined) <= _WIDTH:
        return [joined]
    return [f"return {conditions[0]}", *(f"  and {test}" for test in conditions[1:])]


def _resources(elements: Iterable[GroupResources]) -> Iterator[str]:
    """A rule's ``resources``, by API group. Elements of a group without resourceNames are one."""
    by_group: dict[str, list[GroupResources]] = {}
    for element in elements:
        by_group.setdefault(element.group, []).append(element)
    yield "local resources = {"
    for group, own in by_group.items():
        unnamed = [element for element in own if not element.resource_names or not element.resources]
        named = [element for element in own if element not in unnamed]
        merged = tuple(pattern for element in unnamed for pattern in element.resources)
        if any(not element.resources for element in unnamed) or "*" in merged:
            yield f"  [{quote(group)}] = EVERYTHING,"
            continue
        yield f"  [{quote(group)}] = {{"
        if unnamed:
            yield from _indented(_element(merged, ()), 2)
        for element in named:
            yield from _indented(_element(element.resources, element.resource_names), 2)
        yield "  },"
    yield "}"


def _element(patterns: tuple[str, ...], names: tuple[str, ...]) -> Iterator[str]:
    yield "{"
    if names:
        yield from _indented(_table("names = ", names, end=","))
    if "*" not in patterns:
        yield from _indented(_table("exact = ", patterns, end=","))
        # */log is that subresource of anything; an empty one is none. pods/* is also pods alone.
        subresources = [pattern[2:] for pattern in patterns if pattern.startswith("*/") and pattern != "*/"]
        yield from _indented(_table("subresources = ", subresources, end=","))
        of = [pattern[:-2] for pattern in patterns if pattern.endswith("/*")]
        yield from _indented(_table("resources = ", of, end=","))
    yield "},"


def _table(start: str, values: Iterable[str], *, end: str = "") -> list[str]:
    """A table that is a set of strings."""
    entries = [f"[{quote(value)}] = true" for value in dict.fromkeys(values)]
    if not entries:
        return [f"{start}{{}}{end}"]
    joined = f"{start}{{ {', '.join(entries)} }}{end}"
    if len(joined) <= _WIDTH:
        return [joined]
    return [f"{start}{{", *(f"  {entry}," for entry in entries), f"}}{end}"]


def _indented(lines: Iterable[str], levels: int = 1) -> Iterator[str]:
    return ("  " * levels + line for line in lines)


def _lua(value: bool) -> str:
    return "true" if value else "false"
