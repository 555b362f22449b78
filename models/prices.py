"""What an answer cost, in US dollars, as far as that can be known.  (floor 4)

Prices per million tokens of platform.claude.com's model pages, checked 2026-11-21. Where a
page lists no cache prices, Anthropic's general rule applies: writing costs 1.25 of the
input price, reading 0.1 of it. A model that is not in the table and usage that was not told
have no cost: None, never 0. What this is not: a bill. Discounts and taxes are unknown here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from messages import Usage

_CACHE_WRITE, _CACHE_READ = 1.25, 0.1


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars per million tokens; None for a cache price that is not listed."""

    input_usd: float
    output_usd: float
    cache_read_usd: float | None = None
    above_tokens: int | None = None  # with more prompt tokens than this `above` holds for all of them
    above: Price | None = None


PRICES = {
    "claude-sonnet-5-5": Price(2.0, 10.0, cache_read_usd=0.10),
    "claude-opus-5-5": Price(4.0, 20.0),
    "claude-haiku-5-5": Price(0.10, 0.50, above_tokens=100_000, above=Price(0.50, 2.50)),
    "claude-fable-5-1": Price(10.0, 50.0),
    "practice": Price(0.0, 0.0),
}


def cost_usd(model: str, usage: Usage) -> float | None:
    """Dollars for this usage; None when the price or the number of tokens is not known.

    Args:
        model: the model's name, dated (`-20261001`) or not.
        usage: its input counts leave out what was read from or written to the cache. Cache counts that
            were not told count as none: servers without a cache don't tell them.
    """
    price = PRICES.get(model) or PRICES.get(re.sub(r"-\d{8}$", "", model))
    if price is None or usage.input_tokens is None or usage.output_tokens is None:
        return None
    read, written = usage.cache_read_tokens or 0, usage.cache_write_tokens or 0
    if price.above and price.above_tokens and usage.input_tokens + read + written > price.above_tokens:
        price = price.above
    read_usd = price.input_usd * _CACHE_READ if price.cache_read_usd is None else price.cache_read_usd
    dollars = (
        usage.input_tokens * price.input_usd
        + written * price.input_usd * _CACHE_WRITE
        + read * read_usd
        + usage.output_tokens * price.output_usd
    )
    return dollars / 1_000_000
