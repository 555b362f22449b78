.PHONY: help chat test lint types check bench picture

help: ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort

chat: ## chat with the agent
	uv run python agent_async.py

test: ## run all tests
	uv run pytest

lint: ## check style
	uv run ruff check . && uv run ruff format --check .

types: ## check types
	uv run mypy --strict .

check: lint types test ## what CI runs

bench: ## measure: ratios side by side in one run
	uv run python -m benchmarks

picture: ## make the README's picture from a real run
	uv run python docs/make_picture.py
