"""A checkpoint is claimed completely or not at all, and only by its own stream."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shared.checkpoints import claimed
from shared.errors import PipelineError

OURS = {"bronze.clickstream_raw": "the id of a table", "topic clicks": "the id of a topic"}
TABLE = ["bronze.clickstream_raw"]


def claim(directory: Path, identities: dict[str, str] = OURS, filled: list[str] = TABLE) -> Path:
    return Path(claimed(directory, identities, filled, "start over"))


def begun(directory: Path) -> Path:
    """Claim a checkpoint and let its stream plan a batch; return the directory of the plans."""
    plans = claim(directory, filled=[]) / "offsets"
    plans.mkdir(parents=True)
    (plans / "0").touch()
    return plans


def test_it_is_claimed_once_and_found_again(tmp_path: Path) -> None:
    stream = begun(tmp_path / "stream").parent
    assert claim(tmp_path / "stream") == stream


def test_a_table_with_rows_does_not_get_a_new_one(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"Rows are in bronze\.clickstream_raw, but (.|\n)*is gone") as raised:
        claim(tmp_path / "stream")
    assert raised.value.hint == "start over"
    assert list(tmp_path.iterdir()) == []
    (begun(tmp_path / "stream") / "0").unlink()
    with pytest.raises(PipelineError, match="is gone"):
        claim(tmp_path / "stream")


def test_another_table_or_topic_of_the_name_is_refused_by_its_name(tmp_path: Path) -> None:
    begun(tmp_path)
    with pytest.raises(PipelineError, match="belongs to another topic clicks: "):
        claim(tmp_path, OURS | {"topic clicks": "another id"})
    with pytest.raises(PipelineError, match="belongs to another topic clicks and topic orders: "):
        claim(tmp_path, {"bronze.clickstream_raw": "the id of a table", "topic orders": "the id of a topic"})
    claim(tmp_path)


def test_half_a_plan_is_removed_if_it_is_the_first(tmp_path: Path) -> None:
    plans = begun(tmp_path)
    (plans.parent / "metadata").touch()
    (plans / ".1.half.tmp").touch()
    claim(tmp_path)
    assert sorted(file.name for file in plans.iterdir()) == [".1.half.tmp", "0"]
    (plans / "0").unlink()
    claim(tmp_path, filled=[])
    assert [file.name for file in plans.parent.iterdir()] == ["metadata"]


@pytest.mark.skipif(os.name != "posix", reason="a limit to the size of files can be set on POSIX only")
def test_one_that_could_not_be_claimed_is_claimed_by_the_next_run(tmp_path: Path) -> None:
    """A limit on the size of this process's files has the same effect as a full disk."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            claim(tmp_path, filled=[])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert claim(tmp_path, filled=[]) == claim(tmp_path, filled=[])
