"""A policy that changes while records are decided by it."""

import itertools
import os
import signal

import msgpack
import pytest

from filter_engine import Policy, PolicyError
from plugin.service.diagnostics import Diagnostics
from plugin.service.policy_source import PolicySource
from plugin.service.policy_watch import PolicyWatch
from tests.support import POLICY, ROOT, event, run_exec
from tests.support.agents import until
from tests.support.processes import DEADLINE, KEPT_RECORD, filtering, read_exactly

KEEP_ALL = "apiVersion: audit.k8s.io/v1\nrules: [{level: Metadata}]\n"
DROP_ALL = "apiVersion: audit.k8s.io/v1\nrules: [{level: None}]\n"
END = msgpack.packb({"the end": True})


class Running:
    """A filter with a log file, so that what it said can be looked at."""

    def __init__(self, child, log):
        self.child = child
        self._log = log

    def said(self, text):
        return self._log.exists() and text in self._log.read_text()

    def wait_for(self, text):
        until(lambda: self.said(text), lambda: f"{text!r} was not said")

    def keeps(self, record=KEPT_RECORD):
        """Whether a record comes out; a record that is no event shows where it would be."""
        self.child.stdin.write(record + END)
        out = read_exactly(self.child.stdout.fileno(), len(END))
        if out == END:
            return False
        assert out + read_exactly(self.child.stdout.fileno(), len(record)) == record + END
        return True


@pytest.fixture
def policy(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text(KEEP_ALL)
    return path


@pytest.fixture
def start(policy, tmp_path):
    """Starts a filter, sees it work, and sees it end as it should."""
    contexts = []

    def start_one(*arguments, interval="0.05"):
        log = tmp_path / "filter.log"
        options = ["--reload-interval", interval, "--log-file", str(log), *arguments]
        context = filtering(str(policy), *options)
        running = Running(context.__enter__(), log)
        contexts.append((context, running))
        return running

    yield start_one
    for context, running in contexts:
        running.child.stdin.close()
        status = running.child.wait(DEADLINE)
        context.__exit__(None, None, None)
        assert status == 0


def test_a_changed_file_is_used_without_being_asked(start, policy):
    running = start()
    assert running.keeps()
    policy.write_text(DROP_ALL)
    running.wait_for("a new policy is in use: 1 rule, sha256 ")
    assert not running.keeps()


def test_sighup_reads_the_policy_at_once(start, policy):
    running = start(interval="0")
    assert running.keeps()
    policy.write_text(DROP_ALL)
    running.child.send_signal(signal.SIGHUP)
    running.wait_for("a new policy is in use")
    assert not running.keeps()


def test_sighup_does_not_take_a_policy_that_is_being_written(start, policy):
    """Without its last rule, it would drop everything."""
    first, last = (
        "apiVersion: audit.k8s.io/v1\nrules:\n- {level: None, verbs: [watch]}\n",
        "- {level: Metadata}\n",
    )
    running = start(interval="0")
    assert running.keeps()
    with policy.open("w") as file:
        file.write(first)
        file.flush()
        running.child.send_signal(signal.SIGHUP)
        assert running.keeps()
        file.write(last)
    running.wait_for("a new policy is in use: 2 rules")
    assert running.keeps()


def test_sighup_without_a_change_says_so(start):
    running = start(interval="0")
    assert running.keeps()
    running.child.send_signal(signal.SIGHUP)
    running.wait_for("this policy is in use already")
    assert running.keeps()


def test_a_config_map_is_followed_through_its_links(start, policy, tmp_path):
    """The kubelet turns the link ..data to a new directory; the file's own link stays."""
    policy.unlink()
    for name, text in (("first", KEEP_ALL), ("second", DROP_ALL)):
        (tmp_path / name).mkdir()
        (tmp_path / name / policy.name).write_text(text)
    (tmp_path / "..data").symlink_to("first")
    policy.symlink_to(f"..data/{policy.name}")
    running = start()
    assert running.keeps()
    (tmp_path / "..data_tmp").symlink_to("second")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    running.wait_for("a new policy is in use")
    assert not running.keeps()


def test_a_policy_that_can_not_be_used_is_refused_and_the_old_one_stays(start, policy):
    running = start()
    assert running.keeps()
    policy.write_text("apiVersion: audit.k8s.io/v1\nrules:\n- level: none\n")
    running.wait_for("1 error; the policy in use stays")
    assert running.said(f"{policy}:3: rules[0].level: ")
    assert running.keeps()
    policy.write_text(DROP_ALL)
    running.wait_for("a new policy is in use")
    assert not running.keeps()


def test_a_policy_that_comes_back_unchanged_is_in_use_already(start, policy):
    running = start()
    assert running.keeps()
    policy.unlink()
    running.wait_for("No such file or directory; the policy in use stays")
    policy.write_text(KEEP_ALL)
    running.wait_for("this policy is in use already")
    assert running.keeps()


def test_a_policy_that_keeps_nothing_is_warned_of_at_the_start_and_after_a_reload(start, policy):
    policy.write_text("apiVersion: audit.k8s.io/v1\nrules: [{level: None, verbs: [watch]}]\n")
    running = start()
    running.wait_for(f"WARNING kube-audit-filter[{running.child.pid}]: {policy}:2: nothing is kept: the rule")
    policy.write_text(KEEP_ALL)
    running.wait_for("a new policy is in use")
    assert not running.said("an event that no rule matches is dropped")
    policy.write_text("apiVersion: audit.k8s.io/v1\nrules: [{level: Metadata, users: ['admin:*']}]\n")
    running.wait_for("an event that no rule matches is dropped")
    running.wait_for('rules[0].users: "admin:*" matches nothing, because users has no wildcards')


def test_a_policy_that_is_cut_off_is_refused_and_a_second_sighup_takes_it(start, policy):
    whole = "apiVersion: audit.k8s.io/v1\nrules:\n- {level: Metadata}\n- {level: None}\n"
    first = whole.removesuffix("- {level: None}\n")
    policy.write_text(whole)
    running = start(interval="0")
    assert running.keeps()
    policy.write_text(first)
    running.child.send_signal(signal.SIGHUP)
    running.wait_for(
        f"{policy}: it is cut off: it has only the first 55 of the 71 bytes in use; SIGHUP again takes it all"
        " the same; the policy in use stays"
    )
    running.child.send_signal(signal.SIGHUP)
    running.wait_for("a new policy is in use: 1 rule")


@pytest.mark.parametrize("name", ["gce", "minimal", "recommended-kubernetes"])
def test_every_truncation_of_a_policy_is_refused(make_watch, policy, name):
    whole = (ROOT / f"conf/policies/{name}.yaml").read_bytes()
    policy.write_bytes(whole)
    watched, used = make_watch(settle=0)
    watched.load()
    for size in range(len(whole)):
        policy.write_bytes(whole[:size])
        watched.check(False)
        assert (size, len(used), watched.is_current) == (size, 1, False)
    assert watched.reloads == {"success": 0, "failure": len(whole)}
    policy.write_bytes(whole)
    watched.check(False)
    assert watched.is_current


def test_it_takes_two_requests_for_the_same_content_to_use_a_policy_that_is_cut_off(watch, policy):
    watched, used = watch
    policy.write_text(KEEP_ALL + "# the end\n")
    watched.load()
    policy.write_text(KEEP_ALL)
    watched.check(False)
    watched.check(True)
    assert (len(used), watched.is_current) == (1, False)
    policy.write_text(KEEP_ALL + "# the")
    watched.check(True)
    policy.write_text(KEEP_ALL)
    watched.check(True)
    watched.check(False)
    assert (len(used), watched.is_current) == (1, False)
    watched.check(True)
    assert (len(used), watched.is_current) == (2, True)


def test_rules_that_are_the_first_of_those_in_use_are_taken_for_cut_off_however_they_are_written(
    watch, policy
):
    watched, used = watch
    policy.write_text("apiVersion: audit.k8s.io/v1\nrules: [{level: Metadata}, {level: None}]\n")
    watched.load()
    policy.write_text('{"apiVersion": "audit.k8s.io/v1", "rules": [{"level": "Metadata"}]}')
    watched.check(False)
    assert (len(used), watched.is_current) == (1, False)
    policy.write_text("apiVersion: audit.k8s.io/v1\nrules: [{level: None}]\n")
    watched.check(False)
    assert (len(used), watched.is_current) == (2, True)


def test_an_editor_that_ends_the_last_line_of_a_policy_does_not_hide_that_it_is_cut_off(watch, policy):
    watched, used = watch
    policy.write_text("apiVersion: audit.k8s.io/v1\nrules:\n- level: None\n  users: [a]\n")
    watched.load()
    policy.write_text("apiVersion: audit.k8s.io/v1\nrules:\n- level: None\n\n")
    watched.check(False)
    assert (len(used), watched.is_current) == (1, False)


def test_the_first_policy_may_be_short(watch, policy):
    watched, used = watch
    policy.write_text("kind: Policy\n" + KEEP_ALL)
    watched.load()
    assert (len(used), watched.is_current) == (1, True)


def test_warnings_of_a_lenient_reload_are_said(start, policy):
    running = start("--lenient")
    assert running.keeps()
    policy.write_text(DROP_ALL.replace("level", "what: 1, level"))
    running.wait_for('unknown field "rules[0].what"')
    running.wait_for("a new policy is in use")


def test_a_reload_reads_the_policy_with_the_same_options(start, policy):
    running = start("--level-match", "exact", "--reduce")
    assert running.keeps()
    policy.write_text("apiVersion: audit.k8s.io/v1\nrules: [{level: Metadata, codes: [403]}]\n")
    running.wait_for("a new policy is in use")
    assert not running.keeps()
    assert running.keeps(msgpack.packb(event(responseStatus={"code": 403})))


def test_a_record_that_spans_a_reload_is_decided_by_the_new_policy_wholly(start, policy):
    running = start()
    assert running.keeps()
    running.child.stdin.write(KEPT_RECORD[:100])
    policy.write_text(DROP_ALL)
    running.wait_for("a new policy is in use")
    assert not running.keeps(KEPT_RECORD[100:])


def test_names_of_rules_are_in_the_summary(tmp_path):
    path = tmp_path / "policy.yaml"
    named = POLICY.replace(
        "kind: Policy\n",
        "kind: Policy\nmetadata: {annotations: {kube-audit-filter/rule-0: proxies}}\n",
    )
    path.write_text(named)
    dropped = msgpack.packb(event(user={"username": "system:kube-proxy"}))
    result = run_exec(dropped * 3, "--policy", str(path))
    assert b"events dropped by rule: proxies=3\n" in result.stderr


@pytest.fixture
def make_watch(policy):
    """Makes a watch on a policy, and a list of the policies that it published."""

    def make_one(name=str(policy), prepare=lambda loaded: loaded, settle=0.01):
        used = []
        watched = PolicyWatch(
            PolicySource(name),
            prepare=prepare,
            publish=used.append,
            diagnostics=Diagnostics(),
            settle=settle,
        )
        return watched, used

    return make_one


@pytest.fixture
def watch(make_watch):
    return make_watch()


def test_what_is_wrong_is_counted_once_until_it_changes(watch, policy):
    watched, used = watch
    watched.load()
    for text in (DROP_ALL, "kind: Policy\n", "kind: Policy\n", "- \n", KEEP_ALL, KEEP_ALL):
        policy.write_text(text)
        watched.check(False)
        watched.check(False)
    assert [used_policy.rules[0].level.value for used_policy in used] == ["Metadata", "None", "Metadata"]
    assert watched.reloads == {"success": 2, "failure": 2}
    assert watched.is_current
    policy.unlink()
    watched.check(False)
    watched.check(False)
    assert watched.reloads == {"success": 2, "failure": 3}
    assert not watched.is_current
    watched.check(True)
    assert watched.reloads["failure"] == 4


def test_a_policy_that_can_not_be_prepared_leaves_the_old_one(make_watch, policy):
    def prepare(loaded):
        if not loaded.rules[0].level > "None":
            raise RuntimeError("broken on purpose")
        return loaded

    watched, used = make_watch(prepare=prepare)
    watched.load()
    policy.write_text(DROP_ALL)
    watched.check(False)
    assert (len(used), watched.reloads["failure"]) == (1, 1)


@pytest.mark.parametrize("kind", ["fifo", "large", "device"])
def test_what_is_no_policy_file_is_neither_waited_for_nor_read_without_end(watch, policy, kind):
    watched, used = watch
    watched.load()
    policy.unlink()
    if kind == "fifo":
        os.mkfifo(policy)
    elif kind == "large":
        with policy.open("wb") as file:
            file.truncate(1 << 40)
    else:
        policy.symlink_to("/dev/zero")
    watched.check(True)
    assert (len(used), watched.reloads["failure"]) == (1, 1)


def test_a_file_that_never_rests_is_left_alone(watch, policy, monkeypatch):
    watched, used = watch
    watched.load()
    changes = (policy.write_text(f"{DROP_ALL}# {number}") for number in itertools.count())
    next(changes)
    monkeypatch.setattr("plugin.service.policy_watch.time.sleep", lambda _: next(changes))
    watched.check(False)
    assert watched.reloads == {"success": 0, "failure": 0}
    watched.check(True)
    assert watched.reloads == {"success": 0, "failure": 1}
    assert len(used) == 1


def test_a_policy_from_a_pipe_is_read_once(watch, policy):
    """As with --policy <(command) in a shell."""
    watched, used = watch
    policy.unlink()
    reader, writer = os.pipe()
    os.write(writer, KEEP_ALL.encode())
    os.close(writer)
    policy.symlink_to(f"/dev/fd/{reader}")
    watched.load()
    watched.check(False)
    assert (len(used), watched.reloads["failure"]) == (1, 0)
    watched.check(True)
    assert (len(used), watched.reloads["failure"]) == (1, 1)
    os.close(reader)


def test_a_first_policy_that_fails_may_be_mended(watch, policy):
    watched, used = watch
    policy.write_text("kind: Policy\n")
    with pytest.raises(PolicyError):
        watched.load()
    assert (watched.digest, watched.is_current) == (None, False)
    watched.check(False)
    policy.write_text(KEEP_ALL)
    watched.check(False)
    assert isinstance(used[0], Policy)
    assert watched.is_current


def test_a_built_in_policy_is_not_watched(make_watch):
    watched, used = make_watch("builtin:recommended")
    watched.load()
    watched.check(False)
    assert watched.reloads == {"success": 0, "failure": 0}
    watched.check(True)
    assert watched.reloads == {"success": 1, "failure": 0}
    assert len(used) == 1
