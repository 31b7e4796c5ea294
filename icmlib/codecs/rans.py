"""CompressAI's range coder, made safe for strings from strangers. Its decoder (rANS,
compressai/cpp_exts/rans/rans_interface.cpp) does not know the length of its string and reads beyond
the end of a wrong one. So each is padded with zeros, as many as the decoder can read at most.
"""

from collections.abc import Callable

import torch
from compressai.ans import RansDecoder, RansEncoder
from compressai.entropy_models import EntropyModel

from icmlib.codecs.bitstream import BitstreamError

STATE_BYTES, WORD_BYTES = 8, 4  # the decoder begins with a state, and adds a word at a time
STATES = range(2**31, 2**63)  # in which every encoder and decoder stays
SYMBOL_BYTES = 7  # at most: 16 bits of a table, 4 bits of a length, 32 bits of what is in no table


class Tables:
    """An entropy model's tables of cumulative frequencies. Raises ValueError: it has none yet."""

    def __init__(self, model: EntropyModel):
        rows, lengths = model.quantized_cdf.tolist(), model.cdf_length.tolist()
        if not rows:
            raise ValueError("the codec has no tables for its entropy coder; call update()")
        rows = [row[:length] for row, length in zip(rows, lengths)]
        self.tables = rows, lengths, model.offset.tolist()

    def encode(self, symbols: torch.Tensor, indexes: torch.Tensor) -> bytes:
        """Integers, each coded by the table that its index names."""
        integers = (each.flatten().tolist() for each in (symbols, indexes))
        return RansEncoder().encode_with_indexes(*integers, *self.tables)

    def reader(self, string: bytes, count: int) -> Callable[[torch.Tensor], torch.Tensor]:
        """A function, indexes -> the string's next symbols (`count` in all). Raises as `padded`."""
        decoder = RansDecoder()
        decoder.set_stream(padded(string, count))

        def read(indexes: torch.Tensor) -> torch.Tensor:
            symbols = decoder.decode_stream(indexes.flatten().tolist(), *self.tables)
            return torch.tensor(symbols, dtype=torch.int32, device=indexes.device).view_as(indexes)

        return read


def padded(string: bytes, count: int) -> bytes:
    """The string with zeros behind it: all that decoding `count` symbols may read. Raises
    BitstreamError: no encoder has written this string.
    A symbol beyond its table is coded in nibbles: their number in unary (15, 15, ..., the rest),
    then those. Each 15 costs 64 bits: a word may ask for 64 bytes, a state for as many a symbol."""
    longest = STATE_BYTES + SYMBOL_BYTES * count
    if len(string) % WORD_BYTES or not STATE_BYTES <= len(string) <= longest:
        need = f"need a multiple of {WORD_BYTES}, {STATE_BYTES} to {longest}"
        raise BitstreamError(f"a string of {len(string)} bytes is for {count} symbols; {need}")
    if int.from_bytes(string[:STATE_BYTES], "little") not in STATES:
        raise BitstreamError(f"a string starts with {string[:8].hex()}, as no encoder's does")
    return string.ljust(2 * STATE_BYTES + 17 * len(string) + 75 * count, b"\0")
