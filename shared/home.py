"""The home directory as a whole: everything that runs have made in it."""

from __future__ import annotations

import shutil

from shared.runtime import spark
from shared.settings import Settings, get_settings


def clear(settings: Settings | None = None) -> list[str]:
    """End the engine and remove all that runs have made in the home; return the names of what was removed.

    Only the directories that this project makes are removed. Secrets and whatever else lies in the home stay.
    """
    settings = settings or get_settings()
    spark.down(settings)
    made = [settings.raw, settings.lakehouse, settings.checkpoints, settings.lineage, settings.run]
    removed = [directory.name for directory in made if directory.is_dir()]
    for name in removed:
        shutil.rmtree(settings.home / name)
    return removed
