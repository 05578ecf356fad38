"What a run, a table and a report take from their settings, against a few lines that take it by another way."
from dataclasses import replace
from unittest import mock

import pytest
import torch
from fastcore.test import ExceptionExpected
from fastcore.test import test_close as close
from fastcore.test import test_eq as same
from mtt_nb.augment import DSA
from mtt_nb.data import load
from mtt_nb.distill import MTT, MTTConfig
from mtt_nb.distiller import JsonLines
from mtt_nb.driver import Driver
from mtt_nb.evaluate import Evaluation, evaluate_random
from mtt_nb.experts import accuracy, record_experts, store_experts, train_experts
from mtt_nb.history import Recorder
from mtt_nb.models import FlatModel, build
from mtt_nb.published import PUBLISHED
from mtt_nb.reproduce import apart, comparison, departures
from mtt_nb.run import Protocol, course, judge, keep_best, select, write_report
from mtt_nb.synthetic import SyntheticSet, random_selection
from mtt_nb.table import Budget, Cell, Plan, experts, full_row, row, run_cell

data = load("digits")
model = FlatModel(build("convnet", data.shape, data.n_classes, width=8, depth=2))


@pytest.fixture(scope="module")
def mtt(tmp_path_factory):
    buffer = record_experts(data, model, tmp_path_factory.mktemp("experts"), n=2, epochs=6, lr=0.05, batch_size=256)
    return lambda **settings: MTT(MTTConfig(**dict(syn_steps=3, max_start_epoch=4, lr_img=10, lr_teacher=0.05) | settings), data, buffer)


@pytest.fixture
def picked(): return random_selection(data, 1, network=model.spec, augment=DSA("flip"), lr=0.05)


PRINTED = dict(cifar10=((46.3, 0.8), (65.3, 0.7), (71.6, 0.2)), cifar100=((24.3, 0.3), (40.1, 0.4), (47.7, 0.2)))
PRINTED["tiny-imagenet"] = (8.8, 0.3), (23.2, 0.2), (28.0, 0.3)
DM = dict(cifar10=((26.0, 0.8), (48.9, 0.6), (63.0, 0.4)), cifar100=((11.4, 0.3), (29.7, 0.3), (43.6, 0.4)))


def test_published_numbers():
    for method, printed, networks in (("mtt", PRINTED, 5), ("dm", DM, 100)):
        for name, numbers in printed.items():
            same([PUBLISHED[method, name, ipc][:2] for ipc in (1, 10, 50)], list(numbers))
            same({PUBLISHED[method, name, ipc].networks for ipc in (1, 10, 50)}, {networks})


def test_each_accuracy_has_the_networks_behind_it(picked):
    "Standard errors of the test from its networks, of the highest look from those of a look"
    cifar = replace(picked, meta=picked.meta | dict(method="mtt", data="cifar10", ipc=1, step=4))
    own, there = Evaluation((0.4, 0.5, 0.42), "test"), PUBLISHED["mtt", "cifar10", 1]
    look = dict(test_accuracy=0.45, test_std=0.01, protocol=dict(networks=2))
    _, tested, highest = comparison(cifar, dict(distilled=own), [look])
    same((tested[2], highest[2]), (apart(own.mean, own.std, 3, there), apart(0.45, 0.01, 2, there)))


def test_other_data_are_a_departure(plan):
    preset = plan.preset(Cell("random", 1))
    options = dict(network=plan.network(Cell("random", 1)).spec, augment=DSA(preset.config.augment, mode=preset.config.augment_mode), lr=0.05)
    def differ(**other): return departures(random_selection(load("digits", **dict(zca=preset.zca, limit=preset.limit) | other), 1, **options), None)
    same(differ(), "")
    same(differ(zca=not preset.zca), f"zca: {preset.zca} there, {not preset.zca} here")
    same(differ(limit=500), f"limit: {preset.limit} there, 500 here")


@pytest.fixture
def plan(tmp_path): return Plan(data, tmp_path, Budget(steps=2), nets=2, epochs=3)


def test_experts_of_a_table_are_those_of_the_preset(plan):
    preset = plan.preset(Cell("mtt", 1))
    with mock.patch("mtt_nb.table.record_experts") as record: experts(plan, Cell("mtt", 1, seed=3), print)
    given = record.call_args.kwargs
    same((given["augment"].strategy, given["augment"].mode), (preset.config.augment, preset.config.augment_mode))
    same({k: given[k] for k in ("n", "lr", "batch_size", "seed")}, {k: preset.experts[k] for k in ("n", "lr", "batch_size")} | dict(seed=3))
    same(given["epochs"], max(preset.experts["epochs"], preset.config.last_epoch))


def test_lines_of_a_table_are_trained_as_the_preset_says(plan, picked):
    preset, found = plan.preset(Cell("random", 1)), {"full data": Evaluation((0.5,), "test")}
    dsa, lr = DSA(preset.config.augment, mode=preset.config.augment_mode), preset.config.lr_teacher
    assert lr != 0.01
    with mock.patch("mtt_nb.table.judge", return_value=found) as judged: full_row(plan, Cell("random", 1))
    full, protocol = judged.call_args.args[0], judged.call_args.args[3]
    same((full.lr, judged.call_args.kwargs["lr"], repr(full.augment), protocol.nets), (lr, lr, repr(dsa), 2))
    same((protocol.epochs, protocol.full_epochs), (Protocol(**preset.evaluation).full_epochs,) * 2)
    drawn = run_cell(plan, Cell("random", 1))["random"]
    how = dict(network=plan.network(Cell("random", 1)).spec, augment=dsa, lr=lr, nets=2, epochs=3, split="test")
    same(drawn.accuracies, evaluate_random(data, 1, **how).accuracies)


def test_a_table_of_other_settings_is_another_table(plan):
    other = load("digits", seed=5)
    assert other.name == data.name
    others = [replace(plan, **s) for s in (dict(nets=3), dict(epochs=4), dict(data=other), dict(budget=Budget(steps=3)))]
    same(len({p.settings() for p in (plan, *others)}), 5)


def test_a_row_is_that_of_all_seeds(plan, picked):
    cells, found = [Cell("dm", 1, seed) for seed in (0, 1)], []
    for cell, a in zip(cells, (0.2, 0.6), strict=True):
        found.append(dict(distilled=Evaluation((a, a + 0.1), "test"), random=Evaluation((a / 2,), "test")))
        log = JsonLines(cell.folder(plan.out) / "log.jsonl")
        for step in (1, 2): log.write(step=step, loss=1.0, seconds=10 * a)
    picked.save(cells[0].folder(plan.out) / "distilled.safetensors")
    line = row(plan, cells, found)
    every = Evaluation((0.2, 0.3, 0.6, 0.7), "test")
    close([line.mean, line.std, line.random, line.seconds], [every.mean, every.std, 0.2, 8.0], eps=1e-9)


def test_a_report_is_written_again_for_other_results(plan):
    cell = Cell("random", 1)
    run_cell(plan, cell)
    report = cell.folder(plan.out) / "report.md"
    before = report.read_text()
    run_cell(replace(plan, nets=3), cell)
    assert "over 3 networks" in report.read_text() != before


def test_the_best_is_chosen_by_validation_alone(mtt, tmp_path):
    run, log = mtt(), JsonLines(tmp_path / "log.jsonl")
    for val, test in ((0.5, 0.1), (0.4, 0.9)):
        log(run.step())
        keep_best(run, dict(val_accuracy=val, test_accuracy=test), {}, tmp_path, log, Recorder(run))
    kept = SyntheticSet.load(tmp_path / "distilled.safetensors")
    same(kept.meta["step"], 1)
    assert "(0.500 with" in course(kept, log.read(log.path), Protocol())["chosen"]


def test_a_selection_with_another_lr_is_another(picked, tmp_path):
    select(lambda: picked, tmp_path)
    with ExceptionExpected(ValueError, regex="lr: 0.05 there, 0.07 here"): select(lambda: replace(picked, lr=0.07), tmp_path)


def test_networks_that_were_lost_are_told_again(picked, tmp_path):
    lost, how = Evaluation((0.5,), "test", diverged=2), dict(lr=0.05, beside=["full data"])
    with mock.patch("mtt_nb.run.evaluate", return_value=lost), mock.patch("mtt_nb.run.evaluate_random", return_value=lost):
        for _ in range(2): same({e.diverged for e in judge(picked, data, tmp_path, Protocol(nets=3), **how).values()}, {2})


def test_a_report_says_sizes_epochs_and_lr(picked, tmp_path):
    protocol = Protocol(nets=1, epochs=40, full_epochs=2, batch_size=8)  # of 2 batches for 10 images and 162 for all
    many = random_selection(data, 10, network=model.spec, augment=DSA("flip"), lr=0.05)
    results = {name: Evaluation((0.5,), "test") for name in ("random", "full data")}
    text = write_report(many, data, results, tmp_path, protocol).read_text()
    for words in ("| random | 100 |", f"| full data | {len(data.x_train):,} |", "full data: 4 epochs", "| learning rate to train with | 0.05 |"):
        assert words in text, words


def test_a_reset_lets_go_of_the_segment_and_steps_add_up(mtt):
    driver = Driver(lambda: mtt())
    driver.segment = driver.distiller.buffer.at(0, 1, 2)
    driver.run(2)
    driver.reset()
    same((driver.segment, driver.state), (None, None))
    driver.undo()
    same((driver.segment.epoch, driver.state.step), (1, 2))


def test_a_seed_is_that_of_the_experts():
    one, two = (next(train_experts(data, model, [0], epochs=1, seed=seed))[1] for seed in (0, 1))
    assert not torch.equal(one[0], two[0])


def test_stored_experts_are_described_as_those_recorded(mtt, tmp_path):
    "How they were trained, and how good they are at their end"
    told = dict(lr=0.05, batch_size=128, augment=DSA("crop", crop=0.25))
    path = mtt().buffer.trajectory(1)
    kept = store_experts([path], data, model, tmp_path / "stored", **told)
    same([kept.meta[k] for k in ("lr", "batch_size", "augment", "augment_options")], [0.05, 128, "crop", told["augment"].options])
    close(kept.accuracy[0, -1].item(), accuracy(model, path[-1], data.x_val, data.y_val), eps=1e-6)
    same(kept.trajectory(0), path)
