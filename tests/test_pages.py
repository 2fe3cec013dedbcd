"""The pages as a whole: each runs and shows what is stored; modules, README and site are those of
the pages; their code, and that of tests, benchmarks and tools, is easy to read."""
import ast
import base64
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

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


def tree(module): return ast.parse((ROOT / "sjepa_nb" / f"{module}.py").read_text(encoding="utf-8"))


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

def python_in(root, code):
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    "A copy of the project whose modules nbdev has just made from the pages."
    root = tmp_path_factory.mktemp("site")
    for f in ("settings.ini", "pyproject.toml", "_quarto.yml"): shutil.copy(ROOT / f, root)
    hidden = shutil.ignore_patterns(".*")
    for d in ("nbs", "results"):
        if (ROOT / d).exists(): shutil.copytree(ROOT / d, root / d, ignore=hidden)
    (root / "sjepa_nb").mkdir()
    shutil.copy(ROOT / "sjepa_nb" / "__init__.py", root / "sjepa_nb")  # nbdev writes its version
    python_in(root, "from nbdev.doclinks import nbdev_export; nbdev_export.__wrapped__()")
    return root


@pytest.fixture(scope="session")
def site(exported):
    "That copy, processed for the site as nbdev does it, without Quarto; and what nbdev said."
    code = """
from nbdev.quarto import proc_nbs, refresh_quarto_yml
refresh_quarto_yml()
proc_nbs(n_workers=0)
"""
    return exported, python_in(exported, code)


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


@each_module
def test_public_names_have_docstrings(module):
    kinds = (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)
    public = [n for n in tree(module).body if isinstance(n, kinds) and not n.name.startswith("_")]
    bare = [n.name for n in public if not ast.get_docstring(n)]
    assert bare == [], f"no docstring in {MODULES[module].name}"


# ---------------------------------------- the site, as far as one can see without Quarto

def test_pages_process_without_warnings(site):
    assert "Found cells containing imports and other code" not in site[1], site[1]


def check_options(cell):
    "Quarto can read a cell's options, and a figure has a caption and a picture."
    text = source(cell)
    if not re.search(r"^#\|", text, re.M): return
    assert text.startswith("#|"), f"Quarto reads options at the top of a cell only:\n{text}"
    opt = yaml.safe_load("\n".join(re.findall(r"^#\| ?(.*)", text, re.M)))
    assert isinstance(opt, dict), f"Quarto cannot read the options of this cell:\n{text}"
    if not str(opt.get("label")).startswith("fig-"): return
    assert opt["fig-cap"].strip()
    assert any(map(tool.pictures, cell["outputs"]))


@each_page
def test_processed_page_is_ready_for_quarto(page, site):
    cells = read(site[0] / "_proc" / page.name)["cells"]
    assert cells[0]["cell_type"] == "raw", "nbdev found no title"
    front = yaml.safe_load(source(cells[0]).strip().strip("-"))
    assert front.get("title") and front.get("description"), "nbdev found no title or summary"
    kept = {c.get("id") for c in cells}
    texts = [c for c in read(page)["cells"][1:] if c["cell_type"] == "markdown"]
    assert [source(c)[:80] for c in texts if c["id"] not in kept] == [], "text that the site drops"
    code = [c for c in cells if c["cell_type"] == "code"]
    labels = [tool.options(source(c)).get("label") for c in code]
    labels = [label for label in labels if label]
    assert len(labels) == len(set(labels)), "labels repeat"
    named = re.findall(r"(?<!\w)@(fig-[\w-]+)", "\n".join(source(c) for c in cells))
    assert set(named) <= set(labels), "a reference to a figure that the site does not show"
    for c in code: check_options(c)


def joined(a, b):
    "Two settings as Quarto joins them: lists one behind the other, of dicts each name."
    if isinstance(a, list) and isinstance(b, list): return a + b
    if not (isinstance(a, dict) and isinstance(b, dict)): return b
    return a | {k: joined(a[k], v) if k in a else v for k, v in b.items()}


def merged(folder):
    "What Quarto reads in `folder`: `_quarto.yml`, then its `metadata-files`, one level deep."
    top = yaml.safe_load((folder / "_quarto.yml").read_text(encoding="utf-8"))
    for f in top.pop("metadata-files", []):
        top = joined(top, yaml.safe_load((folder / f).read_text(encoding="utf-8")))
    return top


def test_site_configuration_is_the_one_at_the_top(site):
    cfg = merged(site[0] / "_proc")
    for k, v in yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8")).items():
        assert merged(site[0] / "_proc").keys() >= {k} and (isinstance(v, dict) or cfg[k] == v)
    assert cfg["project"] == {"type": "website", "output-dir": "_docs"}
    assert cfg["website"]["title"] == "sjepa_nb" and cfg["execute"] == {"enabled": False}
    assert (site[0] / "_proc" / cfg["format"]["html"]["css"]).exists()
    before, after = ((root / "nbs" / "_quarto.yml").read_text() for root in (ROOT, site[0]))
    assert before == after, "nbdev rewrote nbs/_quarto.yml"


def flat(items):
    "The pages of a sidebar, without its sections."
    res = []
    for item in items: res += flat(item["contents"]) if isinstance(item, dict) else [item]
    return res


def test_sidebar_lists_every_page_in_order(site):
    sidebar = merged(site[0] / "_proc")["website"]["sidebar"]
    listed = flat(sidebar["contents"])
    numbered = sorted(p.name for p in PAGES if re.match(r"\d\d_", p.name))
    first, last = ["index", "fifteen_minutes"], ["evidence", "choices", "cost", "glossary"]
    assert listed == [f"{n}.ipynb" for n in first] + numbered + [f"{n}.ipynb" for n in last]
    assert set(listed) == {p.name for p in PAGES}


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
    figure = "#| label: fig-toy\n#| fig-cap: \"A curve.\"\nplot()"
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
    ({"source5": "#| export\n" + "x = 1\n" * 21}, "an exported cell of 21 lines: x = 1"),
    ({"source5": "#| export\nclass A:\n" + "    x = 1\n" * 30}, None),
    ({"source5": "#| export\nclass A:\n" + "    x = 1\n" * 40}, "41 exported lines before a call"),
    ({"outputs3": shows(picture(0, 1)) * 2}, "fig-toy has 2 outputs"),
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
