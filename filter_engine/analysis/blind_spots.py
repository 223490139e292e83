"""What no policy should hide: the published list of questions."""

from __future__ import annotations

from filter_engine.analysis.questions import Question

QUESTIONS: tuple[Question, ...] = ()
