"""Tables for readers, from the CSV files of a study alone: the columns that answer its question,
with an interval beside its value."""

import re
from pathlib import Path

import pandas as pd

from icmlib.io import written

# what the machine is scored by: the first that there is; of the VGG distance, less is better
MACHINE = {"mask_AP": "mask AP", "box_AP": "box AP", "vgg": "VGG distance"}
FACTS = ["profile", "seed", "data", "numbers"]  # columns of every table, for its caption
TABLES = {  # in the order of a report
    "table1": "Decoder finetuning (Table 1), test split",
    "aims": "Aims of study 1",
    "better_for_both": "A decoder that is better for both: findings",
    "aims_seeds": "Aims of study 1 by seed",
    "photographs": "Photographs",
    "knob_findings": "One bitstream, two decoders: beside the low-impact model",
    "rate_task_anchors": "Conventional codecs: encoder, preset, chroma format",
    "zoo": "Other codecs",
    "zoo_aims": "Aims for other codecs",
    "origin": "Where the pattern comes from",
    "origin_findings": "Where the pattern comes from: findings",
    "origin_chains": "Where the pattern comes from: codecs finetuned for the task",
    "depth": "Base codecs trained ever longer",
    "depth_findings": "Base codecs trained ever longer: findings",
    "rate_task_equal_rate": "Rate against task: every curve at one rate",
    "rate_task_findings": "Rate against task: findings",
    "rate_task_seeds": "Rate against task: findings by seed",
    "rate_task_bridge": "The bridge: a C-FT codec's decoder finetuned for people",
    "speed": "Speed, side by side",
    "bound": "What bounds a finetuning step, in seconds",
}
_CHANGES = "mask_AP_change box_AP_change vgg_change psnr_difference ssim_difference"
COLUMNS = {  # of tables that have more than a page is wide
    "photographs": "row bpp psnr ssim lpp2 lpp4 lpp8 prms removed",
    "zoo": f"codec label bpp {_CHANGES} peak prms_before prms removed",
    "depth": "steps rate row mask_AP mask_AP_change box_AP psnr peak prms removed bpp",
    "knob": "row way place mask_AP box_AP vgg psnr ssim lpp2 lpp4 lpp8 prms excess_prms",
    "rate_task": "curve point bpp box_AP psnr ssim prms kept",
    "rate_task_bridge": "point row bpp psnr_before psnr_after psnr_baseline back box_AP_before "
    "box_AP_after box_AP_change",
    "aims_seeds": "finding holds spread",
    "rate_task_seeds": "finding holds spread",
}
LEGEND = (
    "Intervals bound 95 % of a bootstrap over the test images; changes are paired with the base "
    "codec. They say nothing about another training. PRMS is the amplitude of the checkerboard "
    "pattern in grey levels, LPP how far it stands out of the spectrum around it (dB; originals "
    "read about 0 on average); both are of the RGB picture. *removed*: the share of the excess "
    "over the originals' PRMS that is gone."
)


def task_measure(scores) -> str:
    """What the machine is scored by: `mask_AP`, or `box_AP` where network or data have no masks, or
    `vgg` where there is no network."""
    return next(name for name in MACHINE if name in scores)


def main_rows(file: Path, all_rows: bool = False) -> pd.DataFrame:
    """A table1.csv as text: its rows that matter most (base, the paper's main row and low impact,
    L2 alone, the best beyond the paper, a filter), or all."""
    table = pd.read_csv(file, dtype={"row": str})
    ap, base = task_measure(table), table["row"] == "base"
    main = table["row"].isin(["base", "p3x64", "low_impact", "l2", "bilateral"])
    changes = table[[f"{ap}_change{end}" for end in ("", "_low", "_high")]].to_numpy()
    lpp = table[["lpp2", "lpp4", "lpp8"]].to_numpy()
    prms = table[["prms_Y", "prms_Cb", "prms_Cr"]].to_numpy()
    columns = {
        "row": table["row"],
        "": table["label"],
        MACHINE[ap]: table[ap].map("{:.3f}".format),
        "against base (%)": ["{:+.1f} [{:+.1f}, {:+.1f}]".format(*each) for each in changes],
        "PSNR (dB)": table["psnr"].map("{:.2f}".format),
        "SSIM": table["ssim"].map("{:.3f}".format),
        "VGG": table["vgg"].map("{:.3f}".format).replace("nan", "n/a"),
        "LPP 2/4/8 (dB)": ["{:.1f} / {:.1f} / {:.1f}".format(*each) for each in lpp],
        "PRMS": table["prms"].map("{:.2f}".format),
        "PRMS Y/Cb/Cr": ["{:.2f} / {:.2f} / {:.2f}".format(*each) for each in prms],
        "removed (%)": table["removed"].map("{:.0f}".format),
        "bpp": table["bpp"].map("{:.3f}".format),
    }
    text = pd.DataFrame(columns)
    text.loc[base, ["against base (%)", "removed (%)"]] = ""
    if ap == "vgg":
        del text["VGG"]
    return text if all_rows else text[main | table.get("chosen", False)]


def readable(file: Path) -> pd.DataFrame:
    """A study's table as text."""
    if file.stem == "table1":
        return main_rows(file, all_rows=True)
    table = pd.read_csv(file, dtype={"row": str}).drop(columns=FACTS, errors="ignore")
    table = table.rename(columns={"low": "value_low", "high": "value_high"})
    for name in [each for each in table if f"{each}_low" in table]:
        ends = [table.pop(f"{name}{end}") for end in ("_low", "_high")]
        rows = zip(table[name].astype(float), *ends)
        table[name] = ["{:.3g} [{:.3g}, {:.3g}]".format(*row) for row in rows]
    chosen = COLUMNS[file.stem].split() if file.stem in COLUMNS else table
    table = table[[name for name in chosen if name in table]]
    table = table.dropna(axis=1, how="all") if len(table) else table
    table = table.map(lambda each: f"{each:.3g}" if isinstance(each, float) else str(each))
    return table.replace({r" \[nan, nan\]": "", "^nan$": ""}, regex=True)


def markdown(table: pd.DataFrame) -> str:
    """Of a table of text."""
    table = table.replace({r"\|": r"\|", "\n": " "}, regex=True)
    rows = [table.columns, ["---"] * len(table.columns), *table.itertuples(index=False)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def write_latex(file: Path, provenance: dict) -> None:
    """`<name>.tex` beside a CSV file: a table of at most the line's width, with its provenance in
    the caption. It needs the LaTeX packages booktabs and graphicx."""
    table = readable(file).drop(columns=["", "PRMS Y/Cb/Cr"], errors="ignore")
    facts = ", ".join(f"{name} {value}" for name, value in provenance.items())
    caption = re.sub("([#$%&_])", r"\\\1", f"{TABLES.get(file.stem, file.stem)} ({facts})")
    options = {"caption": caption, "label": f"tab:{file.stem}", "position_float": "centering"}
    options["environment"] = "table*" if len(table.columns) > 6 else "table"  # *: of a page's width
    style = table.style.hide(axis="index").format(escape="latex")
    text = style.format_index(escape="latex", axis=1).to_latex(hrules=True, **options)
    text = re.sub(r"(?<![\w.:-])-(?=\d)", "$-$", text)  # a minus, no hyphen
    width = r"\ifdim\width>\linewidth\linewidth\else\width\fi"  # of the line at most
    boxed = rf"\footnotesize\resizebox{{{width}}}{{!}}{{\begin{{tabular}}"
    text = text.replace(r"\begin{tabular}", boxed)
    text = text.replace(r"\end{tabular}", r"\end{tabular}}")
    with written(file.with_suffix(".tex")) as half:
        half.write_text(text, "utf-8")
