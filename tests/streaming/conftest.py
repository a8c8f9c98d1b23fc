from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from streaming.clickstream_cases import Traffic

from shared.runtime import kafka
from shared.runtime.kafka import Cluster
from shared.settings import get_settings


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """The one broker that all modules share, in the test run's own home, whatever cluster the environment names.

    Asked for again by each module: a test of the one before it may have killed the broker, or changed the secret.
    """
    with pytest.MonkeyPatch.context() as environment:
        for name in (kafka.SERVERS, kafka.KEY, kafka.SECRET, kafka.PROTOCOL, kafka.MECHANISM):
            environment.delenv(name, raising=False)
        yield kafka.connect(get_settings())


@pytest.fixture
def traffic(spark, cluster: Cluster, request: pytest.FixtureRequest) -> Traffic:
    """A topic of this test's own, no messages, and no tables."""
    made = Traffic(spark, cluster, get_settings(), request.node.name[:200].replace("[", ".").rstrip("]"))
    made.clear()
    return made


@pytest.fixture(scope="module")
def standing(spark, cluster: Cluster, request: pytest.FixtureRequest) -> Traffic:
    """A topic and tables that tests of a module share: each finds there what those before it left, all of it well."""
    made = Traffic(spark, cluster, get_settings(), f"standing-{request.module.__name__.rpartition('.')[2]}")
    made.clear()
    return made


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Lets micro-batches of bronze have so many records, and those of silver one file of bronze."""

    def cut(records: int) -> None:
        monkeypatch.setattr("shared.streaming.bronze.RECORDS_PER_BATCH", records)
        monkeypatch.setattr("shared.streaming.queries.BYTES_PER_BATCH", "1")

    return cut
