"""Runs one lookup tool through a door against the faked services."""

from __future__ import annotations

import random
from typing import Any

from deadline import Deadline
from faults import FaultPlan, parse_fault
from fetch import FetchBlocking
from flow import Fetch
from guard import Guards
from retry import RetryPolicy
from tests.fake_web import FakeWeb
from tests.support import Doors
from tools import CallContext, Tool, ToolOutput


class Bench:
    """What a lookup tool is built with: guards that retry at once, a plan of faults, and a clock to turn."""

    def __init__(self, doors: Doors, web: FakeWeb, *faults: str, retries: int = 1) -> None:
        self.doors, self.web = doors, web
        self.now_s = 1000.0
        self.plan = FaultPlan([parse_fault(fault) for fault in faults])
        self.guards = Guards(
            now=self.now, draws=lambda _: random.Random(1).random, retry=RetryPolicy(retries, base_delay_s=0.001)
        )
        performer: Any = FetchBlocking([web.url])
        doors.world[Fetch] = lambda effect: performer(effect, None)
        self.context = CallContext("call", Deadline.after(self.now_s, 10.0))

    def now(self) -> float:
        return self.now_s

    def ask(self, tool: Tool, limit_s: float = 10.0, **given: Any) -> ToolOutput:
        """One call of the tool."""
        self.context = CallContext("call", Deadline.after(self.now_s, limit_s))
        output = self.doors.run(tool.run(self.context, given))
        assert isinstance(output, ToolOutput)
        return output
