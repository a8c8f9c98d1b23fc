"""Days 15, 17 and 18: the bundle and its nightly job, the gates of CI, and what was deployed."""

from __future__ import annotations

import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

from shared.course.checks.registry import Context, Finding, check
from shared.delivery import bundle, dashboard, generated, records, rehearsal, workflows
from shared.settings import CHECKOUT

SALES = "gold.daily_sales_summary"

_AGAIN = "run the notebook again from its first cell"

# --- Day 15: asset bundle -------------------------------------------------------------------------------------------


@check(
    15,
    "The bundle is sound for every target",
    cause="a file of the bundle was changed; `shopmetrics bundle validate` names what is wrong",
    local_only=True,
)
def _sound(context: Context) -> Finding:
    targets = list(bundle.read().content["targets"])
    wrong = [f"{target}: {problem}" for target in targets for problem in bundle.problems(bundle.read(target))]
    return Finding("; ".join(wrong) or ", ".join(targets), ", ".join(targets))


@check(
    15,
    "The generated files are what the pipeline's declarations say",
    cause="a table was declared, or a command has come, since they were made; `shopmetrics bundle generate`",
    local_only=True,
)
def _fresh(context: Context) -> Finding:
    stale = generated.stale()
    expected = ", ".join(generated.files())
    return Finding(f"stale: {', '.join(stale)}" if stale else expected, expected)


@check(15, "In the last run of the nightly job every task has succeeded", cause=_AGAIN)
def _nightly(context: Context) -> Finding:
    tasks = [task["task_key"] for task in bundle.read().job("nightly")["tasks"]]
    found = records.last("job-nightly", context.settings)["tasks"]
    return Finding(
        ", ".join(f"{one['task_key']} {one['state']}" for one in found), ", ".join(f"{key} succeeded" for key in tasks)
    )


@check(15, "The dashboard's totals are those of gold, to the cent", cause="the dashboard's file was changed")
def _dashboard(context: Context) -> Finding:
    content = dashboard.read(CHECKOUT / dashboard.FILE)
    shown = [
        Decimal(context.spark.sql(dashboard.widget_query(content, name)).first()[0] or 0)
        for name in ("total_revenue", "total_orders")
    ]
    rows = context.spark.table(SALES).select("net_revenue", "orders").collect()
    expected = [sum((row[0] for row in rows), Decimal(0)), Decimal(sum(row[1] for row in rows))]
    found, wanted = (f"{revenue:,.2f} of net revenue, {orders:,} orders" for revenue, orders in (shown, expected))
    return Finding(found, wanted)


# --- Day 17: CI -----------------------------------------------------------------------------------------------------


@check(
    17,
    "The workflows have no hole that zizmor knows",
    cause="a workflow was changed; `make workflows`",
    local_only=True,
)
def _holes(context: Context) -> Finding:
    zizmor = [str(Path(sys.executable).parent / "zizmor"), "--offline", "--no-progress", "--quiet", "--color=never"]
    done = subprocess.run(
        [*zizmor, "--persona=pedantic", ".github"], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    found = re.findall(r"^(?:error|warning|help|info)\[(.+?)\]", done.stdout, re.MULTILINE)
    return Finding(", ".join(found) or f"exit status {done.returncode}", "exit status 0")


@check(
    17,
    "CI and `.ci/run` call the same targets of make",
    cause="a gate was added to one of them only",
    local_only=True,
)
def _same_targets(context: Context) -> Finding:
    jobs = workflows.read(workflows.CI)["jobs"].values()
    there = {target for job in jobs for target in workflows.make_targets(job)}
    local = workflows.targets_in((CHECKOUT / ".ci" / "run").read_text(encoding="utf-8"))
    return Finding(", ".join(sorted(there)), ", ".join(sorted(local)))


@check(17, "The gate was red for a mistake, and green without it", cause=_AGAIN, local_only=True)
def _red_and_green(context: Context) -> Finding:
    states = records.last("ci-lint", context.settings)
    return Finding(", then ".join(states), "red, then green")


# --- Day 18: CD -----------------------------------------------------------------------------------------------------


@check(18, "Every target of cd.yml is deployed", cause=_AGAIN, local_only=True)
def _deployed(context: Context) -> Finding:
    targets = rehearsal.stages(workflows.read(workflows.CD))
    found = records.last("deployment", context.settings)
    return Finding(
        ", ".join(f"{one['target']} {one['state']}" for one in found), ", ".join(f"{one} deployed" for one in targets)
    )


@check(
    18,
    "The same wheel is in every target",
    cause="one target was deployed to and the other not; " + _AGAIN,
    local_only=True,
)
def _same_wheel(context: Context) -> Finding:
    versions = {one["version"] for one in records.last("deployment", context.settings)}
    return Finding(f"{len(versions)} version", "1 version")


@check(
    18,
    "What is in prod is what the checkout holds",
    cause="the checkout has changed since the deployment; deploy again",
    local_only=True,
)
def _as_checkout(context: Context) -> Finding:
    wheel = rehearsal.place("prod", context.settings) / "wheel"
    files = [path.relative_to(CHECKOUT) for path in sorted((CHECKOUT / "shared").rglob("*.py"))]
    other = [
        file.as_posix()
        for file in files
        if not (wheel / file).is_file() or (wheel / file).read_bytes() != (CHECKOUT / file).read_bytes()
    ]
    expected = "every module of shared/"
    return Finding(f"other: {', '.join(other[:3])}" if other else expected, expected)
