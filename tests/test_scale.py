"Several processes at once, and whatever can befall them: kills, full disks, damaged files, jumping clocks, one folder for two."
import errno
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed import TCPStore

from mtt_nb.augment import DSA
from mtt_nb.bench import return_memory
from mtt_nb.cli import main
from mtt_nb.data import load
from mtt_nb.distill import MTT, MTTConfig
from mtt_nb.distiller import FORMAT, Alone, JsonLines, load_checkpoint, save_checkpoint
from mtt_nb.experts import ExpertBuffer, checksum, load_tensors, record_experts, save_tensors
from mtt_nb.methods import METHODS
from mtt_nb.models import build
from mtt_nb.run import Protocol, distil, judge, resume
from mtt_nb.scale import Share, leave, ranks, seconds_of

EXPERTS = ["experts", "--n", 4, "--epochs", 3, "--width", 8, "--batch-size", 64, "--device", "cpu", "--out"]
DISTILL = ["distill", "--experts", "experts", "--syn-steps", 5, "--max-start-epoch", 2, "--iterations", 12, "--eval-every", 4, "--nets", 3,
           "--eval-epochs", 5, "--segments-per-step", 2, "--device", "cpu", "--out"]
SPAWN = multiprocessing.get_context("forkserver")  # a fork of a process that has the package loaded: a start takes no time
SPAWN.set_forkserver_preload(["mtt_nb.cli", "mtt_nb.plots", "sklearn.datasets"])


def run(*args, cwd):
    "A command in this process: its status and what it said"
    before = os.getcwd()
    os.chdir(cwd)
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()) as err:
        try: main([str(a) for a in args])
        except SystemExit as e: return e.code, err.getvalue()
        finally: os.chdir(before)
    return 0, err.getvalue()


def child(job, args, cwd, log, env):
    "What a started process does"
    os.environ.update(env, OMP_NUM_THREADS="1")
    torch.set_num_threads(1)
    os.chdir(cwd)
    sys.stdout = sys.stderr = open(log, "a", buffering=1)
    job([str(a) for a in args])


@contextmanager
def started(args, cwd, size=1, job=main):
    "Processes that run a command as so many ranks, each with its `log`; this one is their torchrun, and ends those that are left"
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    env = dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(store.port), WORLD_SIZE=str(size), TORCHELASTIC_USE_AGENT_STORE="True", TORCHELASTIC_RESTART_COUNT="0")
    processes = []
    for rank in range(size):
        log = Path(cwd) / f"{os.urandom(4).hex()}.log"
        processes.append(SPAWN.Process(target=child, args=(job, args, cwd, log, dict(env, RANK=str(rank)))))
        processes[-1].start()
        processes[-1].log = log
    try: yield processes
    finally:
        for p in processes: p.kill(); p.join()


def ended(processes, seconds=60):
    "The exit codes, within a time"
    end = time.monotonic() + seconds
    for p in processes: p.join(max(0, end - time.monotonic()))
    assert all(p.exitcode is not None for p in processes), [p.log.read_text()[-500:] for p in processes]
    return [p.exitcode for p in processes]


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "Experts from one process, and a run of one process that follows two segments"
    there = tmp_path_factory.mktemp("scale")
    assert run(*EXPERTS, "experts", cwd=there)[0] == 0
    assert run(*DISTILL, "one", cwd=there)[0] == 0
    return there


def same_experts(a, b, n=4):
    "Byte for byte"
    files = sorted(p.name for p in b.glob("expert_*"))
    return len(files) == n and all((a / name).read_bytes() == (b / name).read_bytes() for name in files)


def log_of(out): return [{k: v for k, v in line.items() if k != "seconds"} for line in JsonLines.read(out / "log.jsonl")]


def same_run(a, b):
    "To the last bit: checkpoint, best set and log"
    pairs = [[load_file(f / name) for f in (a, b)] for name in ("checkpoint.safetensors", "distilled.safetensors")]
    return all(x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x) for x, y in pairs) and log_of(a) == log_of(b)


# Recording

def test_ranks_record_what_one_process_records(folder, tmp_path):
    with started([*EXPERTS, "experts"], tmp_path, size=2) as both: assert ended(both) == [0, 0]
    assert same_experts(tmp_path / "experts", folder / "experts")
    assert not list((tmp_path / "experts").glob(".*"))  # no claim is left


def test_when_a_rank_is_killed_the_others_finish_and_its_expert_is_redone(folder, tmp_path):
    "Two ranks, halted as each is at work on an expert, and a third process that joins them knowing nothing but the folder"
    out = tmp_path / "experts"
    def send(what, *processes):
        for p in processes: os.kill(p.pid, what)
    def at_work(): return len({p.name[1:-5] for p in out.glob(".*.lock")} - {p.name for p in out.glob("expert_*")})
    with started([*EXPERTS, out], tmp_path, size=2) as both:
        while at_work() < 2:
            send(signal.SIGCONT, *both)
            wait_until(lambda: at_work() == 2)
            send(signal.SIGSTOP, *both)  # one may just have been done with its own
        with started([*EXPERTS, out], tmp_path) as lone:
            wait_until(lambda: len(list(out.glob("expert_*"))) == at_work() == 2)  # it has done all that is free
            send(signal.SIGKILL, both[1])
            send(signal.SIGCONT, both[0])
            assert ended([*both, *lone]) == [0, -signal.SIGKILL, 0]
    assert same_experts(out, folder / "experts")


def test_turns_go_to_those_who_ask_and_what_is_left_is_taken_up(tmp_path):
    groups = [[tmp_path / f"{i}"] for i in range(6)]
    groups[0][0].touch()  # recorded before
    numbers = iter(range(6))
    mine, other = (Share(lambda: next(numbers, 99))(groups) for _ in range(2))
    assert [next(mine), next(other), next(mine)] == [1, 2, 3]  # 2 is claimed and then never recorded
    for i in (1, 3): groups[i][0].touch()
    other.close()  # it dies
    for turn in mine: groups[turn][0].touch()
    assert all(g[0].exists() for g in groups) and not list(tmp_path.glob(".*"))


def test_a_full_disk_stops_one_and_the_rest_goes_on(folder, tmp_path, monkeypatch):
    "Of two experts at once the second does not fit: said by name, nothing half-written, the next attempt goes on"
    calls, fsync, out = [], os.fsync, tmp_path / "experts"
    def full(f):
        calls.append(f)
        if len(calls) == 2: raise OSError(errno.ENOSPC, "No space left on device")
        fsync(f)
    with monkeypatch.context() as m:
        m.setattr(os, "fsync", full)
        status, said = run(*EXPERTS, out, cwd=tmp_path)
    assert status == 2 and "expert_0001.safetensors: No space left" in said and [p.name for p in out.iterdir()] == ["expert_0000.safetensors"]
    assert run(*EXPERTS, out, cwd=tmp_path)[0] == 0 and same_experts(out, folder / "experts")


def damaged(raw, how): return {"truncated": raw[:-50], "bit-flipped": raw[:-50] + bytes([raw[-50] ^ 4]) + raw[-49:], "foreign": b"GIF89a" * 50}[how]


@pytest.mark.parametrize("how", ["truncated", "bit-flipped", "foreign"])
def test_a_bad_file_in_the_buffer_is_named_and_kept(folder, tmp_path, how):
    for file in (folder / "experts").iterdir(): (tmp_path / file.name).write_bytes(file.read_bytes())
    bad = tmp_path / "expert_0001.safetensors"
    bad.write_bytes(before := damaged(bad.read_bytes(), how))
    status, said = run(*EXPERTS, ".", "--n", 5, cwd=tmp_path)
    assert status == 2 and "expert_0001.safetensors is damaged" in said and not (tmp_path / "expert_0004.safetensors").exists()
    with pytest.raises(ValueError, match="expert_0001.safetensors is damaged"): [ExpertBuffer(tmp_path).trajectory(i) for i in range(4)]
    assert bad.read_bytes() == before


# Distilling

@pytest.fixture(scope="module")
def two(folder):
    "A run of two ranks"
    with started([*DISTILL, "two"], folder, size=2) as both: assert ended(both) == [0, 0], both[0].log.read_text()
    return folder / "two"


def test_two_ranks_are_one_process_with_two_segments(folder, two):
    one, both = (load_file(f / "checkpoint.safetensors") for f in (folder / "one", two))
    assert one.keys() == both.keys() and "1.generator" in both
    for name, t in one.items(): torch.testing.assert_close(t.float(), both[name].float(), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(one[k], both[k]) for k in ("generator", "1.generator"))  # the same draws
    first, second = log_of(folder / "one"), log_of(two)
    assert [line.get("expert") for line in first] == [line.get("expert") for line in second]
    accuracies = [[json.loads((f / "results.json").read_text())["accuracies"][k] for k in ("distilled", "random", "full data")] for f in (folder / "one", two)]
    torch.testing.assert_close(*map(torch.tensor, accuracies), rtol=0, atol=0.02)  # networks trained by two are those trained by one


def test_a_run_of_two_ranks_goes_on_with_one(folder, two, tmp_path):
    (tmp_path / "experts").symlink_to(folder / "experts")
    half = [*DISTILL[:-1], "--iterations", 6, "--out", "run"]
    with started(half, tmp_path, size=2) as both: assert ended(both) == [0, 0]
    assert run(*DISTILL, "run", cwd=tmp_path)[0] == 0
    torch.testing.assert_close(load_file(tmp_path / "run/checkpoint.safetensors")["images"], load_file(two / "checkpoint.safetensors")["images"], rtol=1e-4, atol=1e-5)


def test_when_a_rank_is_killed_all_stop_with_one_message_and_a_restart_goes_on_exactly(folder, two):
    command, out = [*DISTILL, "killed"], folder / "killed"
    with started(command, folder, size=2) as both:
        wait_until(lambda: len(JsonLines.read(out / "log.jsonl")) >= 3)
        both[1].kill()
        began = time.monotonic()
        assert ended(both) == [1, -signal.SIGKILL] and time.monotonic() - began < 60
        said = [line for p in both for line in p.log.read_text().splitlines() if "mtt-nb:" in line or "Error" in line]
    assert len(said) == 1 and "another rank died" in said[0] and "last checkpoint" in said[0], said
    with started(command, folder, size=2) as both: assert ended(both) == [0, 0]
    assert same_run(out, two)


def test_a_number_of_ranks_that_does_not_fit_is_said_once(folder):
    with started([*DISTILL[:-1], "--segments-per-step", 3, "--out", "odd"], folder, size=2) as both:
        assert ended(both) == [2, 2]
        assert [p.log.read_text().count("must be a multiple of 2") for p in both] in ([1, 0], [0, 1])


def test_a_run_that_is_beyond_what_is_asked_for_is_only_reported(folder, two):
    shutil.copytree(two, folder / "beyond")
    (folder / "beyond" / "results.json").unlink()  # so that both ranks go on to the test
    with started([*DISTILL[:-1], "--iterations", 6, "--out", "beyond"], folder, size=2) as both:
        assert ended(both) == [0, 0], both[1].log.read_text()
        assert [p.log.read_text().count("beyond the 6") for p in both] == [1, 0]


def ranks_of(torchrun):
    "The processes that a torchrun has started, by rank"
    found = {}
    for pid in Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children").read_text().split():
        try: env = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError: continue
        found |= {int(e[5:]): int(pid) for e in env if e.startswith(b"RANK=")}
    return found


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="only Linux says which process is which rank")
def test_torchrun_starts_again_what_was_killed(tmp_path):
    "A rank is killed as it records, another as it distils: the end is that of a run in which none was"
    command = ["distill", "--iterations", 8, "--eval-every", 4, "--eval-epochs", 5, "--nets", 2, "--limit", 300, "--device", "cpu", "--out"]
    with started([*command, "whole"], tmp_path, size=2) as both: assert ended(both) == [0, 0], both[0].log.read_text()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "2", "-m", "mtt_nb"]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen([*torchrun, *map(str, command), "killed"], cwd=tmp_path, stdout=log, stderr=log, env=dict(os.environ, OMP_NUM_THREADS="1"))
    out = tmp_path / "killed"
    try:
        wait_until(lambda: list(out.glob("experts/expert_*")))
        os.kill(ranks_of(process)[1], signal.SIGKILL)
        wait_until(lambda: len(JsonLines.read(out / "log.jsonl")) >= 2)
        os.kill(ranks_of(process)[0], signal.SIGKILL)
        assert process.wait(90) == 0, (tmp_path / "log").read_text()[-3000:]
    finally: process.kill()
    assert same_run(out, tmp_path / "whole") and same_experts(out / "experts", tmp_path / "whole/experts", 5)
    assert (out / "results.json").read_text() == (tmp_path / "whole/results.json").read_text() and (out / "report.md").exists()


class InThreads(Alone):
    "Ranks that are threads; what each brings to a mean is kept in `brought`"
    def __init__(self, rank, size, shared): self.rank, self.size, (self.barrier, self.brought) = rank, size, shared
    def mean(self, tensors):
        self.brought[self.rank] = tensors
        self.barrier.wait(60)
        parts = [sum(of_one) / self.size for of_one in zip(*(self.brought[r] for r in range(self.size)))]
        self.barrier.wait(60)
        return parts


DATA = load("digits")


def made(name, buffer=None):
    method, preset = METHODS[name], METHODS[name].presets["digits", 1]
    settings = dict(segments_per_step=2, syn_steps=4, max_start_epoch=2) if name == "mtt" else dict(inner_epochs=2) if "cafe" in name else {}
    return method.make(replace(preset.config, **settings), DATA, buffer or build("convnet", DATA.shape, 10, width=8, depth=2))


def steps_in_threads(name, buffer, n):
    "Two distillers that take n steps together, and what they brought to the last"
    shared, both = (threading.Barrier(2), {}), [made(name, buffer) for _ in range(2)]
    for rank, distiller in enumerate(both): distiller.join(InThreads(rank, 2, shared))
    threads = [threading.Thread(target=lambda d=d: [d.step() for _ in range(n)]) for d in both]
    for t in threads: t.start()
    for t in threads: t.join()
    return both, shared[1]


def steps_of_all(args):
    "What a rank does for the next test"
    for name in METHODS:
        distiller = made(name, ExpertBuffer(args[0]) if name == "mtt" else None)
        distiller.join(ranks())
        for _ in range(2): distiller.step()
        ranks().require_same(distiller.shared_state())
        save_checkpoint(f"{name}.safetensors", distiller)
    leave()


def test_every_method_takes_its_steps_together(folder, tmp_path):
    "Processes do what threads do, and the first step is that of the mean gradient of two that are alone"
    with started([folder / "experts"], tmp_path, size=2, job=steps_of_all) as both: assert ended(both) == [0, 0], both[0].log.read_text()
    for name in METHODS:
        buffer = ExpertBuffer(folder / "experts") if name == "mtt" else None
        (first, second), _ = steps_in_threads(name, buffer, 2)
        state = load_file(tmp_path / f"{name}.safetensors")
        for k, t in first.shared_state().items():
            assert torch.equal(t, second.shared_state()[k])
            torch.testing.assert_close(t.float(), state[k].float(), rtol=1e-4, atol=1e-5)
        assert not torch.equal(state["generator"], state["1.generator"])
        brought = steps_in_threads(name, buffer, 1)[1]
        assert not torch.equal(brought[0][1], brought[1][1])  # each has its own draws
        if name == "mtt": continue  # has a test of its own
        alone = made(name)  # has the gradient that the first rank brings
        values = {k: getattr(alone, k).clone().requires_grad_() for k in alone.learns}
        for mine, theirs in zip(torch.autograd.grad(alone.loss(**values), list(values.values())), brought[0][1:]): torch.testing.assert_close(mine, theirs)


# One process, and what can happen to it

CONFIG = MTTConfig(ipc=1, iterations=6, syn_steps=4, expert_epochs=2, max_start_epoch=2, lr_img=10, lr_lr=1e-3, lr_teacher=0.05, augment="crop_scale_rotate", memory="full")
QUICK = Protocol(nets=1, epochs=2, eval_every=3, val_nets=1)


def distilled(out, experts, **options):
    mtt = MTT(CONFIG, DATA, ExpertBuffer(experts))
    distil(mtt, DATA, out, QUICK, **{"checkpoint_every": 0, **options})
    return mtt


@pytest.fixture(scope="module")
def whole(folder):
    distilled(folder / "whole", folder / "experts")
    return folder / "whole"


def dies_while_writing(args):
    "Kill this process in the n-th write or rename of a checkpoint"
    experts, out, call, n = args
    known, seen = getattr(os, call), []
    def deadly(*a):
        if call == "fsync" or "checkpoint" in str(a[-1]): seen.append(a)
        if len(seen) == int(n): os.kill(os.getpid(), signal.SIGKILL)
        return known(*a)
    setattr(os, call, deadly)
    distilled(out, experts)


@pytest.mark.parametrize("call, n", [("fsync", 1), ("fsync", 5), ("replace", 2), ("replace", 3)])
def test_killed_as_it_writes_a_checkpoint(folder, whole, tmp_path, call, n):
    with started([folder / "experts", tmp_path / "run", call, n], tmp_path, job=dies_while_writing) as one: assert ended(one) == [-signal.SIGKILL]
    distilled(tmp_path / "run", folder / "experts")
    assert same_run(tmp_path / "run", whole) and not list((tmp_path / "run").glob(".checkpoint*"))


def test_a_damaged_checkpoint_gives_way_to_the_one_before(folder, whole, tmp_path, capsys):
    out = tmp_path / "run"
    def stop(state): return os.kill(os.getpid(), signal.SIGTERM) if state.step == 4 else None
    with pytest.raises(Exception, match="stopped after meta-step 4"): distilled(out, folder / "experts", observers=[stop])
    bad = out / "checkpoint.safetensors"
    bad.write_bytes(raw := damaged(bad.read_bytes(), "bit-flipped"))
    mtt = MTT(CONFIG, DATA, ExpertBuffer(folder / "experts"))
    assert resume(mtt, bad) and mtt.steps == 3 and "is damaged" in capsys.readouterr().err
    assert (out / "checkpoint.damaged.safetensors").read_bytes() == raw
    distilled(out, folder / "experts")
    assert same_run(out, whole)


def test_the_clock_may_jump(folder, whole, tmp_path, monkeypatch):
    "By days, forward and back, at every look at it"
    monkeypatch.setattr(time, "time", lambda: random.uniform(0, 4e9))
    distilled(tmp_path / "run", folder / "experts", checkpoint_every=20.0)
    assert same_run(tmp_path / "run", whole)
    options = dict(n=4, epochs=3, lr=0.05, batch_size=64, augment=DSA("crop_scale_rotate"))
    buffer = record_experts(DATA, build("convnet", DATA.shape, 10, width=8, depth=2), tmp_path / "experts", share=Share(until=time.monotonic() + 60), **options)
    assert torch.equal(buffer.trajectory(3), ExpertBuffer(folder / "experts").trajectory(3))


def test_a_second_run_on_the_same_folder_refuses(folder, whole, tmp_path):
    out = tmp_path / "run"
    with started([folder / "experts", out], tmp_path, job=waits_in_step_two) as first:
        wait_until(lambda: len(JsonLines.read(out / "log.jsonl")) >= 2)
        with pytest.raises(ValueError, match="another process is at work in .*run"): distilled(out, folder / "experts")
        first[0].kill()
        first[0].join()
    distilled(out, folder / "experts")  # the dead hold nothing
    assert same_run(out, whole)


def waits_in_step_two(args): distilled(args[1], args[0], observers=[lambda state: time.sleep(60) if state.step == 2 else None])


def test_checkpoints_of_other_versions(folder, whole, tmp_path):
    "An older one without a format goes on where that is the same, and is refused where it is not; a newer one is refused"
    tensors, meta = load_tensors(whole / "checkpoint.safetensors", "checkpoint")
    old, new = tmp_path / "old.safetensors", tmp_path / "new.safetensors"
    mtt = MTT(CONFIG, DATA, ExpertBuffer(folder / "experts"))
    save_tensors(old, "checkpoint", tensors, {"texts": meta["texts"]})
    load_checkpoint(old, mtt)
    assert mtt.steps == 6 and torch.equal(mtt.images, tensors["images"])
    several = MTT(replace(CONFIG, segments_per_step=2), DATA, ExpertBuffer(folder / "experts"))
    with pytest.raises(ValueError, match="old.safetensors was written by an older mtt_nb"): load_checkpoint(old, several)
    save_tensors(new, "checkpoint", tensors, meta | {"format": FORMAT + 1})
    with pytest.raises(ValueError, match="new.safetensors was written by a newer mtt_nb"): load_checkpoint(new, mtt)


def test_stop_after_ends_in_time_and_the_same_command_goes_on(folder, tmp_path):
    command = [*DISTILL, tmp_path / "run"]
    for step in (1, 2):
        status, said = run(*command, "--stop-after", "0s", cwd=folder)
        assert status == 0 and f"stopped after meta-step {step};" in said and not (tmp_path / "run/report.md").exists()
    assert run(*command, cwd=folder)[0] == 0 and same_run(tmp_path / "run", folder / "one")
    status, said = run(*EXPERTS, tmp_path / "none", "--stop-after", "0s", cwd=folder)
    assert status == 0 and "stopped before expert_0000" in said
    assert run(*EXPERTS, tmp_path / "none", "--stop-after", "soon", cwd=folder)[0] == 2
    assert [seconds_of(t) for t in ("3h30m", "45m", "90s", "1d2h")] == [12600, 2700, 90, 93600]


def reads_rows(args):
    "How much memory grows as rows of a large file are read"
    def resident(): return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))
    return_memory(True)  # so that what is freed does not count
    buffer = ExpertBuffer(args[0])
    buffer.theta(0, 0)
    before = resident()
    for t in range(40): row = buffer.theta(0, t)
    print(resident() - before, len(row))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says how much memory a process has")
def test_a_large_buffer_is_read_row_by_row(tmp_path):
    "160 MB on disk, forty rows of 4 MB: no more than two of them in memory"
    theta = torch.randn(40, 1_000_000)
    header = dict(expert=0, epochs=39, n_params=1_000_000, accuracy=[None] * 39, loss=[], rows=[checksum(row) for row in theta], network={"name": "none"},
                  data="none", data_options={}, fingerprint="")
    save_tensors(tmp_path / "expert_0000.safetensors", "expert", {"theta": theta}, header)
    with started([tmp_path], tmp_path, job=reads_rows) as one:
        assert ended(one) == [0]
        grown, length = map(int, one[0].log.read_text().split())
    assert length == 1_000_000 and grown < 10_000, grown


def test_streamed_data_are_the_same_data(tmp_path, monkeypatch):
    "Images left in the mapped file: the same fingerprint, the same experts but for rounding, and no part is ever in memory whole"
    from PIL import Image
    digits = load("digits", val_fraction=0)
    for part in ("train", "test"):
        for i, (x, y) in enumerate(zip(digits.to_display(getattr(digits, f"x_{part}"))[:120], getattr(digits, f"y_{part}")[:120])):
            file = tmp_path / "images" / part / str(int(y)) / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((x[0] * 255).byte().numpy()).save(file)
    monkeypatch.setenv("MTT_NB_DATA", str(tmp_path / "cache"))
    there, mapped = (load("folder", tmp_path / "images", stream=stream) for stream in (False, True))
    assert mapped.fingerprint == there.fingerprint and mapped.shape == there.shape and mapped.options == there.options
    assert not isinstance(mapped.x_train, torch.Tensor) and isinstance(there.x_train, torch.Tensor) and mapped.x_train.raw.dtype == torch.uint8
    rows = torch.randint(len(there.x_train), (3, 5))
    for which in (rows, rows[0], slice(2, 7)): torch.testing.assert_close(mapped.x_train[which], there.x_train[which], rtol=1e-5, atol=1e-5)
    model = build("convnet", there.shape, there.n_classes, width=8, depth=2)
    one, two = (record_experts(d, model, tmp_path / name, n=1, epochs=2, batch_size=32, augment=DSA("flip")) for name, d in (("one", there), ("two", mapped)))
    torch.testing.assert_close(one.trajectory(0), two.trajectory(0), rtol=1e-3, atol=1e-4)
    assert (one.meta, one.accuracy.tolist()) == (two.meta, two.accuracy.tolist())
    assert record_experts(mapped, model, tmp_path / "one", n=1, epochs=2, batch_size=32, augment=DSA("flip")).meta == one.meta  # goes on there
    mtt = MTT(replace(CONFIG, iterations=2, expert_epochs=1, augment="flip"), mapped, one)
    distil(mtt, mapped, tmp_path / "run", QUICK)
    assert set(judge(mtt.synthetic, mapped, tmp_path / "run", replace(QUICK, full_epochs=1), lr=0.01)) == {"distilled", "random", "full data"}
    with pytest.raises(ValueError, match="zca"): load("folder", tmp_path / "images", stream=True, zca=True)
