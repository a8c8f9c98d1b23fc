"""Day 19: the rules are kept in every version, the tables as they are now keep them, and a stopped night says why."""

from __future__ import annotations

from shared import quality
from shared.course.checks.registry import Context, Finding, check, finding, numbers
from shared.quality.rules import new_versions
from shared.run_log import RUN_LOG


@check(
    19,
    f"{quality.VERSIONS} holds every rule, its newest version as it is declared",
    cause="the rules were asked last with other ones than those of rules.toml; quality.run(spark)",
)
def _versions(context: Context) -> Finding:
    known = quality.newest_versions(context.spark)
    stale = new_versions(quality.declared(), known)
    declared = sum(len(one.fingerprints) for one in quality.declared())
    return finding({"rules or metrics that differ": len(stale)}, f"{declared} rules and metrics as declared")


@check(
    19,
    "AC-004: the rules were asked of every table as it is now, and none of severity fail is broken",
    cause="a table has changed since the rules were asked; `shopmetrics quality` asks them and says which is broken",
)
def _kept(context: Context) -> Finding:
    done = quality.recorded(context.spark)
    if done is None:
        return Finding("tables that have changed since", "every table asked")
    rules = [one for one in done.verdicts if one.status != "measured"]
    tables = len({one.table_name for one in rules})
    expected = f"{len(rules)} rules of {tables} tables, none of severity fail broken"
    return Finding(done.reason or expected, expected)


@check(
    19,
    f"Every verdict in {quality.METRICS} is that of a rule's version in {quality.VERSIONS}, and is there once",
    cause="one of the two tables was changed by hand; drop both, and run `shopmetrics quality`",
)
def _verdicts(context: Context) -> Finding:
    orphans, twice, states = numbers(
        context,
        f"""
        SELECT (SELECT count(*) FROM {quality.METRICS} AS m ANTI JOIN {quality.VERSIONS} AS v
                  ON m.table_name = v.table_name AND m.metric_name = v.name AND m.fingerprint = v.fingerprint
                WHERE m.fingerprint IS NOT NULL),
               count(*) - count(DISTINCT state, table_name, metric_name), count(DISTINCT state)
        FROM {quality.METRICS}
        """,
    )
    wrong = {"verdicts of an unknown version": orphans, "verdicts more than once": twice}
    return finding(wrong | {"tables asked nothing": int(not states)}, "every verdict of a known version, each once")


@check(
    19,
    f"A rule has kept gold from being made, {RUN_LOG} says which, and gold was made after all",
    cause="the cells of the bad delivery were not all run; run the notebook again from its top",
)
def _stopped(context: Context) -> Finding:
    gold = ", ".join(f"'{one.target}'" for one in quality.declared() if one.layer == "gold")
    stopped, behind = numbers(
        context,
        f"""
        SELECT coalesce(sum(stopped), 0), count_if(status NOT IN ('succeeded', 'unchanged')) FROM (
          SELECT max_by(status, started_at) AS status,
                 count_if(status = 'skipped' AND reason LIKE '%: rule % is broken: %') AS stopped
          FROM {RUN_LOG} WHERE table_name IN ({gold}) GROUP BY table_name
        )
        """,
    )
    if not stopped:
        return Finding("no run that a rule stopped", "stopped by a rule, and made since")
    return finding({"tables of gold not made since": behind}, "stopped by a rule, and made since")
