"""Pickles of plain numpy arrays, read without running anything that they ask for.

A pickle is a program: it names functions and calls them. The few that numpy's arrays need are
replaced here by harmless ones of our own, every other name is refused, and numpy itself only sees
bytes, a shape and a type of number.
"""

import math
import pickle
from pathlib import Path

import numpy as np


class _Type:
    """In place of `numpy.dtype`."""

    def __init__(self, name: str, *_):
        self.dtype = np.dtype(name)
        if self.dtype.kind not in "biuf":
            raise pickle.UnpicklingError(f"arrays of {name!r} are not numbers")

    def __setstate__(self, state: tuple):
        self.dtype = self.dtype.newbyteorder(state[1])  # (version, byte order, ...)


class _Array:
    """In place of an empty `numpy.ndarray`, whose state follows."""

    def __init__(self, *_):
        self.array = None

    def __setstate__(self, state: tuple):
        _, shape, kind, fortran, data = state
        flat = np.frombuffer(_bytes(data), kind.dtype)
        self.array = flat[: math.prod(shape)].reshape(shape, order="F" if fortran else "C")


def _scalar(kind: _Type, data: bytes | str) -> np.generic:
    """In place of `numpy.core.multiarray.scalar`."""
    return np.frombuffer(_bytes(data), kind.dtype)[0]


def _bytes(text: bytes | str = b"", *_) -> bytes:
    """Protocol 2 writes bytes as text, each a Latin-1 character; in place of `_codecs.encode`, and
    of `bytes` where there are none."""
    return text.encode("latin1") if isinstance(text, str) else text


ADMITTED = {
    ("numpy", "dtype"): _Type,
    ("numpy", "ndarray"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "_reconstruct"): _Array,  # numpy 2
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("_codecs", "encode"): _bytes,
    ("__builtin__", "bytes"): _bytes,
    ("collections", "OrderedDict"): dict,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        if (module, name) not in ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no array needs")
        return ADMITTED[module, name]


def read(path: Path) -> dict:
    """The pickled dict, with numpy arrays inside; text of Python 2 is Latin-1.

    Raises:
        pickle.UnpicklingError: a broken pickle, or one of more than dicts, lists, text, numbers and
            arrays of numbers.
    """
    with path.open("rb") as stream:
        try:
            return _arrays(_Unpickler(stream, encoding="latin1").load())
        except Exception as error:  # a broken program can go wrong in any way
            raise pickle.UnpicklingError(f"{path} is no pickle of arrays: {error}") from error


def _arrays(thing):
    """What was read, with numpy's own arrays for our stand-ins."""
    if isinstance(thing, _Array):
        return thing.array
    if isinstance(thing, dict):
        return {key: _arrays(value) for key, value in thing.items()}
    return [_arrays(value) for value in thing] if isinstance(thing, list | tuple) else thing
