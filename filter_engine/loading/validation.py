"""The validation rules of kube-apiserver (pkg/apis/audit/validation), with its texts and in its order."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from filter_engine.errors import MAX_VALUE, PolicyProblem, Problems, shortened
from filter_engine.loading.document import Node
from filter_engine.model import STAGES, Level

_DNS_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
DNS_SUBDOMAIN = rf"{_DNS_LABEL}(\.{_DNS_LABEL})*"
_NOT_A_SUBDOMAIN = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', "
    "and must start and end with an alphanumeric character "
    rf"(e.g. 'example.com', regex used for validation is '{DNS_SUBDOMAIN}')"
)

_LABEL = re.compile(_DNS_LABEL)
MAX_SUBDOMAIN = 253

Path = tuple[str | int, ...]
# The path of the fault in the document, which may be deeper than the field that kube-apiserver names; that
# field; kube-apiserver's text; and a hint.
_Fault = tuple[Path, str, str] | tuple[Path, str, str, str]


def validate(policy: Mapping[str, Any], root: Node, problems: Problems) -> None:
    """Find every validation error of a decoded policy.

    Args:
        policy: the decoded fields.
        root: the document they came from, for line numbers.
        problems: collects the errors. A field that has an error already is not validated, nor is anything
            below it.
    """
    undecoded = problems.fields_at_fault()
    for path, name, text, *hint in _faults(policy):
        if not is_at_or_below(name, undecoded) and problems.takes(lenient=False):
            problems.add(PolicyProblem(name, f"{name}: {text}", line_at(root, path), hint="".join(hint)))


def is_at_or_below(field: str, others: frozenset[str]) -> bool:
    """Whether a field is one of some others, or below one of them."""
    return field in others or any(field[: step.start()] in others for step in _STEP.finditer(field))


_STEP = re.compile(r"[.\[]")


def _faults(policy: Mapping[str, Any]) -> Iterator[_Fault]:
    yield from _stages(policy.get("omitStages", ()), ("omitStages",), "omitStages")
    for i, rule in enumerate(policy.get("rules", ())):
        yield from _rule(rule, ("rules", i), f"rules[{i}]")


def _rule(rule: Mapping[str, Any], path: Path, name: str) -> Iterator[_Fault]:
    yield from _level(rule.get("level", ""), (*path, "level"), f"{name}.level")
    urls = rule.get("nonResourceURLs", ())
    yield from _non_resource_urls(urls, (*path, "nonResourceURLs"), f"{name}.nonResourceURLs")
    yield from _resources(rule.get("resources", ()), (*path, "resources"), f"{name}.resources")
    yield from _stages(rule.get("omitStages", ()), (*path, "omitStages"), f"{name}.omitStages")
    if urls and (rule.get("resources") or rule.get("namespaces")):
        yield (
            (*path, "nonResourceURLs"),
            f"{name}.nonResourceURLs",
            f"Invalid value: {_go_json(urls)}:"
            " rules cannot apply to both regular resources and non-resource URLs",
        )


def _level(level: str, path: Path, name: str) -> Iterator[_Fault]:
    if not level:
        yield path, name, "Required value"
    elif level not in [known.value for known in Level]:
        supported = ", ".join(f'"{known}"' for known in Level)
        yield path, name, f"Unsupported value: {_go_quote(level)}: supported values: {supported}"


def _stages(stages: Sequence[str], path: Path, name: str) -> Iterator[_Fault]:
    for i, stage in enumerate(stages):
        if stage not in STAGES:
            text = f"Invalid value: {_go_quote(stage)}: allowed stages are {','.join(STAGES)}"
            yield (*path, i), f"{name}[{i}]", text


def _non_resource_urls(urls: Sequence[str], path: Path, name: str) -> Iterator[_Fault]:
    for i, url in enumerate(urls):
        if url == "*":
            continue
        invalid = f"Invalid value: {_go_quote(url)}"
        if not url.startswith("/"):
            text = f"{invalid}: non-resource URL rules must begin with a '/' character"
            yield (*path, i), f"{name}[{i}]", text
        if "*" in url[:-1]:
            text = f"{invalid}: non-resource URL wildcards '*' must be the final character of the rule"
            yield (*path, i), f"{name}[{i}]", text


def _resources(elements: Sequence[Mapping[str, Any]], path: Path, name: str) -> Iterator[_Fault]:
    for i, element in enumerate(elements):
        group = element.get("group", "")
        if group not in ("", "*"):
            faults = [] if all(map(_LABEL.fullmatch, group.split("."))) else [_NOT_A_SUBDOMAIN]
            if len(group.encode("utf-8", "surrogatepass")) > MAX_SUBDOMAIN:
                faults.insert(0, f"must be no more than {MAX_SUBDOMAIN} characters")
            if faults:
                text = f"Invalid value: {_go_quote(group)}: {','.join(faults)}"
                yield (*path, i, "group"), f"{name}.group", text, _group_hint(group)
        if element.get("resourceNames") and not element.get("resources"):
            names = _go_json(element["resourceNames"])
            text = f"Invalid value: {names}: using resourceNames requires at least one resource"
            yield (*path, i, "resourceNames"), f"{name}.resourceNames", text


def _group_hint(group: str) -> str:
    before, slash, after = group.partition("/")
    if slash and re.fullmatch(r"v[0-9]\w*", after):
        return f'a group is written without its version: "{shortened(before, 80)}"'
    return ""


def line_at(root: Node, path: Path) -> int | None:
    """The line of the deepest node on the path that the document has."""
    node = root
    for step in path:
        child = None
        if isinstance(node.value, dict) and isinstance(step, str):
            child = node.value.get(step)
        elif isinstance(node.value, list) and isinstance(step, int):
            child = node.value[step]
        if child is None:
            break
        node = child
    return node.line


def _go_json(strings: Sequence[str]) -> str:
    """A list of strings as Go's encoding/json writes it, shortened where it is long."""
    some = [text[:MAX_VALUE] for text in strings[:MAX_VALUE]]
    text = json.dumps(some, ensure_ascii=False, separators=(",", ":"))
    if some != list(strings) or len(text) > MAX_VALUE:
        text = f"{text[:MAX_VALUE]}… ({len(strings):,} values)"
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


_GO_ESCAPES = {ord(c): "\\" + e for c, e in zip('\a\b\f\n\r\t\v\\"', 'abfnrtv\\"', strict=True)}


def _go_quote(text: str) -> str:
    """A string as Go's strconv.Quote writes it, shortened where it is long."""
    quoted = []
    for char in text[:MAX_VALUE].translate(_GO_ESCAPES):
        if char.isprintable():
            quoted.append(char)
        elif char < "\x80":
            quoted.append(f"\\x{ord(char):02x}")
        else:
            quoted.append(f"\\u{ord(char):04x}" if char <= "\uffff" else f"\\U{ord(char):08x}")
    rest = f"… ({len(text):,} characters)" if len(text) > MAX_VALUE else ""
    return '"' + "".join(quoted) + '"' + rest
