"""Small programs to read and run from the root of the project: `uv run python -m examples.NAME`."""
