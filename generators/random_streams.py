"""Random numbers that are addressed instead of drawn: number *i* of a stream is a hash of its name and *i*.

A generator such as ``numpy.random`` has a state, so its millionth number exists only after the 999,999 before
it, and a change of chunk size or of library version changes everything behind it. Here a number depends on
``(seed, name, index)`` alone. Chunks can be of any size, one order can be made again without the others, one
table without the rest, and every machine gets the same bytes: only 64-bit integer arithmetic, division and
square roots are used, which IEEE 754 defines to the last bit (``exp``, ``log`` and ``pow`` it does not).

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
        seed: of the whole run.
        name: what the numbers are for, for example ``("orders", "quantity")``. Streams of different names
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
        """Return the stream of this name below this one."""
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
        """Return true at this share of the indices."""
        return self.unit(index) <= share

    def pick(self, index: Ints, weights: Sequence[int]) -> Ints:
        """Return positions in ``weights``, each as often as its weight says."""
        steps = np.cumsum(weights)
        return np.searchsorted(steps, self.below(index, int(steps[-1])), side="right").astype(np.int64)

    def sample(self, members: range | Ints, count: int) -> Ints:
        """Return ``count`` different members, in their order and evenly spread; all of them if they are fewer.

        One is taken from each of ``count`` equal stretches, so a range of millions need not become an array.
        """
        count = min(count, len(members))
        edges = np.arange(count + 1, dtype=np.int64) * len(members) // max(1, count)
        places = edges[:-1] + self.below(np.arange(count, dtype=np.int64), np.diff(edges))
        return members.start + members.step * places if isinstance(members, range) else members[places]


def heavy_tail(uniform: npt.NDArray[np.float64], smallest: int, largest: int) -> Ints:
    """Return whole numbers with a Pareto tail of exponent 4/3: most are near ``smallest``, few near ``largest``.

    The exponent is one that needs only square roots: ``u ** 0.75 == sqrt(u) * sqrt(sqrt(u))``.

    Args:
        uniform: evenly distributed in ``(0, 1]``; the smaller, the larger the result.
        smallest: where the tail begins.
        largest: where it bends towards a limit, since nobody orders every hour.
    """
    root = np.sqrt(uniform)
    return (smallest / (root * np.sqrt(root) + smallest / largest)).astype(np.int64)


class Lottery:
    """Draws members in proportion to the whole number of tickets that each of them holds.

    Every ticket is an element of one array, so a draw is one look-up however unequal the members are.
    Only the first so many members may take part in a draw, which is how a customer can win no order before
    signing up.
    """

    def __init__(self, tickets: Ints) -> None:
        self._sold_before = np.concatenate([[0], np.cumsum(tickets)])
        self._holder = np.repeat(np.arange(len(tickets), dtype=np.int32), tickets)

    def draw(self, stream: Stream, index: Ints, members: int | Ints, allowed: Callable[[Ints, Ints], Bools]) -> Ints:
        """Return one winner per index, drawn again until it is allowed.

        Args:
            stream: where the random numbers come from.
            index: which number of the stream each draw uses.
            members: how many members, from the first on, take part in each draw. They hold a ticket at least.
            allowed: called with winners and the positions in ``index`` that they won; says which may stand.
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
