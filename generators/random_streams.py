"""Random numbers by index: number *i* of a stream is a hash of the seed, the stream's name and *i*.

A generator such as ``numpy.random`` has a state: its millionth number exists only after the 999,999 numbers before
it, and another chunk size or library version changes all later numbers. Here a number depends on
``(seed, name, index)`` alone. So chunks can have any size, one order can be generated without the others, and one
table without the rest. Every machine gets the same bytes, because only 64-bit integer arithmetic, division and square
roots are used. IEEE 754 defines these to the last bit, but not ``exp``, ``log`` and ``pow``.

The hash is the output function of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
Generators, OOPSLA 2014), 2 ns a number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Words = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


class Stream:
    """An endless, named sequence of random 64-bit words that can be read at any index.

    Args:
        seed: the seed of the whole run.
        name: the use of the numbers, for example ``("orders", "quantity")``. Streams of different names
            are independent.

    Example:
        >>> dice = Stream(42, "dice")
        >>> dice.below(np.arange(5), 6) + 1
        array([6, 1, 6, 4, 5])
        >>> dice.below(np.array([3]), 6) + 1
        array([4])
    """

    def __init__(self, seed: int, *name: str | int) -> None:
        self._seed = seed
        self._name = name
        label = "/".join(str(part) for part in (seed, *name))
        self._key = np.uint64(int.from_bytes(hashlib.sha256(label.encode()).digest()[:8], "little"))

    def named(self, *name: str | int) -> Stream:
        """Return a stream whose name is this stream's name followed by the given name."""
        return Stream(self._seed, *self._name, *name)

    def words(self, index: Ints) -> Words:
        """Return the 64 random bits at each index."""
        word = index.astype(np.uint64) * _GOLDEN + self._key
        word ^= word >> np.uint64(30)
        word *= _MIX_1
        word ^= word >> np.uint64(27)
        word *= _MIX_2
        word ^= word >> np.uint64(31)
        return word

    def below(self, index: Ints, bound: int | Ints) -> Ints:
        """Return whole numbers in ``[0, bound)``, one per index; ``bound`` is at most 2**31."""
        high = (self.words(index) >> np.uint64(32)).astype(np.int64)
        return (high * bound) >> 32

    def unit(self, index: Ints) -> npt.NDArray[np.float64]:
        """Return numbers in ``(0, 1]`` with 53 random bits, one per index."""
        return ((self.words(index) >> np.uint64(11)) + np.uint64(1)).astype(np.float64) / 2.0**53

    def chance(self, index: Ints, share: float) -> Bools:
        """Return booleans, one per index; this share of them is true."""
        return self.unit(index) <= share

    def pick(self, index: Ints, weights: Sequence[int]) -> Ints:
        """Return positions in ``weights``, each as often as its weight says."""
        steps = np.cumsum(weights)
        return np.searchsorted(steps, self.below(index, int(steps[-1])), side="right").astype(np.int64)

    def sample(self, members: range | Ints, count: int) -> Ints:
        """Return ``count`` different members, in their order and evenly spread; all members if there are fewer.

        One member is taken from each of ``count`` equal parts, so a range of millions need not become an array.
        """
        count = min(count, len(members))
        edges = np.arange(count + 1, dtype=np.int64) * len(members) // max(1, count)
        places = edges[:-1] + self.below(np.arange(count, dtype=np.int64), np.diff(edges))
        return members.start + members.step * places if isinstance(members, range) else members[places]


def heavy_tail(uniform: npt.NDArray[np.float64], smallest: int, largest: int) -> Ints:
    """Return whole numbers with a Pareto tail of exponent 4/3: most are near ``smallest``, few near ``largest``.

    This exponent needs only square roots: ``u ** 0.75 == sqrt(u) * sqrt(sqrt(u))``.

    Args:
        uniform: numbers evenly distributed in ``(0, 1]``; a smaller number gives a larger result.
        smallest: the beginning of the tail.
        largest: the limit that the tail approaches, because no customer orders every hour.
    """
    root = np.sqrt(uniform)
    return (smallest / (root * np.sqrt(root) + smallest / largest)).astype(np.int64)


class Lottery:
    """Draws members in proportion to the whole number of tickets that each member holds.

    Every ticket is an element of one array, so a draw is one look-up however unequal the members are. A draw can be
    limited to the first members: so no customer gets an order from before the sign-up.
    """

    def __init__(self, tickets: Ints) -> None:
        self._sold_before = np.concatenate([[0], np.cumsum(tickets)])
        self._holder = np.repeat(np.arange(len(tickets), dtype=np.int32), tickets)

    def draw(self, stream: Stream, index: Ints, members: int | Ints, allowed: Callable[[Ints, Ints], Bools]) -> Ints:
        """Return one winner per index. A draw is repeated until its winner is allowed.

        Args:
            stream: the source of the random numbers.
            index: the number of the stream that each draw uses.
            members: how many members, from the first on, take part in each draw; they hold at least one ticket.
            allowed: called with winners and their positions in ``index``; returns which winners are allowed.
        """
        tickets = np.broadcast_to(self._sold_before[members], index.shape)
        winners = np.empty(len(index), dtype=np.int64)
        open_draws = np.arange(len(index), dtype=np.int64)
        while open_draws.size:
            drawn = self._holder[stream.below(index[open_draws], tickets[open_draws])].astype(np.int64)
            winners[open_draws] = drawn
            open_draws = open_draws[~allowed(drawn, open_draws)]
            stream = stream.named("again")
        return winners
