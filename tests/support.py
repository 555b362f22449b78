"""What many tests share: running one flow through every door, and listening to its events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any

from doors.aio import AsyncDoor
from doors.blocking import BlockingDoor
from doors.virtual import VirtualDoor
from events import Event, Stamped
from flow import Effect, Flow


class Heard:
    """A listener that keeps every stamped event."""

    def __init__(self) -> None:
        self.stamped: list[Stamped] = []

    def __call__(self, stamped: Stamped) -> None:
        self.stamped.append(stamped)

    @property
    def events(self) -> list[Event]:
        return [stamped.event for stamped in self.stamped]

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


class Doors:
    """One flow through one of the doors, under one name: `blocking`, `asyncio`, `virtual`.

    World effects are given as plain functions of the effect; a simulated delay is not needed here.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.heard = Heard()
        self.world: dict[type[Effect], Callable[[Any], Any]] = {}
        self.flows: dict[type[Effect], Callable[[Any], Flow[Any]]] = {}

    def run(self, flow: Flow[Any], scope: dict[str, str | int] | None = None) -> Any:
        if self.name == "blocking":
            return self._blocking().run(flow, scope)
        if self.name == "asyncio":
            return asyncio.run(self._asyncio(flow, scope))
        return self._virtual().run(flow, scope)

    def _blocking(self) -> BlockingDoor:
        performers = {kind: self._plain(do) for kind, do in self.world.items()}
        return BlockingDoor(performers, self.flows, [self.heard])

    async def _asyncio(self, flow: Flow[Any], scope: Any) -> Any:
        performers = {kind: self._coroutine(do) for kind, do in self.world.items()}
        return await AsyncDoor(performers, self.flows, [self.heard]).run(flow, scope)

    def _virtual(self) -> VirtualDoor:
        simulations = {kind: self._simulation(do) for kind, do in self.world.items()}
        return VirtualDoor(simulations, self.flows, [self.heard])

    @staticmethod
    def _plain(do: Callable[[Any], Any]) -> Any:
        return lambda effect, branch: do(effect)

    @staticmethod
    def _coroutine(do: Callable[[Any], Any]) -> Any:
        async def perform(effect: Any, branch: Any) -> Any:
            return do(effect)

        return perform

    @staticmethod
    def _simulation(do: Callable[[Any], Any]) -> Any:
        def simulate(effect: Any, branch: Any) -> Generator[Effect, Any, Any]:
            return do(effect)
            yield

        return simulate
