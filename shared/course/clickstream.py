"""The clickstream's days begin with a topic and tables that are as new, so that each shows the same whenever it is run.

Kafka keeps messages for a day. Who produced them yesterday finds an empty topic today; but the same seed sends the
same bytes again.
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
    """Make the topic, the clickstream's tables and the producer's accounts again, and return where the topic is.

    Args:
        spark: the session.
        settings: the home, and the seed and scale of what is sent; defaults to this process's settings.
        send: days of the virtual calendar that are then replayed into the topic, one event a second in the mean.

    Raises:
        BrokerError: if Kafka does not answer; or if it is a cluster of yours whose topic holds messages, which are
            not ours to remove.
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
    # First, since it refuses while the streams run.
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
