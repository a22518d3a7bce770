"""Teams of LLMs for one query (MasRouter): a mode, roles in order, an LLM for each role.

Plans, and receives an LLM router by protocol; runs nothing and asks no LLM.
"""

from moma_core.teams.modes import MODES, ModeCard, calls, calls_by_member, mode_card
from moma_core.teams.options import TeamOptions
from moma_core.teams.roles import RoleCard, packaged_roles, read_roles
from moma_core.teams.router import TeamRouter
from moma_core.teams.signals import Signal
from moma_core.teams.simulator import TeamSimulator

__all__ = [
    "MODES",
    "ModeCard",
    "RoleCard",
    "Signal",
    "TeamOptions",
    "TeamRouter",
    "TeamSimulator",
    "calls",
    "calls_by_member",
    "mode_card",
    "packaged_roles",
    "read_roles",
]
