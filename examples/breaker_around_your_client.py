"""Put a circuit breaker around your own HTTP client: `python -m examples.breaker_around_your_client`.

A small server works, breaks, and is mended. While it is broken the breaker opens and calls end at
once, without a request; after `open_s` one probe is let through, and its success closes the circuit.
"""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2

from circuit_breaker import BreakerPolicy, CircuitBreaker
from errors import CircuitOpen


class Shop(BaseHTTPRequestHandler):
    status, requests = 200, 0

    def do_GET(self) -> None:
        Shop.requests += 1
        self.send_response(Shop.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing: the example does the talking."""


breaker = CircuitBreaker("shop", BreakerPolicy(failure_threshold=3, open_s=0.2), listener=lambda told: print(" ", told))


@breaker
def get(client: httpx2.Client) -> int:
    # A 5xx counts against the shop; a 404 is our own fault and does not.
    return client.get("/stock").raise_for_status().status_code


def show(what: str, client: httpx2.Client, times: int) -> None:
    Shop.status = 503 if what == "broken" else 200
    for _ in range(times):
        try:
            print(f"{what}: {get(client)}")
        except (CircuitOpen, httpx2.HTTPStatusError) as error:
            print(f"{what}: {type(error).__name__}, {Shop.requests} requests so far")


def main() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Shop) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        with httpx2.Client(base_url=f"http://127.0.0.1:{server.server_port}", trust_env=False) as client:
            for what, times in (("up", 2), ("broken", 6), ("mended, too early", 1)):
                show(what, client, times)
            time.sleep(breaker.snapshot().retry_after_s + 0.01)
            show("mended", client, 2)
        server.shutdown()


if __name__ == "__main__":
    main()
