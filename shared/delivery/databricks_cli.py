"""The `databricks` command, if it is installed and configured for a workspace."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from shared.errors import BundleError
from shared.settings import CHECKOUT


def missing() -> str:
    """Return why the command cannot be used here; empty if it can."""
    if not shutil.which("databricks"):
        return "the command databricks is not installed"
    configured = Path(os.environ.get("DATABRICKS_CONFIG_FILE", Path.home() / ".databrickscfg"))
    if "DATABRICKS_HOST" not in os.environ and not configured.is_file():
        return "no workspace is known: neither DATABRICKS_HOST nor ~/.databrickscfg"
    return ""


def validate(target: str) -> str:
    """Validate the bundle with Databricks' own command, warnings as errors. Return the result as a sentence.

    If the command or a workspace is missing, the sentence says so.

    Raises:
        BundleError: if the command refuses the bundle, with the command's output.
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
