"""The rows of ``bench``: which program runs, with which options, on which shape of the log."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT, has_module, interpreter
from filter_engine import Policy

POLICY = ROOT / "conf/policies/gce.yaml"
RULES = 1000
PATTERNS = 200
# What every other row is compared with: the filter on bare events, and the loop around a library.
REFERENCE = "exec"
LOOP = "loop"
_HEAD = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy"}
_JSON = ("--format", "json")
_REDACT = ("--redact", "builtin:secrets")
# As many bytes as the filter reads at once.
_READ_ALONE = "import os\nwhile os.read(0, 65536): pass"


@dataclass(frozen=True)
class Row:
    """One of the things that are measured.

    Attributes:
        name: what it is called on the command line.
        text: what it is.
        shape: of the log that it reads, a key of ``logs.SHAPES``.
        command: the program and its arguments; for the filter, what follows the program's name.
        is_filter: whether the filter runs: this version, and those that it is compared with.
        one_by_one: whether each read gets a single record.
        all_kept: whether it has to let every event through.
        counts_events: whether its output is the log, or what is left of that.
        statuses: exit statuses that are none of failure.
        missing: what is not installed here, without which there is no such row.
    """

    name: str
    text: str
    shape: str
    command: tuple[str, ...]
    is_filter: bool = False
    one_by_one: bool = False
    all_kept: bool = False
    counts_events: bool = True
    statuses: tuple[int, ...] = (0,)
    missing: str = ""


def make_rows(program: Path, directory: Path) -> list[Row]:
    """All rows, in the order of the table.

    Args:
        program: the filter; the loop runs in its virtual environment.
        directory: where policies are written that some rows read.
    """
    many_rules, translated = directory / "1000-rules.yaml", directory / "translated.json"
    # JSON is YAML.
    patterns = directory / "200-patterns.yaml"
    many_rules.write_text(json.dumps(_with_rules(Policy.from_file(POLICY), RULES)))
    patterns.write_text(json.dumps(_with_patterns(Policy.from_file(POLICY), PATTERNS)))
    translated.write_text(json.dumps(translate(Policy.from_file(POLICY))))
    key = directory / "key"
    key.write_bytes(bytes(range(1, 33)))
    hashed = ("--redact-method", "hash", "--redact-key-file", str(key))
    python = interpreter(program)
    loop = (python, "-m", "benchmarks.loop")
    has_library = has_module(program, "k8s_audit_filter")
    return [
        Row("cat", "cat", "events", ("cat",), all_kept=True),
        Row(
            "read", "read alone, in Python", "events", (python, "-I", "-c", _READ_ALONE), counts_events=False
        ),
        _exec(REFERENCE, "exec, MessagePack", "events"),
        _exec("entries", "  [[time, metadata], event]", "entries"),
        _exec("pairs", "  [time, event]", "pairs"),
        _exec("binary", "  text as bin", "binary"),
        _exec("json", "  JSON lines", "json", "--format", "json"),
        _exec("log", "  JSON text under log", "text"),
        _exec("log-json", "  the same in JSON lines", "text-json", "--format", "json"),
        _exec("lists", "  EventLists", "lists"),
        _exec("lists-json", "  EventLists, JSON lines", "lists-json", "--format", "json"),
        _exec("reduce", "  --reduce", "events", "--reduce"),
        _exec("reduce-json", "  --reduce, JSON lines", "json", "--reduce", "--format", "json"),
        _exec("reduce-log", "  --reduce, text under log", "text", "--reduce"),
        _exec("new-user", "  each event a new user", "new-user"),
        _exec("new-extra", "  each event a new user extra", "new-extra"),
        _exec("new-namespace", "  each event a new namespace", "new-namespace"),
        _exec("new-uri", "  each event a new URI", "new-uri"),
        _exec("new-path", "  each event a new path", "new-path"),
        _exec("unusual-verb", "  an unusual verb", "unusual-verb"),
        _exec("max-depth", "  --max-depth 100", "events", "--max-depth", "100"),
        _exec("single", "  one record a read", "events", one_by_one=True),
        _exec("rules", f"  a policy of {RULES:,} rules", "events", policy=many_rules),
        _exec("patterns", f"  a FilterPolicy, {PATTERNS} rules with patterns", "events", policy=patterns),
        _exec("patterns-new", "    each event a new user", "new-user", policy=patterns),
        _exec("secrets", "  secrets in one event of five", "secrets"),
        _exec("redact", "    --redact builtin:secrets", "secrets", *_REDACT),
        _exec("redact-hash", "    the same, hashed", "secrets", *_REDACT, *hashed),
        _exec("secrets-json", "  the same, JSON lines", "secrets-json", *_JSON),
        _exec("redact-json", "    --redact builtin:secrets", "secrets-json", *_JSON, *_REDACT),
        Row(
            LOOP,
            "k8s-audit-filter in a loop",
            "events",
            (*loop, str(translated)),
            missing="" if has_library else "k8s-audit-filter (pip install '.[bench]')",
        ),
        Row("decode", "decode and encode alone", "events", loop, all_kept=True),
        _other("jq", "jq -c select", "json", "-c", 'select(.verb | IN("get", "list", "watch") | not)'),
        # Its exit status is 1 where no line matches, as when it starts with no input.
        _other("grep", "grep -c", "json", "-c", '"verb":"create"', statuses=(0, 1)),
    ]


def _exec(
    name: str, text: str, shape: str, *options: str, one_by_one: bool = False, policy: Path = POLICY
) -> Row:
    command = ("exec", "--policy", str(policy), *options)
    return Row(name, text, shape, command, is_filter=True, one_by_one=one_by_one)


def _other(program: str, text: str, shape: str, *arguments: str, statuses: tuple[int, ...] = (0,)) -> Row:
    missing = "" if shutil.which(program) else program
    command = (program, *arguments)
    return Row(program, text, shape, command, counts_events=False, statuses=statuses, missing=missing)


def _with_rules(policy: Policy, count: int) -> dict[str, Any]:
    """A policy of so many rules: none of those put in front matches an event, so the verdicts stay."""
    own = [rule.to_dict() for rule in policy.rules]
    kinds = ("pods", "deployments", "leases", "secrets", "configmaps/status")
    added = [
        {
            "level": "None",
            "users": [f"system:serviceaccount:team-{number}:builder"],
            "verbs": ["get", "list", "watch"] if number % 2 else ["create", "update"],
            "namespaces": [f"team-{number}"],
            "resources": [{"group": "" if number % 3 else "apps", "resources": [kinds[number % len(kinds)]]}],
        }
        if number % 4
        else {"level": "None", "nonResourceURLs": [f"/teams/{number}/*"]}
        for number in range(count - len(own))
    ]
    return {**_HEAD, "rules": [*added, *own]}


def _with_patterns(policy: Policy, count: int) -> dict[str, Any]:
    """The policy as a FilterPolicy, behind so many rules with patterns that match no event."""
    added = [
        (
            {"level": "None", "users": [f"system:serviceaccount:team-{number}:*", f"*-bot-{number}"]},
            {"level": "None", "userGroups": [f"oidc:{number}:*:admins"], "verbs": ["get", "list", "watch"]},
            {"level": "None", "namespaces": [f"ci-{number}-*"], "resources": [{"group": "*.example.com"}]},
            {"level": "None", "resources": [{"group": "", "resources": [f"widgets{number}*/*"]}]},
            {"level": "None", "nonResourceURLs": [f"/teams/{number}/*/health", f"*/probe-{number}"]},
        )[number % 5]
        | {"name": f"pattern-{number}", "except": [{"responseCodes": ["4xx", "5xx"]}]}
        for number in range(count)
    ]
    # The rules of the policy have no patterns but those that mean the same in both kinds.
    own = [rule.to_dict() for rule in policy.rules]
    kind = {"apiVersion": "kube-audit-filter.io/v1", "kind": "FilterPolicy"}
    return {**kind, "omitStages": list(policy.omit_stages), "rules": [*added, *own]}


def translate(policy: Policy) -> dict[str, Any]:
    """A policy for ``k8s-audit-filter`` 0.5.0: the same one, without what that library refuses.

    It refuses ``nonResourceURLs`` (the rule is left out) and ``omitStages``. It reads the rest in
    its own way: a rule keeps events recorded at exactly its level, and one of level None drops
    nothing, but asks for events of level None. So it keeps more than the filter does.
    """
    rules = [rule.to_dict() for rule in policy.rules if not rule.non_resource_urls]
    for rule in rules:
        rule.pop("omitStages", None)
    return {**_HEAD, "rules": rules}
