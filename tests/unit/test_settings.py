from __future__ import annotations

from pathlib import Path

import pytest

from shared import catalog
from shared.errors import SettingsError
from shared.settings import CHECKOUT, Settings, get_settings, read_again


@pytest.fixture(autouse=True)
def _read_again(monkeypatch: pytest.MonkeyPatch):
    read_again()
    yield
    monkeypatch.undo()
    read_again()


def test_a_misspelt_setting_is_named_with_the_one_that_was_meant(monkeypatch):
    monkeypatch.setenv("SHOPMETRICS_SCAEL", "2")
    with pytest.raises(SettingsError, match="SHOPMETRICS_SCAEL is not a setting, did you mean SHOPMETRICS_SCALE"):
        get_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SCALE", "0"),
        ("SCALE", "-1"),
        ("SCALE", "much"),
        ("DEFECTS", "0.5"),
        ("SERVER_MEMORY", "lots"),
        ("SEED", "-3"),
        ("SPARK_CONF", "shuffle=2"),
        ("SPARK_CONF", "spark.x 1"),
    ],
)
def test_a_value_out_of_range_is_named_with_what_was_found(monkeypatch, name, value):
    monkeypatch.setenv(f"SHOPMETRICS_{name}", value)
    with pytest.raises(SettingsError, match=f"SHOPMETRICS_{name}='{value}'"):
        get_settings()


def test_all_problems_are_reported_at_once(monkeypatch):
    monkeypatch.setenv("SHOPMETRICS_SCALE", "0")
    monkeypatch.setenv("SHOPMETRICS_HOEM", "/x")
    with pytest.raises(SettingsError) as raised:
        get_settings()
    assert "SHOPMETRICS_SCALE" in str(raised.value)
    assert "SHOPMETRICS_HOEM" in str(raised.value)


def test_a_relative_home_is_in_the_checkout_whatever_the_working_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("SHOPMETRICS_HOME", "data/other")
    monkeypatch.chdir(tmp_path)
    assert get_settings().home == CHECKOUT / "data" / "other"


def test_two_homes_share_no_path():
    one, other = Settings(home=Path("/one")), Settings(home=Path("/other"))
    for name in ("raw", "lakehouse", "checkpoints", "run", "lineage"):
        assert getattr(one, name).is_relative_to("/one")
        assert getattr(other, name).is_relative_to("/other")


def test_every_setting_says_what_it_means():
    assert all(field.description for field in Settings.model_fields.values())


def test_on_databricks_the_home_is_a_volume_of_the_catalog_unless_it_is_named(monkeypatch):
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "client.5")
    monkeypatch.setenv("SHOPMETRICS_CATALOG", "workspace")
    monkeypatch.delenv("SHOPMETRICS_HOME")
    volume = Path("/Volumes/workspace/bronze/raw_data")
    settings = get_settings()
    assert (settings.raw, settings.checkpoints) == (volume / "raw", volume / "checkpoints")
    assert not settings.run.is_relative_to(volume), "a volume has no locks"
    assert catalog.volume_path(settings) == catalog.uri(settings.raw) == str(volume / "raw")
    monkeypatch.setenv("SHOPMETRICS_HOME", "/Volumes/mine/a/b")
    read_again()
    assert get_settings().home == Path("/Volumes/mine/a/b")
