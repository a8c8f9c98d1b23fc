"""A slow and simple reference for the history of a thing. The Spark code must agree with it; they share no code.

Instants are whole numbers here. A delivery is one row of one file; the versions follow from the set of deliveries.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Delivery:
    """One row of one file: the values for its key, and its arrival."""

    key: str | None
    sequence: int | None
    tracked: str | None = None
    untracked: str | None = None
    deleted: bool = False
    ingested_at: int = 1
    source_file: str = "1.csv"

    @property
    def arrival(self) -> tuple[int, str]:
        return self.ingested_at, self.source_file

    @property
    def says(self) -> tuple:
        return self.key, self.untracked, self.tracked, self.deleted, self.sequence


@dataclass(frozen=True)
class Version:
    """One row of the dimension: [start, end), open if ``end`` is None."""

    key: str
    tracked: str | None
    untracked: str | None
    start: int
    end: int | None


def upsert(tracked: str | None, at: int | None, untracked: str | None = "Ann") -> Delivery:
    """Return the event that a thing has this tracked value from this instant on."""
    return Delivery("?", at, tracked, untracked)


def delete(at: int, untracked: str | None = "Ann", tracked: str | None = None) -> Delivery:
    """Return the event that a thing ended; the event may repeat the thing's last values."""
    return Delivery("?", at, tracked, untracked, deleted=True)


def versions(deliveries: Iterable[Delivery]) -> list[Version]:
    """Return the versions of every key, in order of key and start."""
    first_arrival: dict[tuple, Delivery] = {}
    for delivery in deliveries:
        if delivery.key is None or delivery.sequence is None:
            continue
        known = first_arrival.get(delivery.says)
        if known is None or delivery.arrival < known.arrival:
            first_arrival[delivery.says] = delivery

    winners: dict[tuple, Delivery] = {}
    for event in first_arrival.values():
        rival = winners.get((event.key, event.sequence))
        if rival is None or _beats(event, rival):
            winners[event.key, event.sequence] = event

    found: list[Version] = []
    for key in sorted({key for key, _ in winners}):
        events = sorted((e for e in winners.values() if e.key == key), key=lambda event: event.sequence)
        found += _story(key, events)
    return found


def _beats(event: Delivery, rival: Delivery) -> bool:
    if event.deleted != rival.deleted:
        return event.deleted
    if event.arrival != rival.arrival:
        return event.arrival > rival.arrival
    # NULL is less than every text.
    ours = [(value is not None, value) for value in event.says]
    theirs = [(value is not None, value) for value in rival.says]
    return ours > theirs


def _story(key: str, events: list[Delivery]) -> list[Version]:
    name = None
    rows: list[Version] = []
    for event in events:
        is_open = bool(rows) and rows[-1].end is None
        if not event.deleted:
            name = event.untracked
        if event.deleted:
            if is_open:
                rows[-1] = replace(rows[-1], end=event.sequence)
        elif not is_open:
            rows.append(Version(key, event.tracked, None, event.sequence, None))
        elif rows[-1].tracked != event.tracked:
            rows[-1] = replace(rows[-1], end=event.sequence)
            rows.append(Version(key, event.tracked, None, event.sequence, None))
    return [replace(row, untracked=name) for row in rows]


def version_at(found: Iterable[Version], key: str, at: int) -> int | None:
    """Return the start of the version to which a fact at this instant belongs; None if the key has no version.

    It is the latest start that is not after the fact. A fact before the first version belongs to the first version.
    """
    starts = sorted(version.start for version in found if version.key == key)
    begun = [start for start in starts if start <= at]
    if begun:
        return begun[-1]
    return starts[0] if starts else None
