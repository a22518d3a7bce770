"""The command line, ``moma``: one file a group of commands. Nothing is decided here."""

from moma_core.cli.main import main

__all__ = ["main"]
