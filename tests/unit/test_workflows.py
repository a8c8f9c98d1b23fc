"""The workflows call the gates of `.ci/run` and have no known weakness, and its gate refuses a broken copy of each."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.delivery import rehearsal, workflows
from shared.errors import BundleError
from shared.settings import CHECKOUT

BIN = Path(sys.executable).parent
FILES = (workflows.CI, workflows.CD, workflows.SCHEDULE)
CHECKOUT_STEP = "      - uses: actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1\n"


def text(file: Path) -> str:
    return (CHECKOUT / file).read_text(encoding="utf-8")


def targets(file: Path) -> list[str]:
    return [target for job in workflows.read(file)["jobs"].values() for target in workflows.make_targets(job)]


def test_ci_and_the_local_run_call_the_same_targets() -> None:
    local = re.findall(r"^ *make (\S+)$", (CHECKOUT / ".ci" / "run").read_text(), re.MULTILINE)
    assert set(targets(workflows.CI)) == set(local) == {"setup", "lint", "test", "fresh", "secrets-scan"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_target_is_in_the_makefile(file: Path) -> None:
    defined = set(re.findall(r"^(\w[\w-]*):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
    assert set(targets(file)) <= defined
    assert targets(file)


def test_ci_asks_every_python_that_is_supported_and_macos_once() -> None:
    jobs = workflows.read(workflows.CI)["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert 'requires-python = ">=3.11"' in (CHECKOUT / "pyproject.toml").read_text()
    assert [name for name, job in jobs.items() if str(job["runs-on"]).startswith("macos")] == ["macos"]


def test_the_gate_waits_for_every_other_job_and_always_reports() -> None:
    jobs = workflows.read(workflows.CI)["jobs"]
    assert set(jobs["gate"]["needs"]) == jobs.keys() - {"gate"}
    assert jobs["gate"]["if"] == "always()"


@pytest.mark.parametrize(
    ("results", "passes"), [("success success", True), ("success skipped", False), ("failure", False)]
)
def test_the_gate_passes_only_if_all_have_succeeded(results: str, passes: bool) -> None:
    (step,) = workflows.read(workflows.CI)["jobs"]["gate"]["steps"]
    done = subprocess.run(["bash", "-e", "-c", step["run"]], env={"RESULTS": results}, check=False, capture_output=True)
    assert (done.returncode == 0) is passes


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_actions_are_pinned_tokens_not_kept_and_permissions_given_to_each_job(file: Path) -> None:
    content = workflows.read(file)
    assert content["permissions"] == {}
    for name, job in content["jobs"].items():
        assert set(job["permissions"].items()) <= {("contents", "read"), ("id-token", "write")}, name
        for step in job.get("steps", []):
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False
    pins = re.findall(r"uses: (?!\./)(.+)", text(file))
    assert [pin for pin in pins if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", pin)] == []


def test_one_commit_stands_for_one_version_everywhere() -> None:
    pins = {pin for file in FILES for pin in re.findall(r"uses: (\S+@[0-9a-f]{40}) # (\S+)", text(file))}
    actions = [pin.partition("@")[0] for pin, _ in pins]
    assert len(actions) == len(set(actions))


def test_the_schedule_is_at_two_in_the_morning() -> None:
    # YAML 1.1 reads the key `on` as true.
    assert yaml.safe_load(text(workflows.SCHEDULE))[True]["schedule"] == [{"cron": "0 2 * * *"}]
    assert set(targets(workflows.SCHEDULE)) == {"setup", "newest", "test", "test-all", "mutants"}


# The gate for workflows ---------------------------------------------------------------------------------------------


def zizmor(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run zizmor as `make workflows` does."""
    (line,) = re.findall(r"^\t\$\(BIN\)/zizmor (.+)$", (CHECKOUT / "Makefile").read_text(), re.MULTILINE)
    arguments = [".github" if part == ".github" else part for part in line.split()]
    return subprocess.run(
        [BIN / "zizmor", *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(CHECKOUT / ".github", tmp_path / ".github")
    return tmp_path


def change(root: Path, file: Path, old: str, new: str) -> None:
    content = (root / file).read_text(encoding="utf-8")
    assert old in content, f"{file} no longer has {old!r}"
    (root / file).write_text(content.replace(old, new, 1), encoding="utf-8")


HOLES = {
    "an action by its tag": (
        workflows.CI,
        "@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1",
        "@v7",
        "unpinned-uses",
    ),
    "a text of a stranger in a script": (
        workflows.CI,
        "run: make lint",
        "run: echo '${{ github.event.pull_request.title }}'",
        "template-injection",
    ),
    "every permission": (workflows.CI, "permissions: {}", "permissions: write-all", "excessive-permissions"),
    "a token that is left behind": (workflows.CI, "persist-credentials: false", "fetch-depth: 1", "artipacked"),
    "a trigger that runs strangers' code with our secrets": (
        workflows.CI,
        "  pull_request:\n",
        "  pull_request_target:\n",
        "dangerous-triggers",
    ),
}


@pytest.mark.parametrize(("file", "old", "new", "audit"), HOLES.values(), ids=HOLES)
def test_a_hole_is_found(copy: Path, file: Path, old: str, new: str, audit: str) -> None:
    change(copy, file, old, new)
    done = zizmor(copy)
    assert done.returncode != 0
    assert f"[{audit}]" in done.stdout


def test_the_workflows_have_no_hole(copy: Path) -> None:
    done = zizmor(copy)
    assert done.returncode == 0, done.stdout


needs_actionlint = pytest.mark.skipif(
    not (BIN / "actionlint").is_file(),
    reason="skipped, because actionlint is not built; `make lint` does it where Go is",
)
MISTAKES = {
    "an expression of what is not there": ("matrix.python }}", "matrix.pyton }}", '"pyton" is not defined'),
    "a job that is not there": (
        "needs: [lint, test, macos, secrets]",
        "needs: [lint, tests, macos, secrets]",
        '"tests"',
    ),
    "a misspelt key": ("timeout-minutes: 20", "timeout-minute: 20", '"timeout-minute"'),
    "a variable without quotes": ('echo "$RESULTS"', "echo $RESULTS", "SC2086"),
}


@needs_actionlint
@pytest.mark.parametrize(("old", "new", "says"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_found(copy: Path, old: str, new: str, says: str) -> None:
    change(copy, workflows.CI, old, new)
    done = subprocess.run(
        [BIN / "actionlint", f"-shellcheck={BIN / 'shellcheck'}", copy / workflows.CI],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0
    assert says in done.stdout


def test_a_hook_refuses_the_commit_of_a_file_that_its_gate_would_refuse(tmp_path: Path) -> None:
    with workflows.copy_of() as folder:
        spoilt = folder / "shared" / "clock.py"
        spoilt.write_text(spoilt.read_text(encoding="utf-8") + "\n\nNOON = hour(12)\n", encoding="utf-8")
        subprocess.run(["git", "-C", folder, "add", "--all"], check=True)
        done = subprocess.run(
            [BIN / "pre-commit", "run"],
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PRE_COMMIT_HOME": str(tmp_path), "SKIP": "generated"},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode != 0
    assert "ruff format.....Passed" in re.sub(r"\.{5,}", ".....", done.stdout)
    assert "F821" in done.stdout


# A workflow's steps, run here ---------------------------------------------------------------------------------------


def workflow(*steps: dict[str, Any], **job: Any) -> dict[str, Any]:
    return {"env": {"FROM": "workflow"}, "jobs": {"one": {"steps": list(steps), **job}, "other": {"uses": "./x.yml"}}}


def states(content: dict[str, Any], folder: Path, **options: Any) -> list[str]:
    return [run.state for run in workflows.run_steps(content, "one", folder, **options)]


def test_steps_run_in_order_until_one_fails(tmp_path: Path) -> None:
    content = workflow({"run": "touch a"}, {"run": "ls b"}, {"run": "touch c"})
    runs = workflows.run_steps(content, "one", tmp_path)
    assert [run.state for run in runs] == ["passed", "failed", "left out"]
    assert "No such file" in runs[1].output
    assert runs[2].reason == "a step before it failed"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("script", ["false\ntrue", "false | true"])
def test_a_script_fails_with_its_first_command_that_fails(tmp_path: Path, script: str) -> None:
    assert states(workflow({"run": script}), tmp_path) == ["failed"]


def test_what_only_github_can_do_is_left_out_and_named(tmp_path: Path) -> None:
    content = workflow(
        {"uses": "actions/checkout@v7"},
        {"run": "true", "env": {"TOKEN": "${{ secrets.TOKEN }}"}},
        {"run": "test ${{ matrix.python }} = 3.11"},
        strategy={"matrix": {"python": ["3.11", "3.12"]}},
    )
    runs = workflows.run_steps(content, "one", tmp_path)
    assert [run.state for run in runs] == ["left out", "left out", "passed"]
    assert runs[1].reason == "it needs GitHub's secrets.TOKEN"
    assert states(content, tmp_path, matrix={"python": "3.12"})[2] == "failed"


def test_a_step_sees_the_environment_of_workflow_job_and_step(tmp_path: Path) -> None:
    test = {"run": 'test "$FROM $JOB $STEP" = "workflow job step"', "env": {"STEP": "step"}}
    assert states(workflow(test, env={"JOB": "job"}), tmp_path) == ["passed"]


def test_a_job_without_steps_is_refused_with_those_that_have_some(tmp_path: Path) -> None:
    for name in ("other", "none"):
        with pytest.raises(BundleError, match=f"no job {name} with steps") as caught:
            workflows.run_steps(workflow(), name, tmp_path)
        assert caught.value.hint == "choose one of: one"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A small checkout with a file that git tracks, a new file, and an ignored file."""
    root = tmp_path / "small"
    root.mkdir()
    subprocess.run(["git", "init", "--quiet", root], check=True)
    (root / ".gitignore").write_text("data/\n")
    (root / "known.txt").write_text("known")
    subprocess.run(["git", "-C", root, "add", "."], check=True)
    (root / "new.txt").write_text("new")
    (root / "data").mkdir()
    (root / "data" / "table").write_text("rows")
    return root


def test_a_copy_has_what_git_knows_and_what_is_new_and_the_checkout_stays_as_it_is(repository: Path) -> None:
    content = workflow(
        {"run": "git diff --exit-code"}, {"run": "echo spoilt > known.txt"}, {"run": "git diff --exit-code"}
    )
    with workflows.copy_of(repository) as folder:
        assert sorted(path.name for path in folder.iterdir()) == [".git", ".gitignore", "known.txt", "new.txt"]
        assert states(content, folder) == ["passed", "passed", "failed"]
    assert not folder.exists()
    assert (repository / "known.txt").read_text() == "known"


def test_the_gate_that_protects_the_repository_finds_an_unknown_name_and_leaves_the_checkout_alone() -> None:
    content = workflows.read(workflows.CI)
    with workflows.copy_of() as folder:
        spoilt = folder / "shared" / "clock.py"
        spoilt.write_text(spoilt.read_text(encoding="utf-8") + "\n\nNOON = hour(12)\n", encoding="utf-8")
        runs = workflows.run_steps(content, "lint", folder)
    red = next(run for run in runs if run.state == "failed")
    assert red.name == "Style, types, workflows"
    assert "F821" in red.output
    assert "clock.py" in red.output
    assert runs[-1].state == "left out"
    assert "NOON" not in (CHECKOUT / "shared" / "clock.py").read_text(encoding="utf-8")


# The deployment -----------------------------------------------------------------------------------------------------


def test_dev_comes_before_prod_and_prod_behind_its_gate() -> None:
    content = workflows.read(workflows.CD)
    assert rehearsal.stages(content) == {"dev": [], "prod": ["dev"]}
    assert {name: job.get("environment") for name, job in content["jobs"].items()} == {
        "ci": None,
        "dev": "dev",
        "prod": "prod",
    }
    assert workflows.make_targets(content["jobs"]["dev"]) == ["deploy", "smoke"]
    assert yaml.safe_load(text(workflows.CD))[True] == {"push": {"branches": ["main"]}}


@pytest.fixture
def smoke(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """The rehearsal with a small wheel and a stand-in for the nightly job, whose result is `smoke[0]`."""
    import zipfile

    from shared.delivery import jobs, records
    from shared.delivery.tasks import TaskRun
    from shared.settings import get_settings

    wheel = tmp_path / "shopmetrics.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("shared/__init__.py", "")
    state: list[Any] = ["succeeded"]

    def run(bundle: Any, name: str, code: Path, quiet: bool) -> list[TaskRun]:
        assert (bundle.target, name) == ("dev", "nightly")
        assert (code / "shared" / "__init__.py").is_file()
        return [TaskRun("bronze", state[0], 1.0, ())]

    home = get_settings().model_copy(update={"home": tmp_path / "home"})
    monkeypatch.setattr(rehearsal, "build_wheel", lambda root: wheel)
    monkeypatch.setattr(jobs, "run", run)
    state += [home, lambda: records.last("deployment", home)]
    return state


def by_target(done: list[rehearsal.Deployment]) -> dict[str, str]:
    return {one.target: one.state for one in done}


def test_prod_is_deployed_to_only_after_dev_and_an_approval(smoke: list[Any]) -> None:
    _, home, record = smoke
    prod = rehearsal.place("prod", home)
    assert by_target(rehearsal.rehearse(settings=home)) == {"dev": "deployed", "prod": "waiting for approval"}
    assert not prod.exists()
    assert [one["state"] for one in record()] == ["deployed", "waiting for approval"]
    smoke[0] = "failed"  # if the nightly job ran again, this would be the state of dev
    assert by_target(rehearsal.approve(home)) == {"dev": "deployed", "prod": "deployed"}
    assert (prod / "wheel" / "shared" / "__init__.py").is_file()
    assert "prod" in (prod / "resources.json").read_text()
    assert [one["state"] for one in record()] == ["deployed", "deployed"]


def test_nothing_can_be_approved_if_dev_failed_or_if_all_is_deployed(smoke: list[Any]) -> None:
    _, home, record = smoke
    with pytest.raises(BundleError, match="no record"):
        rehearsal.approve(home)
    rehearsal.rehearse(settings=home)
    smoke[0] = "failed"
    assert by_target(rehearsal.rehearse(settings=home)) == {"dev": "failed", "prod": "left out"}
    with pytest.raises(BundleError, match="No deployment waits"):
        rehearsal.approve(home)
    assert [one["state"] for one in record()] == ["failed", "left out"]
    assert not rehearsal.place("prod", home).exists(), "what waited before is not deployed either"


def test_an_approval_that_was_killed_can_be_repeated(smoke: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    home = smoke[1]
    rehearsal.rehearse(settings=home)
    with monkeypatch.context() as killed:
        killed.setattr(rehearsal, "_keep", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            rehearsal.approve(home)
    assert by_target(rehearsal.approve(home)) == {"dev": "deployed", "prod": "deployed"}


def test_nothing_can_be_approved_after_a_rehearsal_that_was_killed(
    smoke: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = smoke[1]
    rehearsal.rehearse(settings=home)
    rehearsal.approve(home)
    rehearsal.rehearse(settings=home)
    with monkeypatch.context() as killed:
        killed.setattr(rehearsal, "_deploy", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            rehearsal.rehearse(settings=home)
    with pytest.raises(BundleError, match="No deployment waits"):
        rehearsal.approve(home)
    assert (rehearsal.place("prod", home) / "resources.json").is_file(), "what was deployed before stays"


def test_the_same_wheel_goes_to_every_target(smoke: list[Any]) -> None:
    rehearsal.rehearse(settings=smoke[1])
    first, second = rehearsal.approve(smoke[1])
    assert first.version == second.version != ""
