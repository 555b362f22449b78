"""What stays so between questions, in words: the model, circuits that are not closed, faults that are on.  (floor 6)

Apart from `steps.py`, since the prompt shows it before anything that knows events is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass

from safe_text import one_line

NAME_CHARS = 80


@dataclass(frozen=True, slots=True)
class Standing:
    """What stays so between questions. `breakers` holds one phrase for each circuit that is not closed."""

    model: str = ""
    breakers: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()

    def words(self, *, with_model: bool = True) -> str:
        """One safe line: faults first, since they must not be overlooked where the line is cut."""
        parts = []
        if self.faults:
            parts.append(faults_on(self.faults))
        if self.model and with_model:
            parts.append(one_line(self.model, NAME_CHARS))
        parts += [one_line(breaker, NAME_CHARS) for breaker in self.breakers]
        return " · ".join(parts)


def faults_on(specs: tuple[str, ...]) -> str:
    """Which faults are on: they must never be on unnoticed."""
    return "! faults on: " + ", ".join(one_line(spec, NAME_CHARS) for spec in specs)
