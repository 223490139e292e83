"""The redactors of a policy, and the key of its hashes."""

from __future__ import annotations

from dataclasses import replace as with_fields
from pathlib import Path

from filter_engine.errors import PolicyError, PolicyProblem
from filter_engine.policy import Policy
from filter_engine.redaction.redactor import Redactor
from filter_engine.redaction.replacement import Replacement

# Bytes of a key. A shorter one can be found by trying, and a longer file is hardly meant to be one.
MIN_KEY, MAX_KEY = 16, 4096


class Redactors:
    """The redactors of a policy's rules. Rules that redact the same share one.

    Args:
        policy: the policy. If its hashes have a key that was not read yet, it is read from its file.

    Raises:
        PolicyError: the file with the key can't be used.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = with_key(policy, "policy")
        redaction = self._policy.redaction
        self._replacement = Replacement(redaction, redaction.key)
        self._made: dict[tuple[str, ...], Redactor | None] = {(): None}

    @property
    def all(self) -> list[Redactor]:
        """The redactors of all rules, and of events that none matches."""
        rules = [None, *range(len(self._policy.rules))]
        return list(filter(None, dict.fromkeys(map(self.of, rules))))

    def of(self, rule: int | None) -> Redactor | None:
        """The redactor of the events that a rule keeps, or of those that none matches; None for none."""
        redact = self._policy.redact + (() if rule is None else self._policy.rules[rule].redact)
        if redact not in self._made:
            self._made[redact] = Redactor(redact, self._replacement)
        return self._made[redact]


def with_key(policy: Policy, source: str) -> Policy:
    """A policy with the key of its hashes, read from its file. A policy that needs none is returned as it is.

    Args:
        policy: the policy.
        source: what errors call it.

    Raises:
        PolicyError: the file with the key can't be used.
    """
    redaction = policy.redaction
    if redaction.method != "hash" or redaction.key:
        return policy
    try:
        key = read_key(redaction.key_file)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        message = f"redaction.keyFile: {redaction.key_file}: {reason}"
        hint = "head -c 32 /dev/urandom > FILE makes a key; everybody who has it can test guesses"
        raise PolicyError(source, [PolicyProblem("redaction.keyFile", message, hint=hint)]) from None
    return with_fields(policy, redaction=with_fields(redaction, key=key))


def read_key(path: str) -> bytes:
    """Read a key: the bytes of a file, without a line ending behind them.

    Raises:
        OSError: the file can't be read.
        ValueError: it is too short or too long to be a key.
    """
    with Path(path).open("rb") as file:
        key = file.read(MAX_KEY + 2)
    key = key.removesuffix(b"\n").removesuffix(b"\r")
    if not MIN_KEY <= len(key) <= MAX_KEY:
        size = f"{len(key)}" if len(key) <= MAX_KEY else "more"
        raise ValueError(f"expected a key of {MIN_KEY} to {MAX_KEY:,} bytes, found {size}")
    return key
