"""What can be typed: each module declares its commands and imports their work only to run it."""
