"""The language models the agent can talk to, and what stands between it and them (floor 4)."""
