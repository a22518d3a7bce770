"""LLM routing (4.1): heads predict quality, costs the price, a preference chooses."""
