"""Print where stored outputs say other words than a fresh run: python tests/outputs.py [nbs/06_settings.ipynb ...]

A few cells differ every time: those whose lines depend on timing (12_driver, 12_live), and those that Jupyter shows in another form."""
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
VARIES = re.compile(r"\S*/tmp/\S*|0x[0-9a-f]+|[-+]?\b[0-9a-f]{8,}\b|[-+]?\d[\d,.]*(e[-+]?\d+)?")  # from run to run, or between machines


def printed(cell: dict) -> list[str]:
    "The lines that a cell printed or returned, with # in place of what varies"
    lines = []
    for out in cell["outputs"]:
        data = out.get("data", {})
        text = out.get("text") or data.get("text/markdown") or data.get("text/plain") or ""
        if out.get("name") != "stderr": lines += "".join(text).splitlines()
    return [" ".join(VARIES.sub("#", line).split()) for line in lines]


def cells(notebook: Path) -> list[dict]:
    return [c for c in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]


stale = 0
with TemporaryDirectory() as folder:
    shutil.copytree(ROOT / "nbs", Path(folder, "nbs"))
    for name in ("settings.ini", "pyproject.toml"): shutil.copy(ROOT / name, folder)
    for notebook in sys.argv[1:] or ["nbs"]:
        subprocess.run([Path(sys.executable).with_name("nbdev-test"), "--save", notebook], cwd=folder)
    for fresh in sorted(Path(folder, "nbs").rglob("*.ipynb")):
        stored = ROOT / fresh.relative_to(folder)
        for number, (old, new) in enumerate(zip(cells(stored), cells(fresh), strict=True)):
            if "".join(old["source"]).startswith("#| hide") or not new["execution_count"]: continue
            was, now = printed(old), printed(new)
            differ = [f"  - {line}" for line in was if line not in now] + [f"  + {line}" for line in now if line not in was]
            if differ: print(f"{stored.relative_to(ROOT)}, code cell {number}:", *differ, sep="\n")
            stale += bool(differ)
sys.exit(stale > 0)
