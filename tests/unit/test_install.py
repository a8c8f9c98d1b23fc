"""uv asks the same index as pip, and pip takes over where uv does not work."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest

from shared.runtime import install


def test_pips_settings_are_those_of_the_most_telling_section():
    listing = (
        ":env:.index-url='https://index.example/simple'\n"
        "download.index-url='https://other.example'\n"
        "global.cert='/etc/a \"quoted\" ca.crt'\n"
        "global.index-url='https://global.example'\n"
        "install.find-links='/opt/a\\n/opt/b'\n"
    )
    assert install.pip_settings(listing) == {
        "index-url": "https://index.example/simple",
        "cert": '/etc/a "quoted" ca.crt',
        "find-links": "/opt/a\n/opt/b",
    }


def test_what_pip_really_says_is_understood(monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("PIP_CERT", "/from/the/environment.crt")
    (tmp_path / "pip.conf").write_text("[global]\nindex-url = https://u:p%40w@a.example/s\ncert = /of/the/file.crt\n")
    listing = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    found = install.pip_settings(listing)
    assert found["index-url"] == "https://u:p%40w@a.example/s"
    assert found["cert"] == "/from/the/environment.crt"


def test_uv_asks_the_index_that_pip_asks(tmp_path):
    pip = {
        "index-url": "https://a.example/simple",
        "extra-index-url": "https://b.example\nhttps://c.example",
        "find-links": f"{tmp_path} {tmp_path}/nowhere https://d.example/list",
        "trusted-host": "a.example b.example",
        "cert": "/ca.crt",
        "proxy": "http://proxy.example:3128",
        "default-timeout": "180",
        "disable-pip-version-check": "1",
    }
    assert install.uv_environment(pip, {"https_proxy": "http://mine.example"}) == {
        "UV_DEFAULT_INDEX": "https://a.example/simple",
        "UV_INDEX": "https://b.example https://c.example",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": f"{tmp_path},https://d.example/list",
        "UV_INSECURE_HOST": "a.example b.example",
        "SSL_CERT_FILE": "/ca.crt",
        "UV_HTTP_TIMEOUT": "180",
        "HTTP_PROXY": "http://proxy.example:3128",
    }


def test_what_uv_is_told_already_stays():
    given = {"UV_DEFAULT_INDEX": "https://mine.example", "SSL_CERT_FILE": "/mine.crt"}
    assert install.uv_environment({"index-url": "https://a.example", "cert": "/ca.crt"}, given) == {}


def test_progress_says_how_many_of_the_large_packages_are_here():
    progress = install.Progress()
    seen = []
    for line in (
        "Resolved 155 packages in 1.20s\n",
        "Downloading pyarrow (52.5MiB)\n",
        "   Building pyspark==4.2.0\n",
        " Downloaded pyarrow\n",
        "      Built pyspark==4.2.0\n",
        "Prepared 155 packages in 30s\n",
    ):
        progress.take(line)
        seen.append(progress.now)
    assert seen[1:4] == [
        "0 of 1 large packages are here; next: pyarrow",
        "0 of 2 large packages are here; next: pyarrow, pyspark",
        "1 of 2 large packages are here; next: pyspark",
    ]
    assert seen[-1] == "copying files"


def test_a_file_gets_a_line_for_each_change_and_a_failure_carries_what_was_printed(monkeypatch):
    monkeypatch.setattr(install.Line, "EVERY", 0.0)
    out = io.StringIO()
    code = "print('Collecting numpy', flush=True); print('error: no space', flush=True); raise SystemExit(3)"
    with pytest.raises(subprocess.CalledProcessError) as raised:
        install.run([sys.executable, "-c", code], out=out)
    assert raised.value.output == "Collecting numpy\nerror: no space\n"
    assert out.getvalue().split("  ")[-1] == "collecting numpy\n"


def test_progress_follows_pip_too():
    progress = install.Progress()
    seen = []
    for line in (
        "Collecting pyarrow==26.0.1\n",
        "  Downloading pyarrow-26.0.1-cp311-cp311-manylinux_2_28_x86_64.whl (52.5 MB)\n",
        "Installing collected packages: pyarrow, uv\n",
    ):
        progress.take(line)
        seen.append(progress.now)
    assert seen == ["collecting pyarrow", "downloading pyarrow", "copying files"]


@pytest.fixture
def commands(monkeypatch):
    """Records the installers' commands instead of running them; commands with one of the words fail."""
    ran: list[list[str]] = []
    failing: list[str] = []

    def run(command, environment=None, out=None):
        ran.append(command[1:])
        if failing and any(set(word.split()) <= set(command) for word in failing):
            raise subprocess.CalledProcessError(2, command, "Resolved\nerror: No space left on device\n")

    monkeypatch.setattr(install, "run", run)
    settings = subprocess.CompletedProcess([], 0, ":env:.timeout='9'\n")
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: settings)
    return ran, failing


def test_uv_installs_what_it_has_kept_without_asking_anybody(commands, capsys):
    ran, _ = commands
    assert install.main() == 0
    assert ran[0][-1] == "uv"
    assert ran[1][:4] == ["-m", "uv", "pip", "install"]
    assert "--offline" in ran[1]
    assert ran[1][-4:] == install.PACKAGES
    assert len(ran) == 2
    assert "installed by uv" in capsys.readouterr().out


def test_what_uv_has_not_kept_it_asks_the_index_for(commands):
    ran, failing = commands
    failing.append("--offline")
    assert install.main() == 0
    assert [("--offline" in command) for command in ran] == [False, True, False]
    assert ran[2][:3] == ["-m", "uv", "pip"]


@pytest.mark.parametrize(("fails", "count"), [("pip install uv", 2), ("uv --python", 4)])
def test_where_uv_does_not_work_pip_installs_and_one_line_says_so(commands, capsys, fails, count):
    ran, failing = commands
    failing.append(fails)
    assert install.main() == 0
    assert ran[-1] == ["-m", "pip", "--disable-pip-version-check", "install", *install.PACKAGES]
    assert len(ran) == count
    said = [line for line in capsys.readouterr().out.splitlines() if "uv cannot" in line]
    assert said == ["  uv cannot install here (error: No space left on device); pip does, in two to four minutes"]


def test_where_nothing_can_install_the_reason_and_what_to_do_are_said(commands, capsys):
    _, failing = commands
    failing.append("install")
    assert install.main() == 1
    errors = capsys.readouterr().err
    assert "error: No space left on device" in errors
    assert "-> read the lines above: is the package index reachable, are 5 GB free?" in errors
