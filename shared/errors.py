"""The errors that a user can act on.

Each says what was looked at, what was expected, what was found, and what to do next. The command line
prints them without a traceback; a notebook shows the same sentence as the last line of its traceback.
"""

from __future__ import annotations


class ShopMetricsError(Exception):
    """Base of every error raised on purpose by this project.

    Args:
        problem: the object and what is wrong with it, as one sentence.
        hint: what to do next, as one sentence or a command. Shown on its own line.
    """

    def __init__(self, problem: str, hint: str = "") -> None:
        self.problem = problem
        self.hint = hint
        super().__init__(f"{problem}\n  -> {hint}" if hint else problem)


def first_line(error: BaseException) -> str:
    """Return what an error says before it goes into plans, stacks and advice: the first line of its text."""
    return str(error).strip().split("\n")[0]


def is_engine_gone(error: BaseException) -> bool:
    """Return whether an error says that the engine ended, or no longer answers."""
    # By its name: most commands need no Spark, and to import it takes a second.
    return isinstance(error, OutOfMemoryError) or type(error).__name__ == "SparkConnectGrpcException"


class SettingsError(ShopMetricsError):
    """A setting is unknown or has a value that cannot be used."""


class EngineError(ShopMetricsError):
    """The Spark engine, its Java or its jars are missing, broken or unreachable."""


class OutOfMemoryError(EngineError):
    """The engine has ended, because it or everything together needed more memory than there is."""


class BrokerError(ShopMetricsError):
    """The Kafka cluster is missing, broken or unreachable, or refuses what was asked."""


class CatalogError(ShopMetricsError):
    """A table or schema is not there, or its name is not one."""


class SourceError(ShopMetricsError):
    """A source file does not hold what its table needs."""


class PipelineError(ShopMetricsError):
    """A step of the pipeline could not run, or would have done harm."""


class MetadataError(ShopMetricsError):
    """What the pipeline is told to do cannot be done: a declaration is wrong, or contradicts another."""


class LineageError(ShopMetricsError):
    """Nothing is known of where a table comes from."""


class MaintenanceError(ShopMetricsError):
    """Maintenance was asked for something that would harm a table."""


class SecretError(ShopMetricsError):
    """A secret is missing, or kept where others could read it."""


class CourseError(ShopMetricsError):
    """A day of the course failed, or ended without having done its work."""


class BundleError(ShopMetricsError):
    """The asset bundle, one of its jobs or a workflow is wrong, or cannot be run here."""
