"""Try a flaky call again, plainly and on asyncio: `python -m examples.retry_a_call`.

The service below fails twice, then answers. What it raises decides whether another try makes
sense: a ConnectionError may pass, a ValueError is a bug and comes straight up.
"""

from __future__ import annotations

import asyncio

from retry import RetryPolicy, retry

patient = RetryPolicy(retries=3, base_delay_s=0.05)  # waits of at most 0.05 s, then 0.1 s, then 0.2 s


class Service:
    """Answers every third request."""

    requests = 0

    def ask(self) -> str:
        self.requests += 1
        if self.requests % 3:
            print(f"  request {self.requests}: connection refused")
            raise ConnectionRefusedError("connection refused")
        return "the answer"


service = Service()


@retry(patient)
def ask() -> str:
    return service.ask()


@retry(patient, timeout_s=5)  # no wait ends later than 5 s after the call began
async def ask_later() -> str:
    await asyncio.sleep(0)
    return service.ask()


@retry(patient)
def buggy() -> int:
    print("  called once")
    return int("twelve")


def main() -> None:
    print(f"A plain function got {ask()!r}")
    print(f"An async function got {asyncio.run(ask_later())!r}")
    print("A bug is not tried again:")
    try:
        buggy()
    except ValueError as error:
        print(f"  {error}")


if __name__ == "__main__":
    main()
