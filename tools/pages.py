"""Run the notebooks and store what they show; make README.md from the index page. Neither needs Quarto.

    python tools/pages.py run [PAGE ...]     execute, clean, store the outputs
    python tools/pages.py check [PAGE ...]   execute, compare with the stored outputs, look for faults
    python tools/pages.py readme             write README.md from nbs/index.ipynb
    python tools/pages.py command NAME       print the README's command that is marked <!-- NAME command -->

PAGE is a file name, or how one begins (`05`). Without one: every page.
"""
import argparse
import ast
import base64
import difflib
import io
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path

from forked import Copy

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
NUMBER = re.compile(r"(?<![\w.])[-+−]?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?: ?%)?")
LARGEST = 1_500_000  # bytes of one page


def pages(names=()):
    "The notebooks whose names begin with one of `names`, in reading order."
    found = sorted((p for p in NBS.glob("*.ipynb") if not p.name.startswith(".")), key=lambda p: (p.stem != "index", p.stem))
    missing = [n for n in names if not any(p.name.startswith(n) for p in found)]
    if missing: raise SystemExit(f"no such page: {', '.join(missing)}")
    return [p for p in found if not names or any(p.name.startswith(n) for n in names)]


# ---------------------------------------------------------------- running

def execute(path, dest):
    "Run the notebook `path` in this process, up to its first error, and write it, cleaned, to `dest`."
    import matplotlib
    from execnb.nbio import read_nb, write_nb
    from execnb.shell import CaptureShell
    from nbdev.clean import clean_nb

    matplotlib.rcParams["figure.dpi"] = 90
    nb = read_nb(path)
    for cell in nb.cells:
        if cell.cell_type == "code": cell.outputs = []
    shell = CaptureShell(path, mpl_format="png")
    os.chdir(path.parent)
    try: shell.run_all(nb, exc_stop=True)
    except BaseException: sys.exit(shell.prettytb(fname=path.name))  # `SystemExit` too: a page that leaves early is a page that failed
    clean_nb(nb)
    write_nb(nb, dest)


def run(path, dest):
    """Execute one page in a process of its own; returns the seconds it took, or raises with the page's traceback.
    A page sees none of the reader's recordings or settings, so that it shows the same everywhere."""
    start = time.time()
    with tempfile.TemporaryDirectory() as home:
        p = Copy(execute, path, dest, env={"MNE_DATA": home, "_MNE_FAKE_HOME_DIR": home})
        said, wrong = p.communicate()
    if p.returncode: raise RuntimeError(f"{path.name} failed:\n{said[-2000:]}\n{wrong[-6000:]}")
    return time.time() - start


# ---------------------------------------------------------------- comparing

def shown(path):
    "What a reader sees under each code cell: `(cell, kind, value)`, where kind is text, an error, or a picture's type."
    res = []
    for i, cell in enumerate(json.loads(Path(path).read_text(encoding="utf-8"))["cells"]):
        for o in cell.get("outputs", []):
            data = o.get("data", {})
            kind = "error" if o.get("name") == "stderr" or o["output_type"] == "error" else "text"
            text = o.get("text") or data.get("text/markdown") or data.get("text/plain") or o.get("evalue", "")
            pictures = [(i, k, "".join(v)) for k, v in sorted(data.items()) if k.startswith("image/")]
            res += pictures or [(i, kind, line.rstrip()) for line in "".join(text).splitlines()]
    return res


def same(a, b, rtol=.1, atol=.02):
    """Whether two shown lines agree. Words and whole numbers exactly; numbers with a decimal point or a % sign
    within what another processor's rounding does to a training run."""
    def words(s): return NUMBER.sub(lambda m: "#%" if m[0].endswith("%") else "#", s).split()
    if words(a) != words(b): return False
    for x, y in zip(NUMBER.findall(a), NUMBER.findall(b)):
        u, v = (float(n.rstrip(" %").replace("−", "-")) for n in (x, y))
        whole = not any(c in x + y for c in ".e%")
        if abs(u - v) > (0 if whole else max(atol * (100 if "%" in x else 1), rtol * max(abs(u), abs(v)))): return False
    return True


def coarse(png, n=12):
    "A PNG in base64 as its `(height, width)` and the mean darkness of each of `n`×`n` blocks."
    import numpy as np
    from matplotlib.image import imread
    grey = 1 - imread(io.BytesIO(base64.b64decode(png)), format="png")[..., :3].mean(-1)
    return np.array(grey.shape), np.array([[b.mean() for b in np.array_split(row, n, axis=1)] for row in np.array_split(grey, n)])


def alike(a, b, size=.05, ink=.03):
    "Whether two PNGs are about equally large and dark in the same places: another font passes, another figure does not."
    import numpy as np
    if a == b: return True
    (shape_a, dark_a), (shape_b, dark_b) = coarse(a), coarse(b)
    return bool((abs(shape_a - shape_b) <= size * shape_a).all() and np.abs(dark_a - dark_b).max() <= ink)


def differences(stored, fresh):
    "How two copies of one page differ in what they show, as a readable list; empty when they agree."
    a, b = shown(stored), shown(fresh)
    lines_a, lines_b = ([f"cell {i}: {'' if k == 'text' else k + ' '}{'' if k.startswith('image/') else v}".rstrip() for i, k, v in s] for s in (a, b))
    if [(i, k) for i, k, _ in a] != [(i, k) for i, k, _ in b]:
        return list(difflib.unified_diff(lines_a, lines_b, "stored", "run now", lineterm="", n=0))
    res = []
    for (i, kind, x), (_, _, y), la, lb in zip(a, b, lines_a, lines_b):
        if kind == "image/png":
            if not alike(x, y): res.append(f"cell {i}: the picture changed")
        elif kind in ("text", "error") and not same(x, y): res.append(f"- {la}\n+ {lb}")
    return res


# ---------------------------------------------------------------- faults that need no run

def options(source):
    "The `#| name: value` lines that begin a cell, as a dict."
    head = re.match(r"(?:\s*#\|.*\n?)*", source)[0]
    return {k: v.strip() for k, v in re.findall(r"#\|\s*([\w-]+):?\s*(.*)", head)}


def mixes_imports(source):
    "Whether a cell has an import beside other code: nbdev runs such a cell, and no other, while it builds the site."
    try: nodes = list(ast.walk(ast.parse(re.sub(r"^\s*[%!].*", "", source, flags=re.M))))
    except SyntaxError: return False
    return any(isinstance(n, (ast.Import, ast.ImportFrom)) for n in nodes) and any(isinstance(n, (ast.Expr, ast.Assign)) for n in nodes)


def faults(path):
    "What is wrong with a page as it stands: its opening, figures, references, links, outputs. A list of sentences."
    path = Path(path)
    text, res = path.read_text(encoding="utf-8"), []
    cells = json.loads(text)["cells"]
    sources = ["".join(c["source"]) for c in cells]
    if len(text.encode()) > LARGEST: res.append(f"{len(text.encode())} bytes: a page has at most {LARGEST}")

    opening = sources[0].strip().splitlines()
    if cells[0]["cell_type"] != "markdown" or not re.match(r"# \S", sources[0]): res.append("the first cell is not an H1 title")
    elif len(opening) < 2 or not any(line.startswith("> ") for line in opening): res.append("no one-line `> ` summary under the title")
    elif [o for o in opening[1:] if o and not o.startswith("> ")] or sum(o.startswith("> ") for o in opening) > 1:
        res.append("the first cell holds more than a title and a one-line summary: nbdev makes it the page's front matter and drops the rest")
    exports = [s for s in sources if "default_exp" in options(s)]
    if re.match(r"\d\d_", path.name) and len(exports) != 1: res.append(f"{len(exports)} cells with default_exp: a numbered page has one")

    labels = []
    for i, (cell, source) in enumerate(zip(cells, sources)):
        if cell["cell_type"] != "code": continue
        opt = options(source)
        if cell["execution_count"] is not None: res.append(f"cell {i} keeps an execution count")
        for o in cell["outputs"]:
            if o.get("name") == "stderr": res.append(f"cell {i} stores a warning or other stderr: {''.join(o['text'])[:200]}")
            if o["output_type"] == "error": res.append(f"cell {i} stores an error: {o.get('ename')}")
        picture = any(k.startswith("image/") for o in cell["outputs"] for k in o.get("data", {}))
        if not {"export", "exports", "exporti"} & set(opt) and mixes_imports(source): res.append(f"cell {i} imports beside other code: give imports a cell of their own")
        if "label" in opt: labels.append(opt["label"])
        if "hide" in opt: continue
        if picture and not opt.get("label", "").startswith("fig-"): res.append(f"cell {i} shows a picture without `#| label: fig-…`")
        if opt.get("label", "").startswith("fig-"):
            if not opt.get("fig-cap"): res.append(f"cell {i}: {opt['label']} has no fig-cap")
            if not picture: res.append(f"cell {i}: {opt['label']} shows no picture")
            if "**Finding:**" not in next((s for c, s in zip(cells[i:], sources[i:]) if c["cell_type"] == "markdown"), ""):
                res.append(f"cell {i}: no **Finding:** under {opt['label']}")
    res += [f"two cells are labelled {o}" for o in sorted({o for o in labels if labels.count(o) > 1})]

    prose = "\n".join(s for c, s in zip(cells, sources) if c["cell_type"] == "markdown")
    res += [f"@{o} is no figure of this page" for o in re.findall(r"(?<!\w)@(fig-[\w-]+)", prose) if o not in labels]
    for link in dict.fromkeys(re.findall(r"\]\(([^)\s]+)\)", prose)):
        if not re.match(r"\w+:|#", link) and not (path.parent / link.split("#")[0]).exists(): res.append(f"the link to {link} leads nowhere")
    words = "\n".join(sources + [line for _, kind, line in shown(path) if not kind.startswith("image/")])
    res += [f"a path of some machine: {o}" for o in sorted(set(re.findall(r"(?<![\w.])(?:/home/|/root/|/tmp/|/Users/|[A-Z]:\\\\?Users)[^\s'\"]*", words)))]
    return res


# ---------------------------------------------------------------- README

def readme():
    "README.md: the index page's markdown and code, without Quarto."
    out = []
    for cell in json.loads((NBS / "index.ipynb").read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"]).strip()
        if cell["cell_type"] == "markdown": out.append(source)
        elif cell["cell_type"] == "code" and source and not {"hide", "export", "default_exp"} & set(options(source)): out.append(f"```python\n{source}\n```")
    text = re.sub(r"\]\((\w+)\.ipynb(#[\w-]+)?\)", r"](nbs/\1.ipynb\2)", "\n\n".join(out)).replace("](../", "](")
    return "<!-- Made from nbs/index.ipynb by `python tools/pages.py readme`: edit that page. -->\n\n" + text + "\n"


def command(name, text=None):
    "The fenced block under `<!-- NAME command -->` in the README."
    text = (ROOT / "README.md").read_text(encoding="utf-8") if text is None else text
    found = re.findall(rf"<!-- {re.escape(name)} command -->\s*```\w*\n(.*?)```", text, flags=re.DOTALL)
    if len(found) != 1: raise SystemExit(f"README.md has {len(found)} blocks marked <!-- {name} command -->, not one")
    return found[0].strip()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("verb", choices=["run", "check", "readme", "command"])
    p.add_argument("page", nargs="*")
    args = p.parse_args()
    if args.verb == "readme": return (ROOT / "README.md").write_text(readme(), encoding="utf-8", newline="\n")
    if args.verb == "command": return print(*map(command, args.page), sep="\n")
    bad = 0
    for path in pages(args.page):
        copy = path.with_name(f".{path.stem}.run")
        try:
            took = run(path, copy)
            wrong = differences(path, copy) + faults(path) if args.verb == "check" else []
            if args.verb == "run": os.replace(copy, path)
            print(f"{path.name}: {took:.0f} s" + "".join(f"\n  {d}" for d in wrong))
            bad += bool(wrong)
        except RuntimeError as e:
            print(e); bad += 1
        finally:
            copy.unlink(missing_ok=True)
    sys.exit(bool(bad))


if __name__ == "__main__": main()
