"""Run the notebooks and store what they show; make README.md from the index page, without Quarto.

    python tools/pages.py run [PAGE ...]     execute, clean, store the outputs
    python tools/pages.py check [PAGE ...]   execute, compare with what is stored, look for faults
    python tools/pages.py readme             write README.md from nbs/index.ipynb
    python tools/pages.py command NAME       print the README's command under <!-- NAME command -->

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

import measure
from forked import Copy

UNREADABLE = {  # file → how many faults of form it still has; this list only shrinks
    "06_simulation.ipynb": 1, "22_finetuning.ipynb": 1,
}
ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
NUMBER = re.compile(r"(?<![\w.])[-+−]?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?: ?%)?")
LARGEST = 1_500_000  # bytes of one page
LONGEST_CELL = 20  # lines of an exported cell that is not one class
LONGEST_WAIT = 40  # exported lines before a reader sees something run
MOST_BRANCHES = 12  # of a function


def pages(names=()):
    "The notebooks whose names begin with one of `names`, in reading order."
    found = [p for p in NBS.glob("*.ipynb") if not p.name.startswith(".")]
    found.sort(key=lambda p: (p.stem != "index", p.stem))
    missing = [n for n in names if not any(p.name.startswith(n) for p in found)]
    if missing: raise SystemExit(f"no such page: {', '.join(missing)}")
    return [p for p in found if not names or any(p.name.startswith(n) for n in names)]


# ---------------------------------------------------------------- running

def execute(path, dest):
    "Run a notebook in this process, up to its first error, and write it, cleaned, to `dest`."
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
    except BaseException:  # `SystemExit` too: a page that leaves early is a page that failed
        sys.exit(shell.prettytb(fname=path.name))
    clean_nb(nb)
    write_nb(nb, dest)


def run(path, dest):
    """Execute one page in a process of its own; returns the seconds it took, or raises with the
    page's traceback. A page sees none of the reader's recordings or settings, so that it shows the
    same everywhere."""
    start = time.time()
    with tempfile.TemporaryDirectory() as home:
        p = Copy(execute, path, dest, env={"MNE_DATA": home, "_MNE_FAKE_HOME_DIR": home})
        said, wrong = p.communicate()
    if p.returncode: raise RuntimeError(f"{path.name} failed:\n{said[-2000:]}\n{wrong[-6000:]}")
    return time.time() - start


# ---------------------------------------------------------------- comparing

def output_kind(output):
    "Whether an output is an error (stderr too) or text."
    wrong = output.get("name") == "stderr" or output["output_type"] == "error"
    return "error" if wrong else "text"


def output_text(output):
    data = output.get("data", {})
    text = output.get("text") or data.get("text/markdown") or data.get("text/plain")
    return "".join(text or output.get("evalue", ""))


def pictures(output):
    "The pictures in an output, as `(type, value)`."
    data = output.get("data", {})
    return [(kind, "".join(data[kind])) for kind in sorted(data) if kind.startswith("image/")]


def shown(path):
    """What a reader sees under each code cell: `(cell, kind, value)`, where kind is text, an
    error, or a picture's type."""
    res = []
    cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
    for i, cell in enumerate(cells):
        for o in cell.get("outputs", []):
            lines = [(output_kind(o), line.rstrip()) for line in output_text(o).splitlines()]
            res += [(i, kind, value) for kind, value in pictures(o) or lines]
    return res


def number(text): return float(text.rstrip(" %").replace("−", "-"))


def words(text):
    "The words of a line, with a mark for each number."
    return NUMBER.sub(lambda m: "#%" if m[0].endswith("%") else "#", text).split()


def close(x, y, rtol=.1, atol=.02):
    """Whether two numbers in text agree: whole ones exactly; those with a decimal point or a %
    sign within what another processor's rounding does to a training run."""
    a, b = number(x), number(y)
    if not any(c in x + y for c in ".e%"): return a == b
    if "%" in x: atol *= 100
    return not abs(a - b) > max(atol, rtol * max(abs(a), abs(b)))


def same(a, b):
    "Whether two shown lines agree: words exactly, numbers as far as another machine gives them."
    return words(a) == words(b) and all(map(close, NUMBER.findall(a), NUMBER.findall(b)))


def coarse(png, n=12):
    "A PNG in base64 as its `(height, width)` and the mean darkness of each of `n`×`n` blocks."
    import numpy as np
    from matplotlib.image import imread
    grey = 1 - imread(io.BytesIO(base64.b64decode(png)), format="png")[..., :3].mean(-1)
    rows = [np.array_split(row, n, axis=1) for row in np.array_split(grey, n)]
    return np.array(grey.shape), np.array([[block.mean() for block in row] for row in rows])


def alike(a, b, size=.05, ink=.03):
    """Whether two PNGs are about equally large and dark in the same places: another font passes,
    another figure does not."""
    import numpy as np
    if a == b: return True
    (shape_a, dark_a), (shape_b, dark_b) = coarse(a), coarse(b)
    if (abs(shape_a - shape_b) > size * shape_a).any(): return False
    return bool(np.abs(dark_a - dark_b).max() <= ink)


def as_line(cell, kind, value):
    "One thing that a page shows, as a line of a difference."
    if kind == "text": return f"cell {cell}: {value}".rstrip()
    if kind.startswith("image/"): return f"cell {cell}: {kind}"
    return f"cell {cell}: {kind} {value}".rstrip()


def difference(old, new):
    "How two things shown at one place differ, as a list of no or one line."
    cell, kind, value = old
    if kind == "image/png":
        return [] if alike(value, new[2]) else [f"cell {cell}: the picture changed"]
    if kind.startswith("image/") or same(value, new[2]): return []
    return [f"- {as_line(*old)}\n+ {as_line(*new)}"]


def differences(stored, fresh):
    "How two copies of one page differ in what they show, as a list of lines; empty if they agree."
    a, b = shown(stored), shown(fresh)
    if [s[:2] for s in a] != [s[:2] for s in b]:
        old, new = ([as_line(*s) for s in page] for page in (a, b))
        return list(difflib.unified_diff(old, new, "stored", "run now", lineterm="", n=0))
    return [line for old, new in zip(a, b) for line in difference(old, new)]


# ---------------------------------------------------------------- faults that need no run

def options(source):
    "The `#| name: value` lines that begin a cell, as a dict."
    head = re.match(r"(?:\s*#\|.*\n?)*", source)[0]
    return {k: v.strip() for k, v in re.findall(r"#\|\s*([\w-]+):?\s*(.*)", head)}


def read(path):
    "The cells of a page, each with its number, its source in one string, and its options."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    for i, cell in enumerate(cells):
        cell |= dict(i=i, source="".join(cell["source"]))
        cell["options"] = options(cell["source"]) if cell["cell_type"] == "code" else {}
    return cells


def code_of(cells): return [c for c in cells if c["cell_type"] == "code"]


def prose_of(cells): return "\n".join(c["source"] for c in cells if c["cell_type"] == "markdown")


def figures_of(cells):
    "The cells that a reader sees with a label `fig-…`."
    return [c for c in cells if "hide" not in c["options"] and is_figure(c)]


def is_figure(cell): return cell["options"].get("label", "").startswith("fig-")


def has_picture(cell): return any(map(pictures, cell["outputs"]))


def bad_opening(cells):
    first = cells[0]["source"]
    if cells[0]["cell_type"] != "markdown" or not re.match(r"# \S", first):
        return ["the first cell is not an H1 title"]
    rest = [line for line in first.strip().splitlines()[1:] if line]
    summary = [line for line in rest if line.startswith("> ")]
    if not summary: return ["no one-line `> ` summary under the title"]
    if len(rest) == 1: return []
    return ["the first cell holds more than a title and a one-line summary: "
            "nbdev makes it the page's front matter and drops the rest"]


def bad_module(path, cells):
    exports = sum("default_exp" in options(c["source"]) for c in cells)
    if not re.match(r"\d\d_", path.name) or exports == 1: return []
    return [f"{exports} cells with default_exp: a numbered page has one"]


def bad_outputs(cells):
    res = []
    for c in code_of(cells):
        if c["execution_count"] is not None: res.append(f"cell {c['i']} keeps an execution count")
        for o in c["outputs"]:
            cell = f"cell {c['i']} stores"
            if o.get("name") == "stderr":
                res.append(f"{cell} a warning or other stderr: {output_text(o)[:200]}")
            if o["output_type"] == "error": res.append(f"{cell} an error: {o.get('ename')}")
    return res


def mixes_imports(source):
    """Whether a cell has an import beside other code: nbdev runs such a cell, and no other, while
    it builds the site."""
    try: nodes = list(ast.walk(measure.parse(source)))
    except SyntaxError: return False
    imports = any(isinstance(n, (ast.Import, ast.ImportFrom)) for n in nodes)
    return imports and any(isinstance(n, (ast.Expr, ast.Assign)) for n in nodes)


def bad_imports(cells):
    exports = {"export", "exports", "exporti"}
    loose = [c for c in code_of(cells) if not exports & set(c["options"])]
    mixed = [c["i"] for c in loose if mixes_imports(c["source"])]
    return [f"cell {i} imports beside other code: give imports a cell of their own" for i in mixed]


def unlabelled_pictures(cells):
    bare = [c["i"] for c in code_of(cells)
            if "hide" not in c["options"] and has_picture(c) and not is_figure(c)]
    return [f"cell {i} shows a picture without `#| label: fig-…`" for i in bare]


def bad_figures(cells):
    res = []
    for c in figures_of(cells):
        label = c["options"]["label"]
        below = next((d["source"] for d in cells[c["i"]:] if d["cell_type"] == "markdown"), "")
        for option in ("fig-cap", "fig-alt"):
            if not c["options"].get(option): res.append(f"cell {c['i']}: {label} has no {option}")
        if not has_picture(c): res.append(f"cell {c['i']}: {label} shows no picture")
        if len(c["outputs"]) > 1:  # Quarto makes subfigures of them, and drops the caption
            res.append(f"cell {c['i']}: {label} has {len(c['outputs'])} outputs")
        if "**Finding:**" not in below: res.append(f"cell {c['i']}: no **Finding:** under {label}")
    return res


def bad_references(cells):
    labels = [c["options"]["label"] for c in code_of(cells) if "label" in c["options"]]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    named = re.findall(r"(?<!\w)@(fig-[\w-]+)", prose_of(cells))
    return [f"two cells are labelled {label}" for label in twice] + [
        f"@{label} is no figure of this page" for label in named if label not in labels]


def dead_links(path, cells):
    links = dict.fromkeys(re.findall(r"\]\(([^)\s]+)\)", prose_of(cells)))
    files = [link for link in links if not re.match(r"\w+:|#", link)]
    dead = [link for link in files if not (path.parent / link.split("#")[0]).exists()]
    return [f"the link to {link} leads nowhere" for link in dead]


def machine_paths(path, cells):
    text = [c["source"] for c in cells]
    text += [line for _, kind, line in shown(path) if not kind.startswith("image/")]
    places = r"(?<![\w.])(?:/home/|/root/|/tmp/|/Users/|[A-Z]:\\\\?Users)[^\s'\"]*"
    found = sorted(set(re.findall(places, "\n".join(text))))
    return [f"a path of some machine: {o}" for o in found]


def too_large(path):
    size = path.stat().st_size
    return [f"{size} bytes: a page has at most {LARGEST}"] if size > LARGEST else []


def faults(path):
    "What is wrong with a page as it stands: its opening, figures, references, links, outputs."
    path = Path(path)
    cells = read(path)
    return [*too_large(path), *bad_opening(cells), *bad_module(path, cells), *bad_outputs(cells),
            *bad_imports(cells), *unlabelled_pictures(cells), *bad_figures(cells),
            *bad_references(cells), *dead_links(path, cells), *machine_paths(path, cells)]


# ---------------------------------------------------------------- code that needs a second reading

def long_lines(path):
    found = [line for s in measure.code_cells(path) for line in measure.long_lines(s)]
    return [f"{len(line)} characters: {line.strip()[:60]}…" for line in found]


def packed_lines(path):
    count = sum(map(measure.packed, measure.code_cells(path)))
    return ["a statement behind a `;`"] * count


def long_cells(path):
    found = []
    for source in measure.exported_cells(path):
        lines = measure.body(source)
        if len(lines) > LONGEST_CELL and not measure.one_class(source): found.append(lines)
    return [f"an exported cell of {len(lines)} lines: {lines[0]}" for lines in found]


def long_wait(path):
    if path.suffix == ".py": return []
    lines = measure.before_a_call(measure.code_cells(path))
    return [f"{lines} exported lines before a call"] if lines > LONGEST_WAIT else []


def many_branches(path):
    found = measure.functions(measure.code_cells(path))
    return [f"{name} has {n} branches" for name, _, n in found if n > MOST_BRANCHES]


def hard_to_read(path):
    "What makes the code of a page or of a Python file need a second reading. A list of sentences."
    path = Path(path)
    rules = long_lines, packed_lines, long_cells, long_wait, many_branches
    return [sentence for rule in rules for sentence in rule(path)]


def beyond_allowance(path):
    "The faults of form of a page with more of them than `UNREADABLE` allows it; else none."
    found = hard_to_read(path)
    allowed = UNREADABLE.get(path.name, 0)
    if len(found) <= allowed: return []
    return [f"{len(found)} faults of form, {allowed} allowed", *found]


# ---------------------------------------------------------------- README

def readme():
    "README.md: the index page's markdown and code, without Quarto."
    hidden = {"hide", "export", "default_exp"}
    out = ["<!-- Made from nbs/index.ipynb by `python tools/pages.py readme`: edit that page. -->"]
    for cell in read(NBS / "index.ipynb"):
        source = cell["source"].strip()
        if cell["cell_type"] == "markdown": out.append(source)
        elif source and not hidden & set(cell["options"]): out.append(f"```python\n{source}\n```")
    text = re.sub(r"\]\((\w+)\.ipynb(#[\w-]+)?\)", r"](nbs/\1.ipynb\2)", "\n\n".join(out))
    text = text.replace("](../", "](").replace("](figures/", "](nbs/figures/")
    return text + "\n"


def command(name, text=None):
    "The fenced block under `<!-- NAME command -->` in the README."
    text = (ROOT / "README.md").read_text(encoding="utf-8") if text is None else text
    block = rf"<!-- {re.escape(name)} command -->\s*```\w*\n(.*?)```"
    found = re.findall(block, text, flags=re.DOTALL)
    if len(found) != 1:
        what = f"blocks marked <!-- {name} command -->"
        raise SystemExit(f"README.md has {len(found)} {what}, not one")
    return found[0].strip()


def visit(path, verb):
    "Run a page; store what it shows, or list what is wrong. Returns whether all is well."
    copy = path.with_name(f".{path.stem}.run")
    wrong = []
    try:
        took = run(path, copy)
        if verb == "run": os.replace(copy, path)
        else: wrong = differences(path, copy) + faults(path) + beyond_allowance(path)
        print(f"{path.name}: {took:.0f} s" + "".join(f"\n  {d}" for d in wrong))
    except RuntimeError as e:
        print(e)
        return False
    finally: copy.unlink(missing_ok=True)
    return not wrong


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("verb", choices=["run", "check", "readme", "command"])
    p.add_argument("page", nargs="*")
    args = p.parse_args()
    if args.verb == "readme":
        (ROOT / "README.md").write_text(readme(), encoding="utf-8", newline="\n")
    elif args.verb == "command": print(*map(command, args.page), sep="\n")
    else: sys.exit(not all([visit(path, args.verb) for path in pages(args.page)]))


if __name__ == "__main__": main()
