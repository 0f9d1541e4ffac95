"""What agents can call: the tool contract and the built-in tools."""
