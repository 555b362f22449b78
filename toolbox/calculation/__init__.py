"""How the calculator works inside: limits -> reals -> arithmetic -> names -> parser (floor 4)."""
