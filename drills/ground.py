"""What a drill stands on: the settings of the person who runs it, with nothing of theirs in reach.  (floor 6)

Their chain, numbers of retries and breaker thresholds stay, since it is those that are to be
proved. What is replaced, and told in the report: keys, addresses and folders (all models are played
by the practice model on a port of this machine; services likewise; notes and state live in a
temporary folder), the rate limit (a drill is a burst), and times. All times are divided by one
number, so that their proportions stay, but none is made so short that it would measure the
machine instead of the agent.

Redis is never the person's own: failures on purpose would open breakers that their other agents
share. The rows about Redis use an address where nobody listens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from config import Settings, read_settings
from models.chain import Link, parse_chain

KEY = "sk-drill-0123456789abcdef0123456789abcdef"
"""The key that all rows are run with; no output may contain it."""

TOTAL_S = 3.0
"""What TOTAL_TIMEOUT becomes, in seconds; the other times shrink with it."""

# Two attempts of a tool must fit in half a second each, beside a busy machine.
_SHORTEST = {"LLM_TIMEOUT": 0.5, "TOOL_TIMEOUT": 1.0, "TOTAL_TIMEOUT": TOTAL_S}
NO_PROXY = {"NO_PROXY": "*", "no_proxy": "*"}
"""All that is asked is on this machine; a proxy would look for it on its own."""

_NOWHERE = "http://127.0.0.1:9"


@dataclass(frozen=True, slots=True)
class Ground:
    """The environment of one row.

    Args:
        environment: variables by name, for the programs; `settings` is what they read from it.
        folder: holds its notes and state.
    """

    environment: Mapping[str, str]
    settings: Settings
    folder: Path

    def tries(self, target: str) -> int:
        """How many failures of `target` in a row a question survives: one more attempt is made.

        Args:
            target: as faults name it: `model`, a tool, `disk` (which strikes the saving of notes).
        """
        links = parse_chain(self.settings.model_chain)
        if target != "model":
            return self._tries_of({"disk": "save_note"}.get(target, target))
        return len(links) - 1 + min(self._tries_of(link.dependency) for link in links)

    def _tries_of(self, dependency: str) -> int:
        """Retries, as far as the breaker lets them through; of a tool, that of its strictest provider."""
        named = f"{dependency}."
        own = [one for one in self.settings.breakers if f"{one.dependency}.".startswith(named)]
        wider = [one for one in self.settings.breakers if named.startswith(f"{one.dependency}.")]
        general = max(wider, key=lambda one: len(one.dependency), default=None)
        threshold = general.failures if general else self.settings.breaker_failure_threshold
        return min(self.settings.max_retries, min([threshold, *(one.failures for one in own)]) - 1)

    @property
    def notes(self) -> list[Path]:
        """What is in the notes folder, temporary files included."""
        folder = self.settings.notes_dir
        return sorted(folder.iterdir()) if folder.exists() else []


def make_ground(given: Mapping[str, str], folder: Path, url: str, *, redis: bool = False) -> Ground:
    """The person's settings, made safe to break.

    Args:
        given: their environment, `.env` included.
        folder: for notes and state.
        url: where the practice model and the services are.
        redis: share breakers and limits through a Redis, which is not there.
    """
    own = read_settings(given)
    environment = {
        **given,
        "ANTHROPIC_API_KEY": KEY,
        "ANTHROPIC_BASE_URL": url,
        "MODEL_CHAIN": _chain(own.model_chain, url),
        "RATE_LIMIT_PER_MINUTE": "0",
        "NOTES_DIR": str(folder / "notes"),
        "STATE_DIR": str(folder / "state"),
        "OPEN_METEO_GEOCODING_URL": url,
        "OPEN_METEO_FORECAST_URL": url,
        "WIKIPEDIA_URL": url,
        "TAVILY_BASE_URL": _NOWHERE,
        "BRAVE_BASE_URL": _NOWHERE,
        "LOG_LEVEL": "INFO",
        **_times(own),
        **dict.fromkeys(("GEMINI_API_KEY", "TAVILY_API_KEY", "BRAVE_API_KEY", "SEARXNG_URL"), ""),
        "REDIS_URL": "redis://127.0.0.1:9/0" if redis else "",
        **dict.fromkeys(("ALERT_WEBHOOK_URL", "PYTHONSAFEPATH"), ""),
        **NO_PROXY,
    }
    return Ground(environment, read_settings(environment), folder)


def _chain(chain: str, url: str) -> str:
    """The same links, all on this machine; Google's speak another language than the practice model."""
    links = [_played(link, url) for link in parse_chain(chain) if link.provider != "google"]
    return ",".join(dict.fromkeys(links)) or f"local:practice@{url}"


def _played(link: Link, url: str) -> str:
    if link.provider == "anthropic":
        return link.name
    return f"local:{link.model}@{url}"


def _times(own: Settings) -> dict[str, str]:
    factor = max(1.0, own.total_timeout_s / TOTAL_S)
    times = {
        "LLM_TIMEOUT": own.llm_timeout_s,
        "TOOL_TIMEOUT": own.tool_timeout_s,
        "TOTAL_TIMEOUT": own.total_timeout_s,
        "RETRY_BASE_DELAY": own.retry_base_delay_s,
        "RETRY_MAX_DELAY": own.retry_max_delay_s,
        "BREAKER_RECOVERY_TIMEOUT": own.breaker_recovery_timeout_s,
    }
    short = {name: f"{max(value / factor, _SHORTEST.get(name, 0.001)):.4g}" for name, value in times.items()}
    entries = (f"{one.dependency}={one.failures}/{max(one.open_s / factor, 0.001):.3f}" for one in own.breakers)
    return {**short, "BREAKERS": ",".join(entries)}


def told_of(given: Mapping[str, str], ground: Ground) -> list[str]:
    """What differs from the person's settings, in words."""
    own, used = read_settings(given), ground.settings
    factor = own.total_timeout_s / used.total_timeout_s
    chain = re.sub(r"@http://127\.0\.0\.1:\d+", "", used.model_chain)
    lines = [f"models: {chain}, all played by the practice model on a port of this machine"]
    if "," not in used.model_chain:
        lines.append("one model: there is nothing to fall back to")
    if left_out := [link.name for link in parse_chain(own.model_chain) if link.provider == "google"]:
        lines.append(f"left out: {', '.join(left_out)} (the practice model does not speak Gemini)")
    shown = f"LLM {used.llm_timeout_s:g} s, TOOL {used.tool_timeout_s:g} s, TOTAL {used.total_timeout_s:g} s"
    lines.append(f"times divided by {factor:.3g}: {shown}, breakers open {used.breaker_recovery_timeout_s:g} s")
    lines.append("weather and search answered by this machine; notes and state in a temporary folder; no rate limit")
    kept = f"MAX_RETRIES {used.max_retries}, BREAKER_FAILURE_THRESHOLD {used.breaker_failure_threshold}"
    lines.append(f"yours: the chain, {kept}")
    lines.append("rows that begin with program start the real programs; the others run the same agents in this process")
    if own.redis_url:
        lines.append("your Redis is left alone: failures on purpose would open breakers that others share")
    return lines
