"""Keeps the last good answers, so that an old one, labelled as old, can stand in for none.  (floor 4)

Bounded in number and age, least recently used out first. What this does not do: spare
requests. It is asked only after a live try failed, so nobody gets an old answer while a new
one can be had.
"""

from __future__ import annotations

import threading
import unicodedata
from collections import OrderedDict
from typing import Generic, TypeVar

V = TypeVar("V")


class LastGood(Generic[V]):
    """The last good answer to each question. Thread-safe.

    Args:
        entries_max: answers kept; each is at most one tool output (16 KiB).
        age_s_max: an answer older than this is no answer; yesterday's weather helps nobody.
    """

    def __init__(self, entries_max: int = 128, age_s_max: float = 24 * 3600.0) -> None:
        self.entries_max, self.age_s_max = entries_max, age_s_max
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, tuple[V, float]] = OrderedDict()

    def put(self, key: str, value: V, now_s: float) -> None:
        """Keep an answer given at `now_s` on the monotonic clock."""
        with self._lock:
            self._entries[_normal(key)] = (value, now_s)
            self._entries.move_to_end(_normal(key))
            while len(self._entries) > self.entries_max:
                self._entries.popitem(last=False)

    def get(self, key: str, now_s: float) -> tuple[V, float] | None:
        """The answer and its age in seconds; None when there is none young enough."""
        with self._lock:
            entry = self._entries.get(_normal(key))
            if entry is None:
                return None
            value, put_s = entry
            age_s = max(0.0, now_s - put_s)
            if age_s > self.age_s_max:
                del self._entries[_normal(key)]
                return None
            self._entries.move_to_end(_normal(key))
            return value, age_s


def _normal(key: str) -> str:
    return " ".join(unicodedata.normalize("NFC", key).casefold().split())


def age_in_words(age_s: float) -> str:
    """How old an answer is: "under a minute", "5 min", "3 h" or "4 days"."""
    if age_s < 60:
        return "under a minute"
    if age_s < 90 * 60:
        return f"{age_s / 60:.0f} min"
    return f"{age_s / 3600:.0f} h" if age_s < 48 * 3600 else f"{age_s / 86_400:.0f} days"
