"""What the tests with real agents stand on: the waiting for something that an agent does."""

from __future__ import annotations

from pathlib import Path
from signal import Signals

import pytest

from tests.support.agents import Agent, configured


def test_an_agent_that_has_ended_is_not_waited_for_and_its_last_words_are_shown(tmp_path: Path) -> None:
    agent = Agent(["sh", "-c", "echo the port is taken; exit 3"], tmp_path / "out", {})
    with pytest.raises(AssertionError, match=r"(?s)ended with status 3.*the port is taken"):
        agent.until(lambda: "listening" in agent.printed())
    agent.kill()


def test_when_one_of_several_agents_has_failed_the_others_are_not_waited_for(tmp_path: Path) -> None:
    failed = Agent(["sh", "-c", "echo the port is taken; exit 3"], tmp_path / "failed", {})
    ended, other = (Agent(["sleep", "600"], tmp_path / name, {}) for name in ("ended", "other"))
    try:
        with pytest.raises(AssertionError, match=r"(?s)ended with status 3.*the port is taken"):
            other.until(lambda: "a record" in other.printed())
        failed.kill()
        # One that was told to end has not failed.
        ended.signal(Signals.SIGTERM)
        other.until(lambda: ended.status() is not None)
        assert not ended.has_failed()
    finally:
        for agent in (failed, ended, other):
            agent.kill()


def test_what_an_agent_does_at_last_is_not_missed(tmp_path: Path) -> None:
    agent = Agent(["sh", "-c", "echo done"], tmp_path / "out", {})
    assert agent.until(lambda: agent.status() is not None and agent.printed()) == "done\n"
    agent.kill()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("env:\n  AUDIT_LOG: /a\n  AUDIT_LOGS: /b\n", "env:\n  AUDIT_LOG: /tmp/x\n  AUDIT_LOGS: /b\n"),
        ("# @SET A=B\n@SET AUDIT_LOG=/a\n", "# @SET A=B\n@SET AUDIT_LOG=/tmp/x\n"),
    ],
)
def test_variables_are_set_where_a_configuration_has_them(text: str, expected: str) -> None:
    settings = {"AUDIT_LOG": "/tmp/x", "AUDIT_POLICY": "/tmp/y"}
    assert configured(text, settings) == (expected, {"AUDIT_POLICY": "/tmp/y"})
