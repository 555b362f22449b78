"""Hands each question to the one who speaks the model's language.  (floor 4)

`Converse` is one effect, and a chain may go across providers: so it has one performer for each
colour, which knows the performers of the providers and nothing else. A local server speaks the
Messages API, as the practice model does.
"""

from __future__ import annotations

from flow import Branch
from messages import Reply
from models.chain import Converse
from models.claude import ClaudeAsync, ClaudeBlocking
from models.gemini import GeminiAsync, GeminiBlocking


class ModelsAsync:
    """Performs `Converse` for every provider on asyncio."""

    def __init__(self, claude: ClaudeAsync, gemini: GeminiAsync) -> None:
        self._claude, self._gemini = claude, gemini

    async def __call__(self, effect: Converse, branch: Branch) -> Reply:
        """Have `effect.link` answer."""
        performer = self._gemini if effect.link.provider == "google" else self._claude
        return await performer(effect, branch)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._claude.aclose()
        await self._gemini.aclose()


class ModelsBlocking:
    """Performs `Converse` for every provider in the calling thread."""

    def __init__(self, claude: ClaudeBlocking, gemini: GeminiBlocking) -> None:
        self._claude, self._gemini = claude, gemini

    def __call__(self, effect: Converse, branch: Branch) -> Reply:
        """Have `effect.link` answer."""
        performer = self._gemini if effect.link.provider == "google" else self._claude
        return performer(effect, branch)

    def close(self) -> None:
        """Close the connections."""
        self._claude.close()
        self._gemini.close()
