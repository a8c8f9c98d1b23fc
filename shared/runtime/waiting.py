"""Say what is waited for, and for how long already, to somebody who looks at a notebook."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread


@contextmanager
def waiting_for(what: str) -> Iterator[None]:
    """Show a line below the running cell while the body of this context manager is at work.

    Only where a person opened the notebook, as JupyterLab's server says: what papermill stores and nbval compares is
    the same whether or not there was something to wait for.
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
