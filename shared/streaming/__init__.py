"""Streaming: the clickstream from Kafka through bronze and silver to gold."""

from shared.streaming.queries import STREAMS, create_tables, reset, start_bronze, start_silver_gold
from shared.streaming.run import Live, Status, StreamRun, run

__all__ = [
    "STREAMS",
    "Live",
    "Status",
    "StreamRun",
    "create_tables",
    "reset",
    "run",
    "start_bronze",
    "start_silver_gold",
]
