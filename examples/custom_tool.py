"""Give the agent a tool of your own: `python -m examples.custom_tool`.

A plain function with type hints and a docstring is all. The agent checks the input against the
hints, runs the function under a guard, and leaves it a place for faults: one is on below, so you
see a retry. In your own copy, put the tool into `USER_TOOLS` in `wiring.py`.

The model here is scripted, so that this needs no key and no network.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile

import wiring
from config import read_settings
from events import RetryScheduled, Stamped, ToolCallEnded, ToolCallStarted
from examples.scripted_model import serving
from tools import tool


@tool(critical=False)  # the answer goes on without it, and says that it is missing
def shipping_cost(weight_kg: float, country: str) -> str:
    "What it costs to send a parcel, in euros. country: two letters, e.g. FR."
    if country != "FR":
        raise ValueError("only FR is served")  # goes back to the model, which can correct its input
    return f"{4 + 2 * weight_kg:.2f} euros to {country}"


def tell(stamped: Stamped) -> None:
    match stamped.event:
        case ToolCallStarted(call):
            print(f"  the model calls {call.name} with {dict(call.input)}")
        case RetryScheduled(dependency=dependency, reason=reason):
            print(f"  {dependency} failed ({reason}): it is tried again")
        case ToolCallEnded(result):
            print(f"  {result.call.name} ended: {result.status}, {result.attempts} attempts")


async def main() -> None:
    logging.getLogger("unflappable").addHandler(logging.NullHandler())  # `tell` says it already
    wiring.USER_TOOLS = (shipping_cost,)
    with tempfile.TemporaryDirectory() as folder, serving("shipping_cost", {"weight_kg": 3, "country": "FR"}) as url:
        here = {"NOTES_DIR": f"{folder}/notes", "STATE_DIR": f"{folder}/state", "RETRY_BASE_DELAY": "0.05"}
        settings = read_settings({"ANTHROPIC_API_KEY": "none-needed-here", "ANTHROPIC_BASE_URL": url, **here})
        agent = wiring.AsyncAgent(settings, fault_specs=["shipping_cost:server_error*1"], listeners=[tell])
        answer = await agent.ask("What does it cost to send 3 kg to France?")
        print(f"{answer.report.status}: {answer.report.text}")
        await agent.aclose()


if __name__ == "__main__":
    asyncio.run(main())
