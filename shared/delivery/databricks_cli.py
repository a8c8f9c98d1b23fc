"""The `databricks` command, where it is installed and knows a workspace."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from shared.errors import BundleError
from shared.settings import CHECKOUT


def missing() -> str:
    """Return why the command cannot be asked here; empty if it can."""
    if not shutil.which("databricks"):
        return "the command databricks is not installed"
    configured = Path(os.environ.get("DATABRICKS_CONFIG_FILE", Path.home() / ".databrickscfg"))
    if "DATABRICKS_HOST" not in os.environ and not configured.is_file():
        return "no workspace is known: neither DATABRICKS_HOST nor ~/.databrickscfg"
    return ""


def validate(target: str) -> str:
    """Let Databricks' own command validate the bundle, warnings as errors; return what came of it, as a sentence.

    Where the command or a workspace is missing, the sentence says so.

    Raises:
        BundleError: with what the command says, if it refuses the bundle.
    """
    if why := missing():
        return f"databricks bundle validate --strict: skipped, because {why}"
    done = subprocess.run(
        ["databricks", "bundle", "validate", "--strict", "--target", target],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = (done.stdout + done.stderr).strip()
        raise BundleError(
            f"databricks bundle validate --strict refuses the bundle for {target}:\n{said}",
            "correct what it names",
        )
    return "databricks bundle validate --strict: OK"
