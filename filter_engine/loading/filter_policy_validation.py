"""What the tables of a FilterPolicy can't say: which values its fields may have."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, get_args

from filter_engine.errors import shortened
from filter_engine.loading.rule_names import NAME, NO_RULE, PREFIX
from filter_engine.loading.schema import Path, described, digits
from filter_engine.model import STAGES, Level, Method
from filter_engine.redaction.kinds import check_redact

LEVELS = tuple(level.value for level in Level)
# The levels at which events are recorded.
RECORDED_LEVELS = LEVELS[1:]
OWN_NAMESPACE = ("same", "prefix")
METHODS = get_args(Method)
CODES = re.compile(r"([1-9])xx|([1-9][0-9]{2})(?:-([1-9][0-9]{2}))?")
GROUP = re.compile(r"[a-z0-9.*-]*")
# The form of an address or network; not each text of this form is one.
NETWORK = re.compile(r"([0-9]{1,3}(\.[0-9]{1,3}){3}|[0-9a-fA-F]*:[0-9a-fA-F:.]*)(/[0-9]{1,3})?")
# Fields with lists of which an empty one would say nothing.
CONDITIONS = (
    "users", "userGroups", "verbs", "resources", "namespaces", "nonResourceURLs", "responseCodes", "stages",
    "levels", "userAgents", "sourceIPs", "impersonatedUsers", "annotations", "ownNamespace",
)  # fmt: skip


class Fault(NamedTuple):
    """A value that its field can't have."""

    path: Path
    message: str
    hint: str = ""


def faults(policy: Mapping[str, Any]) -> Iterator[Fault]:
    """All faults of a decoded FilterPolicy."""
    if policy.get("defaultLevel", "None") not in LEVELS:
        yield unsupported(("defaultLevel",), policy["defaultLevel"], LEVELS)
    yield from _each(("omitStages",), policy.get("omitStages", ()), STAGES)
    yield from _redaction(policy.get("redaction", {}), policy.get("rules", ()))
    for key in policy.get("metadata", {}).get("annotations", {}):
        if key.startswith(PREFIX):
            message = "in a FilterPolicy, the name of a rule is not an annotation: write name: in the rule"
            yield Fault(("metadata", "annotations", key), message)
    names: dict[str, int] = {}
    for index, rule in enumerate(policy.get("rules", ())):
        yield from _rule(rule, ("rules", index))
        name = rule.get("name")
        if name and names.setdefault(name, index) != index:
            message = f"{shortened(name)!r} is also the name of rules[{names[name]}]"
            yield Fault(("rules", index, "name"), message, "a name tells one rule from the others in metrics")
    if not policy.get("rules") and "defaultLevel" not in policy:
        hint = "an event that no rule matches gets the level defaultLevel, which is None if it is left out"
        yield Fault(("rules",), "the policy has no rules and no defaultLevel: it would drop everything", hint)


def parse_codes(value: int | str) -> tuple[int, int]:
    """The first and the last code of an element of ``responseCodes``.

    Raises:
        ValueError: the element is not a code, ``4xx`` or a range such as ``500-599``.
    """
    match = CODES.fullmatch(value if isinstance(value, str) else digits(value))
    if match is None:
        raise ValueError("expected a code from 100 to 999, one of 1xx to 9xx, or a range such as 500-599")
    if match[1]:
        return int(match[1]) * 100, int(match[1]) * 100 + 99
    first, last = int(match[2]), int(match[3] or match[2])
    if last < first:
        raise ValueError(f"the range ends before it begins: write {last}-{first}")
    return first, last


def _rule(rule: Mapping[str, Any], path: Path) -> Iterator[Fault]:
    level = rule.get("level")
    if not level:
        hint = "to drop what the rule matches, write level: None"
        yield Fault((*path, "level"), f"expected one of {', '.join(LEVELS)}, found nothing", hint)
    elif level not in LEVELS:
        yield unsupported((*path, "level"), level, LEVELS)
    name = rule.get("name")
    if name is not None and (not NAME.fullmatch(name) or name == NO_RULE):
        message = (
            f"{shortened(name)!r} can't be a rule's name: expected a letter and then at most 62 letters,"
            f" digits or ._/-, but not {NO_RULE!r}"
        )
        yield Fault((*path, "name"), message)
    yield from _each((*path, "omitStages"), rule.get("omitStages", ()), STAGES)
    yield from _conditions(rule, path)
    for index, exception in enumerate(rule.get("except", ())):
        where = (*path, "except", index)
        if not any(exception.get(name) for name in CONDITIONS):
            message = "without conditions it matches every event, and the rule would match none"
            yield Fault(where, message, "give it a condition, or leave it out")
        yield from _conditions(exception, where)
    sample = rule.get("sample")
    if sample is not None and not 0 < sample.get("rate", 0) <= 1:
        found = described(sample["rate"]) if "rate" in sample else "nothing"
        hint = "to drop everything, write level: None"
        yield Fault((*path, "sample", "rate"), f"expected a number above 0 and up to 1, found {found}", hint)
    for index, text in enumerate(rule.get("redact", ())):
        try:
            check_redact(text)
        except ValueError as error:
            yield Fault((*path, "redact", index), f"{shortened(text)!r}: {error}")
    if level == "None":
        for field in ("sample", "redact"):
            if rule.get(field):
                message = "the rule has level None: it drops its events, and nothing is left to do with them"
                yield Fault((*path, field), message)


def _conditions(conditions: Mapping[str, Any], path: Path) -> Iterator[Fault]:
    yield from _empty(conditions, path, CONDITIONS)
    yield from _each((*path, "stages"), conditions.get("stages", ()), STAGES)
    yield from _each((*path, "levels"), conditions.get("levels", ()), RECORDED_LEVELS)
    for index, verb in enumerate(conditions.get("verbs", ())):
        if "*" in verb:
            hint = "leave verbs out to match every verb, or name each"
            yield Fault((*path, "verbs", index), f"verbs have no patterns, found {shortened(verb)!r}", hint)
    yield from _urls(conditions, path)
    for index, element in enumerate(conditions.get("resources", ())):
        yield from _element(element, (*path, "resources", index))
    for index, codes in enumerate(conditions.get("responseCodes", ())):
        try:
            parse_codes(codes)
        except ValueError as error:
            yield Fault((*path, "responseCodes", index), f"{error}, found {described(codes)}")
    for index, network in enumerate(conditions.get("sourceIPs", ())):
        yield from _network(network, (*path, "sourceIPs", index))
    if conditions.get("ownNamespace", "same") not in OWN_NAMESPACE:
        yield unsupported((*path, "ownNamespace"), conditions["ownNamespace"], OWN_NAMESPACE)
    for key, values in conditions.get("annotations", {}).items():
        if not values:
            yield Fault((*path, "annotations", key), "expected patterns of its value", 'any value is ["*"]')


def _empty(values: Mapping[str, Any], path: Path, names: Sequence[str]) -> Iterator[Fault]:
    for name in names:
        if name in values and not values[name]:
            hint = f"leave {name} out if it is to restrict nothing"
            yield Fault((*path, name), "it is empty, and would restrict nothing", hint)


def _urls(conditions: Mapping[str, Any], path: Path) -> Iterator[Fault]:
    urls = conditions.get("nonResourceURLs", ())
    for index, url in enumerate(urls):
        if not url.startswith(("/", "*")):
            message = f"expected a path or a pattern that begins with / or *, found {shortened(url)!r}"
            yield Fault((*path, "nonResourceURLs", index), message)
    if urls and (conditions.get("resources") or conditions.get("namespaces")):
        message = "a request is for a resource or for another URL: no request can meet both conditions"
        yield Fault((*path, "nonResourceURLs"), message, "write two rules")


def is_resource(text: str) -> bool:
    """Whether a text may be a resource or ``resource/subresource``, or a pattern of these."""
    return text != "" and text == text.lower() and not (text.startswith("/") or text.endswith("/"))


def _element(element: Mapping[str, Any], path: Path) -> Iterator[Fault]:
    yield from _empty(element, path, ("resources", "resourceNames"))
    group = element.get("group", "")
    before, slash, _ = group.partition("/")
    if not GROUP.fullmatch(group):
        hint = f'a group is written without its version: "{shortened(before)}"' if slash else ""
        yield Fault((*path, "group"), f"{shortened(group)!r} can't be the name of an API group", hint)
    if element.get("resourceNames") and not element.get("resources"):
        yield Fault((*path, "resourceNames"), "names need resources: say of which resources these are names")
    for index, resource in enumerate(element.get("resources", ())):
        if not is_resource(resource):
            message = (
                f"expected resource or resource/subresource in lower case, found {shortened(resource)!r}"
            )
            yield Fault((*path, "resources", index), message)


def _network(text: str, path: Path) -> Iterator[Fault]:
    from ipaddress import ip_address, ip_network  # noqa: PLC0415 - importing it takes some time

    network = None
    if NETWORK.fullmatch(text):
        with suppress(ValueError):
            network = ip_network(text, strict=False)
    if network is None:
        message = f"expected an address, or a network such as 10.0.0.0/8, found {shortened(text)!r}"
        yield Fault(path, message)
    elif "/" in text and network.network_address != ip_address(text.partition("/")[0]):
        yield Fault(
            path, f"{text!r} is an address inside a network", f"write {network}, or the address alone"
        )


def _redaction(redaction: Mapping[str, Any], rules: Sequence[Mapping[str, Any]]) -> Iterator[Fault]:
    method = redaction.get("method", "mask")
    if method not in METHODS:
        yield unsupported(("redaction", "method"), method, METHODS)
    if method == "hash" and not redaction.get("keyFile"):
        message = "expected the path of a file with the key of the hashes, found nothing"
        yield Fault(("redaction", "keyFile"), message)
    if method != "hash" and redaction.get("keyFile"):
        yield Fault(("redaction", "keyFile"), f"only hashes have a key, and the method is {method}")
    if redaction and not any(rule.get("redact") for rule in rules):
        yield Fault(("redaction",), "no rule redacts anything", "give rules a list redact")


def _each(path: Path, values: Sequence[str], known: Sequence[str]) -> Iterator[Fault]:
    for index, value in enumerate(values):
        if value not in known:
            yield unsupported((*path, index), value, known)


def unsupported(path: Path, value: str, known: Sequence[str]) -> Fault:
    return Fault(path, f"expected one of {', '.join(known)}, found {shortened(value)!r}")
