"""People and limits around the agent: who is asked before something is written."""
