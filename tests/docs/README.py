"""The reader's own graph."""

from langgraph.graph import StateGraph

from langchain_moma import MoMAState

builder = StateGraph(MoMAState)
