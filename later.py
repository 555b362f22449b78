"""Answers later what an optional tool could not answer now.  (floor 5)

    degraded answer -> offered -> /later parks it -> the tool works again -> the missing part is asked for

Whether something is due is asked while a person may be typing, so it touches no file: what this session
has parked is known here, and a tool works again as soon as one of its guards lets a call through. A
part belongs to the session it was parked in, which one process has at a time: so none is filled in
twice. One of another session waits until that session is opened, or until it is asked for by its number.
What is asked is decided in `core/later.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from core.later import QUESTION_CHARS_MAX, TRIES_MAX, Parked, missing_in
from core.report import TurnReport
from core.turn import Turn
from errors import AgentError, ConfigurationError
from flow import Flow
from guard import Guards
from safe_text import mask
from stores import parked as rows
from stores.sessions import READ_S_MAX, SessionStore


class Later:
    """What is parked, seen from one agent.

    Args:
        store: where it is kept.
        guards: tell which tools work again.
        now, wall: the clocks, in seconds.
    """

    def __init__(
        self, store: SessionStore, guards: Guards, now: Callable[[], float], wall: Callable[[], float]
    ) -> None:
        self._store, self._guards, self._now, self._wall = store, guards, now, wall
        self.offer: Parked | None = None
        """What could be parked: the part that the last degraded answer lacks."""
        self._here: dict[int, Parked] = {}
        self._not_before_s: dict[int, float] = {}

    # --- after a question --------------------------------------------------------------------------------

    def note(self, turn: Turn, report: TurnReport, session_id: str) -> None:
        """Remember what an answer lacks, unless it is itself the answer to something parked."""
        tools = missing_in(report)
        question = mask(turn.question)
        if tools and not turn.only and len(question) <= QUESTION_CHARS_MAX:
            self.offer = Parked(session_id, turn.id, question, tools, self._wall())

    def following(self, turn: Turn, report: TurnReport, limit_s: float) -> Flow[None]:
        """Settle what this question filled in, or leave it for another try. Never raises AgentError."""
        found = next((one for one in self._here.values() if one.filling == turn.id), None)
        if found is None:
            return
        if report.status == "ok":
            try:
                yield from self.settling(found.number, "answered", limit_s)
            except AgentError:  # it stays parked: asked once more it only reads once more
                self._wait(found)
        elif report.status == "cancelled":  # somebody does not want it now
            self._not_before_s[found.number] = float("inf")
        else:
            self._wait(found)

    # --- what is due -------------------------------------------------------------------------------------

    def due(self) -> Parked | None:
        """What can be filled in now. Asks memory only."""
        now_s = self._now()
        for one in self._here.values():
            waited = now_s >= self._not_before_s.get(one.number, 0.0)
            if waited and one.tries < TRIES_MAX and all(self._works(tool) for tool in one.tools):
                return one
        return None

    @property
    def is_due(self) -> bool:
        """Whether there is such a part."""
        return bool(self._here) and self.due() is not None

    def take_due(self) -> Parked | None:
        """The same; it is not due again for a while, whatever becomes of this try: nothing here may loop."""
        one = self.due()
        if one is not None:
            self._wait(one)
        return one

    def _works(self, tool: str) -> bool:
        """Whether asking this tool could help: one of its guards lets a call through."""
        names = [one.name for one in self._guards.snapshots() if f"{one.name}.".startswith(f"{tool}.")]
        return not names or any(self._guards(name).is_ready() for name in names)

    def _wait(self, one: Parked) -> None:
        self._here[one.number] = one
        self._not_before_s[one.number] = self._now() + one.wait_s

    # --- for a person, and for the chat ------------------------------------------------------------------

    def parking(self) -> Flow[Parked]:
        """Park what the last degraded answer lacks. Raises ConfigurationError when that is nothing, AgentError."""
        offer = self.offer
        if offer is None:
            raise ConfigurationError("no answer here lacks anything that could be filled in later")
        parked: Parked = yield from self._store.transacting(lambda connection: rows.park(connection, offer))
        self.offer = None
        self._wait(parked)
        return parked

    def listing(self) -> Flow[list[Parked]]:
        """All that is parked, of every session, the newest first. Raises AgentError."""
        return self._store.transacting(rows.listing)

    def finding(self, number: int) -> Flow[Parked]:
        """The one with this number. Raises ConfigurationError when there is none, AgentError."""
        return self._store.transacting(lambda connection: rows.find(connection, number))

    def loading(self, session_id: str) -> Flow[int]:
        """Know what this session has parked, and nothing of another; how many there are. Raises AgentError."""
        found = yield from self.listing()
        self.forget()
        self._here = {one.number: one for one in found if one.session_id == session_id}
        return len(self._here)

    def forget(self) -> None:
        """Another session begins: what was parked stays in the store."""
        self._here, self._not_before_s, self.offer = {}, {}, None

    def filling(self, flow: Flow[TurnReport], parked: Parked, turn: Turn, session_id: str) -> Flow[TurnReport]:
        """Count a try of what is parked, then answer. Errors as of `taking`."""
        yield from self.taking(parked.number, session_id, turn.id)
        return (yield from flow)

    def taking(self, number: int, session_id: str, turn_id: str) -> Flow[Parked]:
        """Count a try of what is parked, by this turn of this session; it is of this session from now on.

        Raises ConfigurationError when there is no such number, AgentError when it cannot be counted.
        """
        try:
            taken: Parked = yield from self._store.transacting(
                lambda connection: rows.take(connection, number, session_id, turn_id)
            )
        except AgentError:
            if one := self._here.get(number):
                self._wait(replace(one, tries=one.tries + 1))
            raise
        self._here[number] = taken
        return taken

    def settling(self, number: int, state: str, limit_s: float = READ_S_MAX) -> Flow[None]:
        """Close one, as `answered` or `dropped`. Raises ConfigurationError when there is none, AgentError."""
        yield from self._store.transacting(lambda connection: rows.settle(connection, number, state), limit_s)
        self._here.pop(number, None)
