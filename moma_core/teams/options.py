"""What a team can be made of, embedded: modes, roles and the task domains that roles form.

Descriptions alone are embedded, so options come and go without retraining. Knows no LLM.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from moma_core.errors import DuplicateNameError, NoTargetError
from moma_core.protocols import Encoder
from moma_core.teams.modes import MODES, ModeCard
from moma_core.teams.roles import RoleCard, check_unique, packaged_roles
from moma_core.types import FloatArray

__all__ = ["TeamOptions"]


@dataclass(frozen=True, eq=False)
class TeamOptions:
    """The modes and roles to choose from, beside their vectors.

    Args:
        modes: Ways to work together.
        roles: The role pool; each domain of it is a task domain.
        mode_vectors: Shape (M, d).
        role_vectors: Shape (R, d).
        fingerprint: The encoder's.

    Raises:
        NoTargetError: There is no mode or no role.
        DuplicateNameError: Two modes or two roles share a name.
    """

    modes: tuple[ModeCard, ...]
    roles: tuple[RoleCard, ...]
    mode_vectors: FloatArray
    role_vectors: FloatArray
    fingerprint: str

    def __post_init__(self) -> None:
        if not self.modes or not self.roles:
            raise NoTargetError(
                f"a team needs a mode and a role, got {len(self.modes)} modes and "
                f"{len(self.roles)} roles. Start from TeamOptions.embed(encoder)."
            )
        check_unique(self.roles)
        names = [mode.name for mode in self.modes]
        if len(set(names)) < len(names):
            raise DuplicateNameError(f"two modes share a name among {names}. Rename one.")

    @classmethod
    def embed(
        cls,
        encoder: Encoder,
        modes: Iterable[ModeCard] = MODES,
        roles: Iterable[RoleCard] | None = None,
    ) -> TeamOptions:
        """Embed the cards; by default the six modes and the packaged roles.

        Raises:
            NoTargetError: There is no mode or no role.
            DuplicateNameError: Two modes or two roles share a name.
        """
        modes = tuple(modes)
        roles = packaged_roles() if roles is None else tuple(roles)
        return cls(
            modes, roles, _vectors(encoder, modes), _vectors(encoder, roles), encoder.fingerprint
        )

    def adding(self, encoder: Encoder, *cards: ModeCard | RoleCard) -> TeamOptions:
        """Return the options with these modes and roles beside what is there.

        Raises:
            DuplicateNameError: A name is taken.
        """
        modes = tuple(card for card in cards if isinstance(card, ModeCard))
        roles = tuple(card for card in cards if isinstance(card, RoleCard))
        return replace(
            self,
            modes=self.modes + modes,
            roles=self.roles + roles,
            mode_vectors=np.concatenate([self.mode_vectors, _vectors(encoder, modes)]),
            role_vectors=np.concatenate([self.role_vectors, _vectors(encoder, roles)]),
        )

    @cached_property
    def domains(self) -> tuple[str, ...]:
        """The task domains, in the order in which roles name them."""
        return tuple(dict.fromkeys(role.domain for role in self.roles))

    @cached_property
    def role_domains(self) -> np.ndarray:
        """Position in `domains` of each role's, shape (R,)."""
        return np.array([self.domains.index(role.domain) for role in self.roles])

    @cached_property
    def domain_vectors(self) -> FloatArray:
        """Mean vector of each domain's roles, unit length, shape (D, d)."""
        sums = np.stack(
            [
                self.role_vectors[self.role_domains == k].sum(axis=0)
                for k in range(len(self.domains))
            ]
        )
        unit: FloatArray = sums / np.linalg.norm(sums, axis=1, keepdims=True)
        return unit

    @cached_property
    def most_members(self) -> int:
        """The largest team that any mode takes."""
        return max(mode.max_members for mode in self.modes)

    @cached_property
    def most_rounds(self) -> int:
        """The most rounds that any mode takes."""
        return max(mode.max_rounds for mode in self.modes)


def _vectors(encoder: Encoder, cards: Iterable[ModeCard | RoleCard]) -> FloatArray:
    return encoder.encode([f"{card.name.replace('_', ' ')}: {card.description}" for card in cards])
