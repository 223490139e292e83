"""A policy as one self-contained Lua script, a filter of Fluent Bit.

The script is a header, the rules, and around them the fixed parts in ``runtime/``. Text of the policy
gets into it in two ways only: as a quoted string, and as a comment of printable ASCII
(``syntax``). ``conditions`` has a function for each condition that writes it in Lua.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path

from filter_engine import Level, Policy, PolicyError, fields, sampling
from filter_engine.conditions import Condition, conditions_of
from filter_engine.errors import PolicyProblem
from filter_engine.evaluator import LevelMatch
from filter_engine.fields import Field
from filter_engine.model import Sample
from filter_engine.vocabulary import Vocabulary

from ...records.event_path import Step, describe_event_path
from .conditions import NotInLuaError, Translation, conjunction, statements, translate
from .syntax import boolean, comment, indented, quote, table

# Seconds between two lines with the counters.
REPORT_INTERVAL = 60

# LuaJIT allows 65,536 constants in a function, and a rule has a few hundred at most.
_RULES_IN_A_FUNCTION = 200
_REDACT = "the script can't redact, and would write in the clear what redact names; take exec or forward"


@dataclass(frozen=True)
class LuaOptions:
    """How a policy is compiled.

    Attributes:
        event_path: the path to the event in a record; with None, the script looks for the event.
        reduce: reduce kept events to the level of their rule, if the policy says nothing of it.
        split: let a record with a list of events go on as one record for each event that is left.
        dry_run: decide and count, but let all records go on as they are.
        level_match: see :class:`filter_engine.PolicyEvaluator`.
        lenient: whether the policy was read with ``--lenient``; only the header shows it.
        report_interval: seconds between two lines with the counters; with 0 there is only one at the end.
    """

    event_path: tuple[Step, ...] | None = None
    reduce: bool = False
    split: bool = False
    dry_run: bool = False
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
            "--split" if self.split else "",
            "--dry-run" if self.dry_run else "",
            f"--report-interval {self.report_interval}" if self.report_interval != REPORT_INTERVAL else "",
        ]
        return " ".join(filter(None, given)) or "none"


def compile_policy(policy: Policy, *, source: bytes, name: str, version: str, options: LuaOptions) -> str:
    """Write a policy as a Lua script.

    Args:
        policy: the policy.
        source: the text it was read from; the header has its digest.
        name: what the header calls the policy.
        version: the version of this program.
        options: how to compile.

    Returns:
        The script, in ASCII. The same arguments give the same script.

    Raises:
        PolicyError: a rule has something that can't be compiled.
    """
    digest = hashlib.sha256(source).hexdigest()
    conditions = [
        conditions_of(rule, compares_levels=options.level_match == "exact", has_patterns=policy.has_patterns)
        for rule in policy.rules
    ]
    translated = _translated(policy, conditions, name)
    if policy.reduce is not None:
        options = replace(options, reduce=policy.reduce)
    samples = [rule.sample for rule in policy.rules if rule.sample is not None]
    annotates = any(sample.annotate for sample in samples)
    needed = {part for own in translated for condition in own for part in condition.parts}
    parts = [
        _header(policy, digest, name, version, options),
        _constants(conditions, digest, options, changes_events=options.reduce or annotates),
        _runtime("request"),
        _module("patterns") if "patterns" in needed else "",
        _module("networks") if "networks" in needed else "",
        _runtime("conditions") if "conditions" in needed else "",
        _rules(policy, translated),
        _runtime("json"),
        _module("sampling") if samples else "",
        _module("annotation") if annotates else "",
        _module("reduction") if options.reduce else "",
        _runtime("actions") if options.reduce or annotates else "",
        _runtime("split") if options.split else "",
        _runtime("envelope"),
        _runtime("main"),
        f"do\n{_runtime('event_time')}end\n" if options.split else "",
    ]
    return "\n".join(filter(None, parts))


def _runtime(name: str) -> str:
    return Path(__file__).with_name("runtime").joinpath(f"{name}.lua").read_text(encoding="ascii")


def _module(name: str) -> str:
    """A part whose last line names what the others need of it: a script may have 200 local variables."""
    text = _runtime(name)
    names = text.rstrip().rpartition("\nreturn ")[2]
    return f"local {names} = (function()\n{text}end)()\n"


def _header(policy: Policy, digest: str, name: str, version: str, options: LuaOptions) -> str:
    return f"""\
-- An audit policy as a filter for Fluent Bit. kube-audit-filter compile has made this script of the
-- policy: don't edit it, edit the policy and compile it again.
--
--   policy     {comment(name)}, {len(policy.rules)} rule{"s" if len(policy.rules) != 1 else ""}
--   sha256     {digest}
--   options    {comment(str(options))}
--   generator  kube-audit-filter {comment(version)}
--
--   [FILTER]
--       Name    lua
--       Match   *
--       Script  THIS FILE
--       Call    kube_audit_filter
{_TIME_FILTER if options.split else ""}"""


# Fluent Bit's Lua filter takes one time for all records that it gets in place of one (pack_result in
# plugins/filter_lua/lua.c, up to version 5.1.1 at least).
_TIME_FILTER = """\
--
-- All records of a list that is split have the time of the list. A second filter behind the first, with the
-- same Match, gives each the time of its event:
--
--   [FILTER]
--       Name           lua
--       Match          *
--       Script         THIS FILE
--       Call           kube_audit_time
--       Time_As_Table  On
"""


def _constants(
    conditions: Sequence[Sequence[Condition]], digest: str, options: LuaOptions, *, changes_events: bool
) -> str:
    path = "nil"
    if options.event_path is not None:
        steps = ["EACH" if step is None else quote(step) for step in options.event_path]
        path = f"{{ {', '.join(steps)} }}"
    vocabulary = Vocabulary()
    for own in conditions:
        for condition in own:
            condition.add_words(vocabulary)
    names_objects = vocabulary.reads(fields.NAMESPACE) or vocabulary.reads(fields.NAME)
    read = {field for own in conditions for condition in own for field in condition.reads}
    return f"""\
local POLICY_DIGEST = {quote(digest)}
local EACH = true -- in EVENT_PATH: every element of an array
local EVENT_PATH = {path} -- the way to the event in a record; nil: look for it
local REDUCE = {boolean(options.reduce)} -- reduce kept events to the level of their rule
local CHANGES_EVENTS = {boolean(changes_events)} -- whether a kept event may have to be written anew
local SPLIT = {boolean(options.split)} -- a list of events becomes a record for each event
local DRY_RUN = {boolean(options.dry_run)} -- all is decided and counted, and every record goes on as it is
local REPORT_INTERVAL = {options.report_interval} -- seconds between reports; 0: only one at the end
local NAMES_OBJECTS = {boolean(names_objects)} -- whether a rule has namespaces or resourceNames
local READS_ADDRESSES = {boolean(fields.SOURCE_IPS in read)} -- whether a rule has sourceIPs
{_more_fields(read)}
"""


def _more_fields(read: Collection[Field]) -> str:
    """The fields that these rules read and others may not."""
    found = sorted(set(read).difference(fields.FIELDS), key=attrgetter("path"))
    rows = [
        f"  {{ object = {quote(field.parent)}, name = {quote(field.name)}, type = {quote(field.type)},"
        f" as = {quote(field.path)} }},"
        for field in found
    ]
    start = "-- Fields that conditions read and other policies may not; see FIELDS.\nlocal MORE_FIELDS = {"
    return "\n".join([start, *rows, "}"]) if rows else f"{start}}}"


def _translated(
    policy: Policy, conditions: Sequence[Sequence[Condition]], source: str
) -> list[list[Translation]]:
    """The conditions of each rule in Lua. Raises PolicyError with all that can't be compiled."""
    problems = []
    translated: list[list[Translation]] = []
    if policy.redact:
        problems.append(PolicyProblem("", f"the policy can't be compiled: {_REDACT}"))
    for index, own in enumerate(conditions):
        translated.append([])
        refused = [_REDACT] if policy.rules[index].redact else []
        for condition in own:
            try:
                translated[-1].append(translate(condition))
            except NotInLuaError as error:
                refused.append(str(error))
        field, name = f"rules[{index}]", policy.rule_name(index)
        called = field if name == str(index) else f"{field}, {name},"
        for reason in refused:
            message = f"{called} can't be compiled: {reason}"
            problems.append(PolicyProblem(field, message, policy.rule_line(index)))
    if problems:
        raise PolicyError(source, problems)
    return translated


def _rules(policy: Policy, translated: Sequence[Sequence[Translation]]) -> str:
    # Each rule repeats the policy's stages, so a stage that is named several times is written once.
    policy = replace(policy, omit_stages=tuple(dict.fromkeys(policy.omit_stages)))
    lines = ["-- The policy. The first rule that matches decides."]
    for start in range(0, len(translated), _RULES_IN_A_FUNCTION):
        lines += ["", "run(function()"]
        for index, own in enumerate(translated[start : start + _RULES_IN_A_FUNCTION], start):
            lines += indented(_rule(policy, index, own))
        lines.append("end)")
    lines += [
        "",
        "-- Where no rule matches.",
        "local NO_RULE = {",
        *indented(
            _outcome(
                policy.rule_name(None), policy.default_level, policy.omit_stages, policy.omit_managed_fields
            )
        ),
        "}",
        "",
    ]
    return "\n".join(lines)


def _rule(policy: Policy, index: int, conditions: Sequence[Translation]) -> Iterator[str]:
    rule = policy.rules[index]
    name = policy.rule_name(index)
    omit = policy.omit_managed_fields if rule.omit_managed_fields is None else rule.omit_managed_fields
    yield f"-- Rule {index}{f', {comment(name)}' if name != str(index) else ''}: level {rule.level}."
    yield "do"
    yield from indented(statements(conditions))
    yield f"  rules[{index + 1}] = {{"
    yield from indented(_outcome(name, rule.level, policy.omit_stages + rule.omit_stages, omit), 2)
    yield from indented(_sample(rule.sample), 2)
    yield "    matches = function()"
    yield from indented(conjunction(conditions), 3)
    yield "    end,"
    yield "  }"
    yield "end"


def _outcome(name: str, level: Level, omit_stages: tuple[str, ...], omit_managed_fields: bool) -> list[str]:
    return [
        f"name = {quote(name)}, level = {quote(level.value)}, keeps = {boolean(level is not Level.NONE)},",
        *table("omit_stages = ", omit_stages, end=","),
        f"omit_managed_fields = {boolean(omit_managed_fields)}, kept = 0, dropped = 0,",
    ]


def _sample(sample: Sample | None) -> Iterator[str]:
    if sample is not None:
        rate = quote(sampling.rate_text(sample.rate)) if sample.annotate else "nil"
        yield f"sample = {quote(sampling.threshold(sample.rate))}, rate = {rate}, left_out = 0,"
