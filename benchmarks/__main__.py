"""All measurements, one command: `uv run python -m benchmarks`.

Each compares side by side in one run, since machines are noisy; exits 1 when an aim is missed.
"""

from __future__ import annotations

from benchmarks import first_key, screen_bytes


def main() -> int:
    """Run them all, print their tables; 1 when any of them misses its aim."""
    missed = 0
    for benchmark in (screen_bytes, first_key):
        print((benchmark.__doc__ or "").splitlines()[0])
        missed |= benchmark.main()
        print()
    return missed


if __name__ == "__main__":
    raise SystemExit(main())
