"""The one place that imports agno and google-genai: its loop drives our steps, its classes speak to two providers.

Everything in here is heavy (agno half a second, google-genai more), so it is imported by the functions that need it.
"""

from cirkelline.agents.agno_boundary import silence as silence  # before anything of agno's can speak
