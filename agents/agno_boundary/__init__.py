"""The one place that imports agno and google-genai: its loop drives our steps, its classes speak to two providers.

Everything in here is heavy (agno a second, google-genai more), so the package is imported by the functions that need it.
"""
