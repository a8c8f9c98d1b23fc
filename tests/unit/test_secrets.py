from __future__ import annotations

import stat
import sys
from types import ModuleType, SimpleNamespace

import pytest
from pydantic import SecretStr

from shared import secrets
from shared.errors import SecretError


def test_a_secret_is_masked_wherever_it_is_printed(settings):
    secrets.put("KAFKA_API_SECRET", "hunter2", settings)
    value = secrets.get("KAFKA_API_SECRET", settings)
    assert "hunter2" not in f"{value} {value!r} {[value]}"
    assert value.get_secret_value() == "hunter2"


def test_the_environment_comes_before_the_file(settings, monkeypatch):
    secrets.put("A_SECRET", "from the file", settings)
    monkeypatch.setenv("A_SECRET", "from the environment")
    assert secrets.get("A_SECRET", settings).get_secret_value() == "from the environment"


def test_the_file_is_for_its_owner_only_and_keeps_what_was_there(settings):
    secrets.put("ONE", 'with "quotes" and \\', settings)
    secrets.put("TWO", "2", settings)
    assert stat.S_IMODE(secrets.secrets_file(settings).stat().st_mode) == 0o600
    assert secrets.get("ONE", settings).get_secret_value() == 'with "quotes" and \\'


def test_a_file_that_others_may_read_is_refused(settings):
    secrets.put("ONE", "1", settings)
    secrets.secrets_file(settings).chmod(0o644)
    with pytest.raises(SecretError, match=r"expected mode 600, found 644(.|\n)*chmod 600"):
        secrets.get("ONE", settings)


def test_a_missing_secret_names_every_place_that_was_looked_at(settings):
    with pytest.raises(SecretError) as raised:
        secrets.get("NOT_THERE", settings)
    assert "environment variable NOT_THERE" in str(raised.value)
    assert str(secrets.secrets_file(settings)) in str(raised.value)


def test_a_torn_file_is_reported_without_showing_its_content(settings):
    secrets.put("ONE", "1", settings)
    secrets.secrets_file(settings).write_text('PASSWORD = "hunter2')
    with pytest.raises(SecretError, match="is not TOML") as raised:
        secrets.get("PASSWORD", settings)
    assert "hunter2" not in str(raised.value)


def test_on_databricks_a_scope_that_is_not_there_is_one_of_the_places(settings, monkeypatch):
    def no_scope(name: str) -> list:
        raise RuntimeError(f"RESOURCE_DOES_NOT_EXIST: Scope {name} does not exist!")

    utils = ModuleType("pyspark.dbutils")
    utils.DBUtils = lambda session: SimpleNamespace(secrets=SimpleNamespace(list=no_scope))
    monkeypatch.setitem(sys.modules, "pyspark.dbutils", utils)
    monkeypatch.setattr("pyspark.sql.SparkSession.builder", SimpleNamespace(getOrCreate=lambda: None))
    monkeypatch.setattr(secrets, "on_databricks", lambda: True)
    with pytest.raises(SecretError, match="Databricks scope shopmetrics"):
        secrets.get("NOT_THERE", settings)


def test_a_secret_that_is_replaced_or_removed_is_gone_from_the_file(settings):
    secrets.put("TOKEN", "the first value", settings)
    secrets.put("OTHER", "stays", settings)
    secrets.put("TOKEN", SecretStr("the second value"), settings)
    assert secrets.get("TOKEN", settings).get_secret_value() == "the second value"
    assert "the first" not in secrets.secrets_file(settings).read_text()
    assert secrets.remove("TOKEN", settings)
    assert not secrets.remove("TOKEN", settings)
    assert secrets.find("TOKEN", settings) is None
    assert secrets.secrets_file(settings).read_text() == 'OTHER = "stays"\n'
    assert stat.S_IMODE(secrets.secrets_file(settings).stat().st_mode) == 0o600


def test_the_place_that_counts_is_told_and_no_value(settings, monkeypatch):
    assert secrets.place("TOKEN", settings) is None
    secrets.put("TOKEN", "of the file", settings)
    assert secrets.place("TOKEN", settings) == "file secrets.toml"
    monkeypatch.setenv("TOKEN", "of the environment")
    assert secrets.place("TOKEN", settings) == "environment variable TOKEN"


def test_on_databricks_the_scope_comes_before_the_environment(settings, monkeypatch):
    asked = []

    def store(session: object) -> SimpleNamespace:
        def value(scope: str, name: str) -> str:
            asked.append((scope, name))
            return "of the scope"

        names = SimpleNamespace(list=lambda scope: [SimpleNamespace(key="TOKEN")], get=value)
        return SimpleNamespace(secrets=names)

    utils = ModuleType("pyspark.dbutils")
    utils.DBUtils = store
    monkeypatch.setitem(sys.modules, "pyspark.dbutils", utils)
    monkeypatch.setattr("pyspark.sql.SparkSession.builder", SimpleNamespace(getOrCreate=lambda: None))
    monkeypatch.setattr(secrets, "on_databricks", lambda: True)
    for name in ("TOKEN", "OTHER"):
        monkeypatch.setenv(name, "of the environment")
    assert secrets.get("TOKEN", settings).get_secret_value() == "of the scope"
    assert secrets.get("OTHER", settings).get_secret_value() == "of the environment"
    assert secrets.place("TOKEN", settings) == "Databricks scope shopmetrics"
    assert set(asked) == {("shopmetrics", "TOKEN")}
