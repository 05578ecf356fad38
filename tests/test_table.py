"The table of methods as a user meets it: killed, gone on with, read by programs; selections by the same command as all methods."
import csv
import json
import math

import pytest
import torch
from test_cli import killed, refused, run

from mtt_nb.distill import JsonLines, SyntheticSet
from mtt_nb.methods import METHODS, SELECTIONS
from mtt_nb.table import read_rows

QUICK = ["table", "--nets", 2, "--epochs", 3, "--limit", 300, "--device", "cpu"]
TABLE = [*QUICK, "--steps", 8, "--methods", "random", "--methods", "dm", "--methods", "ld", "--methods", "mtt"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    there = tmp_path_factory.mktemp("table")
    done = run(*TABLE, "--out", "whole", cwd=there)
    assert done.returncode == 0, done.stderr
    return there


def without_times(row): return row._replace(seconds=None, experts=None, looks=[[accuracy for _, accuracy in seed] for seed in row.looks])


def test_a_killed_table_goes_on_to_the_same_numbers(folder):
    "In the middle of a method, and among the experts: then the same command ends as one that was never killed"
    out = folder / "killed"
    stages = [lambda: len(JsonLines.read(out / "ipc1/dm-seed0/log.jsonl")) >= 3, lambda: (out / "ipc1/mtt-seed0/experts/expert_0001.safetensors").exists()]
    for stage in stages:
        assert killed([*TABLE, "--out", out], folder, stage)
        assert not (out / "table.md").exists()
    finished = (out / "ipc1/dm-seed0/report.md").stat().st_mtime_ns
    assert run(*TABLE, "--out", out, cwd=folder).returncode == 0
    assert (out / "ipc1/dm-seed0/report.md").stat().st_mtime_ns == finished  # what was done is kept
    one, two = (read_rows(f / "table.json") for f in (folder / "whole", out))
    assert list(map(without_times, one)) == list(map(without_times, two))
    assert next(r for r in two if r.method == "mtt").experts > 0 and len(JsonLines.read(out / "ipc1/mtt-seed0/experts.jsonl")) == 55
    for name in ("dm", "ld", "mtt"):
        x, y = (SyntheticSet.load(f / f"ipc1/{name}-seed0/distilled.safetensors") for f in (folder / "whole", out))
        assert torch.equal(x.images, y.images) and torch.equal(x.labels, y.labels) and x.lr == y.lr and x.meta == y.meta


def test_markdown_csv_and_results_agree(folder):
    "What people read and what programs read are the same numbers, and those of the run folders"
    out = folder / "whole"
    lines = [line.strip("| ").split("|") for line in (out / "table.md").read_text().splitlines() if line.startswith("|")]
    head, *body = [[cell.strip() for cell in line] for line in lines if "---" not in line[0]]
    with open(out / "table.csv", newline="") as f: rows = list(csv.DictReader(f))
    assert [r["method"] for r in rows] == ["random", "mtt", "dm", "ld", "full data"] == [dict(zip(head, line))["method"] for line in body]
    for row, line in zip(rows, body, strict=True):
        there = dict(zip(head, line))
        assert there["test accuracy, %"] == f"{100 * float(row['mean']):.1f} ± {100 * float(row['std']):.1f}"
        assert there["labels"] == row["labels"] == ("soft" if row["method"] == "ld" else "hard")
        if not row["ipc"]: continue
        file = out / f"ipc1/{row['method']}-seed0/results.json"
        accuracies = next(iter(json.loads(file.read_text())["accuracies"].values()))
        assert math.isclose(float(row["mean"]), sum(accuracies) / 2) and len(accuracies) == 2
        assert there["steps"] == ("" if row["method"] == "random" else "8")
        assert ("+" in there["seconds"]) == (row["method"] == "mtt")  # with its experts and without
    assert (out / "table.png").read_bytes()[:4] == b"\x89PNG"


def test_seeds_give_a_second_spread(folder):
    args = [*QUICK, "--steps", 2, "--methods", "dm", "--seeds", 2, "--ipc", 1, "--ipc", 2, "--out", "seeds"]
    refused(run(*args, cwd=folder), "digits-ipc2", "digits-ipc1|5|10")
    args[args.index(2, -4)] = 5
    assert run(*args, cwd=folder).returncode == 0
    rows = read_rows(folder / "seeds/table.json")
    assert [(r.ipc, r.method, r.seeds) for r in rows] == [(1, "dm", 2), (5, "dm", 2), (None, "full data", 1)]
    means = [json.loads((folder / f"seeds/ipc5/dm-seed{s}/results.json").read_text())["accuracies"]["distilled"] for s in (0, 1)]
    a, b = (sum(m) / 2 for m in means)
    assert math.isclose(rows[1].mean, (a + b) / 2) and math.isclose(rows[1].seeds_std, abs(a - b) / math.sqrt(2), abs_tol=1e-6)
    assert "between seeds" in (folder / "seeds/table.md").read_text()
    args = [*QUICK, "--steps", 2, "--methods", "random", "--ipc", 5, "--out", "seeds", "--no-full-data"]  # takes nothing away
    assert run(*args, cwd=folder).returncode == 0
    kept = read_rows(folder / "seeds/table.json")
    assert kept[1].method == "random" and [kept[0], *kept[2:]] == rows


def test_bad_input_is_one_line(folder):
    def table(*args): return run(*QUICK, *args, cwd=folder)
    refused(table("--methods", "magic", "--out", "x"), "magic", "herding", "cafe-dsa")
    refused(table("--steps", 8, "--seconds", 2, "--out", "x"), "budget", "not both")
    refused(table("--seconds", 0, "--out", "x"), "budget", "above 0")
    refused(table("--seeds", 0, "--out", "x"), "seeds", "at least 1")
    refused(table("--data", "svhn", "--out", "x"), "svhn-ipc1", "digits-ipc1")
    refused(table("--steps", 9, "--methods", "dm", "--out", "whole"), "another table", "budget")


@pytest.mark.parametrize("method", SELECTIONS)
def test_a_selection_is_a_run_folder(method, tmp_path):
    args = ["distill", "--method", method, "--ipc", 5, "--limit", 300, "--nets", 2, "--eval-epochs", 2, "--device", "cpu", "--out", "run"]
    done = run(*args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    made = SyntheticSet.load(tmp_path / "run/distilled.safetensors")
    assert made.meta["method"] == method and len(made) == 50 and made.labels.dtype == torch.int64
    report = (tmp_path / "run/report.md").read_text()
    assert f"50 images by {method}" in report and f"| {method} | 50 |" in report and "meta-step" not in report
    assert run(*args, cwd=tmp_path).returncode == 0  # again: the same set
    refused(run(*args, "--seed", 1, cwd=tmp_path), "distilled.safetensors", "seed")
    refused(run(*args, "--iterations", 3, cwd=tmp_path), method, "iterations")


def test_an_unknown_method_names_all(tmp_path):
    refused(run("distill", "--method", "magic", cwd=tmp_path), "magic", *SELECTIONS, *METHODS)


def test_methods_of_one_table_share_network_data_and_evaluation():
    for key in METHODS["mtt"].presets:
        presets = [m.presets[key] for m in (SELECTIONS | METHODS).values()]
        assert all(p.network == presets[0].network and p.limit == presets[0].limit and p.config.ipc == key[1] for p in presets)
        assert len({tuple((k, v) for k, v in sorted(p.evaluation.items()) if k != "eval_every") for p in presets}) == 1
