"""Where agents are kept: in memory, or in Chroma on disk or on a server."""
