"""How each format becomes text; they run in a process of their own (`parser_server`), one document each."""
