"""Loads the policy from its file, and loads it again when the file's content changes."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from collections import Counter
from collections.abc import Callable, Sized
from pathlib import Path
from typing import BinaryIO, Generic, TypeVar

from filter_engine import Policy, PolicyError, PolicyRule
from filter_engine.analysis import find
from filter_engine.errors import MAX_SHOWN, up_to
from filter_engine.evaluator import LevelMatch

from .diagnostics import Diagnostics
from .files import read_file
from .policy_source import PolicySource

# Bytes. A ConfigMap holds 1 MiB.
MAX_POLICY_SIZE = 16 << 20
# Seconds for which a changed file has to stay unchanged before it is loaded: it may still be written, and the
# first part of a policy may be a valid policy by itself. After _LOOKS tries without two equal reads, the
# reload is given up until the next check.
SETTLE = 1.0
_LOOKS = 3

Prepared = TypeVar("Prepared")


class PolicyWatch(Generic[Prepared]):
    """Reads a policy, and reads it again when its content has changed.

    The content counts, not the file: a ConfigMap is changed by turning a symbolic link to another
    directory, an editor may write another file in place of the first. If the new policy can't be used, the
    policy in use stays. It also stays if the new policy is the beginning of it, because a full disk or a tool
    that writes in place may have cut the file off. Asking twice for such a policy loads it.

    Args:
        source: which policy. A built-in policy is only read again when SIGHUP asks for it.
        prepare: makes a policy ready to be used.
        publish: called with each prepared policy that is to be used from now on, also with the first one.
            The thread that calls :meth:`load` or :meth:`check` calls it.
        diagnostics: where messages about the policy go.
        settle: seconds for which a changed file has to stay unchanged; see ``SETTLE``.

    Attributes:
        digest: SHA-256 of the policy in use, in hexadecimal digits; None while there is no policy.
        loaded_at: when the policy in use was read, in seconds since the epoch.
        is_current: whether the last attempt to read the policy gave one that can be used.
        reloads: how many attempts there were after the first one, by ``success`` and ``failure``.

    Raises:
        KeyError: there is no built-in policy of that name.
    """

    def __init__(
        self,
        source: PolicySource,
        *,
        prepare: Callable[[Policy], Prepared],
        publish: Callable[[Prepared], None],
        diagnostics: Diagnostics,
        settle: float,
    ) -> None:
        self.digest: str | None = None
        self.loaded_at = 0.0
        self.is_current = False
        self.reloads: Counter[str] = Counter(success=0, failure=0)
        self._source = source
        self._path = source.path()
        self._prepare, self._publish = prepare, publish
        self._diagnostics = diagnostics
        self._settle = settle
        self._can_be_read_again = not source.is_builtin
        self._seen: str | None = None  # the digest of the last attempt, or the error that it ended in
        self._in_use: tuple[bytes, tuple[PolicyRule, ...]] | None = None
        self._cut_off: str | None = None  # the digest of what was asked for and refused as cut off

    def load(self, is_told_to_end: Callable[[], bool] = lambda: False) -> None:
        """Read the policy for the first time, from anything that can be opened, and publish it.

        Args:
            is_told_to_end: tells whether to stop waiting for a pipe that nobody writes.

        Raises:
            OSError: the file can't be read.
            PolicyError: the file is not a policy.
        """
        try:
            data, is_regular = read_file(self._path, MAX_POLICY_SIZE + 1, is_told_to_end)
            self._can_be_read_again &= is_regular
            check_size(data, self._path)
        except IsADirectoryError as error:
            self._seen = _reason(error)
            raise _hinted(error, self._path) from None
        except OSError as error:
            self._seen = _reason(error)
            raise
        try:
            self._use(data)
        except PolicyError:
            self._seen = _digest(data)
            raise

    def check(self, asked: bool) -> None:
        """Read the policy again. If it has changed and can be used, publish it.

        Args:
            asked: whether the user asked for it. Then there is a message about the result in any case.
        """
        if not asked and not self._can_be_read_again:
            return
        try:
            read = self._read_again()
            data = read if _digest(read) in (self._seen, self.digest) else self._at_rest(read)
        except OSError as error:
            self._cut_off = None
            self._refuse(_reason(error), f"{self._path}: {error.strerror}", asked=asked)
            return
        if data is None:
            if asked:
                self._refuse(
                    "",
                    f"{self._path}: it keeps changing, and is not loaded before it stays unchanged",
                    asked=asked,
                )
            return
        digest = _digest(data)
        if not asked and digest == self._seen:
            return
        insists = asked and digest == self._cut_off
        self._cut_off = None
        if digest == self.digest:
            self._seen = digest
            self._count(succeeded=True)
            self._diagnostics.info(f"{self._path}: this policy is in use already")
            return
        try:
            self._use(data, even_if_cut_off=insists)
        except _CutOffError as error:
            self._cut_off = digest if asked else None
            again = "SIGHUP again takes it" if asked else "SIGHUP twice takes it"
            self._refuse(digest, f"{self._path}: {error}; {again} all the same", asked=asked)
        except PolicyError as error:
            self._refuse(digest, *refusal(error), asked=asked)
        except Exception as error:  # the policy in use has to outlive a fault of ours
            self._refuse(digest, f"{self._path}: internal error: {error!r}", asked=asked)

    def _at_rest(self, data: bytes) -> bytes | None:
        """Wait until the file's content stays unchanged. Returns it, or None if it keeps changing."""
        for _ in range(_LOOKS):
            time.sleep(self._settle)
            before, data = data, self._read_again()
            if data == before:
                return data
        return None

    def _use(self, data: bytes, *, even_if_cut_off: bool = False) -> None:
        policy = self._source.parse(data, source=self._path)
        if not even_if_cut_off:
            self._check_whole(data, policy)
        prepared = self._prepare(policy)
        warn_of(policy, self._path, self._source.level_match, self._diagnostics)
        is_first = self._seen is None
        self._in_use = data, policy.rules
        self.digest = self._seen = _digest(data)
        self.loaded_at = time.time()
        self._publish(prepared)
        if is_first:
            self.is_current = True
            return
        self._count(succeeded=True)
        self._diagnostics.info(
            f"{self._path}: a new policy is in use: {_rules(policy.rules)}, sha256 {self.digest}"
        )

    def _check_whole(self, data: bytes, policy: Policy) -> None:
        """Raise _CutOffError if this may be the beginning of the policy in use."""
        if self._in_use is None:
            return
        text, rules = self._in_use
        # An editor that saves the beginning of a file may add a line ending.
        for whole, part in ((text, data), (text.rstrip(), data.rstrip())):
            if len(part) < len(whole) and whole.startswith(part):
                raise _CutOffError(
                    f"it is cut off: it has only the first {len(part):,} of the {len(whole):,} bytes in use"
                )
        count = len(policy.rules)
        if count < len(rules) and rules[:count] == policy.rules:
            raise _CutOffError(
                f"it may be cut off: it has only the first {count} of the {len(rules)} rules in use"
            )

    def _refuse(self, attempt: str, *lines: str, asked: bool) -> None:
        if attempt == self._seen and not asked:
            return
        self._seen = attempt
        self._count(succeeded=False)
        stays = "the policy in use stays" if self.digest is not None else "there is no policy in use"
        self._diagnostics.error(*lines[:-1], f"{lines[-1]}; {stays}")

    def _count(self, *, succeeded: bool) -> None:
        self.is_current = succeeded
        self.reloads["success" if succeeded else "failure"] += 1

    def _read_again(self) -> bytes:
        # Without O_NONBLOCK, opening a named pipe in place of the file would wait for its writer.
        descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise OSError(errno.EINVAL, "not a regular file, which could be read again", self._path)
            with open(descriptor, "rb", closefd=False) as file:
                return read_limited(file, self._path)
        finally:
            os.close(descriptor)


class _CutOffError(Exception):
    """A policy that is the beginning of the one in use."""


def warn_of(policy: Policy, source: str, level_match: LevelMatch, diagnostics: Diagnostics) -> None:
    """Write a warning for each thing that a policy says and its author may not mean.

    Args:
        policy: a policy that can be used.
        source: what the warnings call the policy.
        level_match: that of the evaluator that will use the policy.
        diagnostics: where warnings go.
    """
    warnings = list(policy.warnings)
    for text in up_to(MAX_SHOWN, warnings, len(warnings), f"{source}: and %d more warnings"):
        diagnostics.warning(text)
    findings = [finding.describe(source) for finding in find(policy, level_match=level_match)]
    for text in up_to(MAX_SHOWN, findings, len(findings), f"{source}: and %d more warnings"):
        diagnostics.warning(text)


def open_policy(path: str) -> BinaryIO:
    """Open a policy's file to read it. Raises OSError; for a directory, it says what to do."""
    try:
        return Path(path).open("rb")
    except IsADirectoryError as error:
        raise _hinted(error, path) from None


def _hinted(error: IsADirectoryError, path: str) -> IsADirectoryError:
    hint = f"{error.strerror}: name the policy's file in it, e.g. {Path(path) / 'policy.yaml'}"
    return IsADirectoryError(error.errno, hint, path)


def read_limited(file: BinaryIO, path: str) -> bytes:
    """The content of a policy's file. Raises OSError if it is larger than ``MAX_POLICY_SIZE``."""
    data = file.read(MAX_POLICY_SIZE + 1)
    check_size(data, path)
    return data


def check_size(data: bytes, path: str) -> None:
    """Raise OSError if a policy is larger than ``MAX_POLICY_SIZE``."""
    if len(data) > MAX_POLICY_SIZE:
        raise OSError(errno.EFBIG, f"larger than {MAX_POLICY_SIZE >> 20} MiB", path)


def refusal(error: PolicyError) -> list[str]:
    """The message about a policy that can't be used, as lines."""
    count = error.count
    message = f"{error.source} is not used: {count} error{'s' if count > 1 else ''}"
    if all(problem.lenient for problem in error.problems):
        message += "; --lenient accepts it as kube-apiserver would"
    return [*str(error).split("\n"), message]


def _rules(rules: Sized) -> str:
    return f"{len(rules)} rule{'s' if len(rules) != 1 else ''}"


def _reason(error: OSError) -> str:
    """The text of an error, without the name of the file."""
    return os.strerror(error.errno or 0)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
