"""Keeps a router's decisions in any of LangGraph's caches, such as its SQLite or Redis one."""

from __future__ import annotations

from typing import Any

from langgraph.cache.base import BaseCache

from moma_core.route_cache import Store

__all__ = ["GraphCacheStore"]


class GraphCacheStore(Store):
    """Shares a route cache's decisions by a LangGraph `BaseCache`.

    Args:
        cache: The cache; a graph may use it for its nodes beside.

    Example:
        >>> from langgraph.cache.memory import InMemoryCache
        >>> from moma_core.route_cache import RouteCache
        >>> cache = RouteCache(store=GraphCacheStore(InMemoryCache()))
    """

    def __init__(self, cache: BaseCache[Any]) -> None:
        self._cache = cache

    def get(self, key: str) -> bytes | None:
        """Return what was set, None where there is nothing or something else."""
        full = (_NAMESPACE, key)
        found = self._cache.get([full]).get(full)
        return found if isinstance(found, bytes) else None

    def set(self, key: str, value: bytes, seconds: float) -> None:
        """Keep a value for so long, in whole seconds."""
        self._cache.set({(_NAMESPACE, key): (value, max(int(seconds), 1))})


_NAMESPACE = ("moma", "route")
