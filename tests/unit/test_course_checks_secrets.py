"""Day 14's checks, each against a home with a mistake; a stand-in gives the broker's answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
from pydantic import SecretStr

from shared import secrets
from shared.course.checks import Result, check_day, security
from shared.errors import BrokerError
from shared.private import private_directory
from shared.runtime import kafka
from shared.runtime.kafka import Cluster
from shared.settings import Settings

NO_ENGINE = cast(Any, None)
OWNER = Cluster("127.0.0.1:20000", "local", SecretStr("a secret of the home"), "SASL_PLAINTEXT", is_local=True)
FILE, BROKER, NOWHERE = 0, 1, 2
"""The positions of the checks."""


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Callable[[set[str]], None]:
    """Returns a function that makes a broker: of the secrets first, second and revoked, it accepts the given ones."""

    def play(accepts: set[str]) -> None:
        issued = [replace(OWNER, secret=SecretStr(text)) for text in ("first", "second")]
        revoked: list[str] = []

        def metadata(cluster: Cluster) -> None:
            text = "revoked" if revoked else cluster.secret.get_secret_value()
            if text not in accepts:
                raise BrokerError(f"Kafka refuses the credentials of {cluster.key!r}.")

        monkeypatch.setattr(kafka, "connect", lambda settings: OWNER)
        monkeypatch.setattr(kafka, "issue_key", lambda owner, key: issued.pop(0))
        monkeypatch.setattr(kafka, "revoke_key", lambda owner, key: revoked.append(key))
        monkeypatch.setattr(kafka, "metadata", metadata)

    return play


@pytest.fixture
def home(settings: Settings, broker: Callable[[set[str]], None]) -> Settings:
    broker({"second"})
    secrets.put(kafka.KEY, "local-0123", settings)
    secrets.put(kafka.SECRET, 'a "secret" of this home', settings)
    private_directory(settings.run)
    (settings.run / "engine.log").write_text("local-0123 connects with **********\n")
    return settings


def results(settings: Settings) -> list[Result]:
    return check_day(14, NO_ENGINE, settings)


def test_a_home_in_order_passes(home: Settings) -> None:
    assert [one.ok for one in results(home)] == [True, True, True], results(home)


def test_a_file_that_others_can_read_fails(home: Settings) -> None:
    secrets.secrets_file(home).chmod(0o604)
    found = results(home)[FILE]
    assert not found.ok
    assert "604" in found.found


def test_a_resolver_that_reads_a_file_of_others_fails(home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security.secrets, "find", lambda name, settings, masked=True: SecretStr("a value"))
    found = results(home)[FILE]
    assert (found.ok, found.found) == (False, "mode 600; a copy of mode 640 is read")


@pytest.mark.parametrize(
    "accepts",
    [{"first", "second"}, set(), {"second", "revoked"}],
    ids=lambda given: " and ".join(sorted(given)) or "nobody",
)
def test_a_broker_that_lets_in_the_wrong_ones_fails(
    home: Settings, broker: Callable[[set[str]], None], accepts: set[str]
) -> None:
    broker(accepts)
    assert not results(home)[BROKER].ok


@pytest.mark.parametrize("spelled", ['a "secret" of this home', r"a \"secret\" of this home"], ids=["plain", "JSON"])
@pytest.mark.parametrize("place", ["run/kafka.log", "lineage/events.jsonl"])
def test_a_secret_in_a_log_or_in_the_lineage_fails(home: Settings, place: str, spelled: str) -> None:
    path = home.home / place
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'{{"password": "{spelled}"}}\n')
    found = results(home)[NOWHERE]
    assert (found.ok, found.found) == (False, path.name)


def test_where_no_secret_is_known_nothing_is_proven(home: Settings) -> None:
    for name in secrets.names(home):
        secrets.remove(name, home)
    assert not results(home)[NOWHERE].ok
