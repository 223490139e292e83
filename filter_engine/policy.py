"""A whole audit policy: read from a file, from text or from a mapping."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

from filter_engine.loading import load_mapping, load_text
from filter_engine.loading.rule_names import NO_RULE
from filter_engine.model import Kind, Level, PolicyRule, Redaction, without_empty


@dataclass(frozen=True)
class Policy:
    """A policy: ordered rules. The first rule that matches an event decides on it.

    Make one with :meth:`from_file`, :meth:`from_yaml` or :meth:`from_dict`. ``warnings`` has
    a sentence for each thing that ``strict=False`` accepted and a strict load refuses. If there are more than
    200, a last one says how many more there are. ``rule_names`` has the names that annotations give to rules,
    by index; see :meth:`rule_name`. ``rule_lines`` has the lines on which rules begin; see :meth:`rule_line`.
    Two policies that differ only in their lines are equal.

    The ``kind`` is that of the document: an ``audit.k8s.io`` Policy, or a FilterPolicy. In a FilterPolicy,
    names are patterns, ``default_level`` is the level of events that no rule matches, ``reduce`` says whether
    kept events are reduced (None: what the caller says), and ``redaction`` how rules redact. ``redact`` has
    what is redacted in all kept events, beside what their rules say; no document has it, see
    :meth:`with_redaction`.
    """

    rules: tuple[PolicyRule, ...]
    omit_stages: tuple[str, ...] = ()
    omit_managed_fields: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    rule_names: Mapping[int, str] = field(default_factory=dict)
    rule_lines: tuple[int | None, ...] = field(default=(), compare=False, repr=False)
    kind: Kind = "Policy"
    default_level: Level = Level.NONE
    reduce: bool | None = None
    redaction: Redaction = field(default_factory=Redaction)
    redact: tuple[str, ...] = ()

    @property
    def has_patterns(self) -> bool:
        """Whether ``*`` stands for any run of characters in names, as in a FilterPolicy."""
        return self.kind == "FilterPolicy"

    @classmethod
    def from_file(
        cls, path: str | PathLike[str], *, strict: bool = True, codes: bool = False, part: str = ""
    ) -> Policy:
        """Read a policy file, YAML or JSON. The arguments are those of :meth:`from_yaml`.

        Raises:
            OSError: the file can't be read.
            PolicyError: the file is not a policy; the exception has all errors, with file, line and field.
        """
        data = Path(path).read_bytes()
        return cls(**load_text(data, source=str(path), strict=strict, codes=codes, part=part))

    @classmethod
    def from_yaml(
        cls,
        text: str | bytes,
        *,
        strict: bool = True,
        codes: bool = False,
        source: str = "policy",
        part: str = "",
    ) -> Policy:
        """Read a policy from YAML or JSON text.

        As kube-apiserver does, only the first YAML document counts, and text that starts with
        ``{`` is read as JSON.

        Args:
            text: the document.
            strict: refuse what kube-apiserver only warns about: unknown and duplicate fields.
            codes: accept the rule field ``codes`` of ``k8s-audit-filter``.
            source: what errors call the document, in place of a file name.
            part: where in the text the policy stands, if it is a part of something else, such as
                ``data.policy.yaml`` in a ConfigMap.

        Raises:
            PolicyError: the text is not a policy; the exception has all errors, with line and field.
        """
        return cls(**load_text(text, source=source, strict=strict, codes=codes, part=part))

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any], *, strict: bool = True, codes: bool = False) -> Policy:
        """Read a policy from JSON-like data.

        Raises:
            PolicyError: the mapping is not a policy; the exception has all errors, with their fields.
        """
        return cls(**load_mapping(mapping, strict=strict, codes=codes))

    def with_rules(self, rules: tuple[PolicyRule, ...]) -> Policy:
        """A copy of the policy with other rules. These have no names and no lines."""
        return replace(self, rules=rules, rule_names={}, rule_lines=())

    def with_redaction(self, redact: tuple[str, ...], redaction: Redaction | None = None) -> Policy:
        """A copy of the policy that redacts more, in all events that it keeps.

        Args:
            redact: paths and named sets, as in the field ``redact`` of a FilterPolicy's rules.
            redaction: how to redact; None for what the policy says.
        """
        return replace(self, redact=(*self.redact, *redact), redaction=redaction or self.redaction)

    def rule_name(self, index: int | None) -> str:
        """What to call a rule in metrics and messages.

        Args:
            index: the rule's index, as in :class:`~filter_engine.Decision`; None if no rule matched.

        Returns:
            The name from the policy's annotation ``kube-audit-filter/rule-INDEX``, or else the index;
            ``none`` if the index is None.
        """
        return NO_RULE if index is None else self.rule_names.get(index, str(index))

    def rule_line(self, index: int) -> int | None:
        """The line on which a rule begins, counted from 1; None if the policy came as a mapping."""
        return self.rule_lines[index] if index < len(self.rule_lines) else None

    def to_dict(self) -> dict[str, Any]:
        """The policy as JSON data, without empty fields, as kube-apiserver would print what it understood."""
        policy = without_empty(omitStages=list(self.omit_stages), omitManagedFields=self.omit_managed_fields)
        head = {"kind": self.kind, "metadata": dict(self.metadata)}
        rules = [rule.to_dict() for rule in self.rules]
        if self.kind == "Policy":
            return {"apiVersion": "audit.k8s.io/v1", **head, "rules": rules, **policy}
        policy |= without_empty(redaction=self.redaction.to_dict())
        if self.default_level is not Level.NONE or not rules:
            policy["defaultLevel"] = self.default_level.value
        if self.reduce is not None:
            policy["reduce"] = self.reduce
        named = [
            ({"name": self.rule_names[index]} if index in self.rule_names else {}) | rule
            for index, rule in enumerate(rules)
        ]
        return {"apiVersion": "kube-audit-filter.io/v1", **head, **policy, "rules": named}
