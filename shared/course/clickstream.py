"""Each day on the clickstream begins with an empty topic and empty tables, so that it shows the same on every run.

Kafka keeps messages for a day. A reader who produced them yesterday finds an empty topic today, but the same seed
sends the same bytes again.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

from shared import streaming
from shared.errors import BrokerError
from shared.runtime import kafka
from shared.runtime.kafka import TOPIC
from shared.settings import Settings, get_settings
from shared.streaming.contracts import BRONZE

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from shared.runtime.kafka import Cluster


def start_over(spark: SparkSession, settings: Settings | None = None, *, send: Sequence[int] = ()) -> Cluster:
    """Reset the topic and the clickstream's tables, remove the producer's manifests, and return the cluster.

    Args:
        spark: the session.
        settings: the home, and the seed and scale of what is sent; defaults to this process's settings.
        send: days of the virtual calendar; their events are then produced into the topic, one a second on average.

    Raises:
        BrokerError: if Kafka does not answer; or if it is a cluster of yours and the topic holds messages. Those are
            not removed.
        PipelineError: if the streams of this home run in another process.

    Example:
        >>> cluster = clickstream.start_over(spark, send=[1])
    """
    from generators.produce_clickstream import produce

    settings = settings or get_settings()
    cluster = kafka.connect(settings)
    if not cluster.is_local and TOPIC in kafka.metadata(cluster).topics and any(kafka.end_offsets(cluster).values()):
        raise BrokerError(
            f"The topic {TOPIC} at {cluster.bootstrap_servers} has been used, and this would remove it.",
            "remove it in the cluster's console, if nobody needs it, and run again",
        )
    # Before the topic is deleted: this call raises if the streams still run.
    streaming.reset(spark, BRONZE, settings)
    kafka.delete_topic(cluster)
    kafka.create_topic(cluster)
    shutil.rmtree(settings.raw / "clickstream", ignore_errors=True)
    streaming.create_tables(spark)
    for day in send:
        produce(
            cluster.client_config(),
            day=day,
            seed=settings.seed,
            scale=settings.scale,
            speedup=0,
            manifest_dir=settings.raw / "clickstream",
            progress=False,
        )
    return cluster
