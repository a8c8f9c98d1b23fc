"""Show the reader of a notebook what the running cell waits for, and for how long already."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread


@contextmanager
def waiting_for(what: str) -> Iterator[None]:
    """Show a line below the running cell while the body of this context manager runs.

    The line appears only if JupyterLab's server says that a person opened the notebook. So the outputs that papermill
    stores and nbval compares are the same whether or not the cell had to wait.
    """
    if "JPY_SESSION_NAME" not in os.environ or "IPython" not in sys.modules:
        yield
        return
    from IPython.display import display

    begun, done = time.monotonic(), Event()

    def line(state: str) -> dict[str, str]:
        return {"text/plain": f"{what}: {state}{time.monotonic() - begun:.0f} s"}

    handle = display(line(""), raw=True, display_id=True)

    def tick() -> None:
        while not done.wait(1.0):
            handle.update(line(""), raw=True)

    clock = Thread(target=tick, daemon=True)
    clock.start()
    try:
        yield
    except BaseException:
        state = "broken off after "
        raise
    else:
        state = "done in "
    finally:
        done.set()
        clock.join()
        handle.update(line(state), raw=True)
