"""The scheduler, the worker, the command line and the chat."""
