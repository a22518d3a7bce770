"""The reader's own MCP server, OpenAPI file and chat model."""

import warnings
from pathlib import Path

from langchain_moma.testing import ScriptedChat

warnings.filterwarnings("ignore", category=ResourceWarning)  # the adapter's own
warnings.filterwarnings("ignore", category=DeprecationWarning)
chat_model = ScriptedChat(name="llm")
Path("server.py").write_text(
    '''
from mcp.server.fastmcp import FastMCP

server = FastMCP("office", log_level="ERROR")

@server.tool()
def list_events(day: str) -> str:
    """Lists the calendar's events of a day."""
    return "none"

@server.tool()
def send_mail(to: str, text: str) -> str:
    """Sends an e-mail."""
    return "sent"

@server.tool()
def search_files(words: str) -> str:
    """Searches the office's files."""
    return "two files"

server.run()
''',
    encoding="utf-8",
)
Path("shop.yaml").write_text(
    """
openapi: 3.1.0
paths:
  /orders/{id}/refund:
    post: {operationId: refund, summary: Pay an order back to the customer}
  /orders/{id}:
    get: {operationId: show_order, summary: Show one order and its state}
  /stock:
    get: {operationId: stock, summary: How many of an item are in stock}
""",
    encoding="utf-8",
)
