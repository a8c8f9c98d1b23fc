from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from streaming.clickstream_cases import Traffic

from shared.runtime import kafka
from shared.runtime.kafka import Cluster
from shared.settings import get_settings


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """The broker of the test run's own home, whatever cluster the environment names."""
    with pytest.MonkeyPatch.context() as environment:
        for name in (kafka.SERVERS, kafka.KEY, kafka.SECRET, kafka.PROTOCOL):
            environment.delenv(name, raising=False)
        yield kafka.connect(get_settings())
    kafka.down(get_settings())


@pytest.fixture
def traffic(spark, cluster: Cluster, request: pytest.FixtureRequest) -> Traffic:
    """A topic of this test's own, no messages, and no tables."""
    made = Traffic(spark, cluster, get_settings(), request.node.name[:200].replace("[", ".").rstrip("]"))
    made.clear()
    return made


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Lets micro-batches of bronze have so many records, and those of silver one file of bronze."""

    def cut(records: int) -> None:
        monkeypatch.setattr("shared.streaming.bronze.RECORDS_PER_BATCH", records)
        monkeypatch.setattr("shared.streaming.queries.BYTES_PER_BATCH", "1")

    return cut
