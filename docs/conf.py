"How sphinx builds the site: `make docs` lays its sources out with prepare.py, then calls sphinx"
import sys
from configparser import ConfigParser
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from prepare import docstring, foreign, signature

config = ConfigParser(delimiters=["="])
config.read(HERE.parent / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]
project, author, copyright, release = cfg["title"], cfg["author"], cfg["copyright"], cfg["version"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx-mathjax-offline"]

html_theme, html_title = "furo", f"{project} {release}"
html_static_path, html_css_files = [str(HERE / "static")], ["site.css"]
html_copy_source = html_show_sourcelink = False

nb_execution_mode = "off"  # the pictures and numbers are those that the notebooks hold
nb_ipywidgets_js = {}  # a page fetches nothing from elsewhere when it is read
nb_render_markdown_format = "myst"  # tables that a cell puts out are tables
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 4

default_role = "code"  # single backticks, as docstrings have them
autodoc_member_order, autodoc_inherit_docstrings, add_module_names = "bysource", False, False
autodoc_typehints_format, python_use_unqualified_type_names, python_maximum_signature_line_length = "short", True, 100


def setup(app):
    app.connect("autodoc-process-docstring", docstring)
    app.connect("autodoc-process-signature", signature)
    app.connect("autodoc-skip-member", foreign)
