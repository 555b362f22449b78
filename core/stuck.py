"""Notices a model that goes round in circles.  (floor 3)

A model that asks for the very same calls again and again learns nothing from the answers.
The second repetition in a row is answered without running anything, with a word about it;
the next one ends the turn. What this does not notice: circles of different calls. They end
with the rounds (12) and the calls of a question (40).
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from messages import ToolUse

REPEATS_TOLD = 3
"""The third identical batch in a row is answered unrun; two alike are common (a retry after a failure)."""

REPEATS_MAX = 4


class Circles:
    """Counts identical batches of calls in a row; `last` is the latest, which came `repeats` times."""

    def __init__(self, last: str = "", repeats: int = 0) -> None:
        self.last = last
        self.repeats = repeats

    def seen(self, calls: Sequence[ToolUse]) -> int:
        """Note one batch; how often it came in a row by now, this time included."""
        batch = json.dumps([[call.name, dict(call.input), call.raw] for call in calls], sort_keys=True, default=str)
        self.repeats = self.repeats + 1 if batch == self.last else 1
        self.last = batch
        return self.repeats
