"Write README.md from nbs/index.ipynb: python tests/readme.py README.md"
import re
import sys
from pathlib import Path

from nbconvert import MarkdownExporter
from nbconvert.preprocessors import RegexRemovePreprocessor
from traitlets.config import Config

NBS = Path(__file__).parents[1] / "nbs"
exporter = MarkdownExporter(config=Config(MarkdownExporter={"preprocessors": [RegexRemovePreprocessor(patterns=[r"#\|\s*hide"])]}))
text, _ = exporter.from_filename(str(NBS / "index.ipynb"))
text = re.sub(r"\]\((?!\w+://|#)([^)]+)\)", r"](nbs/\1)", text)  # seen from the root, what lies beside the notebook lies in nbs/
text = text.replace("](nbs/../", "](")
Path(sys.argv[1]).write_text(text.strip() + "\n", encoding="utf-8")
