"""Teams of LLMs for one query (MasRouter): a mode, roles in order, an LLM for each role."""

__all__: list[str] = []
