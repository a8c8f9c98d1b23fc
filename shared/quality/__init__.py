"""Data quality: rules about whole tables, their results, and how both change from run to run."""

from shared.quality.quality_run import (
    BELOW_GOLD,
    LAYERS,
    METRICS,
    VERSIONS,
    QualityRun,
    newest_versions,
    recorded,
    require_known_or_sound,
    require_sound,
    run,
)
from shared.quality.row_results import with_results
from shared.quality.rules import TableRules, declared
from shared.quality.verdicts import Verdict

__all__ = [
    "BELOW_GOLD",
    "LAYERS",
    "METRICS",
    "VERSIONS",
    "QualityRun",
    "TableRules",
    "Verdict",
    "declared",
    "newest_versions",
    "recorded",
    "require_known_or_sound",
    "require_sound",
    "run",
    "with_results",
]
