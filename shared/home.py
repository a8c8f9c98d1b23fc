"""The home directory as a whole: what runs have made in it, and how it is emptied."""

from __future__ import annotations

import shutil

from shared.runtime import kafka, spark
from shared.settings import Settings, get_settings


def clear(settings: Settings | None = None) -> list[str]:
    """Stop engine and broker and remove everything that runs made in the home; return the names of what was removed.

    Only the directories that this project makes are removed. Secrets and all other files in the home stay.
    """
    settings = settings or get_settings()
    spark.down(settings)
    kafka.down(settings)
    made = [settings.raw, settings.lakehouse, settings.checkpoints, settings.kafka, settings.lineage, settings.run]
    made += [settings.delivery]
    removed = [directory.name for directory in made if directory.is_dir()]
    for name in removed:
        shutil.rmtree(settings.home / name)
    return removed
