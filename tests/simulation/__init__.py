"""The whole agent in a world made from one seed: clock, models, network, files, database, person, crashes.

    uv run python -m tests.simulation --runs 10000      many runs, on all cores
    uv run python -m tests.simulation --seed 4711       one run, step by step

What runs is the assembly of `wiring.py` with another door and another world below it, so nothing
of the agent is imitated. Everything around it is: the bytes of the models' streams, the answers of
the services, the system calls behind files, the commits of the database. See docs/simulation.md.
"""
