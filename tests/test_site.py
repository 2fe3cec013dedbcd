"""The site: what Quarto is given to render, and how the pages look in a browser."""
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import pages as tool  # noqa: E402
import rendered  # noqa: E402
from test_pages import PAGES, each_page, read, source  # noqa: E402

from sjepa_nb import _site  # noqa: E402

# ---------------------------------------- what Quarto is given

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


def check_labels(cells, code):
    "Each figure has a label of its own, and what is referred to is there."
    labels = [tool.options(source(c)).get("label") for c in code]
    labels = [label for label in labels if label]
    assert len(labels) == len(set(labels)), "labels repeat"
    named = re.findall(r"(?<!\w)@(fig-[\w-]+)", "\n".join(source(c) for c in cells))
    assert set(named) <= set(labels), "a reference to a figure that the site does not show"


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
    kinds = {kind for c in code for o in c["outputs"] for kind in o.get("data", {})}
    assert "text/html" not in kinds, "Quarto loads scripts from another host for it"
    check_labels(cells, code)
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
    assert cfg["project"].pop("resources") == [cfg["website"]["image"]]
    assert cfg["project"] == {"type": "website", "output-dir": "_docs"}
    assert cfg["website"]["title"] == "sjepa_nb" and cfg["execute"] == {"enabled": False}
    named = [cfg["format"]["html"]["css"], cfg["website"]["favicon"], cfg["website"]["image"]]
    assert [f for f in named if not (site[0] / "_proc" / f).exists()] == []
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
    first = ["index", "fifteen_minutes", "your_recordings"]
    last = ["evidence", "choices", "relatives", "across_datasets", "more_data",
            "learnt_first", "cost", "glossary"]
    assert listed == [f"{n}.ipynb" for n in first] + numbered + [f"{n}.ipynb" for n in last]
    assert set(listed) == {p.name for p in PAGES}


# ---------------------------------------- what becomes of exported cells

def cell(source, *marks, kind="code", has_sd=False, outputs=()):
    "A cell as a processor of nbdev gets it."
    class Cell(SimpleNamespace):
        def get(self, name, default): return getattr(self, name, default)
    return Cell(source=source, cell_type=kind, directives_=dict.fromkeys(marks), has_sd=has_sd,
                outputs=list(outputs))


def doc(name, signature="def f(*args, **kwargs)"):
    "What nbdev puts beside an exported definition."
    class Output(SimpleNamespace):
        def get(self, name, default): return getattr(self, name, default)
    head = f"---\n\n[source](u)\n\n### {name}\n\n```python\n{signature}\n```\n\n"
    shown = Output(data={"text/markdown": [head, "*It is so*\n", "and so."]})
    return cell(f"show_doc({name})", has_sd=True, outputs=[shown])


def processed(*cells):
    front = cell("---\ntitle: Toy\n---\n", kind="raw")
    nb = SimpleNamespace(cells=[front, *cells], path_="nbs/05_toy.ipynb")
    _site.Pages(nb).begin()
    return nb.cells


def said(cell): return "".join(cell.outputs[0].data["text/markdown"])


TWO = """@patch
def first(self: A, x,  # volts
):  # a number
    'It.'
    return x

class B(A):
    'That.'
    # cm
    size: int = 3

    @property
    def area(self): return 9
"""


def test_documentation_comes_in_the_order_of_the_source_and_before_it():
    found = processed(cell(TWO, "exports"), doc("B"), doc("A.first"))
    assert [c.source.splitlines()[-1] for c in found[1:3]] == ["show_doc(A.first)", "show_doc(B)"]
    fold = '#| code-fold: true\n#| code-summary: "Source of first, B"\n'
    assert found[3].source == fold + TWO


def test_signatures_are_those_of_the_source():
    _, first, second, _ = processed(cell(TWO, "export"), doc("B"), doc("A.first"))
    assert "```python\ndef first(self: A, x,  # volts\n):  # a number\n```" in said(first)
    assert "```python\nclass B(A):\n    # cm\n    size: int = 3\n```" in said(second)
    assert "args" not in said(first) and "\nIt is so\nand so." in said(first)


def test_a_lesson_is_open_and_its_signature_is_not_said_twice():
    _, first, lesson = processed(cell("def f(x):\n    return x", "exports", "lesson"), doc("f"))
    assert lesson.source == "def f(x):\n    return x"
    assert said(first).strip().endswith("### f")


def test_imports_and_hidden_cells_are_not_on_the_site():
    found = processed(cell("import os", "export"), cell("f(1)", "hide"), cell("f(2)"))
    assert [c.source for c in found[1:]] == ["f(2)"]


def test_links_to_helpers_and_links_in_links_are_mended():
    text = "[`_a`](https://a/b.html#_a), [the [`fit`](https://a/b.html#fit) page](05.ipynb)"
    mended = processed(cell(text, kind="markdown"))[1].source
    assert mended == "`_a`, [the `fit` page](05.ipynb)"
    title = processed(cell("## [`fit`](https://a/b.html#fit)\n", kind="markdown"))[1].source
    assert title == "## `fit`\n"


def test_tables_are_markdown():
    html = '<style scoped>x</style><table border="1" class="dataframe"></table>'
    table = {"data": {"text/html": html, "text/plain": "x"}}
    shown = processed(cell("t", outputs=[table]))[1].outputs[0]["data"]
    assert shown == {"text/markdown": '```{=html}\n<table class="dataframe"></table>\n```'}


@each_page
def test_a_page_opens_in_a_hosted_jupyter(page, site):
    front = yaml.safe_load(source(read(site[0] / "_proc" / page.name)["cells"][0]).strip("-\n "))
    assert front["code-links"][0]["href"].endswith(f"?urlpath=lab/tree/nbs/{page.name}")
    assert (ROOT / ".binder" / "requirements.txt").exists()


# ---------------------------------------- in a browser

needs_a_browser = pytest.mark.skipif(bool(rendered.missing()), reason=rendered.missing() or "-")


@needs_a_browser
def test_the_site_has_no_faults_in_a_browser(site):
    folder = rendered.render(site[0])
    looked = rendered.look_at(folder)
    assert len(looked[1280]) == len(PAGES) + 1, "the pages, and the one for a wrong address"
    found = rendered.faults(looked, folder)
    assert not found, "\n".join([f"{len(found)} faults", *found])


BAD = """<main style="width: 300px"><p id="top">Text.</p>{}</main>"""
PNG = "data:image/gif;base64,R0lGODlhAQABAAAAACw="


@needs_a_browser
def test_faults_are_seen_in_a_browser(tmp_path):
    cases = {
        "good": ('<a href="#top">up</a><pre style="overflow: auto">' + "x" * 200 + "</pre>", ""),
        "wide": ('<div style="width: 2000px">x</div>', "scrolls sideways"),
        "out": ('<table style="width: 500px"><td>x</table>', "sticks out: TABLE"),
        "cut": ('<pre style="overflow: hidden">' + "x" * 200 + "</pre>", "is cut: PRE"),
        "alt": (f'<figure id="f"><img src="{PNG}"><figcaption>x</figcaption></figure>',
                "without alt text: f"),
        "caption": (f'<p id="f"><img alt="x" src="{PNG}"></p>', "without caption: f"),
        "gone": ('<figure id="f"><img alt="x" src="no.png"><figcaption>x</figcaption></figure>',
                 "a picture that is not there"),
        "raw": ("<p>[here](page.ipynb#x)</p>", "raw link"),
        "empty": ('<div class="cell-output-markdown"><pre>def f(\n  *args, **kwargs\n)</pre></div>',
                  "an empty signature"),
        "asks": ('<script src="https://elsewhere.example/x.js"></script>', "asks another host"),
        "dead": ('<a href="nothing.html">x</a>', "no such page"),
        "anchor": ('<a href="good.html#no">x</a>', "no such anchor"),
    }
    for name, (html, _) in cases.items(): (tmp_path / f"{name}.html").write_text(BAD.format(html))
    found = rendered.faults(rendered.look_at(tmp_path), tmp_path)
    for name, (_, says) in cases.items():
        mine = [fault for fault in found if fault.startswith(f"{name}.html")]
        assert any(says in fault for fault in mine) if says else mine == [], (name, mine)
