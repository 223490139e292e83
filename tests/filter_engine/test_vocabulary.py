"""Events that a policy's vocabulary does not tell apart are decided alike. The memo relies on it."""

import inspect
import itertools
from functools import partial

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filter_engine import GroupResources, PolicyEvaluator, conditions, fields
from filter_engine.model import STAGES
from filter_engine.patterns import Pattern, Texts
from filter_engine.request import Request, is_event
from filter_engine.vocabulary import Vocabulary
from plugin.encoding.codec import MSGPACK
from plugin.records.event_fields import event_struct
from plugin.records.record_filter import RecordFilter
from tests.support import event, filter_bytes, make_stream, policy

WORDS = ["", "a", "b", "a/b", "b/c", "pods", "log", "pods/log", "*"]
PATTERNS = [*WORDS, "*/log", "pods/*", "a/*", "*/", "/*"]
PATHS = ["/", "/a", "/a/b", "/healthz", "/healthz/x", "/api", ""]
words = st.sampled_from(WORDS)
some_words = st.lists(words, min_size=1, max_size=3)
texts = st.builds(Texts, some_words) | st.builds(
    partial(Texts, patterns=True),
    st.lists(words | st.sampled_from(["a*", "*b", "*", "p*s", "*o*", "\\*", "*/*"]), min_size=1, max_size=3),
)
elements = st.builds(
    lambda group, patterns, names: GroupResources(group, tuple(patterns), tuple(names if patterns else ())),
    words,
    st.lists(st.sampled_from(PATTERNS), max_size=3),
    st.lists(words, max_size=2),
)
# What to make each condition of. A condition that is missing here fails the first test.
ARGUMENTS = {
    conditions.Users: texts,
    conditions.UserGroups: texts,
    conditions.Verbs: some_words,
    conditions.Stages: st.lists(st.sampled_from(STAGES), min_size=1, max_size=2),
    conditions.RecordedLevels: st.lists(st.sampled_from(["Metadata", "Request"]), min_size=1),
    conditions.Codes: st.lists(st.sampled_from([(200, 200), (201, 203), (199, 201)]), min_size=1, max_size=2),
    conditions.Namespaces: texts,
    conditions.Resources: st.lists(elements, min_size=1, max_size=2),
    conditions.PatternResources: st.lists(elements, min_size=1, max_size=2),
    conditions.NonResourceURLs: st.builds(
        partial(Texts, patterns=True),
        st.lists(st.sampled_from(["*", "/a", "/a*", "/healthz", "/healthz/*", "*z"]), min_size=1),
    ),
    conditions.ImpersonatedUsers: texts,
    conditions.UserAgents: texts,
    conditions.SourceIPs: st.lists(
        st.sampled_from(["10.0.0.0/8", "10.1.0.0/16", "::1", "fd00::/8"]), min_size=1, max_size=2
    ),
    conditions.Annotation: st.tuples(st.just("a.b/c"), texts),
    conditions.OwnNamespace: st.sampled_from(["same", "prefix"]),
}
# Exceptions are sets of the conditions above.
ARGUMENTS[conditions.Except] = st.lists(
    st.sampled_from([*ARGUMENTS])
    .flatmap(lambda kind: ARGUMENTS[kind].map(lambda argument: made(kind, argument)))
    .map(lambda condition: (condition,)),
    min_size=1,
    max_size=2,
)
MORE = (*fields.MORE_FIELDS, fields.annotation("a.b/c"))


def made(kind, argument):
    return kind(*argument) if kind is conditions.Annotation else kind(argument)


requests = st.builds(
    Request,
    user=st.none() | words | st.sampled_from(["system:serviceaccount:a:b", "system:serviceaccount:ab:b"]),
    groups=st.lists(words, max_size=2).map(tuple),
    verb=words,
    resource_request=st.booleans(),
    namespace=words,
    api_group=words,
    resource=words,
    subresource=words,
    name=words,
    path=st.sampled_from(PATHS),
    stage=st.sampled_from([*STAGES, ""]),
    level=st.sampled_from(["Metadata", "Request", "info"]),
    code=st.none() | st.integers(199, 204),
    more=st.fixed_dictionaries(
        {},
        optional={
            fields.SOURCE_IPS: st.lists(
                st.sampled_from(["10.0.0.1", "10.1.0.1", "::1", "fd00::1", "::ffff:10.1.2.3", "x", ""]),
                min_size=1,
                max_size=2,
            ).map(tuple),
            **{field: words.filter(bool) for field in MORE if field is not fields.SOURCE_IPS},
        },
    ),
)
# Where a field's value is in a request. A field that is missing here fails the first test.
ATTRIBUTES = {
    fields.LEVEL: "level",
    fields.STAGE: "stage",
    fields.VERB: "verb",
    fields.RESOURCE: "resource",
    fields.NAMESPACE: "namespace",
    fields.NAME: "name",
    fields.API_GROUP: "api_group",
    fields.SUBRESOURCE: "subresource",
    fields.CODE: "code",
}


# An absent field is decoded as this.
EMPTY = {"text": "", "texts": ()}


def class_of(vocabulary, request):
    """What a vocabulary can tell of a request."""
    known = [vocabulary.class_of(field, getattr(request, name)) for field, name in ATTRIBUTES.items()]
    more = [vocabulary.class_of(field, request.more.get(field, EMPTY[field.type])) for field in MORE]
    user = (
        request.user is None,
        vocabulary.class_of(fields.USERNAME, request.user or ""),
        vocabulary.class_of(fields.GROUPS, request.groups),
    )
    path = "" if request.resource_request else (vocabulary.class_of(fields.REQUEST_URI, request.path),)
    return (*known, *more, user, path)


def test_words_are_numbered_from_one_and_known_by_field():
    vocabulary = Vocabulary()
    assert not vocabulary.reads(fields.VERB)
    vocabulary.add(fields.VERB, ["get", "list"])
    vocabulary.add(fields.VERB, ["list", "watch"])
    vocabulary.add(fields.NAME, [])
    vocabulary.add_patterns(fields.REQUEST_URI, [Pattern("/b"), Pattern("/")])
    vocabulary.add_patterns(fields.REQUEST_URI, [Pattern("/a")])
    vocabulary.add_test(fields.SOURCE_IPS, len)
    assert vocabulary.numbers(fields.VERB) == {"get": 1, "list": 2, "watch": 3}
    assert [*vocabulary.patterns[fields.REQUEST_URI]] == [Pattern("/b"), Pattern("/"), Pattern("/a")]
    read = {fields.VERB, fields.REQUEST_URI, fields.SOURCE_IPS}
    assert {field for field in (*fields.FIELDS, *fields.MORE_FIELDS) if vocabulary.reads(field)} == read
    assert set(vocabulary.fields) == read
    assert {field for field in read if vocabulary.has_words_only(field)} == {fields.VERB}
    of_path = partial(vocabulary.class_of, fields.REQUEST_URI)
    assert of_path("/a/b") == of_path("/a") != of_path("/") == of_path("/c") != of_path("")
    of_addresses = partial(vocabulary.class_of, fields.SOURCE_IPS)
    assert of_addresses(("a", "b")) == of_addresses(("c", "d")) != of_addresses(("a",))


def test_there_is_no_other_condition_and_no_other_field():
    classes = {
        value for _, value in inspect.getmembers(conditions, inspect.isclass) if hasattr(value, "is_met")
    }
    assert classes - {conditions.Condition} == set(ARGUMENTS)
    assert {*ATTRIBUTES, fields.REQUEST_URI, fields.USERNAME, fields.GROUPS} == set(fields.FIELDS)
    read = {field for each in ARGUMENTS if hasattr(each, "reads") for field in each.reads}
    assert read == {*fields.FIELDS, *fields.MORE_FIELDS}


@pytest.mark.parametrize("kind", ARGUMENTS, ids=lambda kind: kind.__name__)
@settings(max_examples=300)
@given(data=st.data())
def test_a_condition_tells_apart_only_what_its_words_tell_apart(kind, data):
    condition = made(kind, data.draw(ARGUMENTS[kind]))
    vocabulary = Vocabulary()
    condition.add_words(vocabulary)
    by_class = {}
    for request in data.draw(st.lists(requests, min_size=2, max_size=12)):
        is_met = condition.is_met(request)
        assert by_class.setdefault(class_of(vocabulary, request), is_met) is is_met


@pytest.mark.parametrize("kind", ARGUMENTS, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_a_condition_reads_every_field_that_it_has_words_of(kind, data):
    vocabulary = Vocabulary()
    condition = made(kind, data.draw(ARGUMENTS[kind]))
    condition.add_words(vocabulary)
    assert {*vocabulary.words, *vocabulary.fields} <= set(condition.reads)


TEXT = """
apiVersion: audit.k8s.io/v1
rules:
- {level: None, users: [alice], codes: [200]}
- {level: None, userGroups: [a], verbs: [get]}
- {level: Metadata, namespaces: [a, ""], resources: [{resources: [pods, pods/log], resourceNames: [a, ""]}]}
- {level: None, nonResourceURLs: [/healthz*, /a]}
- {level: None, verbs: [create, update]}
- {level: Metadata, omitStages: [Panic]}
"""


def changed(field):
    """Events that differ in one field, in all values that a policy may name and one that it does not."""
    values = {
        "user.username": ["alice", "", "x"],
        "user.groups": [["a"], ["x", "a"], []],
        "verb": ["get", "create", "update", "list"],
        "stage": ["Panic", "ResponseComplete"],
        "level": ["Metadata", "Request"],
        "responseStatus.code": [200, 404],
        "requestURI": ["/healthz/x", "/a", "/b", "/api/v1/pods/a", "/api/v1/namespaces/a/pods"],
    }.get(field.path, ["", "a", "pods", "log", "x"])
    for value in values:
        for verb, has_ref in itertools.product(("get", "create", "update"), (True, False)):
            ref = {"resource": "pods", "namespace": "a", "name": "a"} if has_ref else None
            sent = event(
                verb=verb, requestURI="/api/v1/pods/a" if has_ref else "/healthz", user={"groups": ["b"]}
            )
            sent |= {"objectRef": ref, "responseStatus": {"code": 404}, "stage": "ResponseComplete"}
            target = sent[field.parent] if field.parent else sent
            if target is not None:
                target[field.name] = value
            if not has_ref:
                del sent["objectRef"]
            yield sent


@pytest.mark.parametrize("field", fields.FIELDS, ids=lambda field: field.path)
def test_the_memo_tells_apart_whatever_the_evaluator_tells_apart(field):
    """With a memo that has seen every other value first, in any order."""
    loaded = policy(TEXT.replace(", codes: [200]", ""))
    evaluator = PolicyEvaluator(loaded)
    events = list(changed(field))
    for order in (events, events[::-1]):
        stream = make_stream(policy_text=TEXT.replace(", codes: [200]", ""))
        for sent in [*order, *order]:
            out = filter_bytes(msgpack.packb(sent), stream=stream)[1]
            assert (out != b"") is (not is_event(sent) or evaluator.evaluate(sent).keep), sent


def test_every_field_that_is_decoded_is_in_the_key_of_the_memo():
    """But those that the user's and the URL's classes stand for."""
    for field in fields.FIELDS:
        struct = event_struct({field})
        decoded = MSGPACK.struct_decoder(struct)(msgpack.packb(event(responseStatus={"code": 1})))
        target = getattr(decoded, field.parent, decoded) if field.parent else decoded
        assert field.parent == "user" or hasattr(target, field.name)
    records = RecordFilter(reduce=True)
    events = records.prepare(PolicyEvaluator(policy(TEXT.replace(", codes: [200]", ""))))
    read = {name for name in events.struct.__struct_fields__ if name not in ("auditID", "user", "requestURI")}
    assert read == {"verb", "stage", "level", "objectRef"}
