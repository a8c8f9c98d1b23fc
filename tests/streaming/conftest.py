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

    Each module requests it again, because a test of the module before may have killed the broker or changed the secret.
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
    """A topic and tables that the tests of a module share: each test finds the correct tables of the one before."""
    made = Traffic(spark, cluster, get_settings(), f"standing-{request.module.__name__.rpartition('.')[2]}")
    made.clear()
    return made


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Returns a function that limits micro-batches of bronze to a number of records, and of silver to one file."""

    def cut(records: int) -> None:
        monkeypatch.setattr("shared.streaming.bronze.RECORDS_PER_BATCH", records)
        monkeypatch.setattr("shared.streaming.queries.BYTES_PER_BATCH", "1")

    return cut
