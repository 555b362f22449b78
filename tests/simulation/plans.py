"""What happens in one run: drawn from its seed, and from nothing else."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from tests.simulation.scripts import KINDS, Round, draw_call, draw_script
from tests.simulation.strikes import CELLS, CLAUDE, GEMINI, Strike

SONNET, HAIKU = "anthropic:claude-sonnet-5-5", "anthropic:claude-haiku-5-5"
FLASH = "google:gemini-3.6-flash"
CHAINS = (SONNET, f"{SONNET},{HAIKU}", f"{SONNET},{FLASH}", f"{FLASH},{SONNET}", FLASH)

_LATE = {
    "Emit": 60, "Within": 25, "Blocking": 12, "Checkpoint": 5, "Attempt": 12, "Pause": 12, "begin": 8, "commit": 8,
    "committed": 8, "lstat": 8,
}  # fmt: skip
"""How often a boundary is met in a question, about, where that is often: strikes are spread over as many."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One question: its number, what the model will say to it, and what strikes meanwhile."""

    number: int
    script: tuple[Round, ...]
    strikes: tuple[Strike, ...] = ()

    @property
    def text(self) -> str:
        """As the person types it."""
        return f"[q{self.number}] Please help me with tea, question {self.number}."


@dataclass(frozen=True, slots=True)
class Plan:
    """One run. The last question has no strikes: it must succeed.

    `returns` says what a person does after a death: "resume", "go_on" with the next question, or ask the
    same again under the same "task" id.
    """

    seed: int
    chain: str
    approve: Any
    questions: tuple[Asked, ...]
    returns: str = "resume"


def draw_plan(seed: int) -> Plan:
    """The run of this seed. Seeds that follow each other go through all cells of the matrix in turn."""
    rng = random.Random(f"plan/{seed}")
    where, kind = CELLS[seed % len(CELLS)]
    chain = _chain(rng, where)
    tool = _tool(rng, where)
    approve = (
        rng.choice(("auto", "never")) if rng.random() < 0.1 and where not in ("human", "effect.AskHuman") else "ask"
    )
    strikes = {_aimed(rng, where, kind), *_more(rng)}
    if where == "web_search.wikipedia":  # which is asked when the first has failed
        strikes.add(Strike("web_search.tavily", "auth"))
    first = Asked(1, _script(rng, 1, where, tool), tuple(sorted(strikes)))
    questions = [first]
    outage = {one for one in strikes if one.lasts}
    if outage or rng.random() < 0.15:
        questions.append(Asked(2, draw_script(rng, 2, tool), tuple(sorted({*_more(rng), *outage}))))
    last = len(questions) + 1
    questions.append(Asked(last, draw_script(rng, last, plain=True)))
    return Plan(seed, chain, approve, tuple(questions), rng.choice(("resume", "resume", "go_on", "task")))


def _chain(rng: random.Random, where: str) -> str:
    if where in (CLAUDE, "stream.anthropic", "outage.model.anthropic"):
        return rng.choice([chain for chain in CHAINS if chain.startswith("anthropic")])
    if where in (GEMINI, "stream.google"):
        return rng.choice([chain for chain in CHAINS if chain.startswith("google")])
    return rng.choice(CHAINS)


def _tool(rng: random.Random, where: str) -> str:
    """A tool that must be called for the boundary to be met; "" for none."""
    first = where.removeprefix("outage.").partition(".")[0]
    if first in ("calculator", "save_note", "find_notes", "get_weather", "web_search"):
        return first
    if where in ("os.scandir", "os.read"):
        return "find_notes"
    if first in ("os", "disk"):
        return "save_note"
    if where in ("fetch", "effect.Fetch"):
        return rng.choice(("get_weather", "web_search"))
    needing = ("aside", "human", "db")
    if first in needing or where.removeprefix("effect.") in (
        "Blocking",
        "RunTools",
        "Together",
        "RecordIntents",
        "RecordOutcome",
    ):
        return rng.choice(("calculator", "save_note"))
    return ""


def _script(rng: random.Random, number: int, where: str, tool: str) -> tuple[Round, ...]:
    script = draw_script(rng, number, tool)
    if where in ("human", "effect.AskHuman"):  # somebody is asked once text by strangers is about
        search, save = draw_call(rng, number, "web_search"), draw_call(rng, number, "save_note")
        return (Round("tools", (search,)), Round("tools", (save,)), *script[1:])
    if where in ("os.scandir", "os.read", "find_notes"):  # there must be something to find
        save, find = draw_call(rng, number, "save_note"), ("find_notes", {"query": "tea"})
        return (Round("tools", (save,)), Round("tools", (find,)), *script[1:])
    if where == "web_search.wikipedia":
        return script
    if "tool" in where or rng.random() < 0.9:
        return script
    return (Round(rng.choice(KINDS), (draw_call(rng, number),)), *script)


def _aimed(rng: random.Random, where: str, kind: str) -> Strike:
    if where.startswith("outage."):
        return Strike(where, kind)
    most = _LATE.get(where.rpartition(".")[2], 3)
    return Strike(where, kind, 0 if rng.random() < 0.6 else rng.randrange(most))


def _more(rng: random.Random) -> list[Strike]:
    strikes: list[Strike] = []
    while rng.random() < 0.5 and len(strikes) < 4:
        where, kind = rng.choice(CELLS)
        strikes.append(_aimed(rng, where, kind))
    if rng.random() < 0.02:  # a question that ends the program each time
        strikes += [Strike("effect.Converse", "kill", after) for after in range(3)]
    return strikes
