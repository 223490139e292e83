"""The interface of the PyPI package ``k8s-audit-filter``, over this engine."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from filter_engine.actions import Actions
from filter_engine.evaluator import LevelMatch, PolicyEvaluator
from filter_engine.fields import text
from filter_engine.loading import API_VERSION, load_mapping, load_rule, load_text
from filter_engine.model import PolicyRule
from filter_engine.policy import Policy

Event = Mapping[str, Any] | str | bytes


class AuditFilter:
    """Filters audit events one by one, by rules that may change while it runs.

    A level has the meaning that ``k8s-audit-filter`` documents: a rule of level Metadata, Request
    or RequestResponse matches only events recorded at exactly that level, a rule of level None
    drops what it matches, and an event that no rule matches is dropped, also if there are no rules.
    Rules may have the extra field ``codes``: one of these response codes must be the event's.

    A FilterPolicy is taken too, and means what it always means: levels are not compared, but are a condition
    of their own, as response codes are. Of an event that a rule with a ``sample`` keeps, :meth:`filter` says
    whether it is in the sample.

    Args:
        config: path of a policy file, a policy as a mapping (``apiVersion`` and ``kind`` may be
            left out), a :class:`Policy`, or None for no rules.
        level_match: ``kubernetes`` does not compare levels, as kube-apiserver. It makes no difference to a
            FilterPolicy.

    Raises:
        OSError: the file can't be read.
        PolicyError: it is not a policy.
    """

    def __init__(
        self,
        config: str | PathLike[str] | Mapping[str, Any] | Policy | None = None,
        *,
        level_match: LevelMatch = "exact",
    ) -> None:
        self._level_match: LevelMatch = level_match
        self._use(_policy(config))

    def filter(self, event: Event) -> bool:
        """Whether to keep an event.

        Args:
            event: a decoded event, or one as JSON text. Keys may be missing. Text that is not a
                JSON object is kept: only a policy drops.
        """
        if isinstance(event, (str, bytes)):
            try:
                event = json.loads(event)
            except (ValueError, RecursionError):
                return True
        if not isinstance(event, Mapping):
            return True
        decision = self._evaluator.evaluate(event)
        if not decision.keep:
            return False
        sample = None if decision.rule is None else self._policy.rules[decision.rule].sample
        return Actions(decision, sample).keeps(text(event.get("auditID")))

    def add_rule(self, rule: Mapping[str, Any]) -> None:
        """Add a rule at the end. Raises PolicyError if the mapping is not a rule."""
        self.add_rules([rule])

    def add_rules(self, rules: Iterable[Mapping[str, Any]]) -> None:
        """Add rules at the end, in order. If one of them is not a rule, none is added (PolicyError)."""
        self._use_rules([*self._policy.rules, *map(self._load_rule, rules)])

    def remove_rule(self, rule: Mapping[str, Any]) -> None:
        """Remove the first rule that equals this one. Raises ValueError if there is none."""
        self.remove_rules([rule])

    def remove_rules(self, rules: Iterable[Mapping[str, Any]]) -> None:
        """Remove rules. If one of them is not in the policy, none is removed (ValueError)."""
        left = list(self._policy.rules)
        for rule in rules:
            wanted = self._load_rule(rule)
            if wanted not in left:
                raise ValueError(f"no such rule: {dict(rule)!r}")
            left.remove(wanted)
        self._use_rules(left)

    @staticmethod
    def filter_with_rule(event: Event, rule: Mapping[str, Any], *, level_match: LevelMatch = "exact") -> bool:
        """What :meth:`filter` returns for an event if this is the only rule."""
        return AuditFilter({"rules": [rule]}, level_match=level_match).filter(event)

    @property
    def config(self) -> dict[str, Any]:
        """The policy as JSON data, ``codes`` included."""
        return self._policy.to_dict()

    def dump_config(self, path_to_config: str | PathLike[str], k8s_standard: bool = True) -> None:
        """Write the policy to a YAML file.

        Args:
            path_to_config: the file; it is overwritten.
            k8s_standard: leave out ``codes``, which kube-apiserver does not know.
        """
        import yaml  # noqa: PLC0415 - filtering does not need it

        config = self.config
        if k8s_standard:
            for rule in config["rules"]:
                rule.pop("codes", None)
        document = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
        Path(path_to_config).write_text(document, encoding="utf-8")

    def _load_rule(self, rule: Mapping[str, Any]) -> PolicyRule:
        return load_rule(rule, kind=self._policy.kind, codes=True)

    def _use_rules(self, rules: Iterable[PolicyRule]) -> None:
        self._use(self._policy.with_rules(tuple(rules)))

    def _use(self, policy: Policy) -> None:
        self._policy = policy
        level_match = self._level_match if policy.kind == "Policy" else "kubernetes"
        self._evaluator = PolicyEvaluator(policy, level_match=level_match)


def _policy(config: str | PathLike[str] | Mapping[str, Any] | Policy | None) -> Policy:
    if isinstance(config, Policy):
        return config
    if config is None or isinstance(config, Mapping):
        mapping = {"apiVersion": API_VERSION, **(config or {})}
        return Policy(**load_mapping(mapping, codes=True, require_rules=False))
    if not isinstance(config, (str, PathLike)):
        raise TypeError(
            f"config: expected a path, a mapping, a Policy or None, found {type(config).__name__}"
        )
    data = Path(config).read_bytes()
    return Policy(**load_text(data, source=fspath(config), codes=True, require_rules=False))
