"The live lab without a browser: driver, history, messages, and what happens when things go wrong."
import asyncio
import colorsys
import gc
import json
import math
import os
import re
import signal
import threading
import time
import tracemalloc
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ipywidgets import Widget
from matplotlib.colors import to_rgb

from mtt_nb import live
from mtt_nb.data import load
from mtt_nb.distill import MTT, MTTConfig, SyntheticSet
from mtt_nb.experts import record_experts
from mtt_nb.driver import Driver, Turns
from mtt_nb.history import History, Thinned, gradient_shares, pack, unpack
from mtt_nb.live import Live, Run, beginning
from mtt_nb.models import build


class Plain:
    "The least a distiller can be: no path, no gradient, nothing to change"

    def __init__(self, n=10, size=8, channels=1, seconds=0.0, total=math.inf, fail_at=None):
        self.steps, self.seconds, self.total, self.fail_at = 0, seconds, total, fail_at
        self.images = torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(0))
        self.labels = torch.arange(n) % 10
        self.inside = 0

    def step(self):
        self.inside += 1
        assert self.inside == 1, "two threads in one step"
        time.sleep(self.seconds)
        self.inside -= 1
        self.steps += 1
        if self.steps == self.fail_at: raise ValueError("this step fails")
        return SimpleNamespace(step=self.steps, loss=1 / self.steps, lr=0.1, images=self.images, labels=self.labels)

    def __iter__(self):
        while self.steps < self.total: yield self.step()

    @property
    def synthetic(self): return SyntheticSet(self.images, self.labels, 0.1, dict(classes=[str(i) for i in range(10)]))


def until(condition, seconds=60):
    end = time.perf_counter() + seconds
    while not condition():
        assert time.perf_counter() < end, "it did not happen in time"
        time.sleep(0.002)


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    data = load("digits")
    buffer = record_experts(data, build("mlp", data.shape, data.n_classes, width=8), tmp_path_factory.mktemp("experts"), n=2, epochs=6, lr=0.05, batch_size=128)
    config = MTTConfig(ipc=1, iterations=50, syn_steps=3, expert_epochs=2, max_start_epoch=4, lr_img=5, lr_teacher=0.05, batch_syn=5)
    return lambda **settings: MTT(MTTConfig(**{**vars(config), **settings}), data, buffer)


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    until(lambda: not [t for t in threading.enumerate() if t not in before and t.name == "mtt_nb run"])


def lab_of(*makes, **options):
    "A Live whose canvas keeps what it is sent"
    lab = Live(*makes, **options)
    sent = []
    lab.view.send = lambda content, buffers=(): sent.append(unpack(json.loads(json.dumps(content)), [np.frombuffer(b, np.uint8) for b in buffers]))
    return lab, sent


# the driver

def test_start_pause_step_reset():
    seen, changes = [], []
    driver = Driver(lambda: Plain(seconds=0.005), [seen.append], [lambda: changes.append(driver.running) if len(seen) or changes else None])
    driver.start()
    driver.start()  # a second Start changes nothing
    until(lambda: len(seen) > 3)
    driver.pause(wait=True)
    count = len(seen)
    time.sleep(0.05)
    assert len(seen) == count and not driver.running
    assert driver.step().step == count + 1 == len(seen)
    driver.reset()
    assert driver.state is None and driver.distiller.steps == 0
    assert driver.run(2).step == 2
    assert [s.step for s in seen] == [*range(1, count + 2), 1, 2]


def test_start_right_after_pause_goes_on():
    driver = Driver(lambda: Plain(seconds=0.1))
    driver.start()
    until(lambda: driver.distiller.inside)
    driver.pause()
    driver.start()  # the step under way is not yet done
    until(lambda: driver.distiller.steps >= 3)
    driver.pause(wait=True)


@pytest.mark.parametrize("seconds, n", [(0.02, 5), (0, 300)])  # the second asks at the moments when a run ends, too
def test_steps_asked_for_during_a_step_are_counted(seconds, n):
    driver = Driver(lambda: Plain(seconds=seconds))
    for _ in range(n): driver.start(1)
    until(lambda: not driver.running)
    assert driver.state.step == n


def test_reset_during_a_step_waits_for_it():
    made = []
    driver = Driver(lambda: made.append(Plain(seconds=0.2)) or made[-1])
    driver.start()
    until(lambda: made[0].inside)
    driver.reset()
    assert made[0].steps == 1 and made[0].inside == 0 and len(made) == 2 and made[1].steps == 0 and not driver.running


def test_many_hands_on_the_buttons():
    driver = Driver(lambda: Plain(seconds=0.001))
    def fumble(seed):
        pick = np.random.default_rng(seed)
        for _ in range(60):
            act = pick.choice([driver.start, driver.pause, driver.reset, driver.undo, lambda: driver.start(1)])
            act()
    threads = [threading.Thread(target=fumble, args=(i,)) for i in range(4)]
    for t in threads: t.start()
    for t in threads: t.join(30)
    assert not any(t.is_alive() for t in threads)
    driver.reset()
    assert driver.run(3).step == 3


def test_errors_are_kept_and_the_run_goes_on():
    driver = Driver(lambda: Plain(fail_at=3))
    driver.start()
    until(lambda: driver.error)
    driver.pause(wait=True)
    with pytest.raises(ValueError, match="this step fails"): driver.start()
    assert driver.run(1).step == 4
    with pytest.raises(ValueError, match="this step fails"): Driver(lambda: Plain(fail_at=1)).run(5)


def test_the_end_of_the_run():
    driver = Driver(lambda: Plain(total=4))
    assert driver.run().step == 4 and driver.done
    assert driver.step().step == 4  # nothing more to do
    driver.reset()
    assert not driver.done and driver.run(2).step == 2


def test_pause_waits_for_nobody():
    begun, go = threading.Event(), threading.Event()
    class Held(Plain):
        def step(self):
            begun.set()
            go.wait(60)
            return super().step()
    driver = Driver(Held)
    driver.start()
    begun.wait(60)
    driver.pause()
    assert not driver.state  # in its first step still
    go.set()
    driver.pause(wait=True)
    assert driver.state.step == 1


def test_interrupt_lets_the_step_finish():
    class Interrupted(Plain):
        def step(self):
            if self.steps == 1: os.kill(os.getpid(), signal.SIGINT)  # within the second step
            return super().step()
    before, driver = signal.getsignal(signal.SIGINT), Driver(Interrupted)
    with pytest.raises(KeyboardInterrupt): driver.run(100)
    assert driver.distiller.inside == 0 and driver.distiller.steps == driver.state.step == 2
    assert signal.getsignal(signal.SIGINT) is before  # default_int_handler, or ignored where the tests run in the background
    assert driver.run(1).step == driver.distiller.steps


def test_speed_and_rate():
    driver = Driver(Plain)
    driver.speed = 50
    began = time.perf_counter()
    driver.run(11)
    assert time.perf_counter() - began >= 10 / 50
    assert 0 < driver.rate <= 10 / (9 / 50)  # the first step may have taken the time of its wait
    driver.speed = 0.1  # ten seconds between steps: Pause must not wait for them
    driver.start()
    until(lambda: driver.state.step > 11)
    began = time.perf_counter()
    driver.pause(wait=True)
    assert time.perf_counter() - began < 5


def in_a_loop(coroutine):
    "asyncio.run in a thread of its own: in this one the browser tests may have left a loop running"
    with ThreadPoolExecutor(1) as pool: return pool.submit(asyncio.run, coroutine).result()


def test_asyncio_gives_way():
    other = []
    async def both():
        driver, going = Driver(Plain), [True]
        async def beside():
            while going[0]: other.append(driver.state); await asyncio.sleep(0)
        task = asyncio.create_task(beside())
        await driver.run_async(20)
        going[0] = False
        await task
        return driver
    assert in_a_loop(both()).state.step == 20 and len(other) > 10


def test_turns_lets_a_visitor_in():
    turns, order = Turns(), []
    def visit():
        with turns:
            with turns: order.append("visitor")  # taken twice by its holder
    for _ in range(200):
        visitor = threading.Thread(target=visit)
        with turns:
            visitor.start()
            until(turns._door.locked)
        with turns: order.append("again")  # at once, but behind the visitor
        visitor.join()
    assert order == ["visitor", "again"] * 200


def test_a_distiller_in_place_of_a_factory_is_set_back(make):
    mtt = make()
    driver, losses = Driver(mtt), []
    driver.observers.append(lambda s: losses.append(s.loss))
    driver.run(2)
    driver.change(syn_steps=2, lr_img=1.0)
    driver.run(1)
    driver.reset()
    driver.run(2)
    assert losses[3:] == losses[:2] and mtt.config.syn_steps == 3


def test_the_drivers_agree(make):
    def losses(drive):
        out = []
        driver = Driver(make, [lambda s: out.append(s.loss)])
        drive(driver)
        until(lambda: len(out) == 6)
        driver.pause(wait=True)
        return out
    assert losses(lambda d: d.run(6)) == losses(lambda d: d.start(6)) == losses(lambda d: in_a_loop(d.run_async(6)))


# the history

def test_thinned_covers_the_run_evenly():
    for limit in (2, 7, 100):
        kept = Thinned(limit)
        for i in range(5000):
            kept.add(i)
            assert len(kept) <= limit + 1 and kept[0] == 0 and kept[-1] == i
        assert set(np.diff(kept.items[:-1])) == {kept.stride}


def test_history_is_bounded_in_bytes_and_survives_the_disk(tmp_path):
    history = History(dict(total=9), max_bytes=40_000)
    for i in range(1, 100):
        history.add(dict(step=i, loss=1.0, lr=math.inf, images=np.full((1, 50, 20, 1), i, np.uint8)))
        history.points.add((i, 1.0, 0.1))
    assert len(history.frames) <= 41 and history.frames[-1]["step"] == 99
    history.save(tmp_path / "h.safetensors")
    loaded = History.load(tmp_path / "h.safetensors")
    assert [f["step"] for f in loaded.frames] == [f["step"] for f in history.frames]
    assert (loaded.frames[-1]["images"] == 99).all() and loaded.info["total"] == 9 and math.isnan(loaded.frames[-1]["lr"])
    (tmp_path / "h.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="damaged"): History.load(tmp_path / "h.safetensors")


def test_memory_is_flat_over_ten_thousand_steps():
    run = Run(lambda: Plain(n=10), fps=1e9)  # a frame of every step
    run.driver.run(2000)  # by now both lists are full and thinned
    tracemalloc.start()
    run.driver.run(2000)
    before = tracemalloc.get_traced_memory()[0]
    run.driver.run(6000)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert run.driver.state.step == 10_000 and len(run.history.frames) <= 301 and len(run.history.points) <= 4001
    assert grown < 1_000_000, grown
    assert len(json.dumps(run.status())) < 500


def test_pack_keeps_values_and_types():
    value = dict(a=[1, 2.5, None, "x"], b=dict(c=np.arange(6, dtype=np.int8).reshape(2, 3)), d=math.nan)
    buffers = []
    back = unpack(json.loads(json.dumps(pack(value, buffers), allow_nan=False)), buffers)
    assert back["a"] == value["a"] and back["d"] is None and back["b"]["c"].dtype == np.int8 and (back["b"]["c"] == value["b"]["c"]).all()


# messages

def test_frames_are_dropped_but_no_point_and_not_the_last(make):
    sent = []
    run = Run(make, fps=1e-9, send=lambda **m: sent.append(m))
    run.driver.run(30)
    assert [f["step"] for m in sent for f in m.get("frames", [])] == [1, 30]
    assert np.concatenate([m["points"] for m in sent if "points" in m])[:, 0].tolist() == list(range(1, 31))


def test_every_accuracy_is_sent(make):
    sent = []
    run = Run(make, fps=1e-9, validate=lambda synthetic: 0.5, every=2, send=lambda **m: sent.append(m))  # the first frame, and the last
    run.driver.run(9)
    assert [step for m in sent for step, _ in m.get("accuracy", [])] == [2, 4, 6, 8]


def test_a_frame_says_what_the_state_says(make):
    run = Run(make)
    state = run.driver.step()
    frame = run.history.frames[-1]
    assert frame["distance"][-1] ** 2 == pytest.approx(state.loss, rel=1e-4)
    plane = run.scribe.planes[state.segment.expert][0]
    assert np.allclose(frame["path"], plane.project(state.path), atol=1e-6)
    # in the plane and off the plane make up the whole: Pythagoras, in units of the segment
    length = (state.segment.target - state.segment.start).norm()
    apart = (state.path[-1] - plane.centre).norm() / length
    assert apart ** 2 == pytest.approx(float(np.square(frame["path"][-1]).sum() / length ** 2 + frame["off"][-1] ** 2), rel=1e-4)
    assert (frame["batches"] == state.draw.batches.numpy()).all()


def test_ready_replays_everything(make):
    lab, sent = lab_of(make, fps=1e9)
    lab.run(10)
    sent.clear()
    lab._asked(lab.view, dict(kind="ready"), [])
    assert sent[0]["kind"] == "replay" and sent[0]["runs"][0]["n"] == 10
    assert [f["step"] for m in sent for f in m.get("frames", [])] == list(range(1, 11))
    assert sent[1]["points"].nbytes == 10 * 3 * 8 and len(sent[1]["planes"]) == len(lab.history.planes) > 0


def test_large_replays_come_in_parts():
    lab, sent = lab_of(lambda: Plain(n=100, size=32, channels=3), fps=1e9)
    lab.run(40)
    lab._asked(lab.view, dict(kind="ready"), [])
    parts = [sum(f["images"].nbytes for f in m["frames"]) for m in sent if m["kind"] == "frames" and "frames" in m]
    assert max(parts) < 5_000_000 and sum(parts) >= 40 * 307_200


def test_any_distiller(make):
    lab, sent = lab_of(Plain)
    lab.run(3)
    assert lab.history.frames[-1]["images"].shape == (10, 8, 8, 1) and not lab.sliders
    lab._asked(lab.view, dict(kind="paint", run=0, image=0), [b"", b""])
    assert "no student's path" in sent[-1]["status"]["error"]
    assert lab.snapshot()._repr_png_().startswith(b"\x89PNG")


def test_buttons_and_keys(make):
    lab, sent = lab_of(make)
    press = lambda name: lab.buttons[name].click()
    press("Step")
    until(lambda: not lab.driver.running and lab.driver.state)
    assert lab.driver.state.step == 1
    press("Start")
    assert lab.buttons["Start"].disabled and lab.buttons["Step"].disabled and not lab.buttons["Pause"].disabled
    press("Step")  # ignored
    until(lambda: lab.driver.state.step > 3)
    press("Pause")
    lab.driver.pause(wait=True)
    assert sent[-1]["status"]["word"] == "paused" and sent[-1]["status"]["step"] == lab.driver.state.step
    assert max(f["step"] for m in sent for f in m.get("frames", [])) == lab.driver.state.step  # the last one is shown
    for kind in ("toggle", "toggle"): lab._asked(lab.view, dict(kind=kind), [])
    until(lambda: not lab.driver.running)
    for reset in (lambda: press("Reset"), lambda: lab._asked(lab.view, dict(kind="reset"), [])):
        reset()
        assert lab.driver.state is None and [m["kind"] for m in sent[-2:]] == ["reset", "status"]
        for _ in range(3): press("Step")
        until(lambda: not lab.driver.running)
        assert lab.driver.state.step == 3


def test_the_colours_are_those_of_the_pictures(make):
    "By day the very same; on a dark ground the same hue, lighter"
    css = lab_of(make)[0].view._css
    assert not re.findall(r"#[0-9a-f]{6}", (Path(live.__file__).with_name("live.js")).read_text().replace("#ffffff", ""))
    by_day = css[css.rindex(".mtt {"):]
    hls = lambda colour: colorsys.rgb_to_hls(*to_rgb(colour))
    for name, style in live.STYLES.items():
        assert f"--mtt-{name}: {style['color']};" in by_day
        dark = set(re.findall(rf"--mtt-{name}: (#\w+)", css)) - {style["color"]}
        (hue, light, _), (was, dim, _) = hls(dark.pop()), hls(style["color"])
        assert not dark and abs(hue - was) < 0.02 and light > dim


def test_a_reset_can_be_undone(make):
    straight, _ = lab_of(make, fps=math.inf)
    straight.run(9)
    lab, sent = lab_of(make, fps=math.inf)
    lab.run(6)
    kept, pixels = weakref.ref(lab.driver.distiller), lab.history.frames[-1]["images"]
    undo = lambda: lab._asked(lab.view, dict(kind="undo_reset"), [])
    for _ in range(2): lab.buttons["Reset"].click()  # the second has nothing to drop
    assert sent[-1]["status"]["dropped"] == 6 and len(lab.history.points) == 0
    lab.sliders["lr_img"].value = 20  # holds in the run that comes back, too
    undo()
    assert lab.driver.distiller is kept() and lab.driver.distiller.config.lr_img == 20 and lab.driver.state.step == 6
    replay = [m["kind"] for m in sent].index("replay")
    assert sum(len(m.get("frames", [])) for m in sent[replay:]) == 6 and sent[-2]["status"]["dropped"] == 0
    lab.sliders["lr_img"].value = straight.sliders["lr_img"].value
    lab.run(3)
    assert lab.history.points.items == straight.history.points.items
    assert (lab.history.frames[5]["images"] == pixels).all() and len(lab.history.frames) == 9
    lab.buttons["Reset"].click()
    lab.run(1)
    gc.collect()
    assert kept() is None  # what was dropped takes no memory from the next meta-step on
    undo()
    assert lab.driver.state.step == 1


def test_a_page_has_something_to_show_before_the_first_meta_step(make):
    lab, sent = lab_of(make)
    lab._asked(lab.view, dict(kind="ready"), [])
    run, = sent[0]["runs"]
    assert run["begin"].size == 10 * 8 * 8 and run["begin"].any()
    assert [p["expert"] for m in sent[1:] for p in m.get("planes", [])] == [0]
    lab.run(1)
    assert lab.runs[0].info()["begin"] is None
    lab.driver.reset()
    assert (lab.runs[0].info()["begin"].ravel() == run["begin"]).all()
    plain = Run(Plain)  # a method without a plane
    assert beginning(plain).shape == (10, 8, 8, 1) and beginning(plain, most=639) is None


def test_sliders_take_effect_and_hold_at_their_ends(make):
    lab, sent = lab_of(make)
    s = lab.sliders
    for name in ("syn_steps", "lr_img", "expert_epochs", "max_start_epoch"):
        for end in ("max", "min"):
            value = getattr(s[name], end)
            s[name].value = 10 ** value if name == "lr_img" else value
            assert getattr(lab.driver.distiller.config, name) == s[name].value
            lab.driver.reset()
            assert math.isfinite(lab.driver.step().loss)
    s["syn_steps"].value = 5
    assert len(lab.driver.step().path) == 6
    lab.buttons["Reset"].click()
    assert lab.driver.distiller.config.syn_steps == 5  # what the slider shows is what is used
    assert not [m for m in sent if (m.get("status") or {}).get("error")]


def test_a_diverging_run_is_shown_and_can_be_saved(make):
    lab, sent = lab_of(lambda: make(lr_teacher=1e30))
    lab.buttons["Start"].click()
    until(lambda: lab.driver.error)
    until(lambda: not lab.driver.running)
    assert "Diverged" in sent[-1]["status"]["error"] and "lower" in sent[-1]["status"]["error"]
    assert not lab.buttons["Start"].disabled
    lab.buttons["Start"].click()  # diverges again, and is shown again
    until(lambda: lab.driver.error)
    lab.close_run()
    assert lab.driver.distiller.images.isfinite().all()


# poking

def paint(lab, image=0, value=255, rows=8):
    pixels, mask = np.full((8, 8, 1), value, np.uint8), np.zeros((8, 8), np.uint8)
    mask[:rows] = 1
    lab._asked(lab.view, dict(kind="paint", run=0, image=image), [memoryview(pixels.tobytes()), memoryview(mask.tobytes())])


def test_painting_bends_the_path_and_keep_changes_the_run(make):
    lab, sent = lab_of(lambda: make(batch_syn=None))
    state = lab.run(1)
    before = lab.driver.distiller.images.detach().clone()
    paint(lab, rows=0)
    assert sent[-1]["loss"] == pytest.approx(state.loss, rel=1e-6)  # nothing painted, nothing bent
    paint(lab)
    poke = sent[-1]
    assert poke["loss"] != pytest.approx(state.loss, rel=1e-3) and poke["step"] == 1
    assert np.array(poke["path"].view(np.float32)).reshape(-1, 2)[0] == pytest.approx(lab.history.frames[-1]["path"][0])
    assert torch.equal(lab.driver.distiller.images, before)  # a question, so far
    lab._asked(lab.view, dict(kind="keep", run=0), [])
    assert not torch.equal(lab.driver.distiller.images[0], before[0]) and torch.equal(lab.driver.distiller.images[1:], before[1:])
    white = lab.driver.distiller.data.transform(torch.ones(1, 1, 8, 8))[0]
    assert torch.allclose(lab.driver.distiller.images[0], white)
    lab.run(1)
    assert (lab.history.frames[-1]["images"][0] == 255).all()  # the next meta-step was of the painted image


def test_undo_forgets_the_paint(make):
    lab, sent = lab_of(make)
    lab.run(1)
    paint(lab)
    lab._asked(lab.view, dict(kind="undo", run=0), [])
    assert "loss" not in sent[-1] and not lab.runs[0].edits


def test_undo_goes_back_to_what_was_kept_and_a_new_page_knows_of_no_paint(make):
    lab, sent = lab_of(make)
    lab.run(1)
    paint(lab, rows=2)
    lab._asked(lab.view, dict(kind="keep"), [])
    kept = sent[-1]["loss"]
    paint(lab, rows=5)
    paint(lab, image=1)
    lab._asked(lab.view, dict(kind="undo"), [])
    assert list(lab.runs[0].edits) == [0] and sent[-1]["loss"] == kept
    assert torch.equal(lab.runs[0].edits[0], lab.driver.distiller.images.detach()[0])
    lab._asked(lab.view, dict(kind="ready"), [])
    assert not lab.runs[0].edits and not lab.runs[0].kept


def test_held_segment(make):
    lab, sent = lab_of(make)
    lab.run(1)
    lab._asked(lab.view, dict(kind="segment", run=0, expert=1, epoch=3, span=2), [])
    assert (sent[-1]["expert"], sent[-1]["epoch"], sent[-1]["status"]["pinned"]) == (1, 3, True)
    assert [lab.run(1).segment[:2] for _ in range(3)] == [(1, 3)] * 3
    target = lab.driver.distiller.buffer.theta(1, 5)
    assert torch.equal(lab.driver.state.segment.target, target)
    lab._asked(lab.view, dict(kind="segment", run=0, expert=1, epoch=6, span=3), [])
    assert "epoch" in sent[-1]["status"]["error"]
    lab._asked(lab.view, dict(kind="segment", run=0, expert=None), [])
    assert lab.driver.segment is None


def test_the_sweep_adds_up_to_the_gradient(make):
    lab, sent = lab_of(lambda: make(batch_syn=4, augment="flip"))
    state = lab.run(1)
    shares = gradient_shares(lab.driver.distiller, state)
    assert torch.allclose(shares.sum(0), state.grad, atol=1e-7, rtol=1e-4)
    assert all((shares[k].flatten(1).norm(dim=1) > 0).nonzero()[:, 0].tolist() == sorted(set(state.draw.batches[k].tolist())) for k in range(3))
    lab._asked(lab.view, dict(kind="inside", run=0), [])
    norms = sent[-1]["norms"].view(np.float32).reshape(3, 10)
    assert np.allclose(norms, shares.flatten(2).norm(dim=2))


def test_poking_while_it_runs_and_after_reset(make):
    lab, sent = lab_of(make)
    lab.buttons["Start"].click()
    until(lambda: lab.driver.state)
    for i in range(10): paint(lab, image=i)
    assert not [m for m in sent if (m.get("status") or {}).get("error")]
    resetting = threading.Thread(target=lab.buttons["Reset"].click)
    resetting.start()
    for _ in range(10): paint(lab)
    resetting.join(10)
    assert not resetting.is_alive()
    paint(lab)
    assert "take one first" in sent[-1]["status"]["error"]
    lab._asked(lab.view, dict(kind="unheard of"), [])


# side by side, replay, still pictures, bad input

def test_two_runs_share_a_plane(make):
    lab, sent = lab_of(make, lambda: make(lr_img=50), names=["5", "50"], fps=1e9)
    lab.run(5)
    a, b = lab.runs
    assert a.planes is b.planes and not lab.sliders
    assert a.history.points[0] == b.history.points[0] and a.history.points[4] != b.history.points[4]
    assert np.array_equal(a.history.frames[0]["path"], b.history.frames[0]["path"])
    lab.buttons["Reset"].click()
    assert all(r.driver.state is None for r in lab.runs)


def test_replay_needs_no_distiller(make, tmp_path):
    lab, _ = lab_of(make, fps=1e9)
    lab.run(4)
    lab.history.save(tmp_path / "run.safetensors")
    again, sent = lab_of(History.load(tmp_path / "run.safetensors"))
    assert isinstance(Live.replay(tmp_path / "run.safetensors"), Live) and not again.buttons
    again._asked(again.view, dict(kind="ready"), [])
    again._asked(again.view, dict(kind="inside", run=0), [])
    assert [f["step"] for m in sent for f in m.get("frames", [])] == [1, 2, 3, 4]
    assert (sent[0]["runs"][0]["driven"], sent[0]["runs"][0]["can"], sent[1]["status"]["word"]) == (False, [], "recorded")
    with pytest.raises(ValueError, match="no driver"): _ = again.driver


def test_pictures_without_a_browser(make):
    lab = Live(make, view="matplotlib")
    empty = lab.view.value
    lab.run(2)
    assert bytes(lab.view.value[:4]) == b"\x89PNG" and lab.view.value != empty
    assert lab.view.words.value == "meta-step 2, paused" and lab.view.words in lab.children
    lab._note("what went wrong")
    assert lab.view.words.value == "what went wrong"
    bundle = lab._repr_mimebundle_()
    assert {"image/png", "application/vnd.jupyter.widget-view+json", "text/plain"} <= set(bundle)
    assert lab.snapshot(step=1)._repr_png_() != lab.snapshot()._repr_png_()
    assert "image/png" not in Live(make)._repr_mimebundle_()


def test_a_closed_lab_is_freed(make, monkeypatch):
    cell = dict(metadata=dict(cellId="a cell"), header=dict(msg_id="its execution"))
    monkeypatch.setattr("IPython.get_ipython", lambda: SimpleNamespace(get_parent=lambda: cell))
    lab = Live(make)
    lab.run(1)
    kept = [weakref.ref(x) for x in (lab, lab.driver.distiller)]
    assert [ref() for ref in live._open["a cell"][1]] == [lab]
    lab.close()
    Widget.close_all()
    del lab
    gc.collect()
    assert [ref() for ref in kept] == [None, None]


@pytest.mark.parametrize("make_it, match", [
    (lambda make: Live(), "nothing to show"), (lambda make: Live(make, view="3d"), "one of"), (lambda make: Live(make, fps=0), "fps"),
    (lambda make: Live(make, names=["a", "b"]), "names"), (lambda make: Live(make, Plain), "different experts"),
    (lambda make: Driver(SimpleNamespace(step=1)), "give a function")])
def test_bad_input(make, make_it, match):
    with pytest.raises(ValueError, match=match): make_it(make)


def test_a_frame_of_a_hundred_colour_images_is_cheap():
    sent = []
    run = Run(lambda: Plain(n=100, size=32, channels=3), fps=1e-9, send=lambda **m: sent.append(len(pack(m, []))))
    run.driver.run(1)
    times = []
    for _ in range(50):
        began = time.thread_time()
        run.show()
        times.append(time.thread_time() - began)
    assert min(times) < 0.002, f"{1000 * min(times):.2f} ms"
