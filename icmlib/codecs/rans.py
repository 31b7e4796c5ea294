"""CompressAI's entropy decoder, made safe for strings from strangers.

The decoder (rANS, compressai/cpp_exts/rans/rans_interface.cpp) is never told how long its string
is: it reads on behind the end of one that is cut short or made up. So each string gets zeros
behind it, as many as the decoder can read at most (`padded`).
"""

import torch

from icmlib.codecs.bitstream import BitstreamError

STATE_BYTES, WORD_BYTES = 8, 4  # the decoder begins with a state, and adds a word at a time
STATES = range(2**31, 2**63)  # in which every encoder and decoder stays
SYMBOL_BYTES = 7  # at most: 16 bits of a table, 4 bits of a length, 32 bits of what is in no table


def padded(string: bytes, count: int, escape: int) -> bytes:
    """The string with zeros behind it: all that decoding `count` symbols may read.

    A state in `STATES` stays there, so that bits taken from it are replaced by words of 32. A
    symbol takes up to 16. One beyond its table is coded raw, in nibbles: their number n first,
    in unary (15, 15, ..., the rest), then n nibbles. So each nibble of 15 costs 15 more, or 64
    bits. A string of W words holds at most 8 W of them. Once zeros are read, the first of them
    ends the unary number; before it come the nibbles that are left in the state: it is below
    escape * 2^47 after the symbol, and is refilled below 2^31. Rounding takes less than 1 %.

    Args:
        count: symbols to decode.
        escape: largest frequency, of 65536, of the symbol for what is beyond a table.

    Raises:
        BitstreamError: no encoder has written this string.
    """
    longest = STATE_BYTES + SYMBOL_BYTES * count
    if len(string) % WORD_BYTES or not STATE_BYTES <= len(string) <= longest:
        raise BitstreamError(
            f"a string of {len(string)} bytes is stated for {count} symbols; need a multiple of "
            f"{WORD_BYTES}, {STATE_BYTES} to {longest}"
        )
    if int.from_bytes(string[:STATE_BYTES], "little") not in STATES:
        raise BitstreamError(f"a string starts with {string[:8].hex()}, as no encoder's does")
    left = -(-(16 + (escape - 1).bit_length()) // 4)  # nibbles in the state
    bits = 512 * len(string) // WORD_BYTES + count * (16 + 4 + 4 * 14 + 64 * left)
    return string.ljust(2 * STATE_BYTES + bits // 8 + bits // 800, b"\0")


def short(tables: list[list[int]], lengths: list[int]) -> list[list[int]]:
    """Each row cut to its own length: the same bytes, but the padding (of 64 rows to 3,133
    entries) is not copied again for every string."""
    return [row[:length] for row, length in zip(tables, lengths)]


class SafeCoder:
    """CompressAI's range coder for any string."""

    def __init__(self, coder):
        self.coder, self.name = coder, coder.name

    def encode_with_indexes(self, symbols, indexes, tables, lengths, offsets) -> bytes:
        rows = short(tables, lengths)
        return self.coder.encode_with_indexes(symbols, indexes, rows, lengths, offsets)

    def decode_with_indexes(self, string, indexes, tables, lengths, offsets) -> list[int]:
        rows = short(tables, lengths)
        string = padded(string, len(indexes), largest_escape(rows))
        return self.coder.decode_with_indexes(string, indexes, rows, lengths, offsets)


def decompress_autoregressive(coder, decompress, string: bytes, y_hat: torch.Tensor, *others):
    """CompressAI's `_decompress_ar`, which has a decoder of its own, for any string.

    y_hat (1, M, h + 4, w + 4) is what it fills, `others` are params, h, w and more."""
    rows = short(coder.quantized_cdf.tolist(), coder.cdf_length.tolist())
    _, height, width, *_ = others
    string = padded(string, y_hat.shape[1] * height * width, largest_escape(rows))
    return decompress(string, y_hat, *others)


def largest_escape(rows: list[list[int]]) -> int:
    """Of cumulative frequencies: the last symbol of each row stands for what is beyond it."""
    return max(row[-1] - row[-2] for row in rows)
