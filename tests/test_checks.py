"The exercises: every check on every solution and on wrong and missing answers, students' notebooks, and the grader."
import csv
import importlib.util
import inspect
import io
import json
import signal
import time
from contextlib import redirect_stdout
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from mtt_nb import checks
from mtt_nb.cli import main

EXERCISES = Path(__file__).parents[1] / "nbs" / "exercises"
SOLUTIONS = sorted((EXERCISES / "solutions").glob("*.ipynb"))


def sources(path, kind="code"):
    return ["".join(c["source"]) for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == kind]


def build():
    spec = importlib.util.spec_from_file_location("build", EXERCISES / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def answers():
    "By the function's name: the solution, its code without docstring, and wrong answers by the words that they must be told"
    found, told = {}, {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "mistakes", lambda check, wrong: told.update({check.__name__.replace("check_", "my_"): wrong}))
        for path in SOLUTIONS:
            scope, cells = {}, sources(path)
            for i, cell in enumerate(cells):  # the first sets up; between exercises lie experiments, which nbdev-test runs
                if i == 0 or cell.startswith(("#| exercise", "#| solution")): exec(cell, scope)
                if cell.startswith("#| exercise"):
                    body = build().cut(cell).splitlines()
                    name = next(line for line in body if line.startswith("def ")).split("(")[0].removeprefix("def ")
                    found[name] = scope[name], [line.strip() for line in cell.splitlines() if line not in body]
    return {name: (*found[name], told[name]) for name in found}


def message(name, answer):
    "What the check says of an answer, and what it prints"
    with redirect_stdout(io.StringIO()) as out:
        try: checks.CHECKS[name](answer)
        except checks.Wrong as e: return str(e), out.getvalue()
    return "", out.getvalue()


NAMES = list(checks.CHECKS)


def test_there_is_an_exercise_for_every_check(answers):
    assert set(answers) == set(NAMES) and len(SOLUTIONS) >= 8


@pytest.mark.parametrize("name", NAMES)
def test_a_solution_is_right_within_five_seconds(answers, name):
    began = time.process_time()
    assert message(name, answers[name][0]) == ("", f"{name} is right\n")
    assert time.process_time() - began < 5


@pytest.mark.parametrize("name", NAMES)
def test_wrong_answers_are_told_what_is_wrong(answers, name):
    "By words that no other wrong answer is told, and never by the solution"
    _, code, wrong = answers[name]
    said = {words: message(name, answer) for words, answer in wrong.items()}
    assert len(said) >= 5 and "not filled in" in said  # four that are wrong, and the empty one
    for words, (text, printed) in said.items():
        assert words in text and printed == ""
        assert [w for w, (t, _) in said.items() if words in t] == [words], text
        assert not [line for line in code if len(line) > 12 and line in text]


def test_wrong_answers_are_told_in_one_paragraph_without_traceback(answers):
    for words in (checks.Wrong("too far"), checks.Unfilled("nothing there")):
        line, = words._render_traceback_()
        assert str(words) in line and "\n" not in line
    assert issubclass(checks.Wrong, AssertionError) and issubclass(checks.Unfilled, checks.Wrong)


def test_errors_of_the_answer_itself_come_through():
    with pytest.raises(ZeroDivisionError): checks.check_loss(lambda *a: 1 / 0)
    assert checks.verdict(checks.check_loss, lambda *a: 1 / 0) == "it raises ZeroDivisionError: division by zero"
    assert "in place" in message("my_loss", lambda a, b, c: a.sub_(c).square().sum())[0]  # autograd forbids it, we say why


def test_explain_prefers_the_truth_and_says_so_when_no_theory_fits():
    import torch

    want = torch.tensor([1.0, 2.0])
    checks.explain(want + 1e-7, want, {"a theory that is no other": want}, "it")
    with pytest.raises(checks.Wrong, match="^twice$"): checks.explain(2 * want, want, {"twice": 2 * want}, "it")
    with pytest.raises(checks.Wrong, match="^it: off by 50%"): checks.explain(1.5 * want, want, {"twice": 2 * want}, "it")


def test_students_notebooks_are_up_to_date(tmp_path):
    for made in build().build(tmp_path):
        assert made.read_bytes() == (EXERCISES / made.name).read_bytes(), "run python nbs/exercises/build.py"
    assert {p.name for p in EXERCISES.glob("*.ipynb")} == {p.name for p in SOLUTIONS}


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda p: p.stem)
def test_students_notebooks_hold_no_solution(answers, path):
    cells = sources(EXERCISES / path.name)
    text = "\n".join(cells + sources(EXERCISES / path.name, "markdown"))
    assert "solution" not in text and "Answer" not in text and "mistakes" not in text
    for name, (f, code, _) in answers.items():
        cell = [c for c in cells if f"def {name}(" in c]
        if cell: assert cell[0].endswith("    ...") and not [line for line in code if line in cell[0].splitlines()]
        assert inspect.getdoc(f)


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda p: p.stem)
def test_an_unfilled_notebook_stops_politely(path):
    "All cells run as far as the first check, which says that there is nothing yet"
    scope = {}
    with pytest.raises(checks.Unfilled, match="is not filled in yet"):
        for cell in sources(EXERCISES / path.name): exec(cell, scope)
    assert cell.startswith("check_")


def test_a_kernel_shows_the_words_alone():
    nb = nbformat.read(EXERCISES / "e07_matching.ipynb", 4)
    NotebookClient(nb, timeout=60, allow_errors=True, resources={"metadata": {"path": str(EXERCISES)}}).execute()
    shown = [o for c in nb.cells if c.cell_type == "code" and c.source == "check_loss(my_loss)" for o in c.outputs]
    assert [o.traceback for o in shown] == [["my_loss is not filled in yet: it returns nothing"]]


def test_the_grader(tmp_path, capsys):
    "Of two answers one is spoiled, and the notebook's own check is made to lie"
    notebook = json.loads((EXERCISES / "solutions" / "e07_matching.ipynb").read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if "def my_loss" in "".join(cell["source"]):
            cell["source"] = ["def my_loss(end, start, target): return (end - target).square().sum()\n", "check_loss = print"]
    (tmp_path / "anna.ipynb").write_text(json.dumps(notebook))
    with pytest.raises(SystemExit): main(["grade", str(tmp_path / "nobody.ipynb"), str(tmp_path / "anna.ipynb")])
    nobody, loss, minibatches = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert nobody["passed"] == "0" and "no file" in nobody["message"]
    assert (loss["exercise"], loss["passed"]) == ("my_loss", "0") and "not normalised" in loss["message"]
    assert (minibatches["exercise"], minibatches["passed"], minibatches["message"]) == ("my_minibatches", "1", "passed")


def test_a_function_that_does_not_return_fails_alone(tmp_path, monkeypatch):
    code = ["from mtt_nb.checks import check_loss, check_minibatches", "def my_minibatches(n, steps, size, generator):\n    while True: pass",
            "from mtt_nb.matching import matching_loss as my_loss"]
    path = tmp_path / "anna.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in code]), path)
    monkeypatch.setattr(checks, "CHECKING", 0.0)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background has none
    try: said = checks.run_notebook(path, 2)
    finally: signal.signal(signal.SIGINT, before)
    assert said == {"my_loss": "", "my_minibatches": "my_minibatches did not return within 1 seconds"}


@pytest.mark.slow
@pytest.mark.xdist_group("one after another")
def test_a_student_in_jupyterlab(nb):
    "Nothing filled in, a wrong answer, and the right one"
    cells = sources(EXERCISES / "e07_matching.ipynb")
    at = cells.index("check_loss(my_loss)")
    nb.open([*cells[:at + 1], ""])
    for i in range(at + 1): nb.run(i)
    assert "my_loss is not filled in yet" in nb.text(at)
    def typed(answer):
        code = cells[at - 1].replace("    ...", f"    return {answer}")
        nb.page.evaluate("([i, code]) => window.jupyterapp.shell.currentWidget.content.widgets[i].model.sharedModel.setSource(code)", [at - 1, code])
        return nb.run(at - 1).run(at).text(at)
    assert "it is not normalised" in typed("(theta_n - theta_target).square().sum()")
    assert typed("(theta_n - theta_target).square().sum() / (theta_start - theta_target).square().sum()") == "my_loss is right\n"
