"""Streaming: the clickstream from Kafka through bronze and silver to gold."""

from shared.streaming.gaps import Gap
from shared.streaming.queries import STREAMS, create_tables, reset, start_bronze, start_silver_gold
from shared.streaming.stream_run import Live, Status, StreamRun, run

__all__ = [
    "STREAMS",
    "Gap",
    "Live",
    "Status",
    "StreamRun",
    "create_tables",
    "reset",
    "run",
    "start_bronze",
    "start_silver_gold",
]
