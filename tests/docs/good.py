"""The reader's own tables."""

import pyarrow as pa
import pyarrow.parquet as pq

asked = [f"{words} {n} euros" for words in ("pay back", "return") for n in range(8)]
bills = [f"{words} {n} hours" for words in ("bill them for", "invoice") for n in range(8)]
wanted = [["refund"]] * len(asked) + [["invoice"]] * len(bills)
pq.write_table(
    pa.table({"name": ["refund", "invoice"], "description": ["Pays back", "Writes invoices"]}),
    "agents.parquet",
)
pq.write_table(pa.table({"query": asked + bills, "agents": wanted}), "examples.parquet")
pq.write_table(
    pa.table({"query": ["return 99 euros", "who are you?"], "agents": [["refund"], []]}),
    "asked.parquet",
)
