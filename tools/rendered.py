"""See the site as a reader does: rendered from the processed pages, in a real browser.

    python tools/rendered.py check            the faults of all pages at both widths
    python tools/rendered.py measure          heights, links, figures
    python tools/rendered.py pictures FOLDER [PAGE ...]   PNGs, both widths, light and dark
    python tools/rendered.py card             nbs/figures/card.png, of the card.svg beside it

Quarto renders what is published. Here `smalldocs` renders the same pages from the same settings,
in seconds and without a download, and Chromium opens them.
"""
import argparse
import base64
import functools
import http.server
import json
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
import threading
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urldefrag, urljoin, urlsplit

ROOT = Path(__file__).resolve().parent.parent
WIDTHS = {"wide": 1280, "phone": 390}
HOSTS = {"fonts.googleapis.com", "fonts.gstatic.com", "cdn.jsdelivr.net"}  # fonts, formulas
SITE = "https://sjepa-nb.github.io/sjepa_nb/"
FILES = "https://github.com/sjepa-nb/sjepa_nb/blob/main/"
# Quarto reads the widths from `grid` in _quarto.yml; the same for smalldocs
GRID = ":root { --sd-sidebar-width: 200px; --sd-margin-width: 200px; --sd-gap: 1.5rem; }\n"
BINARIES = "chromium", "chromium-browser", "google-chrome", "google-chrome-stable"
SWITCHES = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--no-first-run", "--remote-debugging-pipe", "--hide-scrollbars",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]  # no other host is reached


def missing():
    "What this needs and does not find, in a sentence; nothing where all is there."
    if os.name != "posix": return "Chromium is spoken to through pipes that only POSIX has"
    if not find_spec("smalldocs"): return "smalldocs is not installed (pip install -e '.[dev]')"
    if not any(map(shutil.which, BINARIES)): return "no Chromium: one of " + ", ".join(BINARIES)
    return ""


# ---------------------------------------------------------------- rendering

def process(root):
    "Process the pages of the project in `root` for the site, as nbdev does; what nbdev said."
    code = """
from nbdev.quarto import proc_nbs, refresh_quarto_yml
refresh_quarto_yml()
proc_nbs(n_workers=0)
"""
    env = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True,
                          env=env)
    if done.returncode: raise RuntimeError(done.stderr[-4000:])
    return done.stdout + done.stderr


def copy_of_project(root):
    "What the site is made from, copied to `root`."
    for f in ("settings.ini", "pyproject.toml", "_quarto.yml"): shutil.copy(ROOT / f, root)
    hidden = shutil.ignore_patterns(".*", "__pycache__")
    for d in ("nbs", "results", "sjepa_nb"):
        shutil.copytree(ROOT / d, root / d, ignore=hidden)
    return root


def render(root):
    """Render the processed pages of the project in `root`; the folder of the site. Its pages have
    their published names, without a number."""
    from smalldocs.config import load
    from smalldocs.site import Site
    source = root / "_rendered"
    shutil.copytree(root / "_proc", source)
    for f in [*source.glob("*.ipynb"), source / "sidebar.yml"]:
        text = re.sub(r"\b\d\d_(\w+\.ipynb)", r"\1", f.read_text(encoding="utf-8"))
        f.write_text(text, encoding="utf-8")
        f.rename(f.with_name(re.sub(r"^\d\d_", "", f.name)))
    (source / "_quarto.yml").write_text(
        (root / "nbs" / "_quarto.yml").read_text(encoding="utf-8"), encoding="utf-8")
    with open(source / "styles.css", "a", encoding="utf-8") as f: f.write(GRID)
    Site(load(source), quiet=True).build()
    return source / "_docs"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass


# ---------------------------------------------------------------- the browser

class Browser:
    "A Chromium without a window, at one page at a time of the site in `folder`."
    def __init__(self, folder):
        handler = functools.partial(Quiet, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.home = f"http://127.0.0.1:{self.server.server_port}/"
        self.settings = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.count, self.events, self.unread, self.session = 0, [], b"", {}
        self.start()

    def start(self):
        binary = next(filter(None, map(shutil.which, BINARIES)))
        theirs_in, self.to = os.pipe()
        self.back, theirs_out = os.pipe()

        def as_three_and_four():  # where Chromium reads and writes
            ends = os.dup(theirs_in), os.dup(theirs_out)
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)
        self.process = subprocess.Popen(
            [binary, *SWITCHES, f"--user-data-dir={self.settings.name}", "about:blank"],
            close_fds=False, preexec_fn=as_three_and_four, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
        os.close(theirs_in)
        os.close(theirs_out)
        tab = self.tell("Target.createTarget", url="about:blank")["targetId"]
        told = self.tell("Target.attachToTarget", targetId=tab, flatten=True)
        self.session = {"sessionId": told["sessionId"]}
        for domain in ("Page", "Network", "Runtime"): self.tell(f"{domain}.enable")

    def __enter__(self): return self

    def __exit__(self, *error):
        self.process.terminate()
        self.process.wait()
        self.server.shutdown()
        self.settings.cleanup()

    def hear(self):
        while b"\0" not in self.unread:
            ready, _, _ = select.select([self.back], [], [], 120)
            heard = os.read(self.back, 1 << 20) if ready else b""
            if not heard: raise RuntimeError("Chromium ended, or says nothing for two minutes")
            self.unread += heard
        message, _, self.unread = self.unread.partition(b"\0")
        return json.loads(message)

    def tell(self, method, **params):
        "One command of the DevTools protocol, and what it gives back."
        self.count += 1
        message = {"id": self.count, "method": method, "params": params} | self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while (heard := self.hear()).get("id") != self.count: self.events.append(heard)
        if "error" in heard: raise RuntimeError(f"{method}: {heard['error']['message']}")
        return heard["result"]

    def look(self, width, scheme="light"):
        self.tell("Emulation.setDeviceMetricsOverride", width=width, height=900,
                  deviceScaleFactor=1, mobile=width < 500)
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        self.tell("Emulation.setEmulatedMedia", features=media)

    def open(self, name):
        "Open a page, and wait until it has loaded; the addresses that it asked for."
        self.events = []
        self.tell("Page.navigate", url=self.home + name)
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
            self.events.append(self.hear())
        asked = [e for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [e["params"]["request"]["url"] for e in asked]

    def run(self, script):
        told = self.tell("Runtime.evaluate", expression=script, returnByValue=True,
                         awaitPromise=True)
        if "exceptionDetails" in told: raise RuntimeError(str(told["exceptionDetails"]))
        return told["result"].get("value")

    def picture(self, file, top=0, height=2400):
        clip = dict(x=0, y=top, width=self.run("innerWidth"), height=height, scale=1)
        told = self.tell("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        file.write_bytes(base64.b64decode(told["data"]))


# ---------------------------------------------------------------- faults

SEE = r"""(() => {
  const main = document.querySelector("main"), found = [];
  const height = document.documentElement.scrollHeight;
  const folds = [...main.querySelectorAll("details")];
  const open = folds.filter(d => d.open).length;
  folds.forEach(d => d.open = true);
  const say = e => (e.textContent || e.alt || e.src || "").trim().slice(0, 60);
  const scrolls = e => ["auto", "scroll"].includes(getComputedStyle(e).overflowX);
  const inScroller = e => e && e !== main && (scrolls(e) || inScroller(e.parentElement));
  const edge = Math.min(innerWidth, main.getBoundingClientRect().right) + 1;
  if (document.documentElement.scrollWidth > innerWidth + 1) found.push("scrolls sideways");
  for (const e of main.querySelectorAll("pre, table, img, svg, h1, h2, h3, p, li, figcaption")) {
    if (e.getBoundingClientRect().width === 0 || e.closest("svg") !== null && e.tagName !== "svg")
      continue;
    if (e.getBoundingClientRect().right > edge && !inScroller(e.parentElement))
      found.push(`sticks out: ${e.tagName} ${say(e)}`);
    if (e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0 && !scrolls(e)
        && !inScroller(e.parentElement) && getComputedStyle(e).display !== "inline")
      found.push(`is cut: ${e.tagName} ${say(e)}`);
  }
  const pictures = [...main.querySelectorAll("img, .cell-output svg")];
  for (const e of pictures) {
    const alt = e.getAttribute("alt") || e.getAttribute("aria-label");
    if (!alt || !alt.trim()) found.push(`a figure without alt text: ${e.closest("[id]").id}`);
    if (e.tagName === "IMG" && !e.naturalWidth) found.push(`a picture that is not there: ${e.src}`);
    const caption = e.closest("figure") && e.closest("figure").querySelector("figcaption");
    if (!caption) found.push(`a figure without caption: ${e.closest("[id]").id}`);
  }
  const raw = main.innerText.match(/\]\((https?:|[\w.\/]+\.(ipynb|html|md|py)\b)[^)\s]*\)/g) || [];
  raw.forEach(text => found.push(`raw link: ${text}`));
  for (const e of main.querySelectorAll(".cell-output-markdown pre"))
    if (/\(\s*\*args, \*\*kwargs\s*\)/.test(e.textContent))
      found.push(`an empty signature: ${say(e)}`);
  return {found, height, open, folds: folds.length, pictures: pictures.length,
          ids: [...document.querySelectorAll("[id]")].map(e => e.id),
          links: [...document.querySelectorAll("a[href]")].map(e => e.href)};
})()"""


def seen(browser, name):
    "What `SEE` finds on a page, with the requests to hosts that are not named."
    asked = [urlsplit(url) for url in browser.open(name)]
    page = browser.run(SEE)
    hosts = {url.hostname for url in asked if url.scheme.startswith("http")}
    strange = hosts - HOSTS - {"127.0.0.1"}
    page["found"] += [f"asks another host: {host}" for host in sorted(strange)]
    page["links"] = [urljoin(SITE, link.removeprefix(browser.home)) for link in page["links"]]
    return page


def look_at(folder):
    "All pages of the site at both widths: width → name → what is seen."
    names = sorted(f.name for f in folder.glob("*.html"))
    with Browser(folder) as browser:
        res = {}
        for width in WIDTHS.values():
            browser.look(width)
            res[width] = {name: seen(browser, name) for name in names}
    return res


def dead(link, ids, files):
    "Why a link leads nowhere, as far as one can see without a network; else nothing."
    address, anchor = urldefrag(link)
    if address.startswith(FILES):
        path = address.removeprefix(FILES)
        folder, _, file = path.rpartition("/")
        found = [ROOT / path, *(ROOT / folder).glob(f"[0-9][0-9]_{file}")]  # as `render` names them
        return "" if any(f.exists() for f in found) else "no such file in this repository"
    if not address.startswith(SITE): return ""
    name = address.removeprefix(SITE) or "index.html"
    if name not in ids: return "" if (files / name).is_file() else "no such page"
    return "" if not anchor or anchor in ids[name] else "no such anchor"


def dead_links(pages, files):
    "The links of all pages that lead nowhere, as `(page, sentence)`."
    ids = {name: set(page["ids"]) for name, page in pages.items()}
    return [(name, f"{link}: {why}") for name, page in pages.items()
            for link in dict.fromkeys(page["links"]) if (why := dead(link, ids, files))]


def faults(looked, folder):
    "What is wrong with the site, a sentence each."
    res = [f"{name}, {width} px: {fault}" for width, pages in looked.items()
           for name, page in pages.items() for fault in page["found"]]
    return res + [f"{name}: {fault}" for name, fault in dead_links(looked[1280], folder)]


# ---------------------------------------------------------------- commands

def table(looked):
    "Heights, folds, pictures and links of each page, and their sums, as lines."
    rows = [("page", "px at 1280", "px at 390", "folds", "open", "figures", "links")]
    for name, wide in looked[1280].items():
        phone = looked[390][name]
        rows.append((name, wide["height"], phone["height"], wide["folds"], wide["open"],
                     wide["pictures"], len(wide["links"])))
    rows.append(("all", *(sum(row[i] for row in rows[1:]) for i in range(1, 7))))
    return ["".join(f"{x:>{12 if i else 24}}" for i, x in enumerate(row)) for row in rows]


def take_pictures(folder, out, names):
    out.mkdir(parents=True, exist_ok=True)
    with Browser(folder) as browser:
        for name in names or [f.stem for f in sorted(folder.glob("*.html"))]:
            for width in WIDTHS.values():
                for scheme in ("light", "dark"):
                    browser.look(width, scheme)
                    browser.open(f"{name}.html")
                    height = browser.run("document.documentElement.scrollHeight")
                    for top in range(0, height, 2400):
                        file = out / f"{name}_{width}_{scheme}_{top // 2400}.png"
                        browser.picture(file, top, min(2400, height - top))


def draw_card(figures):
    with Browser(figures) as browser:
        browser.look(1200)
        browser.open("card.svg")
        browser.picture(figures / "card.png", height=630)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("verb", choices=["check", "measure", "pictures", "card"])
    p.add_argument("folder", nargs="?", type=Path)
    p.add_argument("page", nargs="*")
    args = p.parse_args()
    if missing(): sys.exit(missing())
    if args.verb == "card": return draw_card(ROOT / "nbs" / "figures")
    with tempfile.TemporaryDirectory() as root:
        root = copy_of_project(Path(root))
        process(root)
        folder = render(root)
        if args.verb == "pictures": return take_pictures(folder, args.folder.resolve(), args.page)
        looked = look_at(folder)
        if args.verb == "measure": print(*table(looked), sep="\n")
        found = faults(looked, folder)
        if args.verb == "check": print(*found, f"{len(found)} faults", sep="\n")
        sys.exit(bool(found) and args.verb == "check")


if __name__ == "__main__": main()
