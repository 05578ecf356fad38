"The live lab in JupyterLab and in Voila, with a browser that presses everything and looks at what is drawn."
import json
import math
import re
import sys
import time

import psutil
import pytest
from conftest import HOST, Desk, Lab, command_page
from mtt_nb.data import load
from mtt_nb.distill import MTT, MTTConfig, PRESETS
from mtt_nb.experts import record_experts
from mtt_nb.history import Recorder
from mtt_nb.live import SPEEDS, Live
from mtt_nb.models import build
from test_live import Plain

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("one after another")]  # they share a server and a browser

SETUP = """
import tempfile, threading, time, torch
from mtt_nb.data import load
from mtt_nb.models import build
from mtt_nb.experts import record_experts
from mtt_nb.distill import MTT, MTTConfig
from mtt_nb.live import Live
torch.set_num_threads(1)
data, folder = load("digits"), tempfile.TemporaryDirectory()
buffer = record_experts(data, build("mlp", data.shape, data.n_classes, width=16), folder.name, n=2, epochs=8, lr=0.05, batch_size=128)
def make(**settings):
    return MTT(MTTConfig(**{**dict(ipc=1, iterations=5000, syn_steps=5, expert_epochs=2, max_start_epoch=4, lr_img=10, lr_teacher=0.1, augment="none"), **settings}), data, buffer)
def runs(): return [t for t in threading.enumerate() if t.name == "mtt_nb run"]
"""
EXPERT, STUDENT, DARK = "0,114,178,255", "213,94,0,255", "86,180,233,255"


def show(nb, cell="lab = Live(make); lab", *more):
    nb.open([SETUP, cell, *more, ""])
    nb.run(0).run(1)
    lab = Lab(nb.page)
    lab.wait("d.runs >= '1'")
    return lab


def key(page, name, n=1):
    for _ in range(n): page.keyboard.press(name)


def eventually(nb, code, expected):
    "A slider's message may arrive after the cell that asks for its effect"
    for _ in range(20):
        if nb.ask(code) == expected: return
        nb.page.wait_for_timeout(250)
    assert nb.ask(code) == expected, code


def test_every_button_and_slider(nb):
    lab = show(nb)
    nb.page.wait_for_function("() => document.querySelector('.mtt-status').textContent.includes('ready')")
    lab.press("step")
    lab.wait("d.shown === '1' && d.running === '0'")
    lab.press("start")
    lab.wait("+d.shown > 10 && d.running === '1'")
    width = lab.box()["width"]
    plane = lab.colours(0, 20, width * 0.54, 200)
    assert EXPERT in plane and STUDENT in plane
    lab.press("pause")
    lab.wait("d.running === '0'")
    at = lab.step
    time.sleep(0.4)
    assert lab.step == at == int(nb.ask("print(lab.driver.state.step)"))
    assert float(lab.data["loss"]) == pytest.approx(float(nb.ask("print(lab.driver.state.loss)")))  # the last frame is the last step's
    for i in range(3):
        lab.press("step")
        lab.wait(f"d.shown === '{at + i + 1}' && d.running === '0'")
    assert nb.ask("print(lab.driver.state.step)") == str(at + 3)
    config = "lab.driver.distiller.config."
    for name, shown, expected in (("syn_steps", "syn_steps", "6"), ("expert_epochs", "expert_epochs", "3"),
                                  ("max_start_epoch", "max_start_epoch", "5"), ("lr_img", "lr_img > 10", "True")):
        nb.page.locator(f".mtt-{name} .noUi-handle").first.focus()
        key(nb.page, "ArrowRight")
        eventually(nb, f"print({config}{shown})", expected)
    assert nb.ask("print(len(lab.driver.step().path) - 1)") == "6"  # N student steps, from the next meta-step on
    # no key goes from the lab to JupyterLab, which would cut the cell or leave it
    page, cells = nb.page, "() => { const c = window.jupyterapp.shell.currentWidget.content; return [c.activeCellIndex, ...c.widgets.map(w => w.model.type)] }"
    lab.press("step")
    before = page.evaluate(cells)
    for place in (".widget-button.mtt-step", ".noUi-handle", ".mtt-canvas", ".mtt-scrub", ".mtt-live"):
        page.locator(place).first.focus()
        for name in ("b", "m", "x", "d", "d", "ArrowDown", "ArrowUp"): key(page, name)
        assert page.evaluate(cells) == before, place
    lab.root.locator(".mtt-live").click()
    for place in (".widget-button.mtt-step", ".noUi-handle"):
        lab.wait("d.running === '0'")
        at = int(nb.ask("print(lab.driver.state.step)"))
        page.locator(place).first.focus()
        key(page, "s")
        lab.wait(f"d.shown === '{at + 1}' && d.running === '0'")
    lab.press("reset")
    lab.wait("d.shown === '0' && d.frames === '0' && d.points === '0'")
    assert nb.ask("print(lab.driver.state, lab.driver.running, len(runs()))") == "None False 0"
    nb.page.locator(".widget-button.mtt-step").first.click(click_count=4, delay=1)  # faster than the steps
    lab.wait("d.shown === '4' && d.running === '0'")
    handles = nb.page.locator(".noUi-handle")
    names = handles.evaluate_all("all => all.map(h => h.getAttribute('aria-label') + ': ' + h.getAttribute('aria-valuetext'))")
    assert nb.page.locator(".mtt-syn_steps").get_by_role("textbox", name="student steps").inner_text() == "6"
    assert "student steps: 6" in names and "meta-steps a second, at most: fastest" in names
    speed = nb.page.locator(".widget-hslider:has-text('speed')").first
    speed.locator(".noUi-handle").focus()
    key(nb.page, "Home")
    eventually(nb, "print(lab.driver.speed)", "1")
    speed.locator(".noUi-handle").focus()  # that question took the keys
    readout = speed.locator(".widget-readout")
    for text, _ in SPEEDS:
        assert readout.inner_text() == text and readout.evaluate("e => e.scrollWidth <= e.clientWidth"), text  # nothing cut off
        key(nb.page, "ArrowRight")


def test_a_reset_can_be_undone(nb):
    lab = show(nb, "lab = Live(make, fps=float('inf')); lab", "lab.run(12); None")
    nb.run(2)
    before = lab.wait("d.frames === '12'")
    undo, page = lab.root.get_by_role("button", name="Undo reset"), nb.page
    high = lab.box()["y"]
    assert not undo.is_visible()
    page.locator(".widget-button.mtt-reset").first.focus()
    key(page, "Enter")  # by keyboard alone
    lab.wait("d.shown === '0' && d.frames === '0' && document.querySelector('.mtt-said').textContent.includes('Undo reset brings 12 meta-steps back')")
    assert lab.box()["y"] == high  # nothing jumps
    undo.focus()
    key(page, "Enter")
    after = lab.wait("d.frames === '12'")
    assert {k: after[k] for k in ("shown", "points", "loss")} == {k: before[k] for k in ("shown", "points", "loss")}
    assert not undo.is_visible() and lab.root.locator(".mtt-canvas").evaluate("c => c === document.activeElement")
    key(page, "f")
    page.wait_for_function("() => document.fullscreenElement?.className === 'mtt'")
    lab.root.locator(".mtt-bar .mtt-reset").click()
    lab.wait("d.frames === '0'")
    undo.click()
    lab.wait("d.frames === '12'")
    lab.root.locator(".mtt-bar .mtt-reset").click()
    lab.wait("d.frames === '0'")
    key(page, "s")
    lab.wait("d.shown === '1'")
    assert not undo.is_visible()
    key(page, "f")
    page.wait_for_function("() => !document.fullscreenElement")


def test_full_screen_is_larger_fits_and_can_be_pointed_at(nb):
    lab = show(nb, "lab = Live(make, fps=float('inf')); lab", "lab.run(40); None")
    nb.run(2)
    lab.wait("d.frames === '40'")
    page, size = nb.page, "() => { const c = document.querySelector('.mtt-canvas'); return [c.clientWidth, c.clientHeight, c.width / c.clientWidth] }"
    before = page.evaluate(size)
    lab.root.locator(".mtt-canvas").focus()
    key(page, "f")
    page.wait_for_function(f"""before => {{ const now = ({size})(), full = document.fullscreenElement;  // larger, all of it there, and sharp
        return full?.className === 'mtt' && now[1] > 1.1 * before[1] && full.scrollHeight <= innerHeight && now[2] === before[2] }}""", arg=before)
    box = lab.box()
    page.mouse.move(box["x"] + box["width"] * 0.26, box["y"] + box["height"] - 60)  # on the curve of the loss, half-way
    middle = int(lab.wait("d.live === '0'")["shown"])
    assert 15 < middle < 25
    page.mouse.move(box["x"] + 5, box["y"] + 3)
    lab.wait("d.live === '1'")
    bar = lab.root.locator(".mtt-bar")
    assert "space: start" in bar.inner_text()
    bar.locator(".mtt-step").click()
    lab.wait("d.shown === '41'")
    bar.locator(".mtt-toggle").click()
    lab.wait("+d.shown > 45 && d.running === '1'")
    assert bar.locator(".mtt-toggle").inner_text() == "Pause"
    bar.locator(".mtt-toggle").click()
    lab.wait("d.running === '0'")
    bar.locator(".mtt-reset").click()
    lab.wait("d.shown === '0'")
    key(page, "f")
    page.wait_for_function(f"before => !document.fullscreenElement && JSON.stringify(({size})()) === JSON.stringify(before)", arg=before)
    assert not bar.is_visible()


def test_looking_back_needs_no_kernel(nb):
    lab = show(nb, "lab = Live(make, fps=float('inf')); lab", "lab.run(40); None", "time.sleep(60)")
    nb.run(2)
    lab.wait("d.frames === '40' && d.points === '40'")
    page, box = nb.page, lab.box()
    nb.run(3, wait=False)  # from here on the kernel sleeps
    page.wait_for_function("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'busy'")
    lab.root.scroll_into_view_if_needed()
    box = lab.box()
    curve = box["y"] + box["height"] - 60
    newest = lab.colours(box["width"] * 0.56, 30, box["width"] * 0.4, 150)
    page.mouse.move(box["x"] + box["width"] * 0.12, curve)
    early = int(lab.wait("d.live === '0' && +d.shown < 20")["shown"])
    assert lab.colours(box["width"] * 0.56, 30, box["width"] * 0.4, 150) != newest  # other images
    page.mouse.move(box["x"] + box["width"] * 0.2, curve)
    lab.wait(f"+d.shown > {early}")
    page.mouse.move(box["x"] + 5, box["y"] + 3)
    lab.wait("d.live === '1' && d.shown === '40'")
    strip = box["y"] + box["height"] - 190
    page.mouse.move(box["x"] + box["width"] * 0.3, strip)  # a look at a student step is over when the mouse leaves; a press stays
    lab.wait("+d.k > 1")
    page.mouse.move(box["x"] + 5, box["y"] + 3)
    lab.wait("d.k === ''")
    page.mouse.click(box["x"] + box["width"] * 0.3, strip)
    page.mouse.move(box["x"] + 5, box["y"] + 3)
    assert int(lab.drawn()["k"]) > 1
    lab.root.locator(".mtt-live").click()
    lab.wait("d.k === ''")
    page.mouse.move(box["x"] + box["width"] * 0.12, curve)  # drag, let go, and it stays
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.15, curve, steps=4)
    page.mouse.up()
    page.mouse.move(box["x"] + 5, box["y"] + 3)
    data = lab.drawn()
    held = int(data["shown"])
    assert data["live"] == "0"
    lab.root.locator(".mtt-canvas").focus()
    key(page, "ArrowLeft", 2)
    lab.wait(f"+d.shown === {held - 2}")
    key(page, "ArrowRight")
    lab.wait(f"+d.shown === {held - 1}")
    key(page, "Shift+ArrowRight", 2)
    lab.wait("d.k === '1'")
    key(page, "Home")
    lab.wait("d.shown === '1' && d.k === ''")
    assert "meta-step 1," in lab.root.locator(".mtt-canvas").get_attribute("aria-label")
    key(page, "Escape")
    lab.wait("d.shown === '40' && d.live === '1'")
    lab.root.locator(".mtt-scrub").focus()
    key(page, "ArrowLeft", 5)
    lab.wait("d.shown === '35'")
    lab.root.locator(".mtt-live").click()
    lab.wait("d.live === '1'")
    drawn = lab.root.evaluate("""async root => { const c = root.querySelector('.mtt-canvas'), b = c.getBoundingClientRect(), before = +root.dataset.drawn;
        for (let i = 0; i < 60; i++) {
            c.dispatchEvent(new PointerEvent('pointermove', {clientX: b.x + b.width * (0.06 + 0.22 * ((i * 7) % 60) / 60), clientY: b.y + b.height - 60, bubbles: true}));
            await new Promise(requestAnimationFrame); await new Promise(requestAnimationFrame);
        }
        return +root.dataset.drawn - before }""")
    assert drawn > 50, drawn  # the picture keeps up with the mouse; tests/measure_live.py reports how many a second
    nb.command("notebook:interrupt-kernel")


def test_poking(nb):
    lab = show(nb)
    page = nb.page
    lab.press("start")
    lab.wait("+d.shown > 3")
    box = lab.box()
    page.mouse.click(box["x"] + box["width"] * 0.6, box["y"] + 50)  # the first image
    lab.wait("d.image === '0'")
    grad = lab.root.locator(".mtt-grad").evaluate("c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]")
    assert len(set(zip(grad[::4], grad[1::4], grad[2::4], strict=True))) > 10
    lab.root.locator(".mtt-big").hover()  # once the panel has been brought into view and stands still
    big = lab.root.locator(".mtt-big").bounding_box()
    page.mouse.move(big["x"] + big["width"] * 0.2, big["y"] + big["height"] * 0.2)
    page.mouse.down()  # painting pauses the run
    page.mouse.move(big["x"] + big["width"] * 0.8, big["y"] + big["height"] * 0.8, steps=10)
    page.mouse.up()
    bent = lab.wait("d.running === '0' && d.poke !== '' && Math.abs(+d.poke - +d.loss) > 1e-6")
    at = int(bent["shown"])
    white = lab.root.locator(".mtt-big").evaluate("c => [...c.getContext('2d').getImageData(3, 3, 1, 1).data]")
    assert white == [255, 255, 255, 255]
    lab.root.locator(".mtt-undo").click()
    lab.wait("d.poke === ''")
    # one fast stroke along the diagonal and out of the image: no gap, and no mark where it is outside
    corner = [big["x"] + big["width"] * 15.5 / 16, big["y"] + big["height"] * 15.5 / 16]
    page.mouse.move(big["x"] + big["width"] / 16, big["y"] + big["height"] / 16)
    page.mouse.down()
    page.mouse.move(*corner)
    page.mouse.move(corner[0] + 100, corner[1])
    page.mouse.move(corner[0] + 100, corner[1] - big["height"] * 0.8)
    page.mouse.up()
    lab.wait("d.poke !== ''")
    lab.drawn()  # an answer to the beginning of the stroke may come before its end
    painted = lab.root.locator(".mtt-big").evaluate("c => [...c.getContext('2d').getImageData(0, 0, 8, 8).data].filter((_, i) => i % 4 === 0)")
    assert all(painted[9 * i] == 255 for i in range(8)) and painted[7 + 8 * 2] < 255
    cells = "() => window.jupyterapp.shell.currentWidget.content.widgets.length"
    before = page.evaluate(cells)
    key(page, "b")  # a new cell, if JupyterLab got it
    key(page, "]")
    lab.wait("d.image === '1'")
    assert page.evaluate(cells) == before
    lab.root.locator(".mtt-previous").click()
    lab.wait("d.image === '0'")
    lab.root.locator(".mtt-undo").click()
    lab.wait("d.poke === ''")
    panel, curves = lab.root.locator(".mtt-panel").bounding_box(), lab.box()
    assert panel["y"] > curves["y"] + 200 and panel["y"] + panel["height"] < curves["y"] + curves["height"] - 130  # it covers nothing
    lab.root.locator(".mtt-big").click(position=dict(x=0.2 * big["width"], y=0.2 * big["height"]))
    lab.wait("d.poke !== ''")
    lab.root.locator(".mtt-keep").click()
    page.wait_for_function("() => document.querySelector('.mtt-note').textContent.includes('Kept')")
    assert lab.root.locator(".mtt-keep").is_disabled() and lab.root.locator(".mtt-undo").is_disabled()
    key(page, "Escape")
    lab.wait("d.image === ''")
    assert lab.root.locator(".mtt-canvas").evaluate("c => c === document.activeElement")  # so that the keys go on working
    assert float(nb.ask("print(float(data.to_display(lab.driver.distiller.images.detach())[0, 0, 1, 1]))")) == pytest.approx(1, abs=1e-5)
    lab.press("step")
    lab.wait(f"d.shown === '{at + 1}' && d.poke === ''")
    # the target, dragged along the expert's path
    lab.root.scroll_into_view_if_needed()
    box, mark = lab.box(), lab.marks()
    page.mouse.move(box["x"] + mark["target"][0], box["y"] + mark["target"][1])
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + mark["target"][1] - 10, steps=8)
    lab.wait("d.pinned === '1' && d.poke !== ''")
    page.mouse.up()
    held = """s = lab.driver.segment; print(s.expert, s.epoch, *[t for t in range(9) if torch.equal(s.target, buffer.theta(s.expert, t))])"""
    expert, epoch, target = map(int, nb.ask(held).split())
    assert target > epoch + 2  # it began at epoch + 2
    lab.press("step")
    lab.wait(f"d.shown === '{at + 2}'")
    assert nb.ask("print(lab.driver.state.segment[:2])") == f"({expert}, {epoch})"
    lab.root.locator(".mtt-canvas").focus()
    key(page, "<")  # the keyboard pulls the target back by an epoch
    eventually(nb, held, f"{expert} {epoch} {target - 1}")
    lab.root.locator(".mtt-free").click()
    lab.wait("d.pinned === '0'")
    # the backward sweep
    lab.root.locator(".mtt-sweep").click()
    lab.wait(f"d.inside === '{at + 2}' && d.share !== ''")
    lab.wait("d.k === '1'")  # it runs down to the first step
    assert "% of the gradient" in lab.root.inner_text()
    lab.wait("d.k === '' && d.share === ''")  # and ends
    lab.root.locator(".mtt-chips button").last.click()
    chosen = lab.root.locator(".mtt-chips button").last.inner_text()
    lab.wait(f"d.expert === '{chosen}' || document.querySelector('.mtt-chips button:last-child').getAttribute('aria-pressed') === 'true'")


def test_reload_second_view_and_rerun(nb):
    lab = show(nb, "lab, asked = Live(make, fps=float('inf')), []; lab.view.on_msg(lambda _, message, buffers: asked.append(message['kind'])); lab", "lab.run(20); None", "lab")
    nb.run(2)
    lab.wait("d.shown === '20'")
    lab.root.locator(".mtt-canvas").focus()
    key(nb.page, "Home")
    lab.wait("d.shown === '1'")
    nb.run(3)
    nb.page.wait_for_function("() => { const all = [...document.querySelectorAll('.mtt')]; return all.length === 2 && all[1].dataset.shown === '20' }")
    assert lab.data["shown"] == "1" and nb.ask("print(asked)") == "['ready']"  # the second view needs no kernel, and the first stays where it is
    nb.command("docmanager:save")
    saved = json.loads(nb.path.read_text())
    assert any("image/png" in o.get("data", {}) for c in saved["cells"] for o in c.get("outputs", []))  # for pages without a kernel
    nb.page.reload()
    nb.settle()
    again = lab.wait("d.shown === '20'")
    assert again["frames"] == again["points"] == "20"
    lab.press("start")
    lab.wait("+d.shown > 20")
    nb.run(1)  # the cell again, while its run goes on
    nb.page.wait_for_function("() => document.querySelector('.mtt').dataset.shown === '0'")
    assert nb.ask("print(len(runs()))") == "0"


def test_trouble(nb):
    lab = show(nb, "lab = Live(lambda: make(lr_teacher=0.1)); lab")
    lab.press("start")
    lab.wait("+d.shown > 3")
    nb.command("notebook:interrupt-kernel")  # it is the cell that is interrupted, not the run
    at = lab.step
    lab.wait(f"+d.shown > {at + 3}")
    for _ in range(3):  # Reset in the middle of a run
        lab.press("reset")
        lab.wait("d.shown === '0' && d.running === '0'")
        lab.press("start")
        lab.wait("+d.shown > 2")
    nb.ask("with lab.driver.lock: lab.driver.distiller.lr = torch.tensor(1e30)")  # between two steps
    text = lab.wait("d.error !== '' && d.running === '0'")["error"]
    assert "Diverged" in text and "lower" in text and text == lab.root.get_by_role("alert").inner_text()
    lab.press("reset")
    lab.press("start")
    lab.wait("d.error === '' && +d.shown > 2")
    seen = lab.step
    nb.command("docmanager:save")
    nb.page.goto("about:blank")  # the tab is closed; the run is not lost
    time.sleep(0.5)
    nb.page.go_back()
    nb.settle()
    lab.wait(f"+d.shown > {seen} && d.error === ''")
    nb.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    lab.wait("d.error.includes('the kernel has gone') && d.running === '0'")
    lab.root.locator(".mtt-canvas").focus()
    key(nb.page, "s")  # asks nobody, and does no harm
    nb.settle()


def change_theme(page, name):
    "Until JupyterLab has it, and its splash is gone"
    page.evaluate("name => window.jupyterapp.commands.execute('apputils:change-theme', { theme: `JupyterLab ${name}` })", name)
    page.wait_for_function("light => document.body.dataset.jpThemeLight === light && !document.querySelector('#jupyterlab-splash')", arg=str(name == "Light").lower())


def test_two_runs_and_the_dark(nb):
    lab = show(nb, "lab = Live(make, lambda: make(lr_img=100), names=['lr_img 10', 'lr_img 100'], fps=float('inf')); lab.run(6); lab")
    lab.wait("d.runs === '2' && d.shown === '6'")
    nb.page.set_viewport_size(dict(width=1400, height=1000))
    lab.wait("+d.width > 920")
    width = lab.box()["width"]
    for x in (0, width / 2 + 10): assert {EXPERT, STUDENT} <= lab.colours(x, 20, width / 2 - 20, 200)
    assert "lr_img 10 loss" in lab.status() and "lr_img 100 loss" in lab.status()
    high = lab.box()["height"]
    nb.page.set_viewport_size(dict(width=900, height=1000))  # too narrow for two
    nb.page.wait_for_function("high => document.querySelector('.mtt-canvas').clientHeight > 1.5 * high", arg=high)
    nb.page.set_viewport_size(dict(width=1400, height=1000))
    nb.page.wait_for_function("high => document.querySelector('.mtt-canvas').clientHeight < 1.1 * high", arg=high)
    lab.press("step")
    lab.wait("d.shown === '7' && d.running === '0'")
    change_theme(nb.page, "Dark")
    lab.drawn()
    dark = lab.colours(0, 20, width / 2 - 20, 200)
    change_theme(nb.page, "Light")  # whose splash takes the keys, too
    assert DARK in dark and EXPERT not in dark
    lab.root.locator(".mtt-canvas").focus()
    key(nb.page, "Home")
    lab.wait("d.shown === '1'")
    nb.page.set_viewport_size(dict(width=1280, height=1000))


def test_voila(voila, page):
    page.goto(voila([SETUP, "lab = Live(make, fps=float('inf')); lab.run(5); lab"]), timeout=120_000)
    lab = Lab(page)
    lab.wait("d.shown === '5' && d.frames === '5'", timeout=120_000)  # sent before the page was there, and yet complete
    lab.press("step")
    lab.wait("d.shown === '6' && d.running === '0'")
    lab.press("start")
    lab.wait("+d.shown > 15")
    lab.press("pause")
    lab.wait("d.running === '0'")
    width = lab.box()["width"]
    assert {EXPERT, STUDENT} <= lab.colours(0, 20, width * 0.54, 200)


def kernels(folder):
    "Processes of kernels whose settings lie in this folder"
    mine = [p for p in psutil.process_iter(["cmdline", "environ"]) if str(folder) in (p.info["environ"] or {}).get("IPYTHONDIR", "")]
    return [p.pid for p in mine if any("ipykernel" in word for word in p.info["cmdline"])]


def swipe(page, x, y, by):
    "A finger that moves up"
    touch = page.context.new_cdp_session(page)
    touch.send("Emulation.setTouchEmulationEnabled", dict(enabled=True))
    touch.send("Input.dispatchTouchEvent", dict(type="touchStart", touchPoints=[dict(x=x, y=y)]))
    for i in range(1, 9): touch.send("Input.dispatchTouchEvent", dict(type="touchMove", touchPoints=[dict(x=x, y=y - by * i / 8)]))
    touch.send("Input.dispatchTouchEvent", dict(type="touchEnd", touchPoints=[]))


def test_the_lab_command(page, tmp_path):
    data, base, experts = load("digits"), PRESETS["digits", 1], tmp_path / "experts"
    buffer = record_experts(data, build("mlp", data.shape, data.n_classes, width=8), experts, n=1, epochs=12, lr=0.05, batch_size=256)
    mtt = MTT(base.config, data, buffer)
    recorder = Recorder(mtt)
    for _ in range(40): recorder(mtt.step())
    (tmp_path / "run").mkdir()
    recorder.history.save(tmp_path / "run" / "history.safetensors")
    lab_command = [sys.executable, "-m", "mtt_nb", "lab", "--no-browser"]
    page.route(re.compile(r"^https?://(?!127\.0\.0\.1)"), lambda route: None)  # other hosts never answer
    with command_page([*lab_command, "--experts", experts], tmp_path / "new") as address:
        page.goto(address, timeout=120_000, wait_until="commit")
        lab = Lab(page)
        lab.wait("d.runs === '1' && d.frames === '0'", timeout=120_000)
        page.unroute_all()  # with it, a page that is left could not say so
        assert "digits" in page.locator("h2").first.inner_text() and "digits" in page.title()
        lab.press("step")
        lab.wait("d.shown === '1'")
        page.set_viewport_size(dict(width=300, height=800))  # a phone, and less: nothing squeezed, nothing cut off
        page.wait_for_function("""() => { const c = document.querySelector('.mtt-canvas'), even = c.width / c.clientWidth / (c.height / c.clientHeight);
            return c.clientWidth < 300 && Math.abs(even - 1) < 0.01 && document.documentElement.scrollWidth <= innerWidth }""")
        page.set_viewport_size(dict(width=1280, height=500))
        page.wait_for_function("() => document.querySelector('.mtt-canvas').clientWidth > 900")
        lab.drawn()
        box = lab.box()
        swipe(page, box["x"] + box["width"] * 0.6, box["y"] + 60, 100)  # over an image: the page moves, and the image stays shut
        page.wait_for_function("top => document.querySelector('.mtt-canvas').getBoundingClientRect().top < top - 50", arg=box["y"])
        assert lab.data["image"] == ""
        assert len(kernels(tmp_path / "new")) == 1
        page.goto("about:blank")  # the page is closed, and its kernel with it
        end = time.time() + 60
        while kernels(tmp_path / "new") and time.time() < end: time.sleep(0.2)
        assert not kernels(tmp_path / "new")
    told = (tmp_path / "new" / "server.log").read_text()
    assert "the lab is at" in told and "Warning" not in told and "not trusted" not in told, told
    with command_page([*lab_command, "--run", tmp_path / "run"], tmp_path / "old") as address:
        page.goto(address, timeout=120_000)
        lab.wait("d.shown === '40' && d.frames === '40'", timeout=120_000)
        assert not page.locator(".widget-button").count()  # nothing to start
        assert page.title() == "Replay of run" and lab.root.locator(".mtt-live").inner_text() == "Newest"
        lab.root.evaluate("e => { const seen = window.seen = []; new MutationObserver(() => seen.push(+e.dataset.shown)).observe(e, { attributes: true }) }")
        lab.root.locator(".mtt-play").click()
        lab.wait("seen.some(step => step < 40) && d.live === '1' && document.querySelector('.mtt-play').textContent === 'Play'")  # at the end it stops
        played = [step for step in page.evaluate("seen") if step < 40]
        assert played == sorted(played) and played[0] < 20 < played[-1]
        lab.root.locator(".mtt-canvas").focus()
        key(page, "Home")
        lab.wait("d.shown === '1'")


# the page alone, with the lab in this process

@pytest.fixture(scope="session")
def make(tmp_path_factory):
    data = load("digits")
    buffer = record_experts(data, build("mlp", data.shape, data.n_classes, width=16), tmp_path_factory.mktemp("experts"), n=2, epochs=8, lr=0.05, batch_size=128)
    config = MTTConfig(ipc=1, iterations=5000, syn_steps=5, expert_epochs=2, max_start_epoch=4, lr_img=10, lr_teacher=0.1, augment="none")
    return lambda: MTT(config, data, buffer)


def test_a_long_run_can_be_looked_at_from_its_beginning(page):
    desk = Desk(page, Live(Plain))
    page.evaluate("""() => { for (let step = 1; step <= 9000; step++)
        hear({ kind: "tick", run: 0, frames: [{ step, loss: 1, lr: 1, images: { buffer: 0, dtype: "uint8", shape: [1, 1, 1, 1] } }],
               points: { buffer: 1, dtype: "float64", shape: [1, 3] } }, new Uint8Array(1), new Float64Array([step, 1, 1])) }""")
    data = desk.talk()
    assert int(data["frames"]) <= 300 and int(data["points"]) <= 4000 and data["latest"] == "9000"
    desk.root.locator(".mtt-canvas").focus()
    desk.keys("Home")
    steps = [int(desk.keys("ArrowRight")["shown"]) for _ in range(10)]
    assert len(set(b - a for a, b in zip(steps, steps[1:], strict=False))) == 1 and steps[0] <= 32, steps  # evenly, however often the page had to drop some
    desk.root.locator(".mtt-scrub").focus()
    assert int(desk.keys("ArrowRight")["shown"]) == 2 * steps[-1] - steps[-2]  # the slider moves to where there is something to see
    assert desk.keys("End")["live"] == "1"


def test_large_frames_are_bounded_in_bytes(page):
    desk = Desk(page, Live(Plain))
    page.evaluate("""() => { for (let step = 1; step <= 8; step++)
        hear({ kind: "tick", run: 0, frames: [{ step, loss: 1, lr: 1, images: { buffer: 0, dtype: "uint8", shape: [1, 2000, 2000, 3] } }] }, new Uint8Array(12e6)) }""")
    data = desk.talk()
    assert data["frames"] == "4" and data["shown"] == "8"


def test_a_replay_that_crosses_with_a_tick_is_complete(page):
    live = Live(Plain, fps=math.inf)
    desk = Desk(page, live)
    live.run(20)
    desk.talk()
    live._replay()
    replay, desk.told = desk.told, []
    live.run(1)
    desk.tell(replay[0], *desk.told, *replay[1:])
    desk.told = []
    data = desk.talk()
    assert (data["frames"], data["points"], data["shown"]) == ("21", "21", "21")


def test_what_is_said_before_the_replay_does_no_harm(page):
    live = Live(Plain, fps=math.inf)
    desk = Desk(page, live)
    live.run(3)
    desk.talk()
    page.evaluate(HOST, live.view._esm)  # another page of this lab, which has asked and not yet been answered
    live.driver.reset()
    desk.tell(*desk.told)
    desk.told = []
    live.run(2)
    desk.talk()
    assert page.locator(".mtt").nth(1).get_attribute("data-frames") == "2"


def test_numbers_that_are_not_finite_are_shown(page):
    class Wild(Plain):
        def step(self):
            state = super().step()
            state.loss, state.lr = math.inf, math.nan
            return state
    live = Live(Wild, fps=math.inf)
    desk = Desk(page, live)
    live.run(3)
    assert desk.talk()["shown"] == "3"
    assert "loss not finite" in desk.status() and "lr not finite" in desk.status()


def stroke(desk, *places):
    "With the brush, through these parts of the large image"
    page = desk.page
    desk.root.locator(".mtt-big").hover()  # once the panel has been brought into view and stands still
    box = desk.root.locator(".mtt-big").bounding_box()
    places = [[box["x"] + x * box["width"], box["y"] + y * box["height"]] for x, y in places]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]: page.mouse.move(*place)
    page.mouse.up()


def test_what_is_painted_is_in_both_views_and_in_the_run(make, page):
    live = Live(make, fps=math.inf)
    desk = Desk(page, live)
    page.evaluate("() => show()")
    live.run(1)
    desk.talk()
    run, second, data = live.runs[0], page.locator(".mtt").nth(1), live.driver.distiller.data
    def rows(image): return (data.to_display(image[None])[0, 0] > 0.999).all(1).int().tolist()
    desk.root.locator(".mtt-canvas").focus()
    desk.keys("]")
    for y in (0.1, 0.3, 0.6): stroke(desk, (0.05, y), (0.95, y))  # the second and the third while the first is not answered
    page.keyboard.press("]")
    desk.talk()
    assert rows(run.edits[0]) == [1, 0, 1, 0, 1, 0, 0, 0]
    page.keyboard.press("[")
    stroke(desk, (0.05, 0.9), (0.95, 0.9))
    stroke(desk, (0.05, 0.8), (0.95, 0.8))
    desk.root.locator(".mtt-keep").click()  # before an answer
    desk.talk()
    assert rows(live.driver.distiller.images.detach()[0]) == [1, 0, 1, 0, 1, 0, 1, 1]
    second.locator(".mtt-canvas").focus()
    desk.keys("]")
    white = "c => [...c.getContext('2d').getImageData(0, 0, 8, 8).data].filter((_, i) => i % 4 === 0).filter(v => v === 255).length"
    assert second.locator(".mtt-big").evaluate(white) >= 40  # the other view shows it
    desk.root.locator(".mtt-next").click()
    stroke(desk, (0.5, 0.5))
    desk.talk()
    assert set(run.edits) == {0, 1}
    second.locator(".mtt-undo").click()
    desk.talk()
    assert set(run.edits) == {0} and second.locator(".mtt-big").evaluate(white) >= 40  # what was kept stays
    assert desk.root.locator(".mtt-undo").is_disabled()
    desk.root.locator(".mtt-sweep").click()
    assert desk.talk()["k"] != "" and second.get_attribute("data-k") == ""  # in the view that asked


def test_a_segment_is_held_and_shown_where_it_lies(make, page):
    live = Live(make, fps=math.inf)
    desk = Desk(page, live)
    live.run(12)
    desk.talk()
    box, (x, y) = desk.box(), desk.marks()["start"]
    def press():
        page.mouse.move(box["x"] + x, box["y"] + y)
        page.mouse.down()
        page.mouse.up()
        return desk.talk()
    assert press()["pinned"] == "1"
    desk.root.locator(".mtt-free").click()
    assert desk.talk()["pinned"] == "0" and desk.root.locator(".mtt-canvas").evaluate("c => c === document.activeElement")  # the keys go on working
    assert press()["pinned"] == "1"  # the same again
    expert = live.driver.state.segment.expert
    live._asked(None, dict(kind="segment", expert=1 - expert, epoch=1, span=3), [])
    data = desk.talk()
    assert data["expert"] == str(1 - expert) and data["poke"] != ""  # the plane of the answer
    here = desk.colours(0, 20, box["width"] * 0.54, 200)
    chip = desk.root.locator(".mtt-chips").get_by_text(str(expert), exact=True)
    chip.focus()
    desk.keys("Enter")
    assert STUDENT not in here and STUDENT in desk.colours(0, 20, box["width"] * 0.54, 200)  # here the meta-step as it was
    assert chip.evaluate("b => b === document.activeElement && b.getAttribute('aria-pressed')") == "true"
    page.mouse.click(box["x"] + box["width"] * 0.6, box["y"] + 50, button="right")
    assert desk.talk()["image"] == ""
    desk.root.locator(".mtt-canvas").focus()
    desk.keys("]")
    desk.root.evaluate("root => root.addEventListener('keydown', e => { window.scrolls = !e.defaultPrevented })")
    desk.root.locator(".mtt-brush").focus()
    desk.keys(" ")
    assert page.evaluate("scrolls") is False  # a space leaves the page where it is
    desk.root.locator(".mtt-next").focus()
    assert desk.keys("Enter", "Enter")["image"] == "2"  # the button keeps the focus


@pytest.mark.parametrize("runs", [1, 2])
def test_the_picture_stays_where_it_is(make, page, runs):
    live = Live(*[make] * runs, fps=math.inf)
    desk = Desk(page, live)
    tops = """root => [320, 420, 590, 650, 700, 760, 820, 1000, 1200].map(width => { root.parentElement.style.width = `${width}px`;
        return root.querySelector('.mtt-canvas').getBoundingClientRect().top - root.getBoundingClientRect().top })"""
    ready = desk.root.evaluate(tops)
    live.run(1)
    live._sender(0)(kind="status", status=dict(live.runs[0].status(), running=True, step=4321, rate=123.4, left=3599))
    desk.talk()
    assert "60 min left" in desk.status()
    assert desk.root.evaluate(tops) == ready
    live._sender(0)(kind="status", status=live.runs[0].status())
    desk.talk()
    assert desk.root.evaluate(tops) == ready
    alone = "root => { root.parentElement.style.width = 'auto'; root.parentElement.style.display = 'inline-block'; return root.offsetWidth }"
    assert desk.root.evaluate(alone) > 600  # in a row with another it keeps a width of its own


def test_what_is_read_aloud_in_a_run_and_on_an_image(make, page):
    live = Live(make, fps=math.inf)
    desk = Desk(page, live)
    heard = "root => [root.querySelector('.mtt-canvas').ariaLabel, ...[...root.querySelectorAll('[aria-live], [role=status], [role=alert], output')].map(e => e.textContent)]"
    said = []
    for _ in range(3):
        live.run(1)
        live._sender(0)(kind="status", status=dict(live.runs[0].status(), running=True))
        desk.talk()
        said.append(desk.root.evaluate(heard))
    assert said[0] == said[1] == said[2] and "newest meta-step" in said[0][0]  # a run is not read aloud step by step
    desk.root.locator(".mtt-canvas").focus()
    desk.keys("]", "]")
    assert desk.root.get_by_role("dialog", name="image 2 of 10").is_visible()
    assert desk.root.locator(".mtt-said").inner_text().startswith("image 2 of 10")


def test_an_image_fits_on_a_phone(make, page):
    page.set_viewport_size(dict(width=350, height=800))
    live = Live(make, fps=math.inf)
    desk = Desk(page, live)
    live.run(1)
    desk.talk()
    desk.root.locator(".mtt-canvas").focus()
    desk.keys("]")
    panel, big, grad = [desk.root.locator(f".mtt-{name}").bounding_box() for name in ("panel", "big", "grad")]
    assert grad["x"] + grad["width"] < panel["x"] + panel["width"] <= 350
    assert abs(big["width"] - big["height"]) < 1 and big["width"] > 110  # square, and not small


def test_the_second_of_two_runs(make, page):
    live = Live(make, make, fps=math.inf)
    desk = Desk(page, live)
    live.run(1)
    live._asked(None, dict(kind="segment", run=1, expert=0, epoch=1, span=2), [])
    assert desk.talk()["pinned"] == "1"
    desk.root.locator(".mtt-free").click()
    assert desk.talk()["pinned"] == "0" and live.runs[1].driver.segment is None
    live._sender(1)(kind="status", status=dict(live.runs[1].status(), running=True))
    assert desk.talk()["running"] == "1"


def test_a_run_beside_a_recorded_one(make, page):
    before = Live(make, fps=math.inf)
    before.run(2)
    live = Live(before.history, make, fps=math.inf)
    desk = Desk(page, live)
    live.run(1)
    desk.talk()
    assert "meta-step 1 of 5000" in desk.status() and "paused" in desk.status()
    live.driver.reset()
    desk.talk()
    desk.root.get_by_role("button", name="Undo reset").click()
    desk.talk()
    assert live.driver.state.step == 1


def test_a_segment_of_an_expert_that_was_not_yet_drawn(make, page):
    live = Live(make, fps=math.inf)
    desk = Desk(page, live)
    expert = 1 - live.run(1).segment.expert
    live._asked(None, dict(kind="segment", expert=expert, epoch=1, span=3), [])
    assert desk.talk()["expert"] == str(expert)
    assert STUDENT not in desk.colours(0, 20, desk.box()["width"] * 0.54, 200)  # no student's path but the changed one, and none in the legend


def test_full_screen_makes_room_for_a_row_that_appears(make, page):
    live = Live(make, fps=math.inf)
    desk = Desk(page, live)
    desk.root.locator(".mtt-canvas").focus()
    page.keyboard.press("f")
    page.wait_for_function("() => document.fullscreenElement && +document.fullscreenElement.style.getPropertyValue('--mtt-scale') > 1")
    live.run(1)  # now there are student steps
    desk.talk()
    page.wait_for_function("() => document.fullscreenElement.scrollHeight <= document.fullscreenElement.clientHeight")


def test_the_page_rests(make, page):
    live = Live(make, fps=math.inf)
    page.emulate_media(reduced_motion="reduce")
    desk = Desk(page, live)
    live.run(5)
    desk.talk()
    desk.wait("d.shown === '5'")
    desk.root.locator(".mtt-canvas").focus()
    assert [desk.keys("ArrowLeft")["shown"] for _ in range(3)] == ["4", "3", "2"]  # less motion, and yet what is asked for comes at once
    page.evaluate("""() => { window.drawn = 0; const f = CanvasRenderingContext2D.prototype.clearRect;
                             CanvasRenderingContext2D.prototype.clearRect = function (...a) { drawn += 1; return f.apply(this, a) } }""")
    page.evaluate("() => { for (let i = 0; i < 5; i++) show()() }")  # views that are closed again
    desk.talk()
    assert page.evaluate("drawn") == 0  # and this one has no reason to
    page.evaluate("() => window.dispatchEvent(new Event('resize'))")
    desk.talk()
    assert page.evaluate("drawn") == 1
