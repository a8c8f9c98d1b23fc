"""Configuration: one typed object, filled from ``SHOPMETRICS_*`` variables, the same in every process.

Precedence: an argument, then the environment, then ``.env`` in the checkout, then the default below.
"""

from __future__ import annotations

import difflib
import os
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from dotenv import dotenv_values
from platformdirs import user_cache_path, user_data_path
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.errors import SettingsError

CHECKOUT = Path(__file__).resolve().parent.parent
"""The directory that holds ``notebooks/``, ``lessons/`` and ``shared/``."""

_IS_CHECKOUT = (CHECKOUT / "pyproject.toml").is_file()
"""False where the package was installed from a wheel: what lies around it then belongs to the environment."""

PREFIX = "SHOPMETRICS_"

VOLUME = "bronze.raw_data"
"""The volume that holds the home on Databricks, but for its tables: schema and name."""


class Settings(BaseSettings):
    """Every setting of the project. Each is read from ``SHOPMETRICS_<NAME>``.

    Example:
        ``SHOPMETRICS_HOME=/tmp/lake SHOPMETRICS_SERVER_MEMORY=3g shopmetrics up``
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=CHECKOUT / ".env", extra="ignore", frozen=True, env_ignore_empty=True
    )

    home: Path = Field(
        CHECKOUT / "data" if _IS_CHECKOUT else user_data_path("shopmetrics", appauthor=False),
        description="everything a run makes: raw files, tables, logs",
    )
    cache_dir: Path = Field(
        user_cache_path("shopmetrics", appauthor=False), description="jars and the engine's start-up cache"
    )
    java_home: Path | None = Field(None, description="the JDK to use instead of the pinned one (17 or newer)")
    server_memory: Annotated[str, Field(pattern=r"^[1-9]\d*[mg]$")] | None = Field(
        None, description="heap of the Spark server, for example 1g or 3072m; by default what the memory here allows"
    )
    server_cores: int = Field(
        0, ge=0, description="cores the Spark server may use; 0 means all that this process may use"
    )
    spark_conf: str = Field(
        "",
        pattern=r"^(spark\.[\w.]+=\S*( +|$))*$",
        description="further Spark settings of the server, separated by spaces: spark.x=1 spark.y=2",
    )
    spark_port: int = Field(0, ge=0, le=65535, description="port of the Spark server; 0 picks a free one")
    kafka_port: int = Field(0, ge=0, le=65535, description="port of the local Kafka broker; 0 picks a free one")
    start_timeout: float = Field(180.0, gt=0, description="seconds to wait for a server to answer")
    startup_cache: bool = Field(True, description="use the engine's start-up cache")
    lineage_events: bool = Field(
        True, description="let the engine write lineage events; a run is quicker without, and lineage has no columns"
    )
    catalog: str = Field("shopmetrics_ecommerce", description="Unity Catalog name, used on Databricks only")
    secret_scope: str = Field("shopmetrics", description="Databricks secret scope")
    seed: int = Field(42, ge=0, description="seed of every random stream")
    scale: float = Field(1.0, gt=0, description="1 is 10,000 customers, 1,000 products, 100,000 orders")
    defects: float = Field(0.01, ge=0, le=0.2, description="share of rows with an injected defect")

    @field_validator("home", "cache_dir", "java_home")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        # A notebook's working directory is not the shell's; a relative path would name two places.
        if value is None:
            return None
        value = value.expanduser()
        return value if value.is_absolute() else (CHECKOUT / value).resolve()

    @property
    def spark_options(self) -> dict[str, str]:
        """The further Spark settings of the server, by name."""
        return dict(pair.split("=", 1) for pair in self.spark_conf.split())

    # Where things are inside the home. Nothing else in the project spells these names.
    @property
    def raw(self) -> Path:
        """The landing volume: ``<table>/<batch date>/*.csv`` and ``manifest.json``."""
        return self.home / "raw"

    @property
    def lakehouse(self) -> Path:
        """Delta tables as plain directories: ``<schema>/<table>``."""
        return self.home / "lakehouse"

    @property
    def checkpoints(self) -> Path:
        """Progress of streaming queries, one directory each."""
        return self.home / "checkpoints"

    @property
    def run(self) -> Path:
        """Ports, tokens and logs of running servers, and locks; readable by the owner only."""
        # A volume has no locks, and Databricks no servers of ours.
        return Path(tempfile.gettempdir(), "shopmetrics") if on_databricks() else self.home / "run"

    @property
    def kafka(self) -> Path:
        """The data of the local Kafka broker."""
        return self.home / "kafka"

    @property
    def delivery(self) -> Path:
        """What was deployed and run for days 15 to 18, and ``workspace/``, which stands for a workspace."""
        return self.home / "delivery"

    @property
    def lineage(self) -> Path:
        """OpenLineage events written by the engine, one JSON document a line."""
        return self.home / "lineage"


def _unknown(names: set[str]) -> list[str]:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    lines = []
    for name in sorted(names - known):
        close = difflib.get_close_matches(name, known, n=1)
        lines.append(f"{name} is not a setting" + (f", did you mean {close[0]}?" if close else ""))
    return lines


def get_settings(**given: Any) -> Settings:
    """Return the settings of this process: what is given here, then the environment, ``.env``, the default.

    Args:
        given: values by field name that come before the environment; None counts as not given.

    Raises:
        SettingsError: naming every unknown ``SHOPMETRICS_*`` variable and every value out of range at once.
    """
    return _read(tuple(sorted((name, value) for name, value in given.items() if value is not None)))


@lru_cache
def _read(given: tuple[tuple[str, Any], ...]) -> Settings:
    written = {k for k in dotenv_values(CHECKOUT / ".env") if k.startswith(PREFIX)}
    problems = _unknown({k for k in os.environ if k.startswith(PREFIX)} | written)
    try:
        settings = Settings(**dict(given))
    except ValidationError as error:
        problems += [f"{PREFIX}{str(e['loc'][0]).upper()}={e['input']!r}: {e['msg']}" for e in error.errors()]
    if problems:
        raise SettingsError(
            "Settings cannot be used:\n  - " + "\n  - ".join(problems),
            "correct or unset what is named; `shopmetrics settings` then lists every setting and what it means",
        )
    if on_databricks() and "home" not in settings.model_fields_set:
        # Spark can neither read nor write the workspace's own files, among which the checkout is.
        return settings.model_copy(update={"home": Path("/Volumes", settings.catalog, *VOLUME.split("."))})
    return settings


def read_again() -> None:
    """Forget the settings read so far, after the environment of this very process was changed."""
    _read.cache_clear()


def on_databricks() -> bool:
    """Whether this process runs inside a Databricks workspace."""
    return "DATABRICKS_RUNTIME_VERSION" in os.environ
