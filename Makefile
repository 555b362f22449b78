.PHONY: help chat health drill test lint types check simulate million mutants bench picture

help: ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort

chat: ## chat with the agent
	uv run python agent_async.py

health: ## serve liveness, readiness, metrics and traces
	uv run python health.py

drill: ## prove the promises on this machine
	uv run python drill.py

test: ## run all tests
	uv run pytest

lint: ## check style
	uv run ruff check . && uv run ruff format --check .

types: ## check types
	uv run mypy --strict .

simulate: ## ten thousand bad nights, two minutes
	uv run python -m tests.simulation --runs 10000

million: ## a million bad nights, before a release; its end goes into docs/simulation.md
	uv run python -m tests.simulation --runs 1000000

mutants: ## break one guard after the other: the tests must notice
	uv run python -m tests.mutants

check: lint types simulate mutants test ## what CI runs

bench: ## measure: ratios side by side in one run
	uv run python -m benchmarks

picture: ## make the README's picture from a real run
	uv run python docs/make_picture.py
