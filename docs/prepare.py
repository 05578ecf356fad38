"Lay out the sources of the site, notebooks and pages of the reference: python docs/prepare.py FOLDER"
import json
import re
import shutil
import sys
import warnings
from pathlib import Path
from typing import get_type_hints

from fastcore.docments import docments

ROOT = Path(__file__).parents[1]
PARTS = {  # of the book, in order, by file name; a file belongs to the first that fits
    "Begin": r"00_.*|anywhere|reading",
    "The method": r"0.*",
    "Seeing it": r"1.*",
    "Other methods": r"2.*",
    "Running it": r"[3-9].*",
    "Exercises": r"exercises/.*",
    "Teaching and working on it": r"(?!api/).*",
    "Reference": r"api/.*",
}


def shown(cell: dict, section: str) -> dict | None:
    "A cell as the site shows it, without directives and running widgets; None for one that is hidden or has no more to show"
    source = "".join(cell["source"])
    if cell["cell_type"] != "code": return cell | dict(source=source.replace("](../CONTRIBUTING.md", "](CONTRIBUTING.md"))
    directives = re.findall(r"^#\|\s*(\w+)", source, re.M)
    text = re.sub(r"^#\|.*\n?", "", source, flags=re.M).strip("\n")
    if "hide" in directives or not text: return None
    outputs = [o for o in cell["outputs"] if not any("widget" in kind for kind in o.get("data", {}))]
    axes = ", ".join(dict.fromkeys(re.findall(r'\b[xy]label="([^"]+)"', text)))
    alt = f"picture in the section {section}" + (f", with the axes {axes}" if axes else "")  # for who cannot see it
    told = dict(tags=["exported"] * ("export" in directives), mystnb=dict(image=dict(alt=alt)))
    return cell | dict(source=text, outputs=outputs, metadata=told)


def sections(cells: list[dict]) -> list[str]:
    "The heading above each cell, without marks"
    heading, above = "", []
    for cell in cells:
        if cell["cell_type"] == "markdown": heading = (re.findall(r"^#+ (.+)", "".join(cell["source"]), re.M) or [heading])[-1]
        above.append(re.sub(r"[`*$\\{}]", "", heading))
    return above


def title(page: Path) -> str:
    "The first heading of a notebook or a text page"
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb": text = "\n".join("".join(c["source"]) for c in json.loads(text)["cells"])
    return re.search(r"^# (.+)", text, re.M)[1].strip()


def chapters(first: Path) -> list[str]:
    "The chapters in the order of the first page's table"
    text = "\n".join("".join(c["source"]) for c in json.loads(first.read_text(encoding="utf-8"))["cells"])
    book = re.split(r"^## ", text.split("\n## The book\n")[1], maxsplit=1, flags=re.M)[0]
    return re.findall(r"\]\((\w+)\.ipynb\)", "\n".join(re.findall(r"^\|.*", book, re.M)))


def contents(out: Path) -> str:
    "The table of contents: by part, then as the table of chapters has them, then by name"
    named = chapters(out / "index.ipynb")
    def place(name): return named.index(name) if name in named else len(named), name
    pages = {p.relative_to(out).with_suffix("").as_posix(): p for p in out.rglob("*.*") if p.suffix in (".ipynb", ".md", ".rst")}
    left, toc = sorted(pages.keys() - {"index"}, key=place), ""
    for part, pattern in PARTS.items():
        here = [name for name in left if re.fullmatch(pattern, name)]
        left = [name for name in left if name not in here]
        lines = [f"{name[:2]} {title(pages[name])} <{name}>" if name[:2].isdigit() else name for name in here]
        if here: toc += "\n".join(["```{toctree}", ":hidden:", f":caption: {part}", *lines, "```", ""])
    return toc


def reference(module: str, chapter: str) -> str:
    "The page of a module"
    name = f"mtt_nb.{module}"
    heading = f"{name}\n{'=' * len(name)}\n\nIts chapter: :doc:`/{chapter}`\n\n"
    return heading + f".. automodule:: {name}\n   :members:\n   :undoc-members:\n"


def foreign(app, what, name, obj, skip, options) -> bool | None:
    "For autodoc: leave out what a class has from elsewhere, and the fields of named tuples, which their class lists"
    home = getattr(obj, "__module__", None) or "mtt_nb"
    return True if type(obj).__name__ == "_tuplegetter" or not home.startswith(("mtt_nb", "builtins")) else None


def signature(app, what, name, obj, options, text, returns) -> tuple | None:
    "For autodoc: of a command's parameters their types, without what only the command line has to know"
    if text: return re.sub(r"~?\w+\.Annotated\[(.*?), <typer\.models\.\w+ object at \w+>\]", r"\1", text), returns


def helps(obj, parameter: str) -> str | None:
    "What the command line says of a parameter"
    try: told = get_type_hints(obj, include_extras=True).get(parameter)
    except (NameError, TypeError): return None
    return next((m.help for m in getattr(told, "__metadata__", ()) if getattr(m, "help", None)), None)


def docstring(app, what, name, obj, options, lines) -> None:
    "For autodoc: what stands beside a parameter in the code, or helps on the command line, becomes part of the docstring"
    if what not in ("function", "method", "class"): return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on docstrings of matplotlib, which a class inherits
            notes = docments(obj, full=True)
    except (TypeError, ValueError, OSError): return
    lines += [""]
    for parameter, note in notes.items():
        field = "returns" if parameter == "return" else f"param {parameter}"
        said = note.docment or helps(obj, parameter)
        if said: lines.append(f":{field}: " + said.replace("\n", " "))


def main(out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(ROOT / "nbs", out, ignore=shutil.ignore_patterns(".*"))
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (out / "CONTRIBUTING.md").write_text(text.replace("](nbs/", "]("), encoding="utf-8")
    (out / "api").mkdir()
    for path in out.glob("*.ipynb"):
        module = re.search(r"#\|\s*default_exp (\w+)", path.read_text(encoding="utf-8"))
        if module: (out / "api" / f"{module[1]}.rst").write_text(reference(module[1], path.stem), encoding="utf-8")
    toc = dict(cell_type="markdown", id="contents", metadata={}, source=contents(out))
    for path in out.rglob("*.ipynb"):
        nb = json.loads(path.read_text(encoding="utf-8"))
        if path.parent.name == "solutions":  # else search shows two pages of one name
            nb["cells"][0]["source"] = "".join(nb["cells"][0]["source"]).replace("# Exercise", "# Solution", 1)
        nb["cells"] = [c for c in map(shown, nb["cells"], sections(nb["cells"])) if c] + [toc] * (path == out / "index.ipynb")
        path.write_text(json.dumps(nb), encoding="utf-8")


if __name__ == "__main__": main(Path(sys.argv[1]))
