"""A question that the system ends is not over: it goes on at the next start, however often that happens."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from config import Settings
from core.resume import CRASHES_MAX
from events import Event, ModelAnswered, Stamped, ToolCallEnded, ToolCallStarted
from wiring import Answer, AsyncAgent

QUESTION = "Save a note: milk. What is 2 * 3?"


class Told:
    """Tells the agent to end when an event of this kind comes."""

    def __init__(self, at: type[Event], *, keeps: bool) -> None:
        self.at, self.keeps = at, keeps
        self.agent: Any = None

    def __call__(self, stamped: Stamped) -> None:
        if isinstance(stamped.event, self.at):
            self.agent.leaving(keeps=self.keeps)
            self.agent.stop()


async def start(folder: Path, told: Told | None = None) -> tuple[AsyncAgent, str | None]:
    """An agent in the session used last, if any; the question that was cut off there."""
    settings = Settings(state_dir=folder / "state", notes_dir=folder / "notes")
    agent = AsyncAgent(settings, offline=True, seed=1, listeners=[told] if told else [])
    if told:
        told.agent = agent
    if await agent.list_sessions(1):
        await agent.open_session("latest")
    return agent, agent.unfinished.question if agent.unfinished else None


async def asked(folder: Path, told: Told | None = None) -> Answer:
    """Ask, or finish what was cut off, in a program of its own."""
    agent, cut_off = await start(folder, told)
    try:
        return await (agent.resume() if cut_off else agent.ask(QUESTION))
    finally:
        await agent.aclose()


def notes(folder: Path) -> list[Path]:
    return sorted((folder / "notes").glob("*.md"))


@pytest.mark.parametrize("at", [ModelAnswered, ToolCallStarted, ToolCallEnded])
def test_told_to_end_at_any_step_the_same_answer_comes_later_and_one_note(tmp_path: Path, at: type[Event]) -> None:
    async def scenario() -> None:
        first = await asked(tmp_path, Told(at, keeps=True))
        assert first.report.status == "cancelled"
        second = await asked(tmp_path)
        assert (second.report.status, second.session_id) == ("ok", first.session_id)
        assert "2 * 3 = 6" in second.report.text
        assert len(notes(tmp_path)) == 1
        agent, cut_off = await start(tmp_path)
        assert cut_off is None
        await agent.aclose()

    asyncio.run(scenario())


def test_being_told_to_end_is_no_crash_however_often(tmp_path: Path) -> None:
    async def scenario() -> None:
        for _ in range(CRASHES_MAX + 2):
            assert (await asked(tmp_path, Told(ToolCallStarted, keeps=True))).report.status == "cancelled"
        agent, _ = await start(tmp_path)
        assert agent.unfinished is not None
        assert not agent.unfinished.is_poison
        await agent.aclose()
        assert (await asked(tmp_path)).report.status == "ok"

    asyncio.run(scenario())


def test_what_a_person_stops_is_over(tmp_path: Path) -> None:
    async def scenario() -> None:
        await asked(tmp_path, Told(ToolCallStarted, keeps=False))
        agent, cut_off = await start(tmp_path)
        assert cut_off is None
        await agent.aclose()

    asyncio.run(scenario())


def test_a_disk_that_keeps_nothing_is_not_said_to_have_kept_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        (tmp_path / "state").mkdir()
        (tmp_path / "state" / "sessions.sqlite3").mkdir()
        heard: list[str] = []
        told = Told(ToolCallStarted, keeps=True)
        settings = Settings(state_dir=tmp_path / "state", notes_dir=tmp_path / "notes")
        told.agent = agent = AsyncAgent(
            settings, offline=True, seed=1, listeners=[told, lambda one: heard.append(str(one.event))]
        )
        answer = await agent.ask(QUESTION)
        await agent.aclose()
        assert answer.report.status == "cancelled"
        assert not any("the question is kept" in event for event in heard)

    asyncio.run(scenario())
