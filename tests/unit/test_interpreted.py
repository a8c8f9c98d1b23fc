"""A small run is interpreted, and afterwards its session has the same settings as before."""

from __future__ import annotations

import pytest

from shared.interpreted import INTERPRETED, compiled, interpreted

FOUND = {name: f"{name} as it was" for name in INTERPRETED}


class Session:
    """The part of a session that :func:`interpreted` uses: its settings."""

    def __init__(self) -> None:
        self.settings = dict(FOUND)
        self.conf = self
        self.is_gone = False
        self.in_vain = 0
        """How often it was used after its engine was gone; a real session would try again for minutes."""

    def get(self, name: str) -> str:
        return self.settings[name]

    def set(self, name: str, value: str) -> None:
        if self.is_gone:
            self.in_vain += 1
            raise SparkConnectGrpcException("there is nobody")
        self.settings[name] = value


class SparkConnectGrpcException(Exception):
    """Has the name of the error that an ended engine causes."""


def test_settings_are_set_back_after_the_block():
    session = Session()
    with interpreted(session):
        assert session.settings == INTERPRETED
    assert session.settings == FOUND


def test_and_after_an_error():
    session = Session()
    with pytest.raises(ValueError, match="no"), interpreted(session):
        raise ValueError("no")
    assert session.settings == FOUND


@pytest.mark.parametrize("error", [ValueError("first"), SparkConnectGrpcException("first"), KeyboardInterrupt("first")])
@pytest.mark.parametrize("block", [interpreted, compiled])
def test_an_engine_that_is_gone_does_not_hide_what_failed_first(error, block):
    session = Session()

    def fail() -> None:
        with block(session):
            session.is_gone = True
            raise error

    with pytest.raises(type(error), match="first"):
        fail()
    assert bool(session.in_vain) == (type(error) is not SparkConnectGrpcException)


def test_blocks_that_overlap_end_with_what_the_first_has_found():
    session = Session()
    first, second = interpreted(session), interpreted(session)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert session.settings == INTERPRETED, "the second goes on"
    second.__exit__(None, None, None)
    assert session.settings == FOUND


def test_what_is_not_worth_it_is_let_be(monkeypatch):
    session = Session()
    with interpreted(session, is_worth_it=False):
        assert session.settings == FOUND
    monkeypatch.setattr("shared.interpreted.on_databricks", lambda: True)
    with interpreted(session):
        assert session.settings == FOUND


def test_one_question_is_compiled_among_others_that_are_not():
    session = Session()
    with interpreted(session):
        with compiled(session):
            assert {session.get(name) for name in INTERPRETED if "codegen" in name} == {"true", "FALLBACK"}
        assert session.settings == INTERPRETED
        with compiled(session, is_worth_it=False):
            assert session.settings == INTERPRETED
        with pytest.raises(ValueError, match="no"), compiled(session):
            raise ValueError("no")
        assert session.settings == INTERPRETED
    assert session.settings == FOUND
