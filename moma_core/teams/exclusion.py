"""What may take part in a team when some LLMs, roles or modes may not."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from moma_core.errors import NoTargetError
from moma_core.teams.options import TeamOptions
from moma_core.teams.steps import Allowed

__all__ = ["allowed_without"]


def allowed_without(options: TeamOptions, llms: Sequence[str], exclude: Collection[str]) -> Allowed:
    """Return what is left; names that are none of these are ignored.

    Args:
        options: Modes and roles.
        llms: Names of the LLMs.
        exclude: Names of LLMs, roles and modes; one text is one name.

    Raises:
        NoTargetError: No LLM, no mode, or no role of some domain is left.
    """
    names = frozenset([exclude] if isinstance(exclude, str) else exclude)
    left = {
        "LLM": np.array([name not in names for name in llms], bool),
        "mode": np.array([mode.name not in names for mode in options.modes], bool),
    }
    for what, kept in left.items():
        if not kept.any():
            raise NoTargetError(
                f"no {what} is left among {len(kept)}. Add one, or exclude fewer names."
            )
    roles = np.array([role.name not in names for role in options.roles], bool)
    for number, domain in enumerate(options.domains):
        if not roles[options.role_domains == number].any():
            raise NoTargetError(
                f"every role of domain {domain!r} is excluded. Leave one, or add one with "
                "router.adding(RoleCard(...))."
            )
    return Allowed(modes=left["mode"], roles=roles, llms=left["LLM"]) if names else Allowed()
