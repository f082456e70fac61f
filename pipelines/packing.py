"""Genotype codes packed into 64-bit words: small to shuffle, and counted without unpacking.

A word holds codes from its highest bits downwards; the last word of a run holds what is left over
in its lowest bits, zeros above. Hard calls take two bits (0, 1, 2 alternate alleles, 3 missing),
imputed dosages eight (in units of the store's code, 255 missing).

Legend: R records, W words, n people.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_WORD_BITS = 64
_LOW_BITS = np.int64(0x5555555555555555)


@dataclass(frozen=True)
class Packing:
    """How codes are packed.

    Attributes
    ----------
    bits : int
        Bits of one code, 2 or 8.
    """

    bits: int

    @property
    def per_word(self) -> int:
        """Codes in one word."""
        return _WORD_BITS // self.bits

    @property
    def missing(self) -> int:
        """The code of a missing genotype."""
        return (1 << self.bits) - 1

    def num_words(self, num_people: int) -> int:
        """Words that a run of people takes."""
        return -(-num_people // self.per_word)

    def expression(self, hl: Any, entries: Any, start: Any, stop: Any) -> Any:
        """Hail expression: the words of ``entries[start:stop]``, by their int32 field ``code``."""

        def word(first: Any) -> Any:
            # a slice of the row's own array costs nothing; one of a mapped array maps it anew
            run = entries[first : hl.min(first + self.per_word, stop)]
            # int64 wraps around, which is what filling its sign bit takes
            return run.fold(
                lambda done, entry: done * (1 << self.bits) + hl.or_else(entry.code, self.missing),
                hl.int64(0),
            )

        return hl.range(start, stop, self.per_word).map(word)

    def unpack(
        self, words: NDArray[np.int64], num_people: int, values: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """Codes of one run of people.

        Parameters
        ----------
        words : ndarray of int64, shape (R, W)
        num_people : int
        values : ndarray of uint8, shape (codes,), optional
            What to give instead of each packed code; by default the packed codes themselves.

        Returns
        -------
        ndarray of uint8, shape (R, num_people)
        """
        octets = words.astype(">i8").view(np.uint8)
        if self.bits == 2:
            octets = _four_codes(values)[octets].view(np.uint8)
        elif values is not None:
            octets = values[octets]
        short = words.shape[-1] * self.per_word - num_people
        if short:
            full = num_people - (self.per_word - short)
            octets = np.concatenate([octets[:, :full], octets[:, full + short :]], axis=1)
        return octets

    def count(self, words: NDArray[np.int64], num_people: int) -> NDArray[np.int64]:
        """Totals over one run of people, without unpacking hard calls.

        Returns
        -------
        ndarray of int64, shape (R, 3)
            Hard calls: people with 0, 1 and 2 alternate alleles. Imputed dosages: people with a
            dosage, the sum of their codes, and zero.
        """
        if self.bits == 2:
            low, high = words & _LOW_BITS, (words >> 1) & _LOW_BITS
            with_low, with_high, missing = (
                np.bitwise_count(pattern).sum(axis=1, dtype=np.int64)
                for pattern in (low, high, low & high)
            )
            one, two = with_low - missing, with_high - missing
            return np.stack([num_people - one - two - missing, one, two], axis=1)
        codes = self.unpack(words, num_people)
        called = codes != self.missing
        total = np.where(called, codes, 0).sum(axis=1, dtype=np.int64)
        return np.stack([called.sum(axis=1), total, np.zeros(len(codes), np.int64)], axis=1)


CALLS = Packing(2)
DOSAGES = Packing(8)


def _four_codes(values: NDArray[np.uint8] | None) -> NDArray[np.uint32]:
    """The four values of every octet, highest bits first, as one 32-bit number."""
    octet = np.arange(256)
    codes = np.stack([(octet >> shift) & 3 for shift in (6, 4, 2, 0)], axis=1).astype(np.uint8)
    codes = codes if values is None else values[codes]
    return np.ascontiguousarray(codes).view(np.uint32).ravel()
