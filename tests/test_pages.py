"""The pages as a whole: each runs and shows what is stored; modules and README are those of the
pages; their code, and that of tests, benchmarks and tools, is easy to read."""
import ast
import base64
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import pages as tool  # noqa: E402

PAGES = tool.pages()
NUMBERED = [p for p in PAGES if re.match(r"\d\d_", p.name)]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
CODE = [f for folder in ("tests", "benchmarks", "tools") for f in ROOT.glob(f"{folder}/*.py")]
EMPTY = {"outputs": [], "execution_count": None}


def read(path): return json.loads(Path(path).read_text(encoding="utf-8"))


def source(cell): return "".join(cell["source"])


def module_of(page):
    text = "\n".join(source(c) for c in read(page)["cells"])
    found = re.search(r"^#\|\s*default_exp\s+(\S+)", text, re.M)
    return found and found[1]


MODULES = {module_of(p): p for p in NUMBERED}
each_module = pytest.mark.parametrize("module", MODULES)


def module_text(module): return (ROOT / "sjepa_nb" / f"{module}.py").read_text(encoding="utf-8")


def tree(module): return ast.parse(module_text(module))


# ---------------------------------------- the pages run, and show what they stored

@each_page
def test_page_runs_and_shows_what_is_stored(page, tmp_path):
    tool.run(page, tmp_path / page.name)
    diff = tool.differences(page, tmp_path / page.name)
    assert not diff, "\n".join([
        f"{page.name} shows something else than it stored; look, "
        f"then `python tools/pages.py run {page.stem}`", *diff])


@each_page
def test_page_has_no_faults(page):
    found = tool.faults(page)
    assert not found, "\n".join([page.name, *found])


@pytest.mark.parametrize("file", PAGES + CODE, ids=lambda p: p.name)
def test_code_is_easy_to_read(file):
    found, allowed = tool.hard_to_read(file), tool.UNREADABLE.get(file.name, 0)
    assert len(found) <= allowed, "\n".join([f"{len(found)} faults, {allowed} allowed", *found])
    assert len(found) == allowed, f"fewer than allowed: write {len(found)} into tools/pages.py"


def test_no_allowance_without_a_file():
    assert set(tool.UNREADABLE) <= {f.name for f in PAGES + CODE}


# ---------------------------------------- what is made from the pages

def modules_in(root):
    return {p.name: p.read_text(encoding="utf-8") for p in (root / "sjepa_nb").glob("*.py")}


def test_modules_are_those_of_the_pages(exported):
    made, kept = modules_in(exported), modules_in(ROOT)
    assert sorted(made) == sorted(kept), "a module without a page, or a page without: nbdev_export"
    changed = [n for n in made if made[n] != kept[n]]
    assert changed == [], "not what the page exports: run nbdev_export; never edit a module"


def test_readme_is_the_index_page():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text == tool.readme(), "run `python tools/pages.py readme`"


def test_index_lists_every_page_under_its_number():
    rows = re.findall(r"^\| \[(\d\d )?[^]]*\]\(nbs/(\S+)\)", tool.readme(), flags=re.M)
    assert sorted(name for _, name in rows) == sorted(p.name for p in PAGES[1:])
    assert all(name.startswith(number.replace(" ", "_")) for number, name in rows)


def test_readme_has_the_two_commands():
    assert tool.command("test").endswith("&& pytest")
    assert tool.command("demo").endswith("&& sjepa_demo")
    with pytest.raises(SystemExit, match="0 blocks"): tool.command("other")


# ---------------------------------------- modules

def imported(node):
    "Which modules of this package a statement imports."
    names = [a.name for a in getattr(node, "names", [])]
    if isinstance(node, ast.Import):
        return [n.split(".")[1] for n in names if n.startswith("sjepa_nb.")]
    if not isinstance(node, ast.ImportFrom): return []
    package, _, module = (node.module or "").partition(".")
    if node.level: module = node.module
    elif package != "sjepa_nb": return []
    return [module.split(".")[0]] if module else names


@each_module
def test_module_imports_only_from_lower_pages(module):
    mine = MODULES[module].name
    for node in ast.walk(tree(module)):
        for other in imported(node):
            line = f"{module}, line {node.lineno}"
            assert other in MODULES, f"{line}: sjepa_nb has no module {other}"
            theirs = MODULES[other].name
            assert theirs < mine, f"{line}: {theirs} comes later than {mine}"


def test_no_module_holds_more_than_a_tenth_of_the_lines():
    lines = {module: len(module_text(module).splitlines()) for module in MODULES}
    largest = max(lines, key=lines.get)
    assert lines[largest] <= sum(lines.values()) / 10, f"{largest} has {lines[largest]}: divide it"


@each_module
def test_only_the_list_of_names_has_long_lines(module):
    "That nbdev writes; the rest of a module is at most as wide as the cells that it comes from."
    rest = re.sub(r"^__all__ = \[.*?\]$", "", module_text(module), flags=re.M | re.S)
    assert [line for line in rest.splitlines() if len(line) > 100] == []


@each_module
def test_public_names_have_docstrings(module):
    kinds = (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)
    public = [n for n in tree(module).body if isinstance(n, kinds) and not n.name.startswith("_")]
    bare = [n.name for n in public if not ast.get_docstring(n)]
    assert bare == [], f"no docstring in {MODULES[module].name}"


# ---------------------------------------- these tests can fail

@pytest.mark.parametrize("a, b, agree", [
    ("loss 0.512", "loss  0.530", True),         # another processor's rounding
    ("loss 0.512", "loss 0.612", False),
    ("−0.01 of 1", "0.005 of 1", True),          # near zero: 0.02
    ("62 channels", "61 channels", False),       # whole numbers are exact
    ("step 4000", "step 4001", False),
    ("(2, 62, 4, 64)", "(2, 62, 5, 64)", False),
    ("78 % correct", "79 % correct", True),      # 2 points, or a tenth
    ("3 % lost", "9 % lost", False),
    ("error 3e-07", "error 9e-06", True),
    ("mean 3e+04", "mean 5e+04", False),
    ("78 % correct", "78 correct", False),
    ("falls to 0.5", "rises to 0.5", False),
    ("nan", "0.1", False),
])
def test_same(a, b, agree): assert tool.same(a, b) == tool.same(b, a) == agree


def picture(*y):
    "A curve, as a PNG in base64."
    import matplotlib.figure
    with matplotlib.rc_context(matplotlib.rcParamsDefault):  # MOABB's plots leave a style behind
        fig, buf = matplotlib.figure.Figure(dpi=60), io.BytesIO()
        fig.subplots().plot(y)
        fig.savefig(buf, format="png")
    return base64.b64encode(buf.getvalue()).decode()


def shows(png):
    return [dict(output_type="display_data", metadata={}, data={"image/png": png})]


def notebook(tmp_path, name="00_toy.ipynb", **change):
    "A small faultless page; `change` replaces the source or outputs of a cell: `source3=…`."
    figure = "#| label: fig-toy\n#| fig-cap: \"A curve.\"\n#| fig-alt: \"It rises.\"\nplot()"
    sources = ["# Toy\n\n> One line.", "#| default_exp toy",
               "See @fig-toy and [this page](00_toy.ipynb#top).", figure,
               "**Finding:** it rises.", "print(3)"]
    cells = []
    for i, text in enumerate(sources):
        kind = {"cell_type": "code"} | EMPTY if i in (1, 3, 5) else {"cell_type": "markdown"}
        cells.append(dict(kind, id=f"c{i}", metadata={}, source=text))
    cells[3]["outputs"] = shows(picture(0, 1, 4, 9))
    cells[5]["outputs"] = stream("3 trials, 0.25\n")
    for k, v in change.items(): cells[int(k[-1])][k[:-1]] = v
    path = tmp_path / name
    page = dict(cells=cells, metadata={}, nbformat=4, nbformat_minor=5)
    path.write_text(json.dumps(page), encoding="utf-8")
    return path


def stream(text, name="stdout"): return [dict(output_type="stream", name=name, text=[text])]


@pytest.mark.parametrize("change, says", [
    ({}, None),
    ({"source0": "Toy"}, "not an H1"),
    ({"source0": "# Toy\n\nText."}, "no one-line"),
    ({"source0": "# Toy\n\n> One line.\n\nA question."}, "drops the rest"),
    ({"source1": "pass"}, "default_exp"),
    ({"source2": "See @fig-other."}, "@fig-other is no figure"),
    ({"source2": "[next](01_missing.ipynb)"}, "leads nowhere"),
    ({"source3": "plot()"}, "without `#| label"),
    ({"source3": "#| label: fig-toy\nplot()"}, "no fig-cap"),
    ({"source3": "#| label: fig-toy\n#| fig-cap: x\nplot()"}, "no fig-alt"),
    ({"outputs3": shows(picture(0, 1)) + stream("x")}, "2 outputs"),
    ({"outputs3": []}, "shows no picture"),
    ({"source4": "It rises."}, "no **Finding:**"),
    ({"source5": "import os\nprint(os.sep)"}, "imports beside"),
    ({"source5": "#| label: fig-toy\nprint(3)"}, "two cells are labelled"),
    ({"outputs5": stream("careful", "stderr")}, "stderr"),
    ({"outputs5": [dict(output_type="error", ename="ValueError", evalue="no")]}, "an error"),
    ({"outputs5": stream("wrote /tmp/abc/x.png")}, "a path"),
    ({"outputs5": stream("x" * 1_600_000)}, "bytes"),
    ({"execution_count5": 4}, "execution count"),
])
def test_faults_are_seen(tmp_path, change, says):
    found = tool.faults(notebook(tmp_path, **change))
    assert found == [] if says is None else any(says in f for f in found), found


@pytest.mark.parametrize("change, says", [
    ({}, None),
    ({"source5": "x = 1\n" + "y" * 101}, "101 characters"),
    ({"source5": "x = 1; y = 2"}, "behind a `;`"),
    ({"source5": "plot(1)  # a;b\nplot(';');"}, None),
    ({"source5": "def f(x):\n" + "    if x: pass\n" * 12}, "f has 13 branches"),
    ({"source5": "#| export\n" + "x = 1\n" * 21}, "an exported cell of 21 lines: x = 1"),
    ({"source5": "#| export\nclass A:\n" + "    x = 1\n" * 30}, None),
    ({"source5": "#| export\nclass A:\n" + "    x = 1\n" * 40}, "41 exported lines before a call"),
])
def test_code_that_is_hard_to_read_is_seen(tmp_path, change, says):
    found = tool.hard_to_read(notebook(tmp_path, **change))
    assert found == [] if says is None else len(found) == 1 and says in found[0], found


def test_python_files_are_held_to_the_same_lines(tmp_path):
    (tmp_path / "a.py").write_text(f"x = 1; y = 2\n# {'long' * 30}\n")
    assert len(tool.hard_to_read(tmp_path / "a.py")) == 2


def test_a_page_may_keep_the_faults_that_are_allowed(tmp_path, monkeypatch):
    page = notebook(tmp_path, source5="x = 1; y = 2")
    assert tool.beyond_allowance(page)[0] == "1 faults of form, 0 allowed"
    monkeypatch.setitem(tool.UNREADABLE, page.name, 1)
    assert tool.beyond_allowance(page) == []


@pytest.mark.parametrize("change, says", [
    ({}, None),
    ({"outputs5": stream("3 trials, 0.26\n")}, None),
    ({"outputs5": stream("4 trials, 0.25\n")}, "+ cell 5: 4 trials, 0.25"),
    ({"outputs5": stream("3 trials, 0.25\nmore\n")}, "+cell 5: more"),
    ({"outputs5": stream("3 trials, 0.25\n", "stderr")}, "cell 5"),
    ({"outputs3": []}, "-cell 3: image/png"),
    ({"outputs3": shows(picture(9, 4, 1, 0))}, "the picture changed"),
    ({"outputs3": shows(picture(0, 1.03, 4, 8.98))}, None),
])
def test_differences_are_seen(tmp_path, change, says):
    stored, fresh = notebook(tmp_path, "a.ipynb"), notebook(tmp_path, "b.ipynb", **change)
    diff = "\n".join(tool.differences(stored, fresh))
    assert diff == "" if says is None else says in diff, diff


@pytest.mark.parametrize("code", ["1 / 0", "raise SystemExit(0)"])
def test_an_error_in_the_middle_of_a_page_fails_it(tmp_path, code):
    with pytest.raises(RuntimeError, match="ZeroDivisionError|SystemExit"):
        tool.run(notebook(tmp_path, source1=code, source3="pass"), tmp_path / "out.ipynb")
    assert not (tmp_path / "out.ipynb").exists()


def test_the_readme_is_read_before_anything_is_installed():
    "The continuous integration asks for the test command with a bare Python."
    bare = [sys.executable, "-S", "tools/pages.py", "command", "test"]
    assert "pytest" in subprocess.run(bare, cwd=ROOT, capture_output=True, text=True).stdout
