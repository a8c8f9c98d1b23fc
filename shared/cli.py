"""The ``shopmetrics`` command: everything that can be done without opening a notebook."""

from __future__ import annotations

import errno
import json
import sys
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from shared.errors import ShopMetricsError, first_line, is_engine_gone
from shared.settings import PREFIX, Settings, get_settings

if TYPE_CHECKING:
    from shared.pipeline import PipelineRun
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

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


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
    except ShopMetricsError as error:
        _end(error.problem, error.hint)
    except OSError as error:
        if error.errno not in _ADVICE:
            raise
        where = f": {error.filename}" if error.filename else ""
        _end(f"{error.strerror}{where}", f"{_ADVICE[error.errno]}; then run again: nothing is lost or doubled")
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
    console.print(f"error: {problem}", markup=False)
    if advice:
        console.print(f"  -> {advice}", markup=False)
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
        from shared.streaming.check import connectivity

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


@app.command(epilog="Example: `shopmetrics setup`")
def setup(
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing if everything is there.")] = False,
) -> None:
    """Fetch the engine's jars and record its start-up cache; `make setup` calls this."""
    from shared.runtime.setup import prepare

    prepare(quiet=quiet)


@app.command(epilog="Example: `SHOPMETRICS_SERVER_MEMORY=3g shopmetrics up`")
def up() -> None:
    """Start the Spark engine and the Kafka broker of this home, if they are not running, and make the topic.

    One that `SPARK_REMOTE` or `KAFKA_BOOTSTRAP_SERVERS` names elsewhere is used instead, and none is started.
    """
    from shared.runtime import kafka, spark

    remote, brokers = spark.named(), kafka.named()
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
    """Say what runs: process, address and resident memory."""
    from shared.runtime import kafka, spark

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
    if as_json:
        _print_json({"home": str(values.home), **servers})
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


@pipeline_app.command("run", epilog="Example: `shopmetrics pipeline run --layer silver`")
def pipeline_run(
    layer: Annotated[Layer | None, typer.Option(help="Run this layer alone. Default: all, in order.")] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Make silver and gold from everything, not only from what is new.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Ingest every new file into bronze, and bring silver and gold up to it."""
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
        done = pipeline.run(spark, layers, full, on_end=told)
    if as_json:
        _print_json(done.as_dict())
    else:
        _print_pipeline(done)
    if not done.ok:
        raise typer.Exit(1)


def _print_pipeline(done: PipelineRun) -> None:
    from shared.pipeline import LIMIT_MINUTES

    if not any(get_settings().raw.glob("*/*/*.csv")):
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
    for run in done.tables:
        for dependency in run.dependencies:
            typer.echo(f"{run.table_name} needs {dependency}")
        if run.reason:
            prefix = "" if run.error else "everything was read: "
            typer.echo(f"{run.table_name}: {prefix}{run.reason}")
        for rule in run.rules:
            if rule.severity == "warn" and rule.rows_failed:
                typer.echo(
                    f"{run.table_name}: {rule.rule} is broken by {rule.rows_failed:,} of {rule.rows_checked:,} rows"
                )
    verdict = "within" if done.is_within_limit else "NOT within"
    typer.echo(f"run {done.run_id}: {done.seconds:.1f} s, {verdict} the {LIMIT_MINUTES} minutes of NFR-001")


@stream_app.command("run", epilog="Example: `shopmetrics stream run --live`")
def stream_run(
    live: Annotated[
        bool,
        typer.Option("--live/--available-now", help="Go on until Ctrl-C, or read what is there now and end."),
    ] = False,
    seconds: Annotated[float | None, typer.Option(min=1, help="With --live: end after so many seconds.")] = None,
    as_json: Json = False,
) -> None:
    """Bring the clickstream's tables in bronze, silver and gold up to what Kafka holds."""
    import shared
    from shared import streaming

    if not live:
        console = Console(stderr=True, highlight=False)
        with console.status("the clickstream: Kafka to bronze, bronze to silver and gold"):
            done = streaming.run(shared.connect())
    else:
        done = _watch(streaming.Live(shared.connect()), seconds)
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
    from shared.course.days import select
    from shared.course.runner import print_run, run

    console = Console(stderr=as_json)
    try:
        result = run(select(first, through), get_settings(scale=scale, seed=seed), console)
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
    if not as_json:
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
    """Remove a table with what belongs to it, so that the next run makes it anew; or everything in this home."""
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
        typer.echo(f"{table} removed; the next run makes it anew")
        return
    if not yes:
        typer.confirm(f"Remove files, tables and checkpoints in {values.home}?", abort=True)
    from shared.home import clear

    removed = clear(values)
    typer.echo(f"removed from {values.home}: {', '.join(removed) or 'nothing was there'}")


@app.command(epilog="Example: `shopmetrics secret KAFKA_API_SECRET`")
def secret(name: Annotated[str, typer.Argument(help="Name of the secret, as its environment variable.")]) -> None:
    """Ask for a secret and keep it in the home's secrets file, readable by you only."""
    from shared import secrets

    secrets.put(name, typer.prompt(f"Value of {name}", hide_input=True))
    typer.echo(f"kept in {secrets.secrets_file()}")


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
        table.add_column(column, justify="right" if position in numbers else "left", overflow="fold")
    return table


def _print(table: Table) -> None:
    # Into a file or a pipe nothing should be wrapped or cut.
    Console(width=None if sys.stdout.isatty() else 10_000).print(table)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, default=str))
