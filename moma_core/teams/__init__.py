"""Teams of LLMs (MasRouter): modes, roles in order, an LLM for each role."""
