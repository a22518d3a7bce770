"""Small real parts for tests: users test their own registries and encoders with them too."""

from moma_core.testing.fakes import HashEncoder

__all__ = ["HashEncoder"]
