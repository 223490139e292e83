"""Where the policy comes from, and how the one in use is kept in step with its file."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from collections import Counter
from collections.abc import Callable
from typing import Generic, TypeVar

from filter_engine import Policy, PolicyError

from .diagnostics import Diagnostics
from .files import read_file
from .policy_source import PolicySource

# Bytes. A ConfigMap holds 1 MiB.
MAX_POLICY_SIZE = 16 << 20
# Seconds in which a changed file must not change again, unless it is looked at more often: it may just be
# being written, and the first part of a policy may be a policy too. So often it is given the time.
SETTLE = 1.0
_LOOKS = 3

Prepared = TypeVar("Prepared")


class PolicyWatch(Generic[Prepared]):
    """Reads a policy, and reads it again when its content has changed.

    The content counts, not the file: a ConfigMap is changed by turning a symbolic link to another
    directory, an editor may write another file in place of the first. A policy that can't be used
    leaves the one in use where it is.

    Args:
        source: which policy. A built-in one is only read again when it is asked for.
        prepare: makes a policy ready to be used.
        publish: called with each prepared policy that is to be used from now on, the first one too.
            It is called by whichever thread calls :meth:`load` or :meth:`check`.
        diagnostics: where to say what became of the policy.
        settle: seconds in which a changed file must not change again; see ``SETTLE``.

    Attributes:
        digest: SHA-256 of the policy in use, in hexadecimal digits; None while there is none.
        loaded_at: when it was read, in seconds since the epoch.
        is_current: whether the last attempt to read the policy gave one that can be used.
        reloads: how many attempts after the first there were, by ``success`` and ``failure``.

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

    def load(self, is_told_to_end: Callable[[], bool] = lambda: False) -> None:
        """Read the policy for the first time, from anything that can be opened, and publish it.

        Args:
            is_told_to_end: whether to wait no longer for a pipe that nobody writes.

        Raises:
            OSError: it can't be read.
            PolicyError: it is not a policy.
        """
        try:
            data, is_regular = read_file(self._path, MAX_POLICY_SIZE + 1, is_told_to_end)
            self._can_be_read_again &= is_regular
            self._limited(data)
        except OSError as error:
            self._seen = _reason(error)
            raise
        try:
            self._use(data)
        except PolicyError:
            self._seen = _digest(data)
            raise

    def check(self, asked: bool) -> None:
        """Read the policy again; where it has changed and can be used, publish it.

        Args:
            asked: whether the user asked for it. Then what comes of it is said in any case.
        """
        if not asked and not self._can_be_read_again:
            return
        try:
            read = self._read_again()
            data = read if _digest(read) in (self._seen, self.digest) else self._at_rest(read)
        except OSError as error:
            self._refuse(_reason(error), f"{self._path}: {error.strerror}", asked)
            return
        if data is None:
            if asked:
                self._refuse("", f"{self._path}: it keeps changing and is not read before it rests", asked)
            return
        digest = _digest(data)
        if not asked and digest == self._seen:
            return
        if digest == self.digest:
            self._seen = digest
            self._count(succeeded=True)
            self._diagnostics.info(f"{self._path}: this policy is in use already")
            return
        try:
            self._use(data)
        except PolicyError as error:
            self._refuse(digest, refusal(error), asked)
        except Exception as error:  # the policy in use has to outlive a fault of ours
            self._refuse(digest, f"{self._path}: internal error: {error!r}", asked)

    def _at_rest(self, data: bytes) -> bytes | None:
        """The file's content when it has stayed the same for a while; None if it does not."""
        for _ in range(_LOOKS):
            time.sleep(self._settle)
            before, data = data, self._read_again()
            if data == before:
                return data
        return None

    def _use(self, data: bytes) -> None:
        policy = self._source.parse(data, source=self._path)
        prepared = self._prepare(policy)
        for warning in policy.warnings:
            self._diagnostics.warning(warning)
        is_first = self._seen is None
        self.digest = self._seen = _digest(data)
        self.loaded_at = time.time()
        self._publish(prepared)
        if is_first:
            self.is_current = True
            return
        self._count(succeeded=True)
        rules = f"{len(policy.rules)} rule{'s' if len(policy.rules) != 1 else ''}"
        self._diagnostics.info(f"{self._path}: a new policy is in use: {rules}, sha256 {self.digest}")

    def _refuse(self, attempt: str, message: str, asked: bool) -> None:
        if attempt == self._seen and not asked:
            return
        self._seen = attempt
        self._count(succeeded=False)
        stays = "the policy in use stays" if self.digest is not None else "there is no policy in use"
        self._diagnostics.error(f"{message}; {stays}")

    def _count(self, *, succeeded: bool) -> None:
        self.is_current = succeeded
        self.reloads["success" if succeeded else "failure"] += 1

    def _read_again(self) -> bytes:
        # Without O_NONBLOCK, a named pipe in place of the file would be waited for.
        descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise OSError(errno.EINVAL, "not a regular file, which could be read again", self._path)
            with open(descriptor, "rb", closefd=False) as file:
                return self._limited(file.read(MAX_POLICY_SIZE + 1))
        finally:
            os.close(descriptor)

    def _limited(self, data: bytes) -> bytes:
        if len(data) > MAX_POLICY_SIZE:
            raise OSError(errno.EFBIG, f"larger than {MAX_POLICY_SIZE >> 20} MiB", self._path)
        return data


def refusal(error: PolicyError) -> str:
    """What to say of a policy that can't be used."""
    count = len(error.problems)
    message = f"{error}\n{error.source} is not used: {count} error{'s' if count > 1 else ''}"
    if all(problem.lenient for problem in error.problems):
        message += "; --lenient accepts it as kube-apiserver would"
    return message


def _reason(error: OSError) -> str:
    """What is wrong with a file, without the descriptor that it happened to have."""
    return os.strerror(error.errno or 0)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
