"""The final decision by a local LLM that cannot name a wrong agent (eq. 26); extra ``[llm]``."""

__all__: list[str] = []
