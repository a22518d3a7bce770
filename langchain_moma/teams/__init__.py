"""Teams of LLMs as LangGraph graphs (MasRouter, method.md sect. 4): a `TeamPlan` becomes a graph.

Read along: `flow.py` (modes, and who speaks next), `transcript.py` (what was said), `graph.py`
(members and nodes), `answering.py` (the team as a chat model); `roles.py` is for graphs that
somebody has already.
"""

from __future__ import annotations

from langchain_moma.teams.answering import Answering
from langchain_moma.teams.flow import APPROVED, MODES, Mode, Stage, final_answer, same_answer
from langchain_moma.teams.graph import Team, build
from langchain_moma.teams.roles import RoleChat, RoleLLMs, RoleShare, role_llms
from langchain_moma.teams.transcript import Escalation, Limits, TeamOutput, TeamRecord, Turn, Usage

__all__ = [
    "APPROVED",
    "MODES",
    "Answering",
    "Escalation",
    "Limits",
    "Mode",
    "RoleChat",
    "RoleLLMs",
    "RoleShare",
    "Stage",
    "Team",
    "TeamOutput",
    "TeamRecord",
    "Turn",
    "Usage",
    "build",
    "final_answer",
    "role_llms",
    "same_answer",
]
