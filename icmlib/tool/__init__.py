"""The command line `icm`, and what it runs.

cli.py         the commands
files.py       files and folders to bitstreams and back
photograph.py  every decoder of one bitstream, side by side
notebooks.py   run notebooks headlessly
reproduce.py   all notebooks of a study, with progress
report.py      executed notebooks as one HTML page
publish.py     a profile's tables and pictures as the committed reference
"""

import lazy_loader

# lazy, as in icmlib: a command loads what it needs
MODULES = ("files", "notebooks", "photograph", "publish", "report", "reproduce")
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=MODULES)
