"""What the agent depends on, out of the settings: models, tools, and the guards around all of them.  (floor 5)

Names and limits only; nothing here is asked yet. `wiring.py` puts the rest together.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from circuit_breaker import BreakerPolicy
from config import Settings
from disk import Disk
from errors import ConfigurationError
from faults import FaultPlan
from guard import Guards
from models.chain import Link, parse_chain
from oversight.alerts import LIMIT as ALERT_LIMIT
from rate_limiter import LimiterPolicy
from redis_link import RedisLink
from retry import RetryPolicy
from safe_text import one_line
from stores.redis_scripts import RedisScripts
from toolbox.cache import LastGood
from toolbox.calculator import calculator_tool
from toolbox.notes import find_notes_tool, save_note_tool
from toolbox.search import brave, search_tool, searxng, tavily, wikipedia
from toolbox.weather import weather_tool
from tools import Tool


def usable_links(settings: Settings) -> tuple[Link, ...]:
    """The links of the chain that have what they need. Raises ConfigurationError when none is left."""
    links = parse_chain(settings.model_chain)
    usable = tuple(link for link in links if settings.has_key_for(link.name))
    if not usable:
        missing = list(dict.fromkeys(_KEYS[link.provider] for link in links))
        raise ConfigurationError(
            f"no model can be asked: {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set",
            what_now=f"Set {' or '.join(missing)} (a .env file will do), or add --offline to use the practice model.",
        )
    return usable


_KEYS = {"anthropic": "ANTHROPIC_API_KEY", "google": "GEMINI_API_KEY"}


def search_providers(settings: Settings, wall: Callable[[], float]) -> list[Any]:
    """The search providers that have what they need, in the order they are asked."""
    providers = []
    if settings.tavily_api_key:
        providers.append(tavily(settings.tavily_base_url, settings.tavily_api_key, wall))
    if settings.brave_api_key:
        providers.append(brave(settings.brave_base_url, settings.brave_api_key, wall))
    if settings.searxng_url:
        providers.append(searxng(settings.searxng_url, wall))
    return [*providers, wikipedia(settings.wikipedia_url, wall)]


def build_tools(
    settings: Settings,
    guards: Guards,
    plan: FaultPlan,
    disk: Disk,
    *,
    now: Callable[[], float],
    wall: Callable[[], float],
    nonce: Callable[[], str],
) -> list[Tool]:
    """The tools that come with the program.

    Args:
        settings, guards, plan, disk: what they work with.
        now, wall: the clocks, in seconds.
        nonce: draws a word that nobody can guess.
    """
    places = settings.open_meteo_geocoding_url, settings.open_meteo_forecast_url
    return [
        calculator_tool(guards, plan),
        save_note_tool(settings.notes_dir, disk, guards, plan),
        find_notes_tool(settings.notes_dir, disk, guards, plan, nonce),
        weather_tool(*places, guards, plan, LastGood(), now, wall),
        search_tool(search_providers(settings, wall), guards, plan, LastGood(), now, nonce),
    ]


def services(settings: Settings) -> list[str]:
    """The URLs of everything a tool may fetch from: nothing else is ever asked."""
    urls = [
        settings.open_meteo_geocoding_url,
        settings.open_meteo_forecast_url,
        settings.tavily_base_url,
        settings.brave_base_url,
        settings.wikipedia_url,
    ]
    return [*urls, settings.searxng_url] if settings.searxng_url else urls


def check_breakers(settings: Settings, known: Sequence[str]) -> None:
    """Refuse an entry of BREAKERS that no dependency has as its name or prefix: it would silently do nothing."""
    for one in settings.breakers:
        name = one.dependency
        if name.split(".")[0] != "model" and not any(f"{other}.".startswith(f"{name}.") for other in known):
            raise ConfigurationError(
                f"BREAKERS names {one_line(name, 60)!r}, which nothing here is called; known are {', '.join(known)}",
                what_now="Correct BREAKERS.",
            )


def build_guards(settings: Settings, seed: int, redis: RedisScripts | None, now: Callable[[], float]) -> Guards:
    """The guards of every dependency, as the settings want them."""
    policy = BreakerPolicy(
        failure_threshold=settings.breaker_failure_threshold,
        open_s=settings.breaker_recovery_timeout_s,
        success_threshold=settings.breaker_success_threshold,
    )
    own = {
        one.dependency: BreakerPolicy(one.failures, one.open_s, settings.breaker_success_threshold)
        for one in settings.breakers
    }
    limit = LimiterPolicy(per_minute=settings.rate_limit_per_minute, burst=settings.rate_limit_burst)
    return Guards(
        now=now,
        draws=lambda name: random.Random(f"{seed}:{name}").random,
        retry=RetryPolicy(settings.max_retries, settings.retry_base_delay_s, settings.retry_max_delay_s),
        breaker=policy,
        breakers=own,
        limiters={"model": limit, "alert": ALERT_LIMIT},
        redis=RedisLink(redis.identity, now=now) if redis is not None else None,
    )
