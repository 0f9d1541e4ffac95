"""What each command does: it reads or changes, and answers; nothing here knows about parsing."""
