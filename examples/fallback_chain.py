"""Ask the next when one cannot answer, and an old answer before none: `python -m examples.fallback_chain`.

The first model has a breaker around it, so that once it is known to be dead it is skipped without
being asked. A refused key is no reason to ask somebody else: it is said, so that somebody mends it.
"""

from __future__ import annotations

import asyncio

from circuit_breaker import BreakerPolicy, CircuitBreaker
from errors import AgentError
from fallback import fallback

breaker = CircuitBreaker("first", BreakerPolicy(failure_threshold=2, open_s=60))


@breaker
async def ask_first(question: str) -> str:
    print("  first: asked, and down")
    raise ConnectionError("connection refused")


async def ask_second(question: str) -> str:
    if question == "the hard one":
        print("  second: asked, and too slow")
        raise TimeoutError("no answer within 5 s")
    return f"second says hello to {question!r}"


def from_cache(question: str) -> str:
    return f"an answer to {question!r} from an hour ago"


async def with_refused_key(question: str) -> str:
    raise AgentError("the API key was refused", reason="authentication")


async def main() -> None:
    ask = fallback(ask_first, ask_second, from_cache)
    for question in ("one", "two", "three", "the hard one"):
        print(f"Question {question!r}; the first model's circuit is {breaker.state.value}")
        print(f"  {await ask(question)}")
    print("A refused key:")
    try:
        await fallback(with_refused_key, ask_second)("four")
    except AgentError as error:
        print(f"  not hidden behind the second: {error}")


if __name__ == "__main__":
    asyncio.run(main())
