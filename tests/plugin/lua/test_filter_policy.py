"""A FilterPolicy compiled to Lua: events go on, or not, as the engine says, and as from ``exec``."""

import json
import re
from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from filter_engine import (
    GroupResources,
    Level,
    Policy,
    PolicyActions,
    PolicyError,
    PolicyEvaluator,
    PolicyRule,
    sampling,
)
from filter_engine.model import Conditions, Sample
from filter_engine.networks import Networks
from filter_engine.patterns import Texts
from tests.filter_engine.test_networks import networks
from tests.plugin.lua.test_compiler import EVIL, as_text, decisions_by_rule
from tests.plugin.lua.test_same_as_exec import same_in_both
from tests.support import DROPPED, KEPT, ROOT, event, filter_bytes, line
from tests.support.examples import check_example_in_lua, read_examples
from tests.support.filter_policies import events, filter_policies
from tests.support.lua_filter import LuaFilter, compiled

HEAD = "apiVersion: kube-audit-filter.io/v1\nkind: FilterPolicy\n"
RATE = "kube-audit-filter.io/sample-rate"


def filter_policy(*rules, **fields):
    """A FilterPolicy of rules that need not be valid."""
    return Policy(rules, kind="FilterPolicy", **fields)


def one_rule(**conditions):
    """A script that keeps just what one rule matches."""
    return LuaFilter(filter_policy(PolicyRule(Level.METADATA, **conditions)))


def text_of(record):
    """The event in a record that was a line of text."""
    return record if record is None else json.loads(record["log"])


@settings(max_examples=200)
@given(document=filter_policies, sent=st.lists(events, min_size=1, max_size=8), reduce=st.booleans())
def test_any_policy_does_with_any_event_what_the_engine_does(document, sent, reduce):
    policy = Policy.from_dict(document)
    evaluator = PolicyEvaluator(policy)
    lua = LuaFilter(policy, reduce=reduce)
    counts = {"kept": Counter(), "dropped": Counter()}
    for each in sent:
        decision = evaluator.evaluate(each)
        left = PolicyActions(policy, reduce=reduce).of(decision).apply(each)
        rule = policy.rule_name(decision.rule)
        counts["dropped" if left is None else "kept"][rule] += 2
        for record, read in ((each, lambda record: record), (as_text(each), text_of)):
            went_on = lua.filter(record)
            assert read(went_on) == left
            assert (went_on is record) is (left == each), "what needs no change keeps its bytes"
    assert decisions_by_rule(lua) == counts


@settings(max_examples=150)
@given(document=filter_policies, sent=st.lists(events, min_size=1, max_size=4), reduce=st.booleans())
def test_records_go_on_as_from_exec(document, sent, reduce):
    policy = json.dumps(document)
    for record in (*sent, {"items": sent}, {"log": sent[0]}, {"log": json.dumps({"items": sent})}):
        same_in_both(record, policy=policy, reduce=reduce)


@settings(max_examples=100)
@given(document=filter_policies, sent=st.lists(events, min_size=1, max_size=6), reduce=st.booleans())
def test_the_counters_are_those_of_exec(document, sent, reduce):
    policy = json.dumps(document)
    stream, _ = filter_bytes(b"".join(map(line, sent)), format="json", policy_text=policy, reduce=reduce)
    lua = LuaFilter(policy, reduce=reduce)
    for each in sent:
        lua.call(as_text(each))
    counters = stream.counters
    left_out = sum(each.events for each in counters.tallies() if each.drop_reason == "not_in_sample")
    report = lua.end()
    assert f"kept={counters.kept} dropped={counters.dropped} undecided=0 " in report
    reduced = sum(each.reduced for each in counters.tallies())
    assert f"rewritten={counters.rewritten} reduced={reduced};" in report
    listed = re.search(r"of these not in the sample: ([^;]*);", report)
    assert sum(map(int, re.findall(r"=(\d+)", listed[1] if listed else ""))) == left_out


PAGES = [ROOT / "docs" / name for name in ("cookbook.md", "policy.md", "redaction.md")]


@pytest.mark.parametrize(
    "shown",
    [each for page in PAGES for each in read_examples(page)],
    ids=lambda shown: f"{shown.heading}:{shown.number}",
)
def test_each_example_of_the_documentation_does_what_it_says(shown):
    policy = Policy.from_yaml(shown.policy)
    if any(rule.redact for rule in policy.rules):
        with pytest.raises(PolicyError, match="the script can't redact"):
            compiled(policy)
    else:
        check_example_in_lua(shown)


def test_most_examples_can_be_compiled():
    shown = [each for page in PAGES[:2] for each in read_examples(page)]
    assert sum("redact:" not in each.policy for each in shown) > len(shown) * 0.8


def test_a_rule_that_redacts_is_refused_by_its_name_and_line():
    text = HEAD + (
        "redaction: {method: remove}\n"
        "rules:\n"
        "- {name: reads, level: None, verbs: [get]}\n"
        "- {name: secrets, level: Request, redact: [builtin:secrets]}\n"
        "- {level: Metadata, redact: [userAgent]}\n"
    )
    with pytest.raises(PolicyError) as error:
        compiled(text)
    why = "the script can't redact, and would write in the clear what redact names; take exec or forward"
    assert str(error.value).splitlines() == [
        f"policy.yaml:6: rules[1], secrets, can't be compiled: {why}",
        f"policy.yaml:7: rules[2] can't be compiled: {why}",
    ]
    with pytest.raises(PolicyError, match="the policy can't be compiled: the script can't redact"):
        compiled(filter_policy(PolicyRule(Level.METADATA)).with_redaction(("userAgent",)))


def test_how_values_would_be_redacted_makes_no_difference():
    text = HEAD + "rules: [{level: Metadata, redact: [userAgent]}]\nredaction: {method: remove}\n"
    policy = Policy.from_yaml(text)
    rules = tuple(PolicyRule(rule.level) for rule in policy.rules)
    assert LuaFilter(policy.with_rules(rules)).keeps(event())


# Patterns, with letters that mean something in Lua's patterns.
LETTERS = st.text("ab*\\%.[]^$()-+?\n\0é😀", max_size=7)


@given(values=st.lists(LETTERS, min_size=1, max_size=6), texts=st.lists(LETTERS, min_size=1, max_size=6))
@example(values=["*a*"], texts=["b" * 1000 + "a"])
@example(values=["ab*ba", "a*b*c", "**"], texts=["aba"])
def test_a_pattern_matches_what_it_matches_in_the_engine(values, texts):
    lua = one_rule(user_groups=tuple(values))
    urls = one_rule(non_resource_urls=tuple(values))
    matches = Texts(values, patterns=True).matches
    for each in texts:
        assert lua.keeps(event(user={"username": "a", "groups": ["", each]})) is (
            matches("") or matches(each)
        )
        path = "".join(f"%{byte:02X}" for byte in each.encode())
        sent = event(objectRef=None, requestURI=path)
        assert urls.keeps(sent) is matches(each)


@pytest.mark.parametrize("value", EVIL)
def test_no_pattern_can_become_code(value):
    raw = value.encode("utf-8", "surrogatepass")
    pattern = value.replace("\\", "\\\\").replace("*", r"\*") + "*"
    names = GroupResources("*", (pattern,), (pattern,))
    lua = one_rule(
        users=(pattern,),
        resources=(names,),
        user_agents=(pattern,),
        annotations=((value, (pattern,)),),
        exceptions=(Conditions(namespaces=(pattern,), impersonated_users=(pattern,)),),
    )
    sent = event(
        user={"username": raw + b"x"},
        objectRef={"resource": raw, "name": raw},
        userAgent=raw,
        annotations={raw: raw + b"\0"},
    )
    assert lua.keeps(sent)
    for field in ("userAgent", "annotations"):
        assert not lua.keeps({**sent, field: "other"})
    except_for = {"objectRef": {"resource": raw, "name": raw, "namespace": raw}}
    assert not lua.keeps({**sent, **except_for, "impersonatedUser": {"username": raw}})
    assert lua.keeps({**sent, **except_for})


def test_many_values_are_told_apart():
    """More than the script remembers, and longer ones."""
    lua = one_rule(users=("team-*-*",), exceptions=(Conditions(users=("*-7*",)),))
    for number in range(5000):
        name = f"team-{number % 10}-{number}" + "x" * (number % 3 * 500)
        expected = not (number % 10 == 7 or str(number).startswith("7"))
        assert lua.keeps(event(user={"username": name})) is expected
        assert not lua.keeps(event(user={"username": name[1:]}))


def test_many_paths_are_those_of_the_engine():
    """With few of them, prefixes are tried in turn."""
    urls = [r"/a\*b*", *(f"/p{number}*" for number in range(30)), "/x", "*/"]
    for kind, given_urls in (("Policy", urls), ("FilterPolicy", urls), ("Policy", urls[:3])):
        policy = Policy((PolicyRule(Level.METADATA, non_resource_urls=tuple(given_urls)),), kind=kind)
        evaluator, lua = PolicyEvaluator(policy), LuaFilter(policy)
        for path in (
            "/a\\*b",
            "/a*b",
            "/a\\*bc",
            "/p29",
            "/p29/x",
            "/p30",
            "/p4",
            "/x",
            "/xy",
            "/q/",
            "*/",
            "/",
        ):
            sent = event(objectRef=None, requestURI=path)
            assert lua.keeps(sent) is evaluator.evaluate(sent).keep, (kind, path)


ADDRESSES = [
    "10.0.0.1", "0.0.0.0", "255.255.255.255", "010.0.0.1", "10.0.0.01", "10.0.0.00", "10.0.0.256", "10.0.0",
    "10.0.0.1.1", "10.0.0.1 ", " 10.0.0.1", "10.0.0.1\n", "10.0.0.1\0", "+1.0.0.1", "-1.0.0.1", "1e1.0.0.1",
    "0x0a.0.0.1", "167772161", "10.0.0.1/32", "10.0.0.1%eth0", "10.0.0.1:443", "٣.0.0.1", "",
    "::", ":::", "::1", "1::", ":1", "1:", ":", "::1::", "1::2::3", "1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8:9",
    "1:2:3:4:5:6:7", "::2:3:4:5:6:7:8", "1:2:3:4:5:6:7::", "1:2:3:4::5:6:7:8", "::1:2:3:4:5:6:7:8", ":1::2",
    "1::2:", "00001::", "g::", "FD00::ABCD", "fd00::%eth0", "fd00::%", "fd00::%a%b", "fd00::%a/64", "::/0",
    "fd00:: ", "fd00::1%\n", "%eth0", "::ffff:10.0.0.1", "::FFFF:a00:1", "::10.0.0.1", "::ffff:10.0.0.01",
    "::ffff:10.0.0", "1:2:3:4:5:6:10.0.0.1", "1:2:3:4:5:6:7:10.0.0.1", "1::10.0.0.1:2", "10.0.0.1::",
    "[::1]", "[::1]:443", "unknown", "localhost", "::ffff:10.0.0.1%x", "0" * 50 + "::", "1" * 100_000,
    ":" * 100_000, "fd00::%" + "z" * 100_000, "ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255",
]  # fmt: skip
EVERYWHERE = ["0.0.0.0/0", "::/0"]
ANYWHERE = one_rule(source_ips=tuple(EVERYWHERE))


@st.composite
def addresses(draw):
    """Text that is an address, or nearly one."""
    made = st.ip_addresses().map(str) | st.ip_addresses(v=6).map(lambda found: found.exploded)
    text = draw(st.sampled_from(ADDRESSES) | made)
    for _ in range(draw(st.integers(0, 2))):
        at, length = draw(st.integers(0, min(len(text), 50))), draw(st.sampled_from([0, 0, 1, 3]))
        piece = draw(st.sampled_from([*"0123489afAF:.%/x \n\0٣", "::", ".0", "::ffff:"]))
        text = text[:at] + piece + text[at + length :]
    return text


def with_addresses(*texts):
    return event(sourceIPs=list(texts))


@pytest.mark.parametrize("text", ADDRESSES, ids=lambda text: repr(text[:30]))
def test_text_is_an_address_where_it_is_one_in_the_engine(text):
    expected = Networks(EVERYWHERE).have_all([text])
    for _ in range(2):  # the second time, it is known
        assert ANYWHERE.keeps(with_addresses(text)) is expected
        assert ANYWHERE.keeps(as_text(with_addresses(text))) is expected


NETWORKS = [
    "10.0.0.0/8", "10.0.0.1", "0.0.0.0/0", "::/0", "::/96", "::ffff:0:0/96", "::ffff:10.0.0.0/104",
    "::fffe:0:0/95", "fd00::/8", "1::/17", "128.0.0.0/1", "8000::/1", "fe80::/10", "255.255.255.255", "::",
]  # fmt: skip


@given(text=addresses(), inside=st.lists(st.sampled_from(NETWORKS), min_size=1, max_size=3))
def test_addresses_are_inside_networks_as_in_the_engine(text, inside):
    lua = one_rule(source_ips=tuple(inside))
    expected = Networks(inside).have_all
    assert lua.keeps(with_addresses(text)) is expected([text])
    assert lua.keeps(with_addresses(text, "10.0.0.1")) is expected([text, "10.0.0.1"])


@given(some=st.lists(networks, min_size=1, max_size=4), data=st.data())
def test_networks_begin_and_end_where_they_do_in_the_engine(some, data):
    near = data.draw(st.sampled_from(some))
    last = int(near.broadcast_address)
    number = data.draw(st.sampled_from([int(near[0]) - 1, int(near[0]), last, last + 1]))
    address = str(type(near[0])(number % 2**near.max_prefixlen))
    texts = list(map(str, some))
    assert one_rule(source_ips=tuple(texts)).keeps(with_addresses(address)) is Networks(texts).have_all(
        [address]
    )


@pytest.mark.parametrize("value", [None, "10.0.0.1", [], {}, [5], [None], [["10.0.0.1"]], ["10.0.0.1", 5], 5])
def test_addresses_of_another_type_are_in_no_network(value):
    sent = event(sourceIPs=value)
    assert not ANYWHERE.keeps(sent)
    assert not ANYWHERE.keeps(as_text(sent))
    assert same_in_both(sent, policy=HEAD + "rules: [{level: Metadata, sourceIPs: ['::/0']}]") == (
        "dropped",
        "",
    )


def test_too_many_addresses_are_not_looked_at():
    policy = HEAD + "rules: [{level: None, sourceIPs: ['::/0']}]"
    for wrap in (lambda sent: sent, as_text):
        assert same_in_both(wrap(with_addresses(*["::1"] * 10_000)), policy=policy) == ("dropped", "")
        most = wrap(with_addresses(*["::1"] * 10_001))
        assert same_in_both(most, policy=policy) == ("kept", "too_many_items")
    # Where no rule looks at them, there may be any number.
    other = HEAD + "rules: [{level: None, verbs: [get]}]"
    assert same_in_both(most, policy=other) == ("dropped", "")


def test_many_addresses_are_told_apart():
    """More than the script remembers."""
    lua = one_rule(source_ips=("10.0.0.0/9",))
    for number in range(3000):
        low, high = f"10.{number % 128}.0.{number // 128}", f"10.{128 + number % 128}.0.{number // 128}"
        assert lua.keeps(with_addresses(low))
        assert not lua.keeps(with_addresses(high))


@pytest.mark.parametrize("value", [None, "", 5, [], {}, {"username": ""}, {"username": 5}, "alice"])
def test_what_is_absent_or_of_another_type_meets_no_condition(value):
    for policy, field in (
        ("impersonatedUsers: ['*', '']", "impersonatedUser"),
        ("annotations: {k: ['*', '']}", "annotations"),
    ):
        sent = event(**{field: value})
        text = HEAD + f"rules: [{{level: Metadata, {policy}}}]"
        assert same_in_both(sent, policy=text) == same_in_both(as_text(sent), policy=text) == ("dropped", "")
    text = HEAD + "rules: [{level: Metadata, userAgents: ['*', '']}]"
    fate = "kept" if value == "alice" else "dropped"
    sent = event(userAgent=value)
    assert same_in_both(sent, policy=text) == same_in_both(as_text(sent), policy=text) == (fate, "")


@pytest.mark.parametrize("code", [None, 399, 400, 499, 500, -1, 400.5, "400", True, [400]])
def test_codes_are_whole_numbers_in_a_range(code):
    policy = HEAD + "rules: [{level: Metadata, responseCodes: [4xx]}]"
    fate = "kept" if code in (400, 499) and code is not True else "dropped"
    sent = event(responseStatus={"code": code})
    assert same_in_both(sent, policy=policy) == same_in_both(as_text(sent), policy=policy) == (fate, "")


@given(audit_id=st.text(max_size=200), rate=st.floats(0.0001, 1))
@example(audit_id="", rate=0.5)
@example(audit_id="é" * 10_000, rate=0.5)
def test_a_sample_has_the_events_that_it_has_in_the_engine(audit_id, rate):
    rule = PolicyRule(Level.METADATA, sample=Sample(rate, annotate=False))
    lua = LuaFilter(filter_policy(rule))
    expected = sampling.keeps(audit_id, sampling.threshold(rate))
    sent = event(auditID=audit_id)
    assert lua.keeps(sent) is lua.keeps(as_text(sent)) is expected
    raw = audit_id.encode("utf-16") + b"\xff"  # not UTF-8
    kept = sampling.keeps(raw.decode("utf-8", "surrogateescape"), sampling.threshold(rate))
    assert lua.keeps(event(auditID=raw)) is kept


@pytest.mark.parametrize("size", [*range(54, 66), *range(118, 130)])
def test_a_hash_is_right_where_a_block_of_it_ends(size):
    audit_id = "x" * size
    limits = [sampling.threshold(number / 16) for number in range(1, 17)]
    kept = [sampling.keeps(audit_id, limit) for limit in limits]
    rules = [PolicyRule(Level.METADATA, sample=Sample(number / 16)) for number in range(1, 17)]
    assert [LuaFilter(filter_policy(rule)).keeps(event(auditID=audit_id)) for rule in rules] == kept


SAMPLED = HEAD + "rules: [{level: Metadata, sample: {rate: 1}}]\n"
ADDED = '"kube-audit-filter.io/sample-rate":"1"'


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ('{ "user":{} }', '{ "user":{} ,"annotations":{%s}}'),
        (
            '{"annotations": { "k": "\\u0041" } , "user":{}}',
            '{"annotations": { "k": "\\u0041" ,%s} , "user":{}}',
        ),
        ('{"annotations":{},"user":{}}', '{"annotations":{%s},"user":{}}'),
        ('{"annotations":{"kube-audit-filter.io/sample-rate": "0.5"},"user":{}}', None),
        ('{"annotations":{%s},"user":{}}', "same"),
        ('{"annotations":null,"user":{}}', "same"),
        ('{"annotations":[],"user":{}}', "same"),
        ('{"annotations":"x","user":{}}', "same"),
    ],
)
def test_the_rate_is_added_to_text_and_all_else_keeps_its_bytes(text, changed):
    ids = '"auditID":"a","verb":"get",'
    sent = "{" + ids + text.replace("%s", ADDED)[1:] + "\n"
    lua = LuaFilter(SAMPLED)
    record = {"log": sent}
    went_on = lua.filter(record)
    if changed == "same":
        assert went_on is record
    elif changed is None:
        assert went_on == {"log": sent.replace("0.5", "1")}
    else:
        assert went_on == {"log": "{" + ids + changed.replace("%s", ADDED)[1:] + "\n"}
    same_in_both(record, policy=SAMPLED)


def test_the_rate_stands_wherever_an_event_does():
    rated = {**KEPT, "annotations": {RATE: "1"}}
    lua = LuaFilter(SAMPLED)
    assert lua.filter(KEPT) == rated
    assert lua.filter({"log": KEPT, "stream": "stdout"}) == {"log": rated, "stream": "stdout"}
    assert text_of(lua.filter(as_text(KEPT))) == rated
    assert lua.filter({"items": [KEPT, 5, KEPT]}) == {"items": [rated, 5, rated]}
    assert json.loads(lua.filter({"log": json.dumps({"items": [KEPT]})})["log"]) == {"items": [rated]}
    assert LuaFilter(SAMPLED, event_key="a[].b").filter({"a": [{"b": KEPT}]}) == {"a": [{"b": rated}]}
    assert LuaFilter(SAMPLED, split=True).split({"items": [KEPT, KEPT]}) == [rated, rated]


def test_a_record_that_would_be_damaged_is_left_without_the_rate():
    lua = LuaFilter(SAMPLED)
    sent = {**KEPT, "large": 2**60}
    assert lua.filter(sent) is sent
    assert "not_reduced=1" in lua.end()


def test_the_policy_says_whether_events_are_reduced():
    full = event(level="RequestResponse", requestObject={}, responseObject={})
    for says, option, reduces in ((True, False, True), (False, True, False), (None, True, True)):
        lua = LuaFilter(filter_policy(PolicyRule(Level.METADATA), reduce=says), reduce=option)
        assert (lua.filter(full) is full) is not reduces


def test_events_that_no_rule_matches_have_the_default_level():
    rule = PolicyRule(Level.NONE, verbs=("list",))
    lua = LuaFilter(filter_policy(rule, default_level=Level.METADATA, omit_stages=("Panic",)))
    assert lua.keeps(event())
    assert not lua.keeps(event(verb="list"))
    assert not lua.keeps(event(stage="Panic"))
    assert decisions_by_rule(lua) == {"kept": {"none": 1}, "dropped": {"0": 1, "none": 1}}


def test_a_dry_run_counts_what_is_not_in_the_sample_and_leaves_all_as_it_is():
    text = HEAD + "reduce: true\nrules: [{name: half, level: Metadata, sample: {rate: 0.5}}]\n"
    sent = [event(auditID=f"id-{number}", level="Request", requestObject={}) for number in range(100)]
    reports = []
    for dry_run in (False, True):
        lua = LuaFilter(text, dry_run=dry_run)
        codes = Counter(lua.call(record)[0] for record in sent)
        reports.append(lua.end().replace("; dry run: nothing was dropped or changed", ""))
        assert codes == ({0: 100} if dry_run else {-1: 100 - codes[2], 2: codes[2]})
    assert reports[0] == reports[1]
    assert re.search(r"events dropped by rule: half=(\d+); of these not in the sample: half=\1;", reports[0])


def test_a_script_has_only_the_parts_that_its_policy_needs():
    kubernetes = compiled({"apiVersion": "audit.k8s.io/v1", "rules": [{"level": "Metadata"}]})
    parts = ("function patterns(", "function networks(", "function is_between(", "function md5(",
             "function annotated_json(", "function change_json(", "function reduce_json(")  # fmt: skip
    assert not [part for part in parts if part in kubernetes]
    plain = HEAD + "defaultLevel: Metadata\nrules: [{level: None, users: [a]%s}]\n"
    for more, needed in (
        ("", ()),
        (", sourceIPs: ['::1']", ("networks",)),
        (", userAgents: ['a*']", ("patterns",)),
        (", responseCodes: [4xx]", ("patterns", "is_between")),
        (", annotations: {k: [v]}", ("patterns", "is_between")),
    ):
        script = compiled(plain % more)
        found = [part for part in parts if part in script]
        assert found == [f"function {name}(" for name in needed]
    sample = filter_policy(PolicyRule(Level.METADATA, sample=Sample(0.5, annotate=False)))
    assert [part for part in parts if part in compiled(sample)] == ["function md5("]


def test_a_script_with_all_parts_is_loaded():
    """A Lua function has 200 local variables at most, and so has a script."""
    rule = PolicyRule(
        Level.METADATA,
        user_groups=("dev*",),
        source_ips=("10.0.0.0/8",),
        response_codes=((200, 299),),
        sample=Sample(1),
    )
    lua = LuaFilter(filter_policy(rule), reduce=True, split=True, event_key="log")
    sent = event(sourceIPs=["10.0.0.1"], responseStatus={"code": 200}, level="Request", requestObject={})
    stamp = {"stageTimestamp": "2026-11-01T06:00:00Z"}
    left = event(sourceIPs=["10.0.0.1"], responseStatus={"code": 200}, annotations={RATE: "1"}, **stamp)
    (record,) = lua.split({"log": {"items": [DROPPED, {**sent, **stamp}]}})
    assert record == {"log": left}


def test_very_large_policies_stay_within_the_limits_of_lua():
    """200 local variables, 60 upvalues and 65,536 constants are what LuaJIT allows a function."""
    many = tuple(f"user-{number}-*" for number in range(70_000))
    pairs = tuple(f"r{number}/s{number}*" for number in range(5000))
    elements = tuple(
        GroupResources(f"g{number}*", (f"r{number}*",), (f"n{number}",)) for number in range(5000)
    )
    exceptions = tuple(
        Conditions(users=(f"a{number}*",), verbs=("get",), namespaces=(f"{number}*",), stages=("Panic",))
        for number in range(1000)
    )
    annotations = tuple((f"k{number}", (f"v{number}*",)) for number in range(300))
    rules = [
        PolicyRule(Level.METADATA, verbs=("1",), users=many),
        PolicyRule(Level.METADATA, verbs=("2",), resources=(GroupResources("", pairs), *elements)),
        PolicyRule(Level.METADATA, verbs=("3",), exceptions=exceptions),
        PolicyRule(Level.METADATA, verbs=("4",), annotations=annotations),
    ]
    few = [PolicyRule(Level.NONE, users=("x*",), exceptions=exceptions[:60], resources=elements[:45])] * 200
    lua = LuaFilter(filter_policy(*few, *rules))
    assert lua.keeps(event(verb="1", user={"username": "user-69999-x"}))
    assert not lua.keeps(event(verb="1", user={"username": "user-70000-x"}))
    for ref in (
        {"resource": "r4999", "subresource": "s4999x"},
        {"apiGroup": "g4999x", "resource": "r4999x", "name": "n4999"},
    ):
        assert lua.keeps(event(verb="2", objectRef=ref))
        assert not lua.keeps(event(verb="2", objectRef={**ref, "resource": "r5000"}))
    sent = event(verb="3", user={"username": "a999x"}, objectRef={"namespace": "999x"}, stage="Panic")
    assert lua.keeps(sent)
    assert lua.keeps(event(verb="4", annotations={f"k{number}": f"v{number}" for number in range(300)}))
    assert not lua.keeps(event(verb="4", annotations={f"k{number}": f"v{number}" for number in range(299)}))


def test_a_filter_policy_also_runs_in_plain_lua_5_1():
    lua51 = pytest.importorskip("lupa.lua51")
    text = HEAD + (
        "rules:\n"
        "- {level: None, users: ['node:*'], sourceIPs: [10.0.0.0/8, 'fd00::/8'], responseCodes: [2xx]}\n"
        "- {level: Metadata, sample: {rate: 0.5, annotate: false}}\n"
    )
    evaluator = PolicyEvaluator(Policy.from_yaml(text))
    lua = LuaFilter(text, runtime=lua51.LuaRuntime)
    fates = set()
    for number in range(200):
        sent = event(
            auditID=f"id-{number}",
            user={"username": f"{'node:' if number % 3 else ''}{number}"},
            sourceIPs=["10.0.0.1" if number % 5 else "fd00::1", "10.9.9.9" if number % 7 else "11.0.0.1"],
            responseStatus={"code": 200 if number % 2 else 404},
        )
        decision = evaluator.evaluate(sent)
        left = PolicyActions(evaluator.policy).of(decision).apply(sent)
        assert lua.keeps(sent) is lua.keeps(as_text(sent)) is (left is not None)
        fates.add((decision.rule, left is not None))
    assert fates == {(0, False), (1, False), (1, True)}


def test_dropped_events_leave_a_list_beside_sampled_ones():
    text = HEAD + (
        "rules:\n- {level: None, users: ['system:*']}\n"
        "- {level: Metadata, verbs: [get], sample: {rate: 1}}\n- {level: Metadata}\n"
    )
    other = event(verb="list")
    for record in ({"items": [DROPPED, KEPT, other]}, {"log": json.dumps({"items": [other, KEPT, DROPPED]})}):
        assert same_in_both(record, policy=text) == ("changed", "")
