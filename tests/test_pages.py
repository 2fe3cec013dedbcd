"""The pages as a whole: each runs and shows what is stored; modules, README and site are those of the pages."""
import ast
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


def read(path): return json.loads(Path(path).read_text(encoding="utf-8"))


def source(cell): return "".join(cell["source"])


def module_of(page):
    return next((m[1] for c in read(page)["cells"] if (m := re.search(r"^#\|\s*default_exp\s+(\S+)", source(c), re.M))), None)


MODULES = {module_of(p): p for p in NUMBERED}
each_module = pytest.mark.parametrize("module", MODULES)


def tree(module): return ast.parse((ROOT / "sjepa_nb" / f"{module}.py").read_text(encoding="utf-8"))


# ---------------------------------------------------------------- the pages run, and show what they stored

@each_page
def test_page_runs_and_shows_what_is_stored(page, tmp_path):
    tool.run(page, tmp_path / page.name)
    diff = tool.differences(page, tmp_path / page.name)
    assert not diff, f"{page.name} shows something else than it stored; look, then `python tools/pages.py run {page.stem}`\n" + "\n".join(diff)


@each_page
def test_page_has_no_faults(page):
    found = tool.faults(page)
    assert not found, "\n".join([page.name, *found])


# ---------------------------------------------------------------- what is made from the pages

def python_in(root, code):
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    "A copy of the project whose modules nbdev has just made from the pages."
    root = tmp_path_factory.mktemp("site")
    for f in ("settings.ini", "pyproject.toml", "_quarto.yml"): shutil.copy(ROOT / f, root)
    for d in ("nbs", "results"):
        if (ROOT / d).exists(): shutil.copytree(ROOT / d, root / d, ignore=shutil.ignore_patterns(".*"))
    python_in(root, "from nbdev.doclinks import nbdev_export; nbdev_export.__wrapped__()")
    return root


@pytest.fixture(scope="session")
def site(exported):
    "That copy, processed for the site as nbdev does it, without Quarto; and what nbdev said."
    return exported, python_in(exported, "from nbdev.quarto import refresh_quarto_yml, proc_nbs; refresh_quarto_yml(); proc_nbs(n_workers=0)")


def test_modules_are_those_of_the_pages(exported):
    made, kept = ({p.name: p.read_text(encoding="utf-8") for p in (r / "sjepa_nb").glob("*.py")} for r in (exported, ROOT))
    assert sorted(made) == sorted(kept), "a module without a page, or a page without its module: run nbdev_export"
    assert [n for n in made if made[n] != kept[n]] == [], "not what the page exports: run nbdev_export; never edit a module"


def test_readme_is_the_index_page():
    assert (ROOT / "README.md").read_text(encoding="utf-8") == tool.readme(), "run `python tools/pages.py readme`"


def test_readme_has_the_two_commands():
    assert tool.command("test").endswith("&& pytest") and tool.command("demo").endswith("&& sjepa_demo")
    with pytest.raises(SystemExit, match="0 blocks"): tool.command("other")


# ---------------------------------------------------------------- modules

@each_module
def test_module_imports_only_from_lower_pages(module):
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "sjepa_nb"):
            path = (node.module or "").removeprefix("sjepa_nb").strip(".")
            used = [path.split(".")[0]] if path else [a.name for a in node.names]
        elif isinstance(node, ast.Import): used = [a.name.split(".")[1] for a in node.names if a.name.startswith("sjepa_nb.")]
        else: continue
        for other in used:
            assert other in MODULES, f"{module}, line {node.lineno}: sjepa_nb has no module {other}"
            assert MODULES[other].name < MODULES[module].name, f"{module}, line {node.lineno}: {MODULES[other].name} comes later than {MODULES[module].name}"


@each_module
def test_public_names_have_docstrings(module):
    kinds = (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)
    bare = [n.name for n in tree(module).body if isinstance(n, kinds) and not n.name.startswith("_") and not ast.get_docstring(n)]
    assert bare == [], f"no docstring in {MODULES[module].name}"


# ---------------------------------------------------------------- the site, as far as one can see without Quarto

def test_pages_process_without_warnings(site):
    assert "Found cells containing imports and other code" not in site[1], site[1]


@each_page
def test_processed_page_is_ready_for_quarto(page, site):
    cells = read(site[0] / "_proc" / page.name)["cells"]
    front = yaml.safe_load(source(cells[0]).strip().strip("-")) if cells[0]["cell_type"] == "raw" else {}
    assert front.get("title") and front.get("description"), "nbdev found no title or summary"
    text = "\n".join(source(c) for c in cells)
    kept = {c.get("id") for c in cells}
    lost = [source(c)[:80] for c in read(page)["cells"][1:] if c["cell_type"] == "markdown" and c["id"] not in kept]
    assert lost == [], "text that the site drops"
    labels = [tool.options(source(c)).get("label") for c in cells if c["cell_type"] == "code" and "label" in tool.options(source(c))]
    assert len(labels) == len(set(labels)), "labels repeat"
    assert {m for m in re.findall(r"(?<!\w)@(fig-[\w-]+)", text)} <= set(labels), "a reference to a figure that the site does not show"
    for c in cells:
        if c["cell_type"] != "code" or not re.search(r"^#\|", source(c), re.M): continue
        assert source(c).startswith("#|"), f"Quarto reads options at the top of a cell only:\n{source(c)}"
        opt = yaml.safe_load("\n".join(re.findall(r"^#\| ?(.*)", source(c), re.M)))
        assert isinstance(opt, dict), f"Quarto cannot read the options of this cell:\n{source(c)}"
        if str(opt.get("label")).startswith("fig-"):
            assert opt["fig-cap"].strip()
            assert any(k.startswith("image/") for o in c["outputs"] for k in o.get("data", {}))


def merged(folder):
    "The configuration that Quarto reads in `folder`: `_quarto.yml`, then its `metadata-files`, one level deep; lists are joined."
    def merge(a, b):
        if isinstance(a, dict) and isinstance(b, dict): return {k: merge(a[k], b[k]) if k in a and k in b else a.get(k, b.get(k)) for k in {**a, **b}}
        return a + b if isinstance(a, list) and isinstance(b, list) else b
    top = yaml.safe_load((folder / "_quarto.yml").read_text(encoding="utf-8"))
    for f in top.pop("metadata-files", []): top = merge(top, yaml.safe_load((folder / f).read_text(encoding="utf-8")))
    return top


def test_site_configuration_is_the_one_at_the_top(site):
    cfg = merged(site[0] / "_proc")
    for k, v in yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8")).items():
        assert merged(site[0] / "_proc").keys() >= {k} and (isinstance(v, dict) or cfg[k] == v)
    assert cfg["project"] == {"type": "website", "output-dir": "_docs"}
    assert cfg["website"]["title"] == "sjepa_nb" and cfg["execute"] == {"enabled": False}
    assert (site[0] / "_proc" / cfg["format"]["html"]["css"]).exists()
    assert (site[0] / "nbs" / "_quarto.yml").read_text() == (ROOT / "nbs" / "_quarto.yml").read_text(), "nbdev rewrote nbs/_quarto.yml"


def test_sidebar_lists_every_page_in_order(site):
    def flat(items): return [p for i in items for p in (flat(i["contents"]) if isinstance(i, dict) else [i])]
    assert flat(merged(site[0] / "_proc")["website"]["sidebar"]["contents"]) == [p.name for p in PAGES]


# ---------------------------------------------------------------- these tests can fail

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


def picture(draw):
    import base64, io
    import matplotlib.figure
    with matplotlib.rc_context(matplotlib.rcParamsDefault):  # MOABB's plots leave their own style behind
        fig, buf = matplotlib.figure.Figure(dpi=60), io.BytesIO()
        draw(fig.subplots()); fig.savefig(buf, format="png")
    return base64.b64encode(buf.getvalue()).decode()


def notebook(tmp_path, name="00_toy.ipynb", **change):
    "A small faultless page; `change` replaces the source or outputs of a cell: `source3=…`, `outputs3=…`."
    png = picture(lambda ax: ax.plot([0, 1, 4, 9]))
    cells = [("markdown", "# Toy\n\n> One line."), ("code", "#| default_exp toy"), ("markdown", "See @fig-toy and [this page](00_toy.ipynb#top)."),
             ("code", "#| label: fig-toy\n#| fig-cap: \"A curve.\"\nplot()"), ("markdown", "**Finding:** it rises."), ("code", "print(3)")]
    cells = [dict(cell_type=t, id=f"c{i}", metadata={}, source=s, **({"outputs": [], "execution_count": None} if t == "code" else {})) for i, (t, s) in enumerate(cells)]
    cells[3]["outputs"] = [dict(output_type="display_data", metadata={}, data={"image/png": png, "text/plain": "<Figure>"})]
    cells[5]["outputs"] = [dict(output_type="stream", name="stdout", text=["3 trials, 0.25\n"])]
    for k, v in change.items(): cells[int(k[-1])][k[:-1]] = v
    path = tmp_path / name
    path.write_text(json.dumps(dict(cells=cells, metadata={}, nbformat=4, nbformat_minor=5)), encoding="utf-8")
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
    ({"outputs5": [dict(output_type="error", ename="ValueError", evalue="no", traceback=[])]}, "an error"),
    ({"outputs5": stream("wrote /tmp/abc/x.png")}, "a path"),
    ({"outputs5": stream("x" * 1_600_000)}, "bytes"),
    ({"execution_count5": 4}, "execution count"),
])
def test_faults_are_seen(tmp_path, change, says):
    found = tool.faults(notebook(tmp_path, **change))
    assert found == [] if says is None else any(says in f for f in found), found


@pytest.mark.parametrize("change, says", [
    ({}, None),
    ({"outputs5": stream("3 trials, 0.26\n")}, None),
    ({"outputs5": stream("4 trials, 0.25\n")}, "+ cell 5: 4 trials, 0.25"),
    ({"outputs5": stream("3 trials, 0.25\nmore\n")}, "+cell 5: more"),
    ({"outputs5": stream("3 trials, 0.25\n", "stderr")}, "cell 5"),
    ({"outputs3": []}, "-cell 3: image/png"),
    ({"outputs3": [dict(output_type="display_data", metadata={}, data={"image/png": picture(lambda ax: ax.plot([9, 4, 1, 0]))})]}, "the picture changed"),
    ({"outputs3": [dict(output_type="display_data", metadata={}, data={"image/png": picture(lambda ax: ax.plot([0, 1.03, 4, 8.98]))})]}, None),
])
def test_differences_are_seen(tmp_path, change, says):
    diff = "\n".join(tool.differences(notebook(tmp_path, "a.ipynb"), notebook(tmp_path, "b.ipynb", **change)))
    assert diff == "" if says is None else says in diff, diff


@pytest.mark.parametrize("code", ["1 / 0", "raise SystemExit(0)"])
def test_an_error_in_the_middle_of_a_page_fails_it(tmp_path, code):
    with pytest.raises(RuntimeError, match="ZeroDivisionError|SystemExit"):
        tool.run(notebook(tmp_path, source1=code, source3="pass"), tmp_path / "out.ipynb")
    assert not (tmp_path / "out.ipynb").exists()
