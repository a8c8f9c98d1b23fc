"""A secret that was handed out never appears in the output of the process, on whatever way it got there."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from urllib.parse import quote

import pytest

from shared import secrets
from shared.masking import MASK, MaskedStream, hide, masked
from shared.runtime import python_worker
from shared.settings import CHECKOUT

SECRET = 'p"w\\ü/+ of-the-masking-tests'


@pytest.fixture
def known(settings) -> str:
    """A secret that was handed out to a client."""
    secrets.put("OF_A_CLIENT", SECRET, settings)
    return secrets.get("OF_A_CLIENT", settings).get_secret_value()


@pytest.mark.parametrize(
    "spelled",
    [str, repr, json.dumps, lambda s: json.dumps(s, ensure_ascii=False), lambda s: json.dumps(repr(s)),
     lambda s: quote(s, safe=""), lambda s: repr({"sasl.password": s})],
)  # fmt: skip
def test_it_is_replaced_in_every_usual_spelling(known, spelled):
    shown = masked(f"before {spelled(known)} after")
    assert MASK in shown
    assert "of-the-masking-tests" not in shown
    assert shown.startswith("before ")
    assert shown.endswith(" after")


def test_of_two_secrets_the_longer_one_goes_whole():
    hide("the-first-secret")
    hide("the-first-secret-and-more")
    assert masked("the-first-secret-and-more, the-first-secret") == f"{MASK}, {MASK}"


def test_a_short_text_is_left_and_so_is_what_is_no_secret(settings):
    secrets.put("SHORT", "seven77", settings)
    secrets.put("AN_ADDRESS", "broker.example:9092", settings)
    secrets.get("SHORT", settings)
    assert secrets.get("AN_ADDRESS", settings, masked=False).get_secret_value() == "broker.example:9092"
    assert masked("seven77 at broker.example:9092") == "seven77 at broker.example:9092"


def logged(write) -> str:
    out = io.StringIO()
    handler, log = logging.StreamHandler(out), logging.getLogger("test of masking")
    log.addHandler(handler)
    log.propagate = False
    try:
        write(log)
    finally:
        log.removeHandler(handler)
    return out.getvalue()


def test_a_log_hides_it_in_message_arguments_and_traceback(known):
    def write(log: logging.Logger) -> None:
        log.error("asked with %s, %r", known, {"password": known})
        log.error("nothing to hide in %s", ["this"])
        try:
            raise ValueError(known)
        except ValueError:
            log.exception("refused")

    said = logged(write)
    assert "of-the-masking-tests" not in said
    assert said.count(MASK) == 3
    assert "nothing to hide in ['this']" in said
    assert "Traceback" in said


def test_a_record_whose_arguments_do_not_fit_is_made_and_left_as_it_is(known):
    record = logging.getLogRecordFactory()("test", logging.ERROR, "file", 1, "%d", ("no number",), None)
    assert (record.msg, record.args) == ("%d", ("no number",))


def test_an_uncaught_exception_hides_it_in_every_thread(settings):
    secrets.put("OF_A_CLIENT", SECRET, settings)
    code = (
        "import threading\nfrom shared import secrets\n"
        "text = secrets.get('OF_A_CLIENT').get_secret_value()\n"
        "def fail(): raise RuntimeError(f'refused: {text}')\n"
        "thread = threading.Thread(target=fail); thread.start(); thread.join()\nfail()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"SHOPMETRICS_HOME": str(settings.home)}, cwd=CHECKOUT,
        capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 1
    assert ended.stderr.count(f"RuntimeError: refused: {MASK}") == 2, ended.stderr
    assert "of-the-masking-tests" not in ended.stderr


def test_an_error_of_the_command_line_hides_it(known, capsys):
    from shared import cli

    with pytest.raises(SystemExit):
        cli._end(f"refused: {known}", f"not {known}")
    assert "of-the-masking-tests" not in capsys.readouterr().err


def test_a_stream_hides_it_and_is_otherwise_itself(known):
    out = io.StringIO()
    print("asked with", known, file=MaskedStream(out))  # type: ignore[arg-type]
    assert out.getvalue() == f"asked with {MASK}\n"
    assert MaskedStream(sys.__stdout__).fileno() == 1  # type: ignore[arg-type]


def test_the_engines_python_runs_any_module_as_python_would_and_hides_the_token(tmp_path):
    launcher = python_worker.write_launcher(tmp_path / "py 'thon")
    (tmp_path / "stepping.py").write_text(
        "import os, sys\nprint(os.environ.get('SPARK_CONNECT_LOCAL_URL', 'no address'), sys.argv[1:], __name__)\n"
        "print('to the other', os.environ.get('SPARK_CONNECT_LOCAL_URL'), file=sys.stderr)\n"
        "raise SystemExit(7)\n"
    )

    def run(**variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [launcher, "-m", "stepping", "-m", "an argument"], cwd=tmp_path, capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": f"{CHECKOUT}:{tmp_path}", **variables},
        )  # fmt: skip

    plain = run()
    assert (plain.returncode, plain.stdout) == (7, "no address ['-m', 'an argument'] __main__\n"), plain.stderr
    address = "sc://localhost:20000/;user_id=;token=a-token-of-the-engine"
    step = run(SPARK_CONNECT_LOCAL_URL=f"{address};session_id=1")
    assert step.returncode == 7
    assert step.stdout.startswith(f"sc://localhost:20000/;user_id=;token={MASK};session_id=1 ")
    assert "a-token" not in step.stdout + step.stderr
    assert (launcher.stat().st_mode & 0o777) == 0o700
