"""The program that the engine starts as its Python, for example for each step of a stream.

It runs the module that the engine names, unchanged. The module's output goes to the engine's log. pyspark's
``foreachBatch`` worker prints the address that it connects to, and this address contains the engine's token. This
program masks the token.
"""

from __future__ import annotations

import os
import runpy
import shlex
import sys
from pathlib import Path

from shared.masking import MaskedStream, hide
from shared.private import write_private

ADDRESS = "SPARK_CONNECT_LOCAL_URL"
"""The variable in which the engine passes its address, token included, to a step of a stream."""


def write_launcher(path: Path) -> Path:
    """Write the program that the engine starts as its Python: it runs this module with this Python. Return its path."""
    write_private(path, f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m {__name__} "$@"\n')
    path.chmod(0o700)
    return path


def main() -> None:
    """Run the module of the command line ``-m MODULE ARGUMENTS``, as Python would."""
    token = os.environ.get(ADDRESS, "").partition(";token=")[2].partition(";")[0]
    if token:
        hide(token)
        sys.stdout = MaskedStream(sys.stdout)  # type: ignore[assignment]
        sys.stderr = MaskedStream(sys.stderr)  # type: ignore[assignment]
    # sys.argv: this file, -m, the module, its arguments.
    module = sys.argv[2]
    sys.argv = sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
