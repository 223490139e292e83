"""A policy compiled to Lua decides as the evaluator, and as kube-apiserver."""

import inspect
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filter_engine import (
    GroupResources,
    Level,
    Policy,
    PolicyError,
    PolicyEvaluator,
    PolicyRule,
    conditions,
    fields,
)
from filter_engine.request import is_event
from plugin.compiler.lua import compiler
from plugin.compiler.lua.compiler import LuaOptions, compile_policy
from plugin.compiler.lua.conditions import TRANSLATIONS
from plugin.compiler.lua.syntax import quote
from tests.filter_engine.test_evaluator import FIELDS, anything
from tests.support import POLICY, event, verdicts
from tests.support.lua_filter import LuaFilter, compiled, lupa


def as_text(record):
    """The event as a line that no parser has read."""
    return {"log": json.dumps(record) + "\n"}


WRAPPERS = pytest.mark.parametrize("wrap", [lambda record: record, as_text], ids=["table", "text"])


def decisions_by_rule(lua):
    """How many events each rule kept and dropped, as the script reports it."""
    report = lua.end()
    counts = {}
    for name in ("kept", "dropped"):
        _, _, listed = report.partition(f"events {name} by rule: ")
        pairs = (pair.split("=") for pair in listed.partition(";")[0].split())
        counts[name] = {rule: int(count) for rule, count in pairs}
    if match := re.search(r"events dropped because no rule matched: (\d+)", report):
        counts["dropped"]["none"] = int(match[1])
    return counts


@WRAPPERS
@pytest.mark.parametrize("name", ["policy_evaluation.jsonl.gz", "gce_policy.jsonl.gz"])
def test_decisions_are_those_of_kube_apiserver(name, wrap):
    decided = 0
    for case in verdicts(name):
        lua = LuaFilter(case["policy"])
        counts = {"kept": Counter(), "dropped": Counter()}
        for sent, expected in zip(case["events"], case["expected"], strict=True):
            if not is_event(sent):  # it has the path of a resource and no objectRef
                assert lua.keeps(wrap(sent))
                continue
            keep = expected["level"] != "None" and not expected["stageOmitted"]
            assert lua.keeps(wrap(sent)) is keep, (sent, case["policy"])
            rule = "none" if expected["rule"] < 0 else str(expected["rule"])
            counts["kept" if keep else "dropped"][rule] += 1
            decided += 1
        assert decisions_by_rule(lua) == counts
    assert decided > 2500


@WRAPPERS
def test_decisions_on_recorded_events_are_those_on_their_requests(wrap):
    """Though kube-apiserver has filled in what objectRef lacked from the body."""
    decided = 0
    for case in verdicts("request_verdicts.jsonl.gz"):
        for one in case["policies"]:
            lua = LuaFilter(one["policy"])
            counts = {"kept": Counter(), "dropped": Counter()}
            for sent, expected in zip(case["events"], one["expected"], strict=True):
                if expected is None:
                    continue
                level, rule, stage_omitted, _ = expected
                keep = level != "None" and not stage_omitted
                assert lua.keeps(wrap(sent)) is keep, (sent, one["policy"])
                counts["kept" if keep else "dropped"]["none" if rule < 0 else str(rule)] += 1
                decided += 1
            assert decisions_by_rule(lua) == counts
    assert decided == 20_750


def test_patterns_match_as_in_kube_apiserver():
    """A rule a pattern, all of them in one script; what a rule decides on is asked by its user."""
    cases = verdicts("matching_matrix.jsonl.gz")
    specs = sorted({case.get("spec", case.get("pattern")) for case in cases})
    rules = []
    for kind in ("path", "resource"):
        for spec in specs:
            rules.append(
                PolicyRule(
                    Level.METADATA,
                    users=(f"{kind} {spec}",),
                    non_resource_urls=(spec,) if kind == "path" else (),
                    resources=(GroupResources(resources=(spec,)),) if kind == "resource" else (),
                )
            )
    lua = LuaFilter(Policy(tuple(rules)))
    for case in cases:
        user = {"username": f"{case['kind']} {case.get('spec', case.get('pattern'))}"}
        if case["kind"] == "path":
            uri = "".join(f"%{byte:02X}" for byte in case["path"].encode())
            sent = event(user=user, objectRef=None, requestURI=uri)
        else:
            ref = {"resource": case["resource"], "subresource": case["subresource"]}
            sent = event(user=user, objectRef=ref)
        assert lua.keeps(sent) is (case["match"] or not is_event(sent)), case


NAMES = st.sampled_from(
    ["a", "b", "*", "", "a/b", "*/b", "a/*", 'q"\\', "]]", "line\nbreak", "é☃😀", "\x00\x7f"]
)
FEW = st.lists(NAMES, max_size=3).map(tuple)
PATHS = st.sampled_from(["/a", "/a*", "/a/b", "*", "/é*", "/"])
VERBS = st.sampled_from(["get", "create", "update", "a"])
STAGES = st.sampled_from(["RequestReceived", "ResponseComplete", "Panic"])
CODES = st.sampled_from([200, 403, -1])
RULES = st.builds(
    PolicyRule,
    level=st.sampled_from(list(Level)),
    users=FEW,
    user_groups=FEW,
    verbs=st.lists(VERBS, max_size=2).map(tuple),
    resources=st.lists(
        st.builds(GroupResources, st.sampled_from(["", "apps", "*"]), FEW, FEW), max_size=3
    ).map(tuple),
    namespaces=FEW,
    non_resource_urls=st.lists(PATHS, max_size=2).map(tuple),
    omit_stages=st.lists(STAGES, max_size=2).map(tuple),
    codes=st.lists(CODES, max_size=2).map(tuple),
)
# Rules of few conditions too, or hardly any would match.
SPARSE = st.builds(
    lambda rule, keep: PolicyRule(rule.level, **{name: getattr(rule, name) for name in keep}),
    RULES,
    st.sets(
        st.sampled_from(["users", "user_groups", "verbs", "resources", "namespaces", "non_resource_urls"])
    ),
)
POLICIES = st.builds(
    Policy,
    st.lists(RULES | SPARSE, min_size=1, max_size=6).map(tuple),
    st.lists(STAGES, max_size=1).map(tuple),
)
# Slashes at both ends, namespaces as objects, subresources, watch and proxy as first part.
URIS = st.sampled_from(
    ["/a", "/a%2Fb?x", "/a/b", "/%C3%A9t", "/%zz%", "", "/%FF", "?", "/api", "/apis/apps/v1"]
)
RESOURCE_URIS = st.builds(
    lambda prefix, parts, end: "/".join([prefix, *parts]) + end,
    st.sampled_from(["/api/v1", "//api/v1", "/apis/apps/v1", "/apis//v1", "api", "/apis/apps"]),
    st.lists(
        st.sampled_from(
            ["watch", "proxy", "namespaces", "status", "finalize", "a", "b", "%61", "a%2Fb", "", "%C3%A9"]
        ),
        max_size=6,
    ),
    st.sampled_from(["", "/", "//", "?", "?a=/api/v1/a", "%3Fa"]),
)
EVENTS = st.fixed_dictionaries(
    {
        "auditID": st.just("id"),
        "verb": VERBS,
        "user": st.none()
        | st.fixed_dictionaries({}, optional={"username": NAMES, "groups": st.lists(NAMES, max_size=3)}),
    },
    optional={
        "objectRef": st.none()
        | st.fixed_dictionaries(
            {},
            optional={
                "apiGroup": st.sampled_from(["", "apps", "other", "*"]),
                "resource": NAMES | st.just("namespaces"),
                **dict.fromkeys(["subresource", "name", "namespace"], NAMES),
            },
        ),
        "requestURI": URIS | RESOURCE_URIS,
        "stage": STAGES,
        "level": st.sampled_from([*(str(level) for level in Level), "info"]),
        "responseStatus": st.fixed_dictionaries({}, optional={"code": CODES | st.booleans()}),
    },
)
MATCHES = st.sampled_from(["kubernetes", "exact"])


@given(policy=POLICIES, sent=st.lists(EVENTS, min_size=1, max_size=8), level_match=MATCHES)
def test_any_policy_decides_on_any_event_as_the_evaluator_does(policy, sent, level_match):
    evaluate = PolicyEvaluator(policy, level_match=level_match).evaluate
    lua = LuaFilter(policy, level_match=level_match)
    counts = {"kept": Counter(), "dropped": Counter()}
    for record in sent:
        decision = evaluate(record)
        keep = decision.keep or not is_event(record)
        if is_event(record):
            counts["kept" if keep else "dropped"][policy.rule_name(decision.rule)] += 2
        assert lua.keeps(record) is keep
        assert lua.keeps(as_text(record)) is keep
    assert decisions_by_rule(lua) == counts


BROKEN_POLICY = Policy(
    (
        PolicyRule(Level.NONE, users=("a", ""), user_groups=("",)),
        PolicyRule(Level.METADATA, namespaces=("",), resources=(GroupResources(resources=("*/x", "")),)),
        PolicyRule(Level.NONE, user_groups=("", "a")),
        PolicyRule(Level.REQUEST, non_resource_urls=("/a*",), codes=(200,)),
        PolicyRule(Level.REQUEST, codes=(0, 1)),
        PolicyRule(Level.METADATA, users=("",)),
    )
)
BROKEN_LUA = LuaFilter(BROKEN_POLICY)


def is_json(value):
    """Whether it is the same in JSON: no bytes, no keys but strings, no numbers that are not JSON."""
    try:
        return json.loads(json.dumps(value, allow_nan=False)) == value
    except (TypeError, ValueError):
        return False


@given(st.dictionaries(st.sampled_from(FIELDS), anything))
def test_broken_events_are_decided_on_as_by_the_evaluator(broken):
    sent = {"user": {}, **broken, "auditID": "x", "verb": "get"}
    # Lua has one type of numbers: a code of 200.0 is 200 there.
    status = sent.get("responseStatus")
    if isinstance(status, dict) and isinstance(status.get("code"), float):
        status["code"] = None
    keep = not is_event(sent) or PolicyEvaluator(BROKEN_POLICY).evaluate(sent).keep
    assert BROKEN_LUA.keeps(sent) is keep
    if is_json(sent):
        assert BROKEN_LUA.keeps(as_text(sent)) is keep


def test_a_group_that_is_no_string_is_an_empty_one():
    lua = LuaFilter(Policy((PolicyRule(Level.METADATA, user_groups=("",)),)))
    for groups, matches in (
        ([""], True),
        ([5], True),
        ([None], True),
        (["a"], False),
        ([], False),
        ({}, False),
    ):
        sent = event(user={"username": "a", "groups": groups})
        assert lua.keeps(sent) is lua.keeps(as_text(sent)) is matches


def test_text_that_is_not_utf_8_is_compared_by_its_bytes():
    lua = LuaFilter(Policy((PolicyRule(Level.NONE, users=("é",)), PolicyRule(Level.METADATA))))
    assert not lua.keeps(event(user={"username": "é".encode()}))
    assert lua.keeps(event(user={"username": "é".encode("latin-1")}))


EVIL = [
    '"] = true } os.exit() --',
    "'",
    "]]",
    "]=]",
    "--[[",
    "\\",
    "\\n",
    "a\nb\r\n",
    "\x001",
    "\x7f\x80ÿé☃😀",
    "%d%s",
    "\ud800",
]


def test_no_value_of_a_policy_can_become_code():
    assert all(quote(value).isascii() and "\n" not in quote(value) for value in EVIL)
    for value in EVIL:
        rule = PolicyRule(Level.METADATA, users=(value,), namespaces=(value,), user_groups=(value,))
        lua = LuaFilter(Policy((rule,)))
        raw = value.encode("utf-8", "surrogatepass")
        user = {"username": raw, "groups": [raw]}
        assert lua.keeps(event(user=user, objectRef={"namespace": raw}))
        assert not lua.keeps(event(user=user, objectRef={"namespace": raw + b"x"}))


def test_no_name_of_a_policy_can_become_code():
    policy = Policy.from_yaml(POLICY)
    for name in EVIL:
        script = compile_policy(
            policy, source=b"", name=name, version=name, options=LuaOptions(event_path=(name,))
        )
        assert script.isascii()
        head, _, _ = script.partition("local POLICY_DIGEST")
        assert all(row.startswith("--") for row in head.splitlines() if row)
        lua = LuaFilter(script=script)
        raw = name.encode("utf-8", "surrogatepass")
        assert not lua.keeps({raw: event(user={"username": "system:kube-proxy"})})


def test_the_script_is_the_same_for_the_same_policy_and_says_what_it_is():
    script = compiled(POLICY, reduce=True, event_key=r"records[].a\.b.log", report_interval=5)
    assert script == compiled(POLICY, reduce=True, event_key=r"records[].a\.b.log", report_interval=5)
    assert "policy     policy.yaml, 5 rules\n" in script
    assert "sha256     d5d2b0086caa4ae7e729ab3ae542dc0ae24d7000a1bc7ac3b367a5fbc5e4b692\n" in script
    assert r"options    --event-key records[].a\092.b.log --reduce --report-interval 5" in script
    assert "options    none\n" in compiled(POLICY)
    for index in range(5):
        assert f"-- Rule {index}: level " in script
    for word in ("loadstring", "dofile", "os.execute", "io.open"):
        assert word not in script


def test_rules_have_their_names_in_comments_and_counters():
    named = {
        "apiVersion": "audit.k8s.io/v1",
        "metadata": {"annotations": {"kube-audit-filter/rule-0": "noise"}},
        "rules": [{"level": "None", "verbs": ["get"]}, {"level": "Metadata"}],
    }
    lua = LuaFilter(named)
    assert "-- Rule 0, noise: level None." in compiled(named)
    lua.call(event())
    lua.call(event(verb="list"))
    assert decisions_by_rule(lua) == {"kept": {"1": 1}, "dropped": {"noise": 1}}


def test_very_large_policies_stay_within_the_limits_of_lua():
    """200 local variables, 60 upvalues and 65,536 constants are what LuaJIT allows a function."""
    many = tuple(f"user-{number}" for number in range(70_000))
    elements = tuple(
        GroupResources(f"g{number % 50}", (f"r{number}", f"*/s{number}"), (f"n{number}",))
        for number in range(30_000)
    )
    rules = [PolicyRule(Level.NONE, users=(f"only-{number}",), verbs=("get",)) for number in range(1500)]
    policy = Policy(
        (*rules, PolicyRule(Level.NONE, users=many), PolicyRule(Level.METADATA, resources=elements))
    )
    lua = LuaFilter(policy)
    ref = {"apiGroup": "g49", "resource": "r29999", "name": "n29999"}
    assert lua.keeps(event(objectRef=ref))
    assert not lua.keeps(event(objectRef={**ref, "name": "n29998"}))
    assert not lua.keeps(event(objectRef=ref, user={"username": "user-69999"}))
    assert not lua.keeps(event(objectRef=ref, user={"username": "only-1499"}))


def test_a_policy_of_twenty_thousand_rules_with_all_conditions_is_loaded():
    rules = [
        PolicyRule(
            Level.REQUEST,
            users=(f"user-{number}",),
            user_groups=(f"group-{number}", "a"),
            verbs=("get", f"verb-{number}"),
            namespaces=(f"namespace-{number}",),
            resources=tuple(GroupResources("", (f"r{number}-{which}",), ("a",)) for which in range(3)),
            omit_stages=("Panic",),
        )
        for number in range(20_000)
    ]
    lua = LuaFilter(Policy(tuple(rules)))
    for number in (0, 199, 200, 10_000, 19_999):
        sent = event(
            user={"username": f"user-{number}", "groups": ["a"]},
            objectRef={"resource": f"r{number}-2", "name": "a", "namespace": f"namespace-{number}"},
        )
        assert lua.keeps(sent)
        assert not lua.keeps({**sent, "stage": "Panic"})
        assert not lua.keeps({**sent, "verb": "list"})


CPU_TIME = b"""
return function(records)
  local start = os.clock()
  for _ = 1, 20 do
    for i = 1, #records do
      kube_audit_filter("tag", 1.5, records[i])
    end
  end
  return os.clock() - start
end"""


def test_the_cost_of_a_record_does_not_grow_faster_than_the_number_of_rules():
    """A loop over different functions is a case in which LuaJIT's compiler is slower than its interpreter."""
    sent = [event(user={"username": f"user-{number % 50}"}, verb="get") for number in range(500)]
    costs = []
    for count in (40, 200):
        rules = [PolicyRule(Level.NONE, users=(f"team-{n}",), verbs=("get", "list")) for n in range(count)]
        lua = LuaFilter(Policy((*rules, PolicyRule(Level.METADATA))))
        cpu_time = lua.lua.execute(CPU_TIME)
        records = lua.lua.table_from([lua.to_lua(record) for record in sent])
        costs.append(min(cpu_time(records) for _ in range(5)))
    assert costs[1] < 5 * costs[0]


def test_every_condition_is_written_or_refused():
    classes = {
        value for _, value in inspect.getmembers(conditions, inspect.isclass) if hasattr(value, "is_met")
    }
    assert set(TRANSLATIONS) == classes - {conditions.Condition}
    assert all(callable(found) or found for found in TRANSLATIONS.values())


def test_a_condition_that_lua_lacks_is_refused_in_words_for_each_rule(monkeypatch):
    monkeypatch.setitem(TRANSLATIONS, conditions.Verbs, "Lua knows no verbs: take exec for this policy")
    text = """
apiVersion: audit.k8s.io/v1
rules:
- {level: None, verbs: [get]}
- {level: None, users: [a]}
- {level: None, verbs: [list]}
"""
    with pytest.raises(PolicyError) as error:
        compiled(text)
    assert str(error.value).splitlines() == [
        "policy.yaml:4: rules[0] can't be compiled: Lua knows no verbs: take exec for this policy",
        "policy.yaml:6: rules[2] can't be compiled: Lua knows no verbs: take exec for this policy",
    ]


def test_every_field_of_an_event_is_read():
    runtime = Path(compiler.__file__).with_name("runtime") / "request.lua"
    lua = lupa.LuaRuntime()
    constants = "local NAMES_OBJECTS, READS_ADDRESSES, MORE_FIELDS = true, false, {}\n"
    read = lua.execute(constants + runtime.read_text() + "\nreturn FIELDS").values()
    assert [(field.object, field.name, field.type) for field in read] == [
        (field.parent, field.name, field.type) for field in fields.FIELDS
    ]


def test_the_script_also_runs_in_plain_lua_5_1():
    lua51 = pytest.importorskip("lupa.lua51")
    for case in verdicts("policy_evaluation.jsonl.gz")[:20]:
        lua = LuaFilter(case["policy"], runtime=lua51.LuaRuntime)
        for sent, expected in zip(case["events"], case["expected"], strict=True):
            if "user" in sent:
                sent["user"] = sent["user"] or {}  # without Fluent Bit's null, a null is as good as nothing
            keep = (expected["level"] != "None" and not expected["stageOmitted"]) or not is_event(sent)
            assert lua.keeps(sent) is keep
            assert lua.keeps(as_text(sent)) is keep
