"""The mutants fit the sources and name existing tests, and the program that runs them gives no false verdict.

`make mutants` shows whether each mutant is killed.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mutants.run import Copy, Report, chosen, main, tried

from shared.course.mutants import Mutant, MutantError, covered, declared, judged
from shared.settings import CHECKOUT

MUTANTS = declared()


def test_there_are_many_and_each_has_a_name_and_a_sentence_of_its_own():
    assert len(MUTANTS) >= 30
    for values in ([one.name for one in MUTANTS], [one.wrong for one in MUTANTS]):
        assert len(set(values)) == len(values)
    assert [one.name for one in MUTANTS if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", one.name)] == []
    assert [one.name for one in MUTANTS if not one.wrong.endswith(".")] == []


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda one: one.name)
def test_a_mutant_fits_the_sources_and_names_tests_that_are_there(mutant: Mutant):
    text = (CHECKOUT / mutant.file).read_text(encoding="utf-8")
    assert mutant.applied_to(text) != text
    assert mutant.tests
    for test in mutant.tests:
        file, _, name = test.partition("::")
        assert re.search(rf"^def {re.escape(name.partition('[')[0])}\(", (CHECKOUT / file).read_text(), re.MULTILINE), (
            test
        )


def half_or_all(number: int) -> str:
    if number < 0:
        return "below"
    shown = str(number)
    return shown


@pytest.mark.parametrize(("numbers", "share"), [((-1,), 0.5), ((1,), 0.75), ((-1, 1), 1.0), ((), 0.0)])
def test_coverage_is_the_share_of_a_functions_lines_that_ran(numbers: tuple[int, ...], share: float):
    assert covered(half_or_all, lambda: [half_or_all(one) for one in numbers]) == share


# A small project and its mutants. There are few runs, because each run of pytest takes a second or two.

RED, GREEN, BLUE = (f"test_sums.py::test_{name}" for name in ("red", "green", "blue"))


def mutant(old: str = "2 * x", new: str = "x", tests: tuple[str, ...] = (GREEN,)) -> Mutant:
    return Mutant("half", "sums", "Half of it.", "sums.py", old, new, tests)


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    tree = tmp_path / "checkout"
    tree.mkdir()
    (tree / "sums.py").write_text("def double(x):\n    return 2 * x\n")
    (tree / "test_sums.py").write_text(
        "import pytest\nfrom sums import double\n\n"
        "@pytest.fixture\ndef three():\n    assert double(1) == 3\n\n"
        "def test_red():\n    assert double(1) == 3\n\n"
        "def test_blue(three):\n    pass\n\n"
        "@pytest.mark.parametrize('x', [0, 1])\ndef test_green(x):\n    assert double(x) == x + x\n"
    )
    (tmp_path / "work").mkdir()
    return Copy(tree, tmp_path / "work")


def test_a_mutant_is_killed_by_a_test_that_passes_without_it_and_is_taken_back(copy: Copy):
    unchanged = copy.test(["test_sums.py"])
    assert unchanged.passed == {f"{GREEN}[0]", f"{GREEN}[1]"}
    assert unchanged.failed == {RED: "assert 2 == 3"}
    assert unchanged.broken.keys() == {BLUE}
    killed = tried(copy, mutant(), unchanged)
    assert (killed.verdict, killed.detail) == ("killed", f"{GREEN}[1]: assert 1 == (1 + 1)")
    assert (copy.tree / "sums.py").read_text() == "def double(x):\n    return 2 * x\n"

    # These are not tried: a test that already fails, a test that does not exist, a text that does not fit.
    for one, told in (
        (mutant(tests=(GREEN, RED)), f"{RED} does not pass on the unchanged sources: assert 2 == 3"),
        (mutant(tests=(BLUE,)), f"{BLUE} does not pass on the unchanged sources"),
        (mutant(tests=("test_sums.py::test_gone",)), "test_sums.py::test_gone has not run"),
        (mutant(old="3 * x"), "half: its old text occurs 0 times in sums.py, expected exactly once"),
        (mutant(new="(x"), "half: sums.py cannot be read with its new text"),
    ):
        outcome = tried(copy, one, unchanged)
        assert outcome.verdict == "ERROR"
        assert told in outcome.detail


def test_only_a_test_that_fails_kills():
    for report, verdict in (
        (Report(0, passed={GREEN}), "SURVIVED"),
        (Report(1, passed={GREEN}, failed={RED: "assert 2 == 3"}), "killed"),
        (Report(1, broken={BLUE: "assert 2 == 3"}), "ERROR"),  # a fixture
        (Report(0), "ERROR"),  # all were skipped
        (Report(2, broken={"test_sums.py": "no module named gone"}), "ERROR"),  # an import
        (Report(4), "ERROR"),  # no such test
        (Report(None, failed={RED: "assert 2 == 3"}), "ERROR"),  # it took too long
    ):
        assert report.verdict()[0] == verdict, report


def test_tests_that_take_too_long_are_ended(copy: Copy):
    endless = mutant(old="return 2 * x", new="\n    while True: pass")
    with copy.wrong(endless):
        assert copy.test(endless.tests, limit=1.0) == Report(None)


def test_mutants_are_chosen_by_name_or_topic_and_an_unknown_one_is_refused(capsys: pytest.CaptureFixture[str]):
    assert chosen(MUTANTS, []) == MUTANTS
    assert {one.topic for one in chosen(MUTANTS, ["fact"])} == {"fact"}
    assert [one.name for one in chosen(MUTANTS, ["between-on-both-ends"])] == ["between-on-both-ends"]
    with pytest.raises(MutantError, match="no mutant between-both-ends; close: between-on-both-ends"):
        chosen(MUTANTS, ["between-both-ends"])
    assert main(["no-such-mutant"]) == 2
    assert main(["--list"]) == 0
    told = capsys.readouterr().out
    assert all(one.name in told and one.wrong in told for one in MUTANTS)


# The judgement of a reader's own test on day 16.


def doubled(test) -> str:
    return str(judged(test, lambda x: 2 * x, {"square": lambda x: x * x, "same": lambda x: x, "none": lambda x: None}))


def test_a_test_is_told_what_it_kills_and_what_survives():
    def asserts_too_little(double):
        assert double(2) == 4

    def asserts_enough(double):
        assert (double(2), double(3)) == (4, 6)

    assert doubled(asserts_too_little) == "passes on the right implementation, kills 2 of 3; survived: square"
    assert doubled(asserts_enough) == "passes on the right implementation, kills 3 of 3"
    assert doubled(lambda _: None).endswith("kills 0 of 3; survived: square, same, none")


def test_a_test_that_proves_nothing_is_told_why():
    def expects_what_is_wrong(double):
        assert double(2) == 5, "two and two is five"

    def crashes(double):
        assert double("2").real

    def crashes_on_a_mutant(double):
        assert double(3) + 1 == 7

    assert doubled(expects_what_is_wrong) == (
        "fails on the right implementation, so what it expects is wrong: two and two is five"
    )
    assert doubled(crashes).startswith("stops with AttributeError on the right implementation: 'str' object")
    assert doubled(crashes_on_a_mutant).startswith("stops with TypeError on none, where an assertion must fail")
