"""A notebook's outputs contain no secret, whatever a cell does with it."""

from __future__ import annotations

import json
import os

import nbformat
import pytest
from nbclient import NotebookClient

from shared import secrets
from shared.masking import MASK
from shared.settings import CHECKOUT, Settings

SECRET = 'a "secret" of the notebook, 1ü'

CELLS = {
    "the resolver": "from shared import secrets\ntext = secrets.get('OF_A_NOTEBOOK').get_secret_value()",
    "printed": "print('asked with', text)",
    "on stderr": "import sys\nprint(text, file=sys.stderr)",
    "a result": "{'sasl.password': text}",
    "a long result": "[text] * 50",
    "displayed": "from IPython.display import HTML, display\ndisplay(HTML(f'<b>{text}</b>'))",
    "logged": "import logging\nlogging.warning('asked with %s', text)",
    "raised": "raise RuntimeError(f'refused: {text}')",
    "raised with its frames": "%xmode Verbose\ndef ask(password):\n    raise RuntimeError('refused')\nask(text)",
}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The output of each cell, as it would be stored."""
    home = tmp_path_factory.mktemp("masked")
    secrets.put("OF_A_NOTEBOOK", SECRET, Settings(home=home))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS.values()])
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SHOPMETRICS_HOME", str(home))
        environment.setenv("PYTHONPATH", os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")]))
        NotebookClient(notebook, timeout=60, allow_errors=True).execute()
    return {name: json.dumps(cell.outputs) for name, cell in zip(CELLS, notebook.cells, strict=True)}


@pytest.mark.parametrize("name", list(CELLS)[1:])
def test_the_output_of_a_cell_hides_it(outputs: dict[str, str], name: str) -> None:
    assert MASK in outputs[name], outputs[name]
    assert "of the notebook, 1" not in outputs[name]
