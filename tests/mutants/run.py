"""Put each mutant into a copy of the sources and see that its tests fail: ``make mutants``.

A *mutant* is a plausible wrong implementation: a small change that a programmer might make in good faith.
``mutants.toml`` lists them. If no test notices a mutant, it has *survived*, and a test is missing.

The checkout is never changed. The tests run in a copy, with one engine for all tests, in a home of their own. A mutant
counts as killed only if the same tests have passed on the unchanged copy. A test file that cannot be imported, a
failing fixture or a dead engine does not kill a mutant: each of these is an error, which must be repaired.
"""

from __future__ import annotations

import argparse
import difflib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from xml.etree import ElementTree

import psutil

from shared.course.mutants import Mutant, MutantError, declared

CHECKOUT = Path(__file__).resolve().parents[2]

LIMIT_SECONDS = 1_800.0
"""The time limit of a mutant's tests. Reaching it is an error, not a kill: a slow machine must not look like a good
test."""

_WITHOUT = ("-p", "no:nbval", "-p", "no:hypothesispytest")
"""Plugins that these tests do not need, and whose import takes longer than many tests."""

NOT_COPIED = (".git", ".venv", ".env", ".*_cache", ".hypothesis", "data", "build", "dist", "__pycache__", "*.egg-info")
"""Files of a checkout that are not sources."""


@dataclass(frozen=True)
class Report:
    """The results of one run of pytest."""

    code: int | None
    """pytest's exit code; None if the run was ended because it took too long."""
    passed: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    """Tests that failed, each with the first line of the reason."""
    broken: dict[str, str] = field(default_factory=dict)
    """Tests that could not be run: an import or a fixture failed."""
    output: str = ""

    @classmethod
    def read(cls, code: int | None, report: Path, output: str) -> Report:
        """Return the report that pytest wrote as JUnit XML."""
        passed: set[str] = set()
        failed: dict[str, str] = {}
        broken: dict[str, str] = {}
        for case in ElementTree.parse(report).iter("testcase") if report.is_file() else ():
            test = f"{case.get('file')}::{case.get('name')}"
            if (failure := case.find("failure")) is not None:
                failed[test] = _first_line(failure.get("message"))
            elif (error := case.find("error")) is not None:
                broken[test] = _first_line(error.get("message"))
            elif case.find("skipped") is None:
                passed.add(test)
        return cls(code, passed, failed, broken, output)

    def why_not_green(self, tests: Sequence[str]) -> str:
        """Return why these tests did not all pass; empty if they did."""
        if self.code not in (0, 1):
            return self.why_unusable()
        for test, why in (self.failed | self.broken).items():
            if any(_is_of(test, one) for one in tests):
                return f"{test} does not pass on the unchanged sources: {why}"
        missing = [one for one in tests if not any(_is_of(test, one) for test in self.passed)]
        return f"{missing[0]} has not run" if missing else ""

    def verdict(self) -> tuple[str, str]:
        """Return the verdict on a mutant from its tests' results, and the first failed test or the problem."""
        if problem := self.why_unusable():
            return "ERROR", problem
        if self.failed:
            test, why = next(iter(self.failed.items()))
            return "killed", f"{test}: {why}"
        return "SURVIVED", f"{len(self.passed)} passed: {', '.join(sorted(self.passed)[:3])}"

    def why_unusable(self) -> str:
        """Return why the run proves nothing; empty if it is usable."""
        if self.code is None:
            return "the tests took too long"
        if self.code not in (0, 1):
            end = [line for line in self.output.splitlines() if line.strip()][-8:]
            return f"pytest ended with status {self.code}: " + " | ".join(end)
        if self.failed:
            return ""
        if self.broken:
            test, why = next(iter(self.broken.items()))
            return f"{test} could not run: {why}"
        return "" if self.passed else "no test has run"


def _first_line(message: str | None) -> str:
    return (message or "").strip().partition("\n")[0][:200]


def _is_of(test: str, selection: str) -> bool:
    """Whether a test is the named test, one of its parametrised cases, or in the named file."""
    return test == selection or test.startswith((f"{selection}[", f"{selection}::"))


class Copy:
    """A copy of the sources, in which one file at a time has a mistake, and the home of the tests that run in it."""

    def __init__(self, checkout: Path, directory: Path) -> None:
        self.directory, self.tree, self.home = directory, directory / "tree", directory / "home"
        shutil.copytree(checkout, self.tree, ignore=shutil.ignore_patterns(*NOT_COPIED), symlinks=True)
        self.home.mkdir()

    @contextmanager
    def wrong(self, mutant: Mutant) -> Iterator[None]:
        """Put a mutant's mistake into its file, and restore the file afterwards.

        Raises:
            MutantError: if the mutant does not fit the file.
        """
        path = self.tree / mutant.file
        if not path.is_file():
            raise MutantError(f"{mutant.name}: there is no {mutant.file}")
        text = path.read_text(encoding="utf-8")
        path.write_text(mutant.applied_to(text), encoding="utf-8")
        try:
            yield
        finally:
            path.write_text(text, encoding="utf-8")

    def test(self, tests: Sequence[str], *options: str, limit: float = LIMIT_SECONDS) -> Report:
        """Run tests in the copy, and return their results."""
        self._clear()
        report = self.directory / "report.xml"
        report.unlink(missing_ok=True)
        command = [
            *(sys.executable, "-m", "pytest", *_WITHOUT, *options, f"--junitxml={report}", "-o", "junit_family=xunit1"),
            *("-o", "addopts=-q --strict-markers -p no:cacheprovider", f"--basetemp={self.directory / 'scratch'}"),
            *tests,
        ]
        # In a session of its own, so that all its processes can be ended together if it takes too long.
        child = subprocess.Popen(
            command, cwd=self.tree, env=self._environment(), text=True, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            output, _ = child.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            self._end(child)
            return Report(None)
        except BaseException:
            self._end(child)
            raise
        return Report.read(child.returncode, report, output)

    def _environment(self) -> dict[str, str]:
        from shared.settings import get_settings

        return os.environ | {
            "PYTHONPATH": str(self.tree),
            # If a file changes twice within a second and keeps its length, Python would use its old bytecode.
            "PYTHONDONTWRITEBYTECODE": "1",
            # The steps of a stream run in the engine's Python, and must use the mutant too. The engine is started
            # from the copy, so it looks for modules there, and each stream has a Python process of its own.
            "SHOPMETRICS_TESTS_HOME": str(self.home),
            "SHOPMETRICS_CACHE_DIR": str(get_settings().cache_dir),
            "PYTEST_ADDOPTS": "",
        }

    def engine_died(self) -> bool:
        """Whether an engine was started for the tests and does not answer any more."""
        from shared.runtime import spark

        settings = self._settings()
        return spark.record_path(settings).is_file() and spark.running(settings) is None

    def _settings(self):
        from shared.settings import get_settings

        return get_settings().model_copy(update={"home": self.home})

    def _clear(self) -> None:
        """Remove the tables, files and messages of the last tests, so that every run begins in the same state.

        The engine stays, because the start of an engine takes longer than most tests.
        """
        from shared import catalog
        from shared.runtime import kafka, spark

        settings = self._settings()
        kafka.down(settings)
        if self.engine_died():
            spark.down(settings)
        record = spark.running(settings)
        if record is not None and any(settings.lakehouse.glob("*/*")):
            session = spark.session(record)
            for table in catalog.tables(session):
                catalog.drop_table(session, table, settings)
            session.stop()
        kept = {settings.run.name, settings.lakehouse.name, settings.lineage.name} if record is not None else set()
        for path in self.home.iterdir():
            if path.name not in kept:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for leftover in settings.lakehouse.glob("*/*"):
            shutil.rmtree(leftover)

    def _end(self, child: subprocess.Popen[str]) -> None:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        self.close()

    def close(self) -> None:
        """End every server that the tests have left: every process with a file of this copy on its command line."""
        ours = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if any(str(self.directory) in part for part in process.cmdline()):
                    process.kill()
                    ours.append(process)
        psutil.wait_procs(ours, timeout=10)


@dataclass(frozen=True)
class Outcome:
    """The result of one mutant."""

    mutant: Mutant
    verdict: str
    """``killed``, ``SURVIVED`` or ``ERROR``."""
    detail: str
    """The first failed test and its reason, or the problem."""
    seconds: float = 0.0


def tried(copy: Copy, mutant: Mutant, unchanged: Report) -> Outcome:
    """Run a mutant's tests with the mutant in place, and return the result.

    Args:
        copy: the copy in which the tests run.
        mutant: the mutant.
        unchanged: the results of its tests on the unchanged copy.
    """
    begun = time.monotonic()
    if problem := unchanged.why_not_green(mutant.tests):
        return Outcome(mutant, "ERROR", problem)
    try:
        with copy.wrong(mutant):
            report = copy.test(mutant.tests, "-x")
    except MutantError as error:
        return Outcome(mutant, "ERROR", str(error))
    verdict, detail = ("ERROR", "the engine died") if copy.engine_died() else report.verdict()
    return Outcome(mutant, verdict, detail, time.monotonic() - begun)


def chosen(mutants: Sequence[Mutant], names: Sequence[str]) -> list[Mutant]:
    """Return the mutants with these names or topics; all mutants if no name is given.

    Raises:
        MutantError: if a name is neither a mutant nor a topic.
    """
    known = {name for one in mutants for name in (one.name, one.topic)}
    if unknown := [name for name in names if name not in known]:
        close = difflib.get_close_matches(unknown[0], sorted(known), n=3)
        raise MutantError(f"there is no mutant {unknown[0]}; " + (f"close: {', '.join(close)}" if close else "--list"))
    return [one for one in mutants if not names or one.name in names or one.topic in names]


def main(arguments: Sequence[str] | None = None) -> int:
    """Try mutants, print the result of each, and return the exit status: 0 only if all were killed."""
    parser = argparse.ArgumentParser(prog="make mutants", description="See that tests notice plausible mistakes.")
    parser.add_argument("names", nargs="*", help="mutants, or topics; default: all")
    parser.add_argument("--list", action="store_true", help="only print what is wrong with each")
    asked = parser.parse_args(arguments)
    try:
        mutants = chosen(declared(), asked.names)
    except MutantError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if asked.list or len(mutants) == 1:
        for mutant in mutants:
            print(f"{mutant.topic}: {mutant.name}\n  {mutant.wrong}")
    if asked.list:
        return 0
    if len(mutants) == 1:
        print(f"\n{mutants[0].difference(CHECKOUT)}\n")
    # `kill` and the end of a terminal must clean up as Ctrl-C does.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="shopmetrics-mutants-", ignore_cleanup_errors=True) as directory:
        copy = Copy(CHECKOUT, Path(directory))
        try:
            outcomes = _tried(copy, mutants)
        except KeyboardInterrupt:
            return 130
        finally:
            copy.close()
    lost = [one.mutant.name for one in outcomes if one.verdict != "killed"]
    print(
        f"\n{len(outcomes) - len(lost)} of {len(outcomes)} mutants killed" + (f"; not: {', '.join(lost)}" * bool(lost))
    )
    return 1 if lost else 0


def _tried(copy: Copy, mutants: Sequence[Mutant]) -> list[Outcome]:
    """Try mutants, topic by topic. All tests of a topic run once on the unchanged sources first."""
    width = max(len(one.name) for one in mutants)
    outcomes = []
    for topic, of_it in groupby(mutants, key=lambda one: one.topic):
        group = list(of_it)
        begun = time.monotonic()
        unchanged = copy.test(list(dict.fromkeys(test for one in group for test in one.tests)), limit=2 * LIMIT_SECONDS)
        passed = f"{len(unchanged.passed)} tests pass on the unchanged sources"
        print(f"\n{topic}: {passed}, in {time.monotonic() - begun:.0f} s", flush=True)
        for mutant in group:
            outcome = tried(copy, mutant, unchanged)
            print(f"{outcome.verdict:8}  {mutant.name:{width}}  {outcome.seconds:4.0f} s  {outcome.detail}", flush=True)
            outcomes.append(outcome)
    return outcomes


if __name__ == "__main__":
    sys.exit(main())
