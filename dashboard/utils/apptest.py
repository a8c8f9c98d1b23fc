"""The app opened without a browser: what a page shows, as values to look at and to compare.

Streamlit's own ``AppTest`` runs the script in this process. It is what the tests, the checks of the course and its
notebooks use; the app itself does not.

>>> sales = opened("sales", period="30 days")
>>> sorted(metrics(sales))
['Average order value', 'Orders', 'Revenue', 'Units']
"""

from __future__ import annotations

import base64
import json
import logging
from typing import Any

import numpy as np
from streamlit.testing.v1 import AppTest
from streamlit.testing.v1.util import patch_config_options

from dashboard.utils.sources import DashboardError
from shared.settings import CHECKOUT

APP = CHECKOUT / "dashboard" / "streamlit_app.py"

PAGES = {
    "sales": "1_Sales_Performance",
    "customers": "2_Customer_Analytics",
    "products": "3_Product_Insights",
    "traffic": "4_Kafka_Traffic",
}
"""Paths in the address, and the files of the pages. The landing page has the path ``""``."""

LANDING = "0_Overview"
"""The file of the landing page. ``AppTest`` opens an app there, and cannot go back to it."""

SECONDS = 180.0
"""A run may take so long on a busy machine; a page takes less than one."""


# Outside of its server Streamlit writes for every run that it is not in its server: known, and no news.
logging.getLogger("streamlit.runtime.scriptrunner_utils.script_run_context").addFilter(
    lambda record: "missing ScriptRunContext" not in record.getMessage()
)


class PageFailed(DashboardError):
    """A page ended in an exception instead of being drawn."""


def opened(page: str = "", **address: Any) -> AppTest:
    """Open the app at a page, by an address.

    Args:
        page: its path in the address; the landing page by default.
        address: the query parameters, such as ``period="All"``.

    Raises:
        PageFailed: if the page ends in an exception.

    Example:
        >>> opened("sales", period="All", category="Books").title[0].value
        'Sales performance'
    """
    app = run(AppTest.from_file(str(APP), default_timeout=SECONDS))
    return turned(app, page, **address) if page or address else app


def turned(app: AppTest, page: str, **address: Any) -> AppTest:
    """Go to one of :data:`PAGES` in an app that is open, as a reader does by its navigation, or by a link.

    Raises:
        PageFailed: if the page ends in an exception.
    """
    app.switch_page(f"pages/{PAGES[page]}.py")
    for name, value in address.items():
        app.query_params[name] = value
    return run(app)


def run(app: AppTest) -> AppTest:
    """Run the script of an app once more, after a change of a filter for example.

    Raises:
        PageFailed: if the page ends in an exception, with its message: readers of the app see none of it.
    """
    with patch_config_options({"client.showErrorDetails": "full"}):
        return clean(app.run())


def clean(app: AppTest) -> AppTest:
    """Return the app, if its last run raised nothing.

    Raises:
        PageFailed: with the message of each exception.
    """
    if app.exception:
        told = "; ".join(error.message for error in app.exception)
        trace = "\n".join(line for error in app.exception for line in error.stack_trace)
        raise PageFailed(f"The page ended in an exception: {told}", f"mend it; it was raised here:\n{trace}")
    return app


def metrics(app: AppTest) -> dict[str, str]:
    """Return the numbers on the page's tiles."""
    return {metric.label: metric.value for metric in app.metric}


def texts(app: AppTest) -> list[str]:
    """Return what the page says in words: captions, warnings, errors, hints."""
    return [str(one.value) for kind in (app.caption, app.warning, app.error, app.info) for one in kind]


def trace(app: AppTest, key: str, number: int = -1) -> dict[str, Any]:
    """Return what a figure on the page draws: one trace, with its numbers as lists."""
    return traces(app, key)[number]


def traces(app: AppTest, key: str) -> list[dict[str, Any]]:
    """Return all traces of a figure on the page."""
    return [_plain(one) for one in json.loads(app.get_by_key(f"figure_{key}").proto.spec)["data"]]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        if "bdata" in value:
            numbers = np.frombuffer(base64.b64decode(value["bdata"]), value["dtype"])
            shape = [int(part) for part in str(value.get("shape", len(numbers))).split(",")]
            return numbers.reshape(shape).tolist()
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value
