"""What the tests with real agents stand on: the waiting for something that an agent does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.agents import Agent, configured


def test_an_agent_that_has_ended_is_not_waited_for_and_its_last_words_are_shown(tmp_path: Path) -> None:
    agent = Agent(["sh", "-c", "echo the port is taken; exit 3"], tmp_path / "out", {})
    with pytest.raises(AssertionError, match=r"(?s)ended with status 3.*the port is taken"):
        agent.until(lambda: "listening" in agent.printed())


def test_what_an_agent_does_at_last_is_not_missed(tmp_path: Path) -> None:
    agent = Agent(["sh", "-c", "echo done"], tmp_path / "out", {})
    assert agent.until(lambda: agent.status() is not None and agent.printed()) == "done\n"


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
