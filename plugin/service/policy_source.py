"""Which policy to read, and how to read its text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from filter_engine import Policy, PolicyError, PolicyProblem
from filter_engine.evaluator import LevelMatch
from filter_engine.model import Redaction

from .. import policies


@dataclass(frozen=True)
class PolicySource:
    """A policy as the user names it.

    Attributes:
        name: a file, ``builtin:NAME``, or ``FILE#PART`` for a policy that is a part of another file; see
            :mod:`filter_engine.loading.parts`.
        lenient: accept what kube-apiserver only warns about; see ``strict`` of
            :meth:`filter_engine.Policy.from_file`.
        level_match: see :class:`filter_engine.PolicyEvaluator`; with ``exact``, rules may have the field
            ``codes`` of k8s-audit-filter.
        redact: what is redacted in all kept events, beside what the policy's rules say.
        redaction: how to redact; None for what the policy says.
    """

    name: str
    lenient: bool = False
    level_match: LevelMatch = "kubernetes"
    redact: tuple[str, ...] = ()
    redaction: Redaction | None = None

    @property
    def is_builtin(self) -> bool:
        """Whether the policy ships with this program."""
        return self.name.startswith(policies.PREFIX)

    def path(self) -> str:
        """The policy's file.

        Raises:
            KeyError: there is no built-in policy of that name.
        """
        if self.is_builtin:
            return str(policies.path(self.name.removeprefix(policies.PREFIX)))
        return self._split()[0]

    def _split(self) -> tuple[str, str]:
        """The file, and the part of it. A file of the whole name comes first."""
        path, mark, part = self.name.rpartition("#")
        return (path, part) if mark and path and not Path(self.name).exists() else (self.name, "")

    def parse(self, data: bytes, *, source: str) -> Policy:
        """Read the policy's text.

        Args:
            data: the text, YAML or JSON.
            source: what errors call the policy.

        Raises:
            PolicyError: the text is not a policy.
        """
        is_exact = self.level_match == "exact"
        part = "" if self.is_builtin else self._split()[1]
        policy = Policy.from_yaml(data, source=source, strict=not self.lenient, codes=is_exact, part=part)
        if is_exact and policy.kind == "FilterPolicy":
            message = "--level-match exact is for rules of k8s-audit-filter, and this is a FilterPolicy"
            raise PolicyError(
                source, [PolicyProblem("", message, hint="give its rules the condition levels")]
            )
        if self.redaction is not None and policy.redaction not in (Redaction(), self.redaction):
            message = "redaction: the policy says how to redact, and --redact-method says something else"
            raise PolicyError(source, [PolicyProblem("redaction", message, hint="leave one of them out")])
        return policy.with_redaction(self.redact, self.redaction) if self.redact else policy
