"One JupyterLab, one Voila and one Chromium for all browser tests: loopback only, no token, no network. Skipped where one is missing."
import base64
import contextlib
import importlib.util
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
import torch

os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start, as here: else the last bits differ
torch.set_num_threads(1)

CHROME = os.environ.get("CHROME") or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]


def need(*modules):
    "Skip with a reason where the browser or a module is missing"
    for m in modules:
        if importlib.util.find_spec(m) is None: pytest.skip(f"{m} is not installed (pip install {m})")
    if CHROME is None: pytest.skip("no Chromium found (apt-get install chromium, or set CHROME)")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(url, process, log, seconds=90):
    end = time.time() + seconds
    while time.time() < end and process.poll() is None:
        try: return urllib.request.urlopen(url, timeout=5).close()
        except urllib.error.HTTPError: return  # an answer, too
        except OSError: pass
        time.sleep(0.1)
    raise TimeoutError(f"{url} did not answer:\n{log.read_text()[-2000:]}")


@contextlib.contextmanager
def server(command, folder, port, url):
    "A server with settings of its own, ended with all its children"
    env = dict(os.environ, OMP_NUM_THREADS="1", **{k: str(folder / k.lower()) for k in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "JUPYTERLAB_SETTINGS_DIR")})
    quiet = folder / "jupyterlab_settings_dir" / "@jupyterlab" / "apputils-extension"
    quiet.mkdir(parents=True, exist_ok=True)
    (quiet / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
    log = folder / "server.log"
    with open(log, "w") as f: process = subprocess.Popen(command, stdout=f, stderr=f, env=env, start_new_session=True)
    try:
        wait_for(url, process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError): os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(Exception): process.wait(10)
        with contextlib.suppress(ProcessLookupError): os.killpg(process.pid, signal.SIGKILL)


def lab_command(folder, port):
    return [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
            "--ServerApp.port_retries=0", f"--ServerApp.root_dir={folder / 'files'}", "--IdentityProvider.token=",
            "--ServerApp.password=", "--ServerApp.disable_check_xsrf=True", "--LabApp.expose_app_in_browser=True",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]


@pytest.fixture(scope="session")
def chrome():
    need("playwright")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROME, headless=True, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    need("playwright", "jupyterlab")
    folder, port = tmp_path_factory.mktemp("lab"), free_port()
    (folder / "files").mkdir()
    with server(lab_command(folder, port), folder, port, f"http://127.0.0.1:{port}/api") as base: yield base, folder / "files"


def write_notebook(path, cells):
    import nbformat

    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    nb.metadata.kernelspec = dict(name="python3", display_name="Python 3", language="python")
    nbformat.write(nb, path)


class Notebook:
    "A notebook in a page of JupyterLab"

    def __init__(self, page, base, root): self.page, self.base, self.root = page, base, root

    def open(self, cells):
        "A new notebook, on the kernel that is there if there is one"
        name = f"t{time.time_ns()}.ipynb"
        self.path = self.root / name
        write_notebook(self.path, cells)
        kernels = json.load(urllib.request.urlopen(f"{self.base}/api/kernels"))
        self.page.evaluate("async ([path, kernel]) => { await window.jupyterapp.commands.execute('docmanager:open', { path, kernel }) }",
                           [name, kernels[0] if kernels else None])
        return self.settle()

    def close(self):
        "Stop what still runs, and close the notebook"
        self.ask("import ipywidgets, mtt_nb.driver; mtt_nb.driver._pause_all(); ipywidgets.Widget.close_all()")
        self.command("docmanager:save")
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget.dispose()")

    def settle(self):
        self.page.wait_for_function("""() => { const w = window.jupyterapp?.shell.currentWidget, k = w?.sessionContext?.session?.kernel;
                                               return w?.context?.isReady && k?.status === 'idle' }""", timeout=90_000)
        return self

    def run(self, i, wait=True):
        self.page.evaluate("""async ([i, wait]) => { const app = window.jupyterapp, n = app.shell.currentWidget.content; n.activeCellIndex = i; n.deselectAll();
                              const done = app.commands.execute('notebook:run-cell'); if (wait) await done; }""", [i, wait])
        return self

    def command(self, name):
        self.page.evaluate("name => window.jupyterapp.commands.execute(name)", name)
        return self

    def text(self, i):
        "What cell i printed"
        return self.page.evaluate("""i => { const o = window.jupyterapp.shell.currentWidget.content.widgets[i].model.outputs.toJSON();
                                            return o.map(x => x.text ?? x.data?.['text/plain'] ?? (x.evalue ? x.ename + ': ' + x.evalue : '')).flat().join('') }""", i)

    def ask(self, code):
        "Run code in the kernel, as a last cell, and return what it prints"
        i = self.page.evaluate("""code => { const n = window.jupyterapp.shell.currentWidget.content; n.activeCellIndex = n.widgets.length - 1; n.activeCell.model.sharedModel.setSource(code);
                                            return n.activeCellIndex }""", code)
        return self.run(i).text(i).strip()


class Lab:
    "The live lab in a page: its data attributes say what is drawn"

    def __init__(self, page): self.page, self.root = page, page.locator(".mtt").first

    def wait(self, condition, timeout=60_000):
        "Until the JavaScript condition on `d`, the data attributes, holds; the attributes"
        handle = self.page.wait_for_function(f"() => {{ const d = document.querySelector('.mtt')?.dataset; return d && ({condition}) && {{...d}} }}", timeout=timeout)
        return handle.json_value()

    def drawn(self):
        "When all is drawn that the page has heard and been asked for; the attributes"
        self.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => requestAnimationFrame(done))))")
        return self.data

    @property
    def data(self): return self.root.evaluate("e => ({...e.dataset})")
    @property
    def step(self): return int(self.data["latest"])

    def to_front(self):
        "JupyterLab brings another tab to the front when one is closed, and may do so late"
        self.root.evaluate("e => { const tab = e.closest('.jp-NotebookPanel'); if (tab && window.jupyterapp) window.jupyterapp.shell.activateById(tab.id) }")

    def press(self, name):
        self.to_front()
        self.page.locator(f".widget-button.mtt-{name}").first.click()
    def status(self): return self.root.locator(".mtt-status").inner_text()

    def colours(self, x, y, w, h):
        "The set of colours of a rectangle of the canvas, in its own pixels"
        return set(self.root.locator(".mtt-canvas").evaluate("""(c, [x, y, w, h]) => { const d = c.getContext('2d').getImageData(x, y, w, h).data, out = new Set();
            for (let i = 0; i < d.length; i += 4) out.add([d[i], d[i+1], d[i+2], d[i+3]].join()); return [...out] }""", [x, y, w, h]))

    def box(self):
        self.to_front()
        canvas = self.root.locator(".mtt-canvas")
        canvas.wait_for(state="visible")  # JupyterLab may be about to lay the output out anew
        return canvas.bounding_box()
    def marks(self): return json.loads(self.data["marks"])


HOST = """async code => {
  const { default: make } = await import(URL.createObjectURL(new Blob([code], { type: "text/javascript" })));
  const heard = {}, asked = window.asked = [], widget = make();
  const model = { on: (name, f) => { heard[name] = f }, send: (content, _, buffers = []) => asked.push([content, buffers.map(b => [...new Uint8Array(b)])]) };
  window.hear = (content, ...arrays) => heard["msg:custom"](content, arrays.map(a => new DataView(a.buffer)));
  window.show = () => { const el = document.createElement("div"); document.body.append(el); const end = widget.render({ model, el }); return () => { end(); el.remove() } };
  widget.initialize({ model });
  show();
}"""


class Desk(Lab):
    "The page of a `Live` of this process: no server between them, and a message goes when the test says so"

    def __init__(self, page, live):
        self.live, self.told = live, []
        live.view.send = lambda content, buffers=(): self.told.append([content, [base64.b64encode(b).decode() for b in buffers]])
        page.set_content("<body></body>")
        page.add_style_tag(content=live.view._css)
        page.evaluate(HOST, live.view._esm)
        super().__init__(page)
        self.talk()

    def tell(self, *messages):
        self.page.evaluate("all => { for (const [m, buffers] of all) hear(m, ...buffers.map(b => Uint8Array.from(atob(b), c => c.charCodeAt(0)))) }", messages)

    def talk(self):
        "Until neither has anything to say, and all is drawn; the data attributes"
        while True:
            asked = self.page.evaluate("() => asked.splice(0)")
            for content, buffers in asked: self.live._asked(None, content, [memoryview(bytes(b)) for b in buffers])
            told, self.told = self.told, []
            if not asked and not told: break
            self.tell(*told)
        return self.drawn()

    def keys(self, *names):
        for name in names: self.page.keyboard.press(name)
        return self.talk()


@contextlib.contextmanager
def watched(page):
    "An uncaught error in the page fails the test"
    errors = []
    def note(e):
        if "Canceled future" not in str(e): errors.append(str(e))  # JupyterLab's own, when a kernel is restarted
    page.on("pageerror", note)
    yield page
    page.remove_listener("pageerror", note)
    assert not errors, errors


@pytest.fixture
def page(chrome):
    "A fresh page"
    context = chrome.new_context(viewport=dict(width=1280, height=1000))
    with watched(context.new_page()) as page: yield page
    context.close()


@pytest.fixture(scope="session")
def lab_page(lab, chrome):
    "JupyterLab, loaded once"
    page = chrome.new_context(viewport=dict(width=1280, height=1000)).new_page()
    page.goto(f"{lab[0]}/lab")
    page.wait_for_function("() => window.jupyterapp?.restored.then(() => true)", timeout=90_000)
    return page


@pytest.fixture
def nb(lab, lab_page):
    with watched(lab_page) as page:
        notebook = Notebook(page, *lab)
        yield notebook
        notebook.close()


@contextlib.contextmanager
def command_page(command, folder):
    "What a command that serves a page shows, by Voila"
    need("playwright", "voila")
    folder.mkdir()
    port = free_port()
    with server([*command, f"--port={port}"], folder, port, f"http://127.0.0.1:{port}/voila/static/nothing") as address: yield address


@pytest.fixture
def voila(tmp_path):
    "A function that serves a notebook of these cells by Voila, and returns its address"
    need("playwright", "voila")
    with contextlib.ExitStack() as stack:
        def serve(cells):
            path = pathlib.Path(tmp_path) / "page.ipynb"
            write_notebook(path, cells)
            command = [sys.executable, "-m", "voila", str(path), "--no-browser", "--Voila.ip=127.0.0.1", "--show_tracebacks=True"]
            return stack.enter_context(command_page(command, pathlib.Path(tmp_path) / "server"))
        yield serve
