"""What goes wrong with the policy's file, and what a filter that reloads for ever leaves behind."""

import fcntl
import hashlib
import itertools
import os
import signal
import socket
import struct
import sys
import termios
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import msgpack
import pytest

from tests.support import POLICY, event
from tests.support.processes import (
    DEADLINE,
    DROPPED_RECORD,
    KEPT_RECORD,
    Reading,
    filtering,
    has_room,
    observed,
    read_exactly,
    status_of,
    wait_for_line,
    wait_until,
)

RULES = """apiVersion: audit.k8s.io/v1
kind: Policy
rules:
- level: None
  users: [{drops}]
- level: Metadata
"""
# Each keeps what the other one drops.
KEEPS_ALICE, KEEPS_BOB = RULES.format(drops="bob"), RULES.format(drops="alice")
PEOPLE = ("alice", "bob", "alice", "bob")
SUCCESS, FAILURE = (f'policy_reloads_total{{result="{result}"}}' for result in ("success", "failure"))


def in_use(text):
    """The metric that says that a policy is in use."""
    return f'policy_info{{sha256="{hashlib.sha256(text.encode()).hexdigest()}"}}'


class Load:
    """Numbered EventLists at full speed, some events of which each policy keeps."""

    def __init__(self, child):
        self._child = child
        self._end = threading.Event()
        self._sent = 0
        self.decided = []  # who was kept of each list
        self._writer = threading.Thread(target=self._write, daemon=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._fault = None
        self._writer.start()
        self._reader.start()

    def _write(self):
        items = [event(user={"username": name}) for name in PEOPLE]
        rest = msgpack.packb({"kind": "EventList", "items": items})[1:]
        with suppress(BrokenPipeError), self._child.stdin as stdin:
            while not self._end.is_set():
                stdin.write(b"\x83\xa3seq" + msgpack.packb(self._sent) + rest)
                self._sent += 1

    def _read(self):
        unpacker = msgpack.Unpacker()
        while piece := os.read(self._child.stdout.fileno(), 1 << 16):
            unpacker.feed(piece)
            for record in unpacker:
                kept = [item["user"]["username"] for item in record["items"]]
                if record["seq"] != len(self.decided) or kept not in (["alice"] * 2, ["bob"] * 2):
                    self._fault = self._fault or (record["seq"], len(self.decided), kept)
                self.decided.append(kept[0])

    def wait_for_records(self, count=1):
        """Wait until as many more than now have come back."""
        enough = len(self.decided) + count
        wait_until(lambda: len(self.decided) >= enough or self._fault, "records come back")

    def finish(self):
        """End the load; each record has been decided by one policy, and all came, in order."""
        self._end.set()
        self._writer.join(DEADLINE)
        self._reader.join(DEADLINE)
        assert self._child.wait(DEADLINE) == 0
        assert self._fault is None
        assert len(self.decided) == self._sent


class ConfigMap:
    """A volume whose content is changed as kubelet does: by turning one symbolic link."""

    def __init__(self, directory, text):
        self._directory = directory
        self._versions = itertools.count()
        self._current = None
        directory.mkdir()
        self.change(text)
        self.file = directory / "policy.yaml"
        self.file.symlink_to("..data/policy.yaml")

    def change(self, text):
        new = self._directory / f"..{next(self._versions)}"
        new.mkdir()
        (new / "policy.yaml").write_text(text)
        link = self._directory / "..data_tmp"
        link.symlink_to(new.name)
        link.replace(self._directory / "..data")
        if self._current is not None:
            (self._current / "policy.yaml").unlink()
            self._current.rmdir()
        self._current = new


def replace(path, text):
    """Put another file in its place, as an editor does: there is one at any moment."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def damage(path, kind):
    """Make a policy's file unusable; returns what the filter has to say of it."""
    new = path.with_suffix(".new")
    if kind == "deleted":
        path.rename(new)
        return "No such file or directory"
    if kind == "directory":
        new.symlink_to(path.parent)
        complaint = "Is a directory"
    elif kind == "pipe":
        os.mkfifo(new)
        complaint = "not a regular file"
    elif kind == "symbolic link to itself":
        new.symlink_to(path)
        complaint = "Too many levels of symbolic links"
    elif kind == "too large":
        new.write_bytes(KEEPS_BOB.encode() + b"#" * (20 << 20))
        complaint = "larger than 16 MiB"
    elif kind == "unreadable":
        new.write_text(KEEPS_BOB)
        new.chmod(0)
        complaint = "Permission denied"
    elif kind == "broken":
        new.write_text(POLICY.replace("rules:", "roles:"))
        complaint = 'unknown field "roles"'
    else:
        new.touch()
        complaint = "is not used"
    new.replace(path)
    return complaint


def several_looks():
    """Give a filter that looks at its policy every 0.05 s the time to."""
    until = time.monotonic() + 0.15
    wait_until(lambda: time.monotonic() >= until, "time passes")


@pytest.mark.parametrize(
    "kind",
    [
        "deleted",
        "directory",
        "pipe",
        "too large",
        "symbolic link to itself",
        "broken",
        "empty",
        pytest.param(
            "unreadable", marks=pytest.mark.skipif(os.geteuid() == 0, reason="root can read any file")
        ),
    ],
)
def test_a_policy_that_cannot_be_used_leaves_the_one_in_use(tmp_path, kind):
    path = tmp_path / "policy.yaml"
    path.write_text(KEEPS_ALICE)
    with observed(str(path), tmp_path, "--reload-interval", "0.05") as (child, scrape):
        load = Load(child)
        complaint = damage(path, kind)
        wait_until(lambda: scrape()[FAILURE] == 1, "the fault is noticed")
        with connected(scrape):  # which takes the descriptor that the file had
            several_looks()
        several_looks()
        load.wait_for_records(1000)
        found = scrape()
        assert found["policy_last_reload_successful"] == 0
        assert found[in_use(KEEPS_ALICE)] == 1
        assert found[FAILURE] == 1  # once, however often it looks
        replace(path, KEEPS_ALICE)
        wait_until(lambda: scrape()["policy_last_reload_successful"] == 1, "the fault is gone")
        load.finish()
        assert set(load.decided) == {"alice"}
    said = (tmp_path / "filter.log").read_text()
    assert said.count(complaint) == 1
    assert said.count("; the policy in use stays") == 1


def test_a_policy_written_in_pieces_is_used_when_it_is_whole(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text(KEEPS_ALICE)
    half = KEEPS_BOB[: KEEPS_BOB.index("- level: Metadata")]  # a policy too, which drops everything
    # A busy machine may take some time to write the rest: a file has to rest for longer than usually.
    program = "import plugin.cli.filtering, plugin.__main__\nplugin.cli.filtering.SETTLE = 3\n"
    command = [sys.executable, "-c", program + "plugin.__main__.main()", "exec"]
    with observed(str(path), tmp_path, "--reload-interval", "10", command=command) as (child, scrape):
        load = Load(child)
        with path.open("w") as file:
            for text in ("", half, KEEPS_BOB[len(half) :]):
                file.write(text)
                file.flush()
                if text == half:
                    child.send_signal(signal.SIGHUP)  # has it looked at
                    load.wait_for_records(2000)
        wait_until(lambda: in_use(KEEPS_BOB) in scrape(), "the whole policy is in use")
        found = scrape()
        assert (found[SUCCESS], found[FAILURE]) == (1, 0)
        load.wait_for_records(1000)
        load.finish()
    assert set(load.decided) == {"alice", "bob"}
    assert load.decided[-1] == "bob"
    assert load.decided == sorted(load.decided)  # no way back


def test_of_changes_in_quick_succession_the_last_one_rules(tmp_path):
    config_map = ConfigMap(tmp_path / "volume", KEEPS_ALICE)
    with observed(str(config_map.file), tmp_path, "--reload-interval", "0.05") as (child, scrape):
        load = Load(child)
        for number in range(50):
            for text in (f"# {number}\n{KEEPS_ALICE}", KEEPS_BOB):
                config_map.change(text)
                load.wait_for_records(20)
        wait_until(lambda: in_use(KEEPS_BOB) in scrape(), "the last policy is in use")
        load.wait_for_records(1000)
        found = scrape()
        assert found["policy_last_reload_successful"] == 1
        load.finish()
    assert load.decided[-1] == "bob"
    # At no moment was there no file, or half of one.
    assert found[FAILURE] == 0


def test_a_hundred_changes_under_load_each_take_effect_between_two_records(tmp_path):
    config_map = ConfigMap(tmp_path / "volume", KEEPS_ALICE)
    with observed(str(config_map.file), tmp_path, "--reload-interval", "0.01") as (child, scrape):
        load = Load(child)
        for text in (KEEPS_BOB, KEEPS_ALICE) * 50:
            config_map.change(text)
            wait_until(lambda text=text: in_use(text) in scrape(), "the policy is in use")
            load.wait_for_records(200)
        found = scrape()
        load.finish()
    assert (found[SUCCESS], found[FAILURE]) == (100, 0)
    assert len(list(itertools.groupby(load.decided))) == 101


def waiting_in(pipe):
    """How many bytes are in a pipe."""
    return struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0]


@pytest.mark.parametrize("at_first", [None, "rules: 7\n"])
def test_a_filter_that_waits_for_its_policy_reads_nothing_before(tmp_path, at_first):
    path = tmp_path / "policy.yaml"
    if at_first is not None:
        path.write_text(at_first)
    options = ("--wait-for-policy", "--reload-interval", "0.05")
    with observed(str(path), tmp_path, *options) as (child, scrape):
        log = tmp_path / "filter.log"
        wait_until(lambda: "nothing is read until there is a policy" in log.read_text(), "it waits")
        os.set_blocking(child.stdin.fileno(), False)
        sent = 0
        while has_room(child.stdin):
            sent += os.write(child.stdin.fileno(), (DROPPED_RECORD * 200)[sent % len(DROPPED_RECORD) :])
        full = waiting_in(child.stdin)
        assert full >= 32_000
        found = scrape()
        assert (found["bytes_in_total"], found["policy_last_reload_successful"]) == (0, 0)
        assert not [name for name in found if name.startswith("policy_info")]
        assert waiting_in(child.stdin) == full
        replace(path, POLICY)
        os.set_blocking(child.stdin.fileno(), True)
        child.stdin.write(DROPPED_RECORD[sent % len(DROPPED_RECORD) or len(DROPPED_RECORD) :] + KEPT_RECORD)
        assert read_exactly(child.stdout.fileno(), len(KEPT_RECORD)) == KEPT_RECORD
        child.stdin.close()
        assert child.wait(DEADLINE) == 0
        assert child.stdout.read() == b""
    dropped = -(-sent // len(DROPPED_RECORD))
    said = (tmp_path / "filter.log").read_text()
    assert f"records in={dropped + 1} kept=1 dropped={dropped} undecided=0" in said


def test_input_that_ends_before_there_is_a_policy_passes(tmp_path):
    with filtering(str(tmp_path / "missing"), "--wait-for-policy", "--reload-interval", "0.05") as child:
        wait_for_line(child.stderr, b"nothing is read until there is a policy")
        child.stdin.write((DROPPED_RECORD + KEPT_RECORD) * 20)
        child.stdin.close()
        assert Reading(child.stdout.fileno()).result() == (DROPPED_RECORD + KEPT_RECORD) * 20
        assert child.wait(DEADLINE) == 0
        assert b"undecided=40 (no_policy=40)" in child.stderr.read()


def test_a_filter_without_a_policy_ends_after_the_grace_period_and_says_what_is_lost(tmp_path):
    options = ("--wait-for-policy", "--shutdown-grace", "0.3")
    with filtering(str(tmp_path / "missing"), *options) as child:
        wait_for_line(child.stderr, b"nothing is read until there is a policy")
        child.stdin.write(KEPT_RECORD)
        child.terminate()
        assert child.wait(DEADLINE) == 1
        assert child.stdout.read() == b""
        said = child.stderr.read()
        assert b"or nothing moves for 0.3 s" in said
        assert b"the input has not been read" in said


def test_a_policy_that_comes_in_the_grace_period_is_used(tmp_path):
    path = tmp_path / "policy.yaml"
    options = ("--wait-for-policy", "--shutdown-grace", "20", "--reload-interval", "0.05")
    with filtering(str(path), *options) as child:
        wait_for_line(child.stderr, b"nothing is read until there is a policy")
        child.stdin.write(DROPPED_RECORD + KEPT_RECORD)
        child.terminate()
        wait_for_line(child.stderr, b"going on until the input ends")
        replace(path, POLICY)
        assert read_exactly(child.stdout.fileno(), len(KEPT_RECORD)) == KEPT_RECORD
        child.stdin.close()
        assert child.wait(DEADLINE) == 0


def descriptors(child):
    return len(os.listdir(f"/proc/{child.pid}/fd"))  # noqa: PTH208


def test_reloads_rotations_and_scrapes_leave_no_descriptors_threads_or_memory_behind(tmp_path):
    path, log = tmp_path / "policy.yaml", tmp_path / "filter.log"
    path.write_text(KEEPS_ALICE)

    def go_round(count):
        for text in (KEEPS_BOB, KEEPS_ALICE) * (count // 2):
            replace(path, text)
            log.replace(f"{log}.1")
            child.send_signal(signal.SIGHUP)
            wait_until(lambda text=text: in_use(text) in scrape(), "the policy is in use")
            wait_until(log.exists, "the log is there again")
            child.stdin.write(DROPPED_RECORD)
            read_exactly(child.stdout.fileno(), len(DROPPED_RECORD))  # neither alice's nor bob's

    with observed(str(path), tmp_path, "--reload-interval", "0.01") as (child, scrape):
        go_round(40)
        # A scrape's connection may still be there for a moment.
        wait_until(lambda: status_of(child, "Threads") == 3, "scrapes end")
        before, memory = descriptors(child), status_of(child, "VmRSS")
        go_round(200)
        wait_until(lambda: status_of(child, "Threads") == 3, "scrapes end")
        wait_until(lambda: descriptors(child) == before, "scrapes end")
        assert scrape()[SUCCESS] >= 240
        assert status_of(child, "VmRSS") - memory < 2048


@pytest.mark.parametrize("clients", [7, 30])
def test_silent_clients_keep_neither_records_nor_others_scrapes_waiting(policy_file, tmp_path, clients):
    """More than there is room for are sent away, and those that have it lose it after some seconds."""
    with observed(policy_file, tmp_path) as (child, scrape), ExitStack() as connections:
        for _ in range(clients):
            connections.enter_context(connected(scrape))
        assert wait_until(lambda: answered(scrape), "a scrape is answered")["records_in_total"] == 0
        for _ in range(100):
            child.stdin.write(DROPPED_RECORD + KEPT_RECORD)
            assert read_exactly(child.stdout.fileno(), len(KEPT_RECORD)) == KEPT_RECORD
        assert wait_until(lambda: answered(scrape), "a scrape is answered")["records_in_total"] == 200
        assert status_of(child, "Threads") <= 3 + 2 * 8 + 1  # each connection has one and a timer


def connected(scrape):
    """A connection of a client that asks for nothing."""
    url = urlsplit(scrape.url)
    return socket.create_connection((url.hostname, url.port), DEADLINE)


def answered(scrape):
    try:
        return scrape()
    except OSError:
        return None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    "arguments", [["exec"], ["forward", "--listen", "127.0.0.1:0", "--upstream", "[::1]:9"]]
)
@pytest.mark.parametrize("is_opened", [False, True])
def test_a_signal_ends_the_wait_for_a_pipe_that_nobody_writes(tmp_path, arguments, number, is_opened):
    path = tmp_path / "policy.fifo"
    os.mkfifo(path)
    writer = os.open(path, os.O_RDWR) if is_opened else None
    command = [sys.executable, "-m", "kube_audit_filter", arguments[0]]
    with filtering(str(path), *arguments[1:], command=command) as child:

        def is_waiting():
            for link in Path(f"/proc/{child.pid}/fd").iterdir():
                with suppress(FileNotFoundError):  # closed in the meantime
                    if link.readlink() == path:
                        return True
            return False

        wait_until(is_waiting, "the policy is waited for")
        child.send_signal(number)
        assert child.wait(DEADLINE) == 1
        assert b"policy.fifo: a signal said to end before it was written" in child.stderr.read()
    if writer is not None:
        os.close(writer)


def test_a_policy_may_come_from_a_pipe_in_pieces_also_after_a_signal(tmp_path):
    path = tmp_path / "policy.fifo"
    os.mkfifo(path)
    with filtering(str(path)) as child:
        with path.open("wb", buffering=0) as fifo:
            fifo.write(POLICY[:40].encode())
            fifo.write(POLICY[40:].encode())
            child.send_signal(signal.SIGTERM)
        child.stdin.write(DROPPED_RECORD + KEPT_RECORD)
        assert read_exactly(child.stdout.fileno(), len(KEPT_RECORD)) == KEPT_RECORD
        child.stdin.close()
        assert child.wait(DEADLINE) == 0
