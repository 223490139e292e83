"""Chores beside the stream of records."""

import threading

from plugin.service.diagnostics import Diagnostics
from plugin.service.housekeeping import Chore, Housekeeper

DEADLINE = 30


def test_a_chore_that_fails_is_said_and_done_again_and_others_are_done(capfd):
    done = threading.Event()
    calls = []

    def fail(asked):
        calls.append(asked)
        if len(calls) == 3:
            done.set()
        raise RuntimeError("broken on purpose")

    others = []
    housekeeper = Housekeeper([Chore(fail, 0.01), Chore(others.append, 0.01, at_start=True)], Diagnostics())
    housekeeper.start()
    assert done.wait(DEADLINE)
    housekeeper.stop()
    assert len(others) >= 2
    assert capfd.readouterr().err.count("broken on purpose") == 1


def test_what_is_asked_for_several_times_at_once_is_done_once_and_without_an_interval():
    started, go, done = threading.Event(), threading.Event(), threading.Event()
    calls = []

    def chore(asked):
        calls.append(asked)
        started.set()
        go.wait(DEADLINE)
        if len(calls) == 2:
            done.set()

    housekeeper = Housekeeper([Chore(chore, None)], Diagnostics())
    housekeeper.start()
    housekeeper.ask()
    assert started.wait(DEADLINE)
    for _ in range(5):
        housekeeper.ask()
    go.set()
    assert done.wait(DEADLINE)
    housekeeper.stop()
    assert calls == [True, True]
