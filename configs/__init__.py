"""What an operator and an author write down: settings, and agents in YAML."""
