"""Encoders turn texts into unit vectors; a new one is one file that meets `moma_core.Encoder`."""

from moma_core.encoders.minilm import MiniLMEncoder

__all__ = ["MiniLMEncoder"]
