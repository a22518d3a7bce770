"""Agent routing (sect. 4.2): which agents there are, who fits, and whether anybody does."""
