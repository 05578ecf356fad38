"Make the students' notebooks from the solutions: python nbs/exercises/build.py [FOLDER]"
import ast
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
MARK, OMIT = "#| exercise\n", ("#| solution\n", "<!-- solution -->\n")


def cut(source: str) -> str:
    "The same code with `...` for the body of every function; signature, comments there and docstring stay"
    lines, kept, after = source.splitlines(), [], 0
    for f in (node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)):
        if ast.get_docstring(f) is None: raise ValueError(f"{f.name} has no docstring that says what to do")
        kept += [*lines[after:f.body[0].end_lineno], "    ..."]
        after = f.end_lineno
    return "\n".join(kept + lines[after:])


def student(notebook: dict) -> dict:
    "A solution without what is marked, without outputs, and with links as seen from the folder above"
    cells = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if source.startswith(OMIT): continue
        if source.startswith(MARK): source = cut(source.removeprefix(MARK))
        if cell["cell_type"] == "markdown": source = source.replace("](../../", "](../")
        new = cell | {"source": source.splitlines(keepends=True)}
        cells.append(new | {"outputs": [], "execution_count": None} if cell["cell_type"] == "code" else new)
    return notebook | {"cells": cells}


def build(folder: Path = HERE) -> list[Path]:
    "Write all students' notebooks into a folder; their paths"
    made = []
    for path in sorted((HERE / "solutions").glob("*.ipynb")):
        text = json.dumps(student(json.loads(path.read_text(encoding="utf-8"))), indent=1, ensure_ascii=False)
        made.append(folder / path.name)
        made[-1].write_text(text + "\n", encoding="utf-8")
    return made


if __name__ == "__main__": build(*map(Path, sys.argv[1:]))
