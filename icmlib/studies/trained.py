"""Trained codecs by name. Light: `icm` starts with it."""

from pathlib import Path

from icmlib import codecs
from icmlib.io import InputError, project_file, project_root
from icmlib.studies.profile import load_profile


def load_decoders(weights: str | Path | None = None) -> "codecs.Decoders":
    """A trained codec and the decoders that read its bits, from a file of decoders, or a run of
    notebooks 02 or 03: its folder, or that below `results` (`quick/finetune/p3x64`); by default the
    shipped ones, for photographs. Raises FileNotFoundError, ValueError."""
    path = Path(weights or codecs.SHIPPED)
    if path.suffix == ".safetensors":
        return codecs.read_decoders(path if path.exists() else project_file(path))
    folder = path.resolve() if path.is_dir() else project_root() / "results" / path
    if not (folder / "final.safetensors").exists():
        raise FileNotFoundError(f"no codec was trained in {folder}; run its notebook")
    stage, results = folder.parent.name, folder.parents[1]
    if stage not in ("base_codec", "finetune"):
        raise InputError(f"{folder} is no run of notebooks 02 (base_codec) or 03 (finetune)")
    config = load_profile(results.name).codec
    codec = codecs.load(config, folder / "final.safetensors")
    base = codecs.load(config, results / "base_codec" / "base" / "final.safetensors")
    return codecs.Decoders.of(base, {codecs.decoders.HUMAN: codec} if stage == "finetune" else {})
