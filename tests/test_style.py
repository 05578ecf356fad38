"""Every notebook of the book keeps the size habits of a chapter: small cells, one idea each, neither few nor too many of them.

Counted is what a reader sees. Blank lines and directives (`#| export`) are no lines; a cell of nothing but directives is no cell. Tests
that the pages leave out (`#| hide`) have lines, for whoever opens the notebook, but do not make a chapter longer.
The exercises are shorter, and their cells somewhat longer: a function to be filled in shows its whole signature."""
import ast
import json
import math
import re
from pathlib import Path
from statistics import median
from typing import Any, get_type_hints

import pytest
import torch

from mtt_nb.data import load, make_data, seeded
from mtt_nb.distill import MTT
from mtt_nb.distiller import State
from mtt_nb.evaluate import evaluate
from mtt_nb.experts import record_experts, store_experts
from mtt_nb.methods import METHODS
from mtt_nb.models import FlatModel
from mtt_nb.selection import forgetting, herding
from mtt_nb.settings import MTTConfig

NBS = Path(__file__).parents[1] / "nbs"
SILENT = {"cli", "checks"}  # these speak to people
MODULES = sorted(p for p in (NBS.parent / "mtt_nb").glob("*.py") if p.stem not in SILENT)
MEDIAN, NINE_IN_TEN, LONGEST = 6, 20, 40  # lines of a code cell
FEWEST = 30  # cells of a chapter
MOST = 100  # the aim is 80; the chapters that tell the method itself are longer, and are left whole since readers go through them in order
PAGES = {"index.ipynb", "00_tour.ipynb", "24_methods.ipynb"}  # the front page, the tour of five minutes, a list of names: no chapters


def sizes(path):
    "The lines of all code cells, and the number of cells on the page"
    lines, cells = [], 0
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            n = sum(bool(line.strip()) and not line.lstrip().startswith("#|") for line in source.splitlines())
            if not n: continue
            lines.append(n)
            if source.lstrip().startswith("#| hide"): continue
        cells += 1
    return sorted(lines), cells


@pytest.mark.parametrize("path", sorted(NBS.glob("*.ipynb")), ids=lambda p: p.stem)
def test_size(path):
    lines, cells = sizes(path)
    assert median(lines) <= MEDIAN, f"half of the code cells have {median(lines)} lines or more: split some, one idea a cell"
    ninth = lines[math.ceil(0.9 * len(lines)) - 1]
    assert ninth <= NINE_IN_TEN, f"a tenth of the code cells have {ninth} lines or more: split them, or grow what they define in versions"
    assert lines[-1] <= LONGEST, f"a code cell has {lines[-1]} lines: make a function of a part, and show it at work"
    assert (0 if path.name in PAGES else FEWEST) <= cells <= MOST, f"{cells} cells"


@pytest.mark.parametrize("path", sorted(NBS.glob("exercises/*.ipynb")), ids=lambda p: p.stem)
def test_size_of_an_exercise(path):
    lines, cells = sizes(path)
    assert median(lines) <= MEDIAN and lines[-1] <= 12, f"code cells of {lines} lines"
    assert 8 <= cells <= 20, f"{cells} cells"


@pytest.mark.parametrize("path", sorted(NBS.glob("exercises/solutions/*.ipynb")), ids=lambda p: p.stem)
def test_size_of_a_solution(path):
    lines, _ = sizes(path)
    assert median(lines) <= MEDIAN and lines[-1] <= NINE_IN_TEN, f"code cells of {lines} lines"


def test_the_count(tmp_path):
    "By hand: a directive and a blank line do not count, a hidden cell has lines and is not on the page"
    code = ["#| export\nx = 1\n\ny = 2\n", "#| default_exp x\n", "#| hide\nassert x\n", "x\n"]
    cells = [dict(cell_type="code", source=s.splitlines(keepends=True)) for s in code] + [dict(cell_type="markdown", source=["words"])]
    (tmp_path / "x.ipynb").write_text(json.dumps(dict(cells=cells)))
    assert sizes(tmp_path / "x.ipynb") == ([1, 1, 2], 3)


@pytest.mark.parametrize("path", sorted(NBS.rglob("*.ipynb")), ids=lambda p: p.stem)
def test_formulas_stand_alone(path):
    "A displayed formula has an empty line on both sides: else the site takes the prose after it for mathematics"
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] != "markdown": continue
        prose = re.split(r"\$\$.*?\$\$", "".join(cell["source"]), flags=re.S)
        for before, after in zip(prose, prose[1:]):
            assert before.strip() == "" or before.endswith("\n\n"), f"no empty line before a formula, after {before[-60:]!r}"
            assert after.strip() == "" or after.startswith("\n\n"), f"no empty line after a formula, before {after[:60]!r}"


@pytest.mark.parametrize("path", sorted(NBS.rglob("*.ipynb")), ids=lambda p: p.stem)
def test_outputs_name_no_machine(path):
    "A warning of a library, with the path where it is installed, is for whoever runs the notebook and for no reader"
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        assert "site-packages" not in json.dumps(cell.get("outputs", []))


@pytest.mark.parametrize("path", sorted([*NBS.glob("*.ipynb"), *NBS.glob("exercises/*.ipynb")]), ids=lambda p: p.stem)
def test_no_widget_is_stored(path):
    "Without its kernel a widget is a line of text: of a progress bar, one that says 0 %"
    notebook = json.loads(path.read_text(encoding="utf-8"))
    kept = [o for c in notebook["cells"] for o in c.get("outputs", ()) if "application/vnd.jupyter.widget-view+json" in o.get("data", {})]
    assert "widgets" not in notebook["metadata"], "remove the state of widgets that are not shown"
    assert not kept, "remove these outputs, or show what they show as a picture"


@pytest.mark.parametrize("f", [seeded, make_data, load])
def test_a_device_may_be_a_word_or_torch_s_own(f):
    assert get_type_hints(f)["device"] == torch.device | str


@pytest.mark.parametrize("f", [evaluate, herding, forgetting, record_experts, store_experts, *{m.make.__init__ for m in METHODS.values()}])
def test_a_model_may_be_a_module(f):
    "Editors mark a user's own network wrong where an annotation does not name it"
    assert {FlatModel, torch.nn.Module} <= set(get_type_hints(f)["model"].__args__)


def test_what_steps_and_settings_have_is_known():
    "Editors complete `mtt.config.`, and leave a draw and a segment alone, which differ from method to method"
    assert get_type_hints(MTT)["config"] is MTTConfig and get_type_hints(State)["draw"] is Any
    assert get_type_hints(State.segment.fget)["return"] is Any
    assert torch.nn.Module in get_type_hints(FlatModel.__init__)["module"].__args__


def silent(source):
    "Public functions that raise an error of Python's which neither their docstring nor, for a method, that of the class names"
    found = []
    def visit(node, doc=""):
        for f in node.body:
            if not isinstance(f, ast.ClassDef | ast.FunctionDef) or f.name.startswith("_") and f.name != "__init__": continue
            about = (ast.get_docstring(f) or "") + doc
            if isinstance(f, ast.ClassDef): visit(f, about); continue
            raised = [r.exc.func for r in ast.walk(f) if isinstance(r, ast.Raise) and isinstance(r.exc, ast.Call)]
            names = {ast.unparse(r) for r in raised} - {"NotImplementedError"}
            if "Error" not in about and any(n.endswith("Error") for n in names): found.append(f.name)
    visit(ast.parse(source))
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_docstrings_name_errors(path):
    assert not silent(path.read_text(encoding="utf-8"))


def test_a_silent_error_is_seen():
    raises = "    raise ValueError('no')\n"
    assert silent("def f():\n    'Add'\n" + raises + "def g():\n    'Add; ValueError for words'\n" + raises) == ["f"]
    assert silent("class A:\n    'Adds'\n    def f(self):\n    " + raises + "    def _g(self):\n    " + raises) == ["f"]
    assert silent("def f():\n    'Say nothing of an error of our own'\n    raise Diverged()\n") == []
