from __future__ import annotations

import pytest

from shared.runtime.waiting import waiting_for


class Shown:
    """A stand-in for a notebook's cell: the text below it, as first shown and then updated."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def display(self, data, raw, display_id):
        assert raw
        assert display_id
        self.update(data, raw)
        return self

    def update(self, data, raw):
        self.texts.append(data["text/plain"])


@pytest.fixture
def shown(monkeypatch):
    cell = Shown()
    monkeypatch.setattr("IPython.display.display", cell.display)
    monkeypatch.setenv("JPY_SESSION_NAME", "a notebook")
    return cell


def test_who_looks_at_a_notebook_is_told_what_is_waited_for_and_how_long_it_took(shown):
    with waiting_for("The engine starts"):
        assert shown.texts == ["The engine starts: 0 s"]
    assert shown.texts[-1] == "The engine starts: done in 0 s"


def test_a_failure_ends_the_line_and_is_raised(shown):
    with pytest.raises(KeyboardInterrupt), waiting_for("The engine starts"):
        raise KeyboardInterrupt
    assert shown.texts[-1] == "The engine starts: broken off after 0 s"


def test_where_nobody_looks_nothing_is_shown(shown, monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME")
    with waiting_for("The engine starts"):
        pass
    assert shown.texts == []
