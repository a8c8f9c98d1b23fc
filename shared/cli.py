"""The ``shopmetrics`` command: everything that can be done without opening a notebook."""

from __future__ import annotations

import errno
import json
import os
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.tree import Tree

from shared.errors import BundleError, ShopMetricsError, first_line, is_engine_gone
from shared.masking import masked
from shared.settings import PREFIX, Settings, get_settings, read_again

if TYPE_CHECKING:
    from shared.delivery.tasks import TaskRun
    from shared.delivery.workflows import StepRun
    from shared.pipeline import PipelineRun
    from shared.quality import QualityRun
    from shared.run_log import TableRun
    from shared.streaming import Live, Status, StreamRun

app = typer.Typer(
    help="Build and run the ShopMetrics lakehouse.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
pipeline_app = typer.Typer(help="The batch pipeline.", no_args_is_help=True)
app.add_typer(pipeline_app, name="pipeline")
stream_app = typer.Typer(help="The clickstream, from Kafka to gold.", no_args_is_help=True)
app.add_typer(stream_app, name="stream")
bundle_app = typer.Typer(help="What a workspace gets: checked, rehearsed and run here.", no_args_is_help=True)
app.add_typer(bundle_app, name="bundle")

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Target = Annotated[str, typer.Option(help="Target of the bundle: dev or prod.")]


@app.callback()
def _for_all(
    catalog: Annotated[
        str | None, typer.Option(help="Unity Catalog name, on Databricks only. Default: SHOPMETRICS_CATALOG.")
    ] = None,
) -> None:
    if catalog:
        # A task of a serverless job can be given arguments, and no environment variables.
        os.environ[PREFIX + "CATALOG"] = catalog
        read_again()


class Direction(StrEnum):
    """Which way lineage is followed from a table."""

    upstream = "upstream"
    downstream = "downstream"
    both = "both"


class Layer(StrEnum):
    """A layer that the pipeline can run alone."""

    bronze = "bronze"
    silver = "silver"
    gold = "gold"


_ADVICE = {
    errno.ENOSPC: "free some space, or set SHOPMETRICS_HOME to another disk",
    errno.EDQUOT: "free some of your quota, or set SHOPMETRICS_HOME to another disk",
    errno.EFBIG: "raise the limit on the size of files (`ulimit -f`)",
    errno.EMFILE: "raise the limit on open files (`ulimit -n`)",
    errno.EACCES: "make it yours, or set SHOPMETRICS_HOME to a directory that you may write to",
    errno.EROFS: "set SHOPMETRICS_HOME to a directory that you may write to",
}
"""What to do when the operating system refuses."""


def main() -> None:
    """Run the command line; an error that has a remedy becomes its sentence on stderr and exit status 1."""
    try:
        app()
    except SystemExit as end:
        # The runner of a job calls this function in its own process, and may take every SystemExit for a failure.
        if end.code:
            raise
    except ShopMetricsError as error:
        _end(error.problem, error.hint)
    except OSError as error:
        if error.errno not in _ADVICE:
            raise
        where = f": {error.filename}" if error.filename else ""
        _end(f"{error.strerror}{where}", f"{_ADVICE[error.errno]}; then run again: nothing is lost or doubled")
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] in ("shared", "generators"):
            raise
        _end(
            f"the package {error.name} is not installed, and this command needs it",
            "`pip install 'shopmetrics[local,course]'` brings everything; a job that SPARK_REMOTE sends to an engine "
            "elsewhere needs 'shopmetrics[client]' only",
        )
    except Exception as error:
        if is_engine_gone(error):
            _end(
                "the engine ended, or no longer answers, while it was at work",
                "run the command again: it starts a new engine, and nothing is lost or doubled",
            )
        # By its names: most commands need no Spark, and to import it takes a second. PySparkTypeError and its like say
        # that the client was used wrongly, which is a bug.
        kind = type(error)
        if not kind.__module__.startswith("pyspark.") or kind.__name__.startswith("PySpark"):
            raise
        from shared.runtime import spark

        log = "" if spark.named() else f"{spark.log_path(get_settings())} says more; "
        _end(
            f"the engine could not do it: {first_line(error)}",
            f"{log}mend the cause and run again: nothing is lost or doubled",
        )


def _end(problem: str, advice: str) -> NoReturn:
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(masked(f"error: {problem}"), markup=False)
    if advice:
        console.print(masked(f"  -> {advice}"), markup=False)
    sys.exit(1)


@app.command(epilog="Example: `shopmetrics doctor --kafka`")
def doctor(
    with_kafka: Annotated[
        bool, typer.Option("--kafka", help="Ask Kafka instead: metadata, a batch read, a stream. Starts what it needs.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Examine this machine: Python, Java, jars, disk, memory, engine, Kafka. Changes nothing."""
    from shared.runtime.doctor import examine

    if with_kafka:
        import shared
        from shared.runtime import kafka
        from shared.streaming.connectivity import connectivity

        findings = connectivity(shared.connect(), kafka.connect())
    else:
        findings = examine()
    if as_json:
        _print_json([asdict(finding) for finding in findings])
    else:
        colours = {"ok": "green", "warning": "yellow", "problem": "red"}
        table = _table("", "what", "found", "what to do")
        for finding in findings:
            verdict = f"[{colours[finding.verdict]}]{finding.verdict}[/]"
            table.add_row(verdict, finding.name, finding.found, finding.advice)
        _print(table)
    if any(finding.verdict == "problem" for finding in findings):
        raise typer.Exit(1)


@app.command(epilog="Example: `shopmetrics settings`")
def settings(as_json: Json = False) -> None:
    """List every setting, its value here, and what it means."""
    values = get_settings()
    rows = [
        (PREFIX + name.upper(), str(getattr(values, name)), str(field.description))
        for name, field in Settings.model_fields.items()
    ]
    if as_json:
        _print_json({name: value for name, value, _ in rows})
        return
    table = _table("setting", "value", "meaning")
    for row in rows:
        table.add_row(*row)
    _print(table)


@app.command(epilog="Example: `shopmetrics setup --wait`")
def setup(
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing if everything is there.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Make the engine's start-up cache now, as an image needs it.")
    ] = False,
) -> None:
    """Fetch the engine's jars, and let its start-up cache be made in the background; `make setup` calls this."""
    from shared.runtime.setup import prepare

    prepare(quiet=quiet, wait=wait)


@app.command(epilog="Example: `SHOPMETRICS_SERVER_MEMORY=3g shopmetrics up`")
def up() -> None:
    """Start the Spark engine and the Kafka broker of this home, if they are not running, and make the topic.

    One that `SPARK_REMOTE` or `KAFKA_BOOTSTRAP_SERVERS` names elsewhere is used instead, and none is started.
    """
    from shared.runtime import kafka, spark

    remote, brokers = spark.named(), kafka.named()
    with Console(stderr=True, highlight=False).status("starting the engine and the broker"):
        servers = ({} if remote else {"engine": spark.up()}) | ({} if brokers else {"broker": kafka.up()})
        if not brokers:
            # A broker that runs already may have lost it.
            kafka.create_topic(kafka.connect())
    for name, record in servers.items():
        typer.echo(f"{name} running: pid {record.pid}, port {record.port}, {record.memory_mb():.0f} MB")
    if remote:
        typer.echo(f"no engine started: SPARK_REMOTE names {spark.without_token(remote)}")
    if brokers:
        typer.echo(f"no broker started: {kafka.SERVERS} names {brokers}")


@app.command(epilog="Example: `shopmetrics down`")
def down() -> None:
    """End the Spark engine and the Kafka broker of this home. Tables and topics stay."""
    from shared.runtime import kafka, spark

    for name, server in (("engine", spark), ("broker", kafka)):
        typer.echo(f"{name} ended" if server.down() else f"no {name} was running")


@app.command(epilog="Example: `shopmetrics status --json`")
def status(as_json: Json = False) -> None:
    """Say what runs: process, address and resident memory; and how the memory there is divided."""
    from shared.runtime import kafka, spark
    from shared.runtime.memory import memory

    values = get_settings()
    servers: dict[str, dict[str, Any]] = {}
    remote = spark.named()
    for name, record, scheme, elsewhere in (
        ("engine", spark.running(values), "sc://localhost:", remote and spark.without_token(remote)),
        ("broker", kafka.running(values), "127.0.0.1:", kafka.named(values)),
    ):
        servers[name] = {"running": record is not None}
        if elsewhere:
            servers[name] |= {"elsewhere": elsewhere}
        if record:
            servers[name] |= {"pid": record.pid, "address": f"{scheme}{record.port}"}
            servers[name] |= {"memory_mb": round(record.memory_mb(), 1)}
    available = memory(values)
    if as_json:
        _print_json({"home": str(values.home), "memory": str(available), **servers})
        return
    table = _table("server", "state", "pid", "address", "MB")
    for name, one in servers.items():
        if one["running"]:
            table.add_row(name, "running", str(one["pid"]), one["address"], f"{one['memory_mb']:.0f}")
        else:
            table.add_row(name, "not running", "", "", "")
        if "elsewhere" in one:
            table.add_row(name, "used instead", "", one["elsewhere"], "")
    _print(table)
    typer.echo(f"memory: {available}")


@app.command(epilog="Example: `shopmetrics generate --scale 0.1 --days 3`")
def generate(
    scale: Annotated[float | None, typer.Option(help="1 is 100,000 orders. Default: SHOPMETRICS_SCALE.")] = None,
    seed: Annotated[int | None, typer.Option(help="Default: SHOPMETRICS_SEED.")] = None,
    defects: Annotated[float | None, typer.Option(help="Share of defective rows, 0 to 0.2.")] = None,
    days: Annotated[int, typer.Option(help="Incremental days after the historical load.")] = 0,
    as_json: Json = False,
) -> None:
    """Write the shop's source files into the landing volume."""
    from generators import generate as write_files

    values = get_settings()
    manifest = write_files(
        values.raw,
        scale=values.scale if scale is None else scale,
        seed=values.seed if seed is None else seed,
        defects=values.defects if defects is None else defects,
        days=days,
        progress=not as_json,
    )
    sources = ("customers", "products", "orders")
    if as_json:
        _print_json({name: {"rows": manifest.rows(name), "defects": manifest.defects(name)} for name in sources})
        return
    table = _table("source", "rows", "defects", numbers=(1, 2))
    for name in sources:
        table.add_row(name, f"{manifest.rows(name):,}", f"{sum(manifest.defects(name).values()):,}")
    _print(table)
    typer.echo(f"in {values.raw}")


@app.command("check-files", epilog="Example: `shopmetrics check-files`")
def check_files(as_json: Json = False) -> None:
    """Say what a run would make of the files in the landing volume: taken, set aside, refused or left alone."""
    import shared
    from shared.check_files import MOST_EXAMPLES
    from shared.check_files import check_files as check

    with Console(stderr=True, highlight=False).status("reading the files in the landing volume"):
        report = check(shared.connect())
    if as_json:
        _print_json(report.as_dict())
    else:
        for file in report.files:
            aside = sum(file.aside.values())
            typer.echo(f"{file.path}: {file.lines:,} lines, {file.taken:,} to be taken, {aside:,} to be set aside")
            for rule, rows in file.aside.items():
                typer.echo(f"  {rows:,} by {rule}, for example: {file.reasons[rule]}")
            if file.extra_columns:
                typer.echo(f"  kept aside in _extra: {', '.join(file.extra_columns)}")
        if report.read_before:
            typer.echo(f"{len(report.read_before):,} files were read by an earlier run")
        _print_files(report.refused, report.ignored)
        for key, groups in report.alike.items():
            typer.echo(
                f"{key}: {len(groups):,} times, values that differ only in white space or case count as different"
            )
            for values in groups[:MOST_EXAMPLES]:
                typer.echo(f"  {', '.join(map(repr, values))}")
    if report.refused:
        raise typer.Exit(1)


@app.command(epilog="Example: `shopmetrics maintain --dry-run`")
def maintain(
    tables: Annotated[list[str] | None, typer.Argument(help="Tables. Default: all of the lakehouse.")] = None,
    days: Annotated[float, typer.Option(help="Delete files that were replaced longer ago; at least 7.")] = 7.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing, only say what would be done.")] = False,
    as_json: Json = False,
) -> None:
    """Compact and order the files of changed tables, delete files that no recent version needs, and set tags."""
    from datetime import timedelta

    import shared
    from shared import tags as tagging
    from shared.maintenance import maintain as maintained

    spark = shared.connect()
    with Console(stderr=True, highlight=False).status("looking at the tables"):
        done = maintained(spark, tables or None, timedelta(days=days), dry_run)
        if not dry_run:
            tagging.apply(spark, tables or None)
    if as_json:
        _print_json([asdict(one) for one in done])
        return
    table = _table("table", "files", "", "MB", "", "layout", "old files", numbers=(1, 2, 3, 4, 6))
    for one in done:
        table.add_row(
            one.table,
            f"{one.files_before:,}",
            f"{one.files_after:,}" if one.files_after != one.files_before else "",
            f"{one.bytes_before / 1e6:,.1f}",
            f"{one.bytes_after / 1e6:,.1f}" if one.bytes_after != one.bytes_before else "",
            one.layout,
            f"{one.deleted:,}",
        )
    _print(table)
    typer.echo("nothing was changed" if dry_run else "")


@app.command(epilog="Example: `shopmetrics lineage gold.daily_sales_summary`")
def lineage(
    table: Annotated[str | None, typer.Argument(help="One table. Default: list every edge.")] = None,
    columns: Annotated[bool, typer.Option("--columns", help="Show the columns that each column comes from.")] = False,
    direction: Annotated[
        Direction, typer.Option(help="What the table is made from, what is made from it, or both.")
    ] = (Direction.upstream),
    keep: Annotated[
        bool, typer.Option("--record", help="Keep what was captured in `ops.lineage_edges` and `ops.lineage_columns`.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print what a table is made from, down to files and topic: as captured by engine and run log, and as declared.

    Neither is asked: events and log are files. `--record` alone needs the engine.
    """
    from shared import lineage as captured_lineage
    from shared.course import lineage_tree

    if keep:
        import shared

        edges, of_columns = captured_lineage.record(shared.connect())
        typer.echo(
            f"{edges:,} edges came to {captured_lineage.EDGES}, {of_columns:,} to {captured_lineage.COLUMNS}", err=True
        )
    found = captured_lineage.captured()
    lines = captured_lineage.lines(captured_lineage.declared(), found.edges)
    if table:
        lines = captured_lineage.around(lines, table, direction.value)
    shown = {edge.target for edge in lines}
    of_columns_shown = [edge for edge in found.columns if edge.target in shown] if columns else []
    if as_json:
        _print_json(captured_lineage.as_dict(lines, of_columns_shown))
    elif table and columns:
        _print(lineage_tree.of_columns(found.columns, table, direction.value))
    elif table:
        _print(lineage_tree.of_table(lines, table, direction.value))
    else:
        listed = _table("source", "target", "captured by", "declared as")
        for edge in lines:
            listed.add_row(edge.source, edge.target, ", ".join(edge.captured_by) or "-", edge.why or "-")
        _print(listed)
        if columns:
            listed = _table("source column", "target column", "how")
            for one in found.columns:
                target = f"{one.target}.{one.target_column}" if one.target_column else f"rows of {one.target}"
                listed.add_row(f"{one.source}.{one.source_column}", target, f"{one.kind}, {one.transformation}")
            _print(listed)
    if why := captured_lineage.why_nothing(found):
        # The edges above are what the metadata says.
        typer.echo(why, err=True)


@app.command(epilog="Example: `shopmetrics tags personal_data`")
def tags(
    name: Annotated[str, typer.Argument(help="Only tags of this name, or NAME=VALUE. Default: all.")] = "",
    set_them: Annotated[
        bool, typer.Option("--apply", help="First give every table the tags that are declared.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Find tables and columns by their tags: layer, domain, personal_data."""
    import shared
    from shared import tags as tagging

    spark = shared.connect()
    if set_them:
        typer.echo(f"{len(tagging.apply(spark)):,} tags set", err=True)
    wanted, _, value = name.partition("=")
    found = tagging.find(spark, wanted, value)
    if as_json:
        _print_json([asdict(tag) for tag in found])
        return
    table = _table("table", "column", "tag", "value")
    for tag in found:
        table.add_row(tag.table, tag.column, tag.name, tag.value)
    _print(table)


@app.command(epilog="Example: `shopmetrics verify --run-again`")
def verify(
    run_again: Annotated[
        bool,
        typer.Option("--run-again", help="Also run the pipeline, and see that no table changes: law 4."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Ask the laws of the data model of every table that exists in this home. Exit status 1 if one is broken."""
    import shared
    from shared import pipeline
    from shared.course import checks

    spark = shared.connect()
    with Console(stderr=True, highlight=False).status("asking the laws"):
        verified = checks.verify(spark)
    results = verified.results
    if run_again and results:
        with Console(stderr=True, highlight=False).status("running the pipeline again"):
            results.append(checks.law_4(spark, pipeline.run))
    if as_json:
        _print_json({"ok": verified.ok, "laws": [asdict(one) for one in results], "not_asked": verified.not_asked})
    elif not results:
        typer.echo("no law can be asked yet: none of its tables exists; `shopmetrics pipeline run` makes them")
    else:
        table = _table("law", "", "found")
        for one in results:
            table.add_row(one.name, "[green]holds[/]" if one.ok else "[red]BROKEN[/]", one.found)
        _print(table)
        for name, missing in verified.not_asked.items():
            typer.echo(f"not asked, because {', '.join(missing)} does not exist: {name}")
        for one in results:
            if not one.ok:
                typer.echo(f"{one.name}\n  usual cause: {one.cause}", err=True)
    if not verified.ok:
        raise typer.Exit(1)


@pipeline_app.command("run", epilog="Example: `shopmetrics pipeline run --layer silver`")
def pipeline_run(
    layer: Annotated[Layer | None, typer.Option(help="Run this layer alone. Default: all, in order.")] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Make silver and gold from everything, not only from what is new.")
    ] = False,
    ungated: Annotated[
        bool, typer.Option("--ungated", help="Make gold without asking the quality rules of bronze and silver.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Ingest every new file into bronze, and bring silver and gold up to it.

    Before gold, the quality rules are asked of bronze and silver; one of severity fail keeps gold as it is.
    """
    import shared
    from shared import pipeline

    layers = pipeline.LAYERS if layer is None else (layer.value,)
    shown = (SpinnerColumn(), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*shown, console=Console(stderr=True, highlight=False), transient=True) as progress:
        task = progress.add_task("starting", total=pipeline.table_count(layers))

        def told(table: TableRun) -> None:
            progress.update(task, advance=1, description=f"{table.table_name} {table.status}")

        spark = shared.connect()
        progress.update(task, description="reading what is new")
        done = pipeline.run(spark, layers, full, on_end=told, is_gated=not ungated)
    if as_json:
        _print_json(done.as_dict())
    else:
        _print_pipeline(done)
    if not done.ok:
        raise typer.Exit(1)


_MOST_FILES = 20
"""So many files that are left alone are named in a summary."""


def _print_files(refused: dict[str, str], ignored: dict[str, str]) -> None:
    for file, problem in refused.items():
        typer.echo(f"REFUSED {file}: {problem}")
    for file, why in list(ignored.items())[:_MOST_FILES]:
        typer.echo(f"not read, because {why}: {file}")
    if (more := len(ignored) - _MOST_FILES) > 0:
        typer.echo(f"not read: {more:,} more; `--json` names them all")


def _print_pipeline(done: PipelineRun) -> None:
    from shared.pipeline import LIMIT_MINUTES, MOST_QUARANTINED

    if not any(get_settings().raw.glob("*/*/*.csv*")):
        typer.echo(f"no files in {get_settings().raw}; `shopmetrics generate` writes the shop's")
    table = _table(
        "table", "status", "rows in", "quarantined", "duplicates", "changed", "version", "seconds",
        numbers=(2, 3, 4, 5, 6, 7),
    )  # fmt: skip
    for run in done.tables:
        counts = (run.rows_read, run.rows_quarantined, run.rows_duplicate, run.rows_changed)
        version = "" if run.to_version is None else str(run.to_version)
        table.add_row(run.table_name, run.status, *(f"{count:,}" for count in counts), version, f"{run.seconds:.1f}")
    _print(table)
    for file, names in done.extra_columns.items():
        typer.echo(f"kept aside in _extra: {', '.join(names)} of {file}")
    _print_files(done.refused, done.ignored)
    for run in done.tables:
        for dependency in run.dependencies:
            typer.echo(f"{run.table_name} needs {dependency}")
        if run.reason:
            prefix = "everything was read: " if run.reads and not run.error else ""
            typer.echo(f"{run.table_name}: {prefix}{run.reason}")
        for rule in run.rules:
            if rule.severity == "warn" and rule.rows_failed:
                typer.echo(
                    f"{run.table_name}: {rule.rule} is broken by {rule.rows_failed:,} of {rule.rows_checked:,} rows"
                )
            if rule.severity == "quarantine" and rule.rows_failed:
                typer.echo(f"{run.table_name}: {rule.rows_failed:,} rows set aside by {rule.rule}")
        if run.rows_quarantined > MOST_QUARANTINED * run.rows_read:
            share = f"{run.rows_quarantined / run.rows_read:.1%}"
            typer.echo(
                f"WARNING {run.table_name}: {share} of its new rows were set aside, more than {MOST_QUARANTINED:.0%}"
            )
    if done.quality:
        _print_broken(done.quality)
    if any(run.rows_quarantined for run in done.tables):
        query = f"SELECT table_name, rule, reason, source FROM silver.quarantine WHERE run_id = '{done.run_id}'"
        typer.echo(f'what was set aside, and why: shopmetrics sql "{query}"')
    verdict = "within" if done.is_within_limit else "NOT within"
    typer.echo(f"run {done.run_id}: {done.seconds:.1f} s, {verdict} the {LIMIT_MINUTES} minutes of NFR-001")


@app.command(epilog="Example: `shopmetrics quality --as-of 2026-01-03T02:00`")
def quality(
    as_of: Annotated[
        datetime | None,
        typer.Option(
            help="The moment, UTC, for which to ask what is fresh, usual or missing. "
            "Default: when the newest rows of bronze came.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask the quality rules of bronze, silver and gold, and keep what they say in `ops.quality_metrics`.

    Asked again of the same versions of the tables, it writes nothing. Exits with 1 if a rule of severity fail is
    broken.
    """
    import shared
    from shared.quality import report, run

    with Console(stderr=True, highlight=False).status("asking the rules of every table"):
        done = run(shared.connect(), as_of=as_of.replace(tzinfo=UTC) if as_of else None)
    if as_json:
        _print_json(done.as_dict())
    else:
        table = _table("table", "rule", "severity", "status", "value", "expected", numbers=(4,))
        for row in report.as_rows(done):
            table.add_row(*(("" if value is None else value) for value in row.values()))
        _print(table)
        _print_broken(done)
        for one in done.verdicts:
            if one.status == "not judged":
                typer.echo(f"not judged: {one.table_name} {one.metric_name}: {one.message}")
        when = f"as of {done.as_of:%Y-%m-%d %H:%M} UTC" if done.as_of else "before anything has come"
        known = "" if done.is_new else ", recorded before"
        typer.echo(f"run {done.run_id}{known}: {when}")
    if not done.ok:
        raise typer.Exit(1)


def _print_broken(done: QualityRun) -> None:
    for one in done.failures:
        typer.echo(f"FAILED {one.table_name}: {one.metric_name} is broken: {one.message}")
    for one in done.warnings:
        typer.echo(f"WARNING {one.table_name}: {one.metric_name} is broken: {one.message}")


@stream_app.command("run", epilog="Example: `shopmetrics stream run --live`")
def stream_run(
    live: Annotated[
        bool,
        typer.Option("--live/--available-now", help="Go on until Ctrl-C, or read what is there now and end."),
    ] = False,
    seconds: Annotated[float | None, typer.Option(min=1, help="With --live: end after so many seconds.")] = None,
    accept_loss: Annotated[
        bool,
        typer.Option(
            "--accept-loss",
            help="If Kafka has deleted messages that were never read, go on from what is there. "
            "The gap is recorded in `ops.stream_gaps`. Without this option the run stops.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Bring the clickstream's tables in bronze, silver and gold up to what Kafka holds."""
    import shared
    from shared import streaming

    if not live:
        console = Console(stderr=True, highlight=False)
        with console.status("the clickstream: Kafka to bronze, bronze to silver and gold"):
            done = streaming.run(shared.connect(), accept_loss=accept_loss)
    else:
        done = _watch(streaming.Live(shared.connect(), accept_loss=accept_loss), seconds)
    if as_json:
        _print_json(done.as_dict())
        return
    table = _table(
        "table", "status", "rows in", "quarantined", "duplicates", "changed", "version", numbers=(2, 3, 4, 5, 6)
    )
    for run in done.tables:
        counts = (run.rows_read, run.rows_quarantined, run.rows_duplicate, run.rows_changed)
        table.add_row(run.table_name, run.status, *(f"{count:,}" for count in counts), str(run.to_version))
    _print(table)
    for run in done.tables:
        if run.reason:
            typer.echo(f"{run.table_name}: {run.reason}")
    typer.echo(f"run {done.run_id}: {done.seconds:.1f} s")


def _watch(live: Live, seconds: float | None) -> StreamRun:
    """Show how the streams stand until Ctrl-C, or for so many seconds, and return what they did."""
    import time

    from rich.live import Live as Display

    with live, Display(console=Console(stderr=True, highlight=False), transient=True) as display:
        try:
            while True:
                status = live.status()
                display.update(_status_table(status))
                if seconds is not None and status.seconds >= seconds:
                    break
                time.sleep(2.0)
        except KeyboardInterrupt:
            pass
    assert live.done is not None
    return live.done


def _status_table(status: Status) -> Table:
    latency = "no message yet"
    if status.latency_median is not None:
        latency = f"half within {status.latency_median:.1f} s, 99 of 100 within {status.latency_p99:.1f} s"
    table = Table(box=None, show_header=False, title=f"live for {status.seconds:.0f} s; Ctrl-C ends it")
    table.add_row("messages", f"{status.messages:,}")
    table.add_row("messages/s, newest batch", f"{status.messages_per_second:,.0f}")
    table.add_row("waiting in Kafka", f"{status.lag:,}")
    table.add_row("producer to gold, newest batch", latency)
    table.add_row("open sessions", f"{status.open_sessions:,}")
    if status.stalled:
        table.add_row("[red]stalled[/]", status.stalled)
    return table


@app.command(
    help="Send the clickstream to Kafka: live until Ctrl-C, or a replay.",
    epilog="Example: `shopmetrics produce --day 1 --speedup 0`",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
def produce(context: typer.Context) -> None:
    """Hand everything over to the producer's own program; no other command needs what it imports."""
    from generators.produce_clickstream import command

    program = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")
    program.command(epilog=context.command.epilog)(command)
    program(context.args, prog_name="shopmetrics produce", standalone_mode=True)


@app.command(epilog="Example: `shopmetrics course --from 3 --through 4`")
def course(
    first: Annotated[int, typer.Option("--from", help="First day to run.")] = 1,
    through: Annotated[int | None, typer.Option(help="Last day to run. Default: the last there is.")] = None,
    scale: Annotated[float | None, typer.Option(help="1 is 100,000 orders. Default: SHOPMETRICS_SCALE.")] = None,
    seed: Annotated[int | None, typer.Option(help="Default: SHOPMETRICS_SEED.")] = None,
    as_json: Json = False,
) -> None:
    """Run the course's notebooks in order, and check after each day that its work was done."""
    from shared.course.course_run import print_run, run
    from shared.course.days import select

    console = Console(stderr=as_json)
    days = select(first, through)
    try:
        result = run(days, get_settings(scale=scale, seed=seed), console)
    except KeyboardInterrupt:
        message = "stopped; what is finished stays, and `shopmetrics course --from N` goes on from day N"
        Console(stderr=True, highlight=False).print(message)
        raise typer.Exit(130) from None
    if as_json:
        _print_json(result.as_dict())
    else:
        print_run(result, console)
    if not result.ok:
        raise typer.Exit(1)
    if not as_json and any(day.spark for day in days):
        console.print("The engine goes on running for your own queries; `shopmetrics down` ends it.", highlight=False)


@app.command(epilog='Example: `shopmetrics sql "SELECT count(*) FROM bronze.orders_raw"`')
def sql(
    query: Annotated[str, typer.Argument(help="One SQL statement.")],
    limit: Annotated[int, typer.Option(min=1, help="Rows to print at most.")] = 100,
    as_json: Json = False,
) -> None:
    """Run one SQL statement and print its rows."""
    from pyspark.errors import PySparkException

    import shared

    try:
        frame = shared.connect().sql(query)
        columns, result = frame.columns, frame.limit(limit + 1).collect()
    except PySparkException as error:
        if is_engine_gone(error):
            raise
        raise ShopMetricsError(_without_plan(str(error)), "correct the statement") from error
    more, result = len(result) > limit, result[:limit]
    if more:
        Console(stderr=True).print(f"the first {limit} rows; there are more (--limit)", highlight=False)
    if as_json:
        _print_json([row.asDict(recursive=True) for row in result])
        return
    rows = [[_cell(value) for value in row] for row in result]
    table = _table(*columns)
    for row in rows:
        table.add_row(*row)
    if not sys.stdout.isatty() or Console().measure(table).maximum <= Console().width:
        _print(table)
        return
    # Wider than the window: one column a line, as psql does.
    for number, row in enumerate(rows, start=1):
        typer.echo(f"-- row {number}")
        for column, value in zip(columns, row, strict=True):
            typer.echo(f"{column:>{max(map(len, columns))}} | {value}")


@app.command(epilog="Example: `shopmetrics reset bronze.orders_raw`")
def reset(
    table: Annotated[str | None, typer.Argument(help="One table; leave out for everything.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove a table with what belongs to it, so that the next run rebuilds it; or everything in this home."""
    import shared
    from shared import bronze, gold, silver, streaming

    values = get_settings()
    if table:
        sources = {source.bronze_table: name for name, source in bronze.SOURCES.items()}
        layers = {one.target: layer for layer in (silver, gold) for one in layer.TABLES.declared()}
        streamed = [name for stream in streaming.STREAMS for name in stream.tables]
        if table not in (*sources, *layers, *streamed):
            known = ", ".join((*sources, *layers, *streamed))
            raise ShopMetricsError(f"{table} cannot be reset alone. Tables that can: {known}.")
        with_it = {"bronze": " and its checkpoint", "silver": " and its rows in the quarantine"}
        if not yes:
            also = with_it.get(table.partition(".")[0], "")
            if table in streamed:
                also = ", what the clickstream makes beside and after it, and the checkpoints"
            typer.confirm(f"Remove {table}{also}? What it was made from stays.", abort=True)
        if table in streamed:
            table = ", ".join(streaming.reset(shared.connect(), table))
        elif table in sources:
            bronze.reset(shared.connect(), sources[table])
        else:
            layers[table].reset(shared.connect(), table)
        typer.echo(f"{table} removed; the next run rebuilds it")
        return
    if not yes:
        typer.confirm(f"Remove files, tables and checkpoints in {values.home}?", abort=True)
    from shared.home import clear

    removed = clear(values)
    typer.echo(f"removed from {values.home}: {', '.join(removed) or 'nothing was there'}")


@app.command(epilog="Example: `shopmetrics secret KAFKA_API_SECRET`")
def secret(
    name: Annotated[str, typer.Argument(help="Name of the secret, as its environment variable.")],
    is_asked: Annotated[bool, typer.Option("--where", help="Say where it is kept, not its value.")] = False,
    is_removed: Annotated[bool, typer.Option("--remove", help="Take it out of the file.")] = False,
) -> None:
    """Ask for a secret and keep it in the home's secrets file, readable by you only."""
    from shared import secrets

    if is_asked and is_removed:
        raise typer.BadParameter("--where and --remove exclude each other")
    if is_asked:
        secrets.get(name)
        typer.echo(secrets.place(name))
    elif is_removed:
        was_there = secrets.remove(name)
        typer.echo(f"{'removed from' if was_there else 'not in'} {secrets.secrets_file()}")
    else:
        secrets.put(name, typer.prompt(f"Value of {name}", hide_input=True))
        typer.echo(f"kept in {secrets.secrets_file()}")


@bundle_app.command("generate", epilog="Example: `shopmetrics bundle generate`")
def bundle_generate() -> None:
    """Write the bundle's files that follow from the pipeline's declarations: the nightly job, schemas, volume."""
    from shared.delivery import generated

    changed = generated.write()
    typer.echo(f"written: {', '.join(changed)}" if changed else "nothing has changed")


@bundle_app.command("validate", epilog="Example: `shopmetrics bundle validate --target prod`")
def bundle_validate(target: Target = "dev") -> None:
    """Check the bundle for a target: fields, tasks, schedules, paths, dashboard. Neither workspace nor engine is asked.

    Where the `databricks` command and a workspace are, `databricks bundle validate --strict` is asked too.
    """
    from shared.delivery import bundle, databricks_cli, generated

    found = bundle.read(target)
    bundle.require_sound(found)
    if stale := generated.stale():
        raise BundleError(
            f"{', '.join(stale)} is not what the declarations say now.", "run `shopmetrics bundle generate`, and commit"
        )
    resources = sum(map(len, found.resources.values()))
    typer.echo(f"{target}: {resources} resources, {len(found.jobs)} jobs; no problem found in the files")
    typer.echo(databricks_cli.validate(target))


@bundle_app.command("run", epilog="Example: `shopmetrics bundle run nightly --target dev`")
def bundle_run(
    job: Annotated[str, typer.Argument(help="Name of a job of the bundle.")],
    target: Target = "dev",
    only: Annotated[str, typer.Option(help="Run these tasks alone: their keys, with commas between.")] = "",
    as_json: Json = False,
) -> None:
    """Run a job's tasks here: in their order and with their parameters, on the engine of this home.

    A task that fails stops those that depend on it. What a workspace would run is read from the bundle's files.
    """
    from shared.delivery import bundle, jobs

    found = bundle.read(target)
    bundle.require_sound(found)
    chosen = [key.strip() for key in only.split(",") if key.strip()]
    runs = jobs.run(found, job, chosen, tell=None if as_json else _print_task, quiet=as_json)
    if as_json:
        _print_json([asdict(one) for one in runs])
    if any(one.state != "succeeded" for one in runs):
        raise typer.Exit(1)


@bundle_app.command("rehearse", epilog="Example: `shopmetrics bundle rehearse --approve`")
def bundle_rehearse(
    approve: Annotated[
        bool, typer.Option("--approve", help="Approve the deployment that waits: it continues behind the gate.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Deploy to dev as `cd.yml` does, into a directory of this home instead of a workspace; prod waits for approval."""
    from shared.delivery import rehearsal

    done = rehearsal.approve() if approve else rehearsal.rehearse(quiet=as_json)
    if as_json:
        _print_json([asdict(one) for one in done])
    for one in [] if as_json else done:
        typer.echo(f"{one.target}: {one.state}" + (f": {one.reason}" if one.reason else f", version {one.version}"))
    if any(one.state in ("failed", "left out") for one in done):
        raise typer.Exit(1)


@app.command(epilog="Example: `shopmetrics ci --job lint`")
def ci(
    job: Annotated[str, typer.Option(help="Job of `.github/workflows/ci.yml`.")] = "lint",
    as_json: Json = False,
) -> None:
    """Run the steps of a CI job here, as they stand in the workflow, in a copy of the checkout with your changes."""
    from shared.delivery import workflows

    content = workflows.read(workflows.CI)
    with workflows.copy_of() as folder:
        runs = workflows.run_steps(content, job, folder, on_end=None if as_json else _print_step)
    if as_json:
        _print_json([asdict(one) for one in runs])
    if any(one.state == "failed" for one in runs):
        raise typer.Exit(1)


def _print_step(run: StepRun) -> None:
    typer.echo(run.output, nl=False)
    more = f"because {run.reason}" if run.reason else f"{run.seconds:.1f} s"
    typer.echo(f"step {run.name}: {run.state}, {more}")


def _print_task(run: TaskRun) -> None:
    typer.echo(f"task {run.task_key}: {run.state}" + (f", {run.seconds:.1f} s" if run.seconds else ""))


def _without_plan(message: str) -> str:
    """Return what Spark says is wrong, without the query plan that it prints below."""
    lines = message.strip().splitlines()
    plan = next((number for number, line in enumerate(lines) if line.startswith(("'", "+-"))), len(lines))
    return "\n".join(lines[:plan]).rstrip("; \n")


def _cell(value: Any) -> str:
    if value is None:
        return "NULL"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _table(*columns: str, numbers: tuple[int, ...] = ()) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for position, column in enumerate(columns):
        if position in numbers:  # a figure of which a part is missing is a wrong figure
            table.add_column(column, justify="right", no_wrap=True)
        else:
            table.add_column(column, overflow="fold")
    return table


def _print(table: Table | Tree) -> None:
    # Into a file or a pipe nothing should be wrapped or cut.
    Console(width=None if sys.stdout.isatty() else 10_000).print(table)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, default=str))
