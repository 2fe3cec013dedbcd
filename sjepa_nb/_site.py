"""What nbdev does to a page on the way to the site. `settings.ini` names `Pages` under `procs`;
nothing else imports this file, which is why it may import nbdev."""
import ast
import re
from pathlib import Path

from nbdev.config import get_config

EXPORTED = {"export", "exports"}
HIDDEN = {"hide", "default_exp", "exporti"}


def _defined(node):
    "The names that a statement at the top of a cell defines."
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)): return [node.name]
    targets = getattr(node, "targets", [getattr(node, "target", None)])
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _head(node, lines):
    "The lines of a definition down to the first statement of its body."
    first = node.body[0]
    if first.lineno == node.lineno: return [lines[node.lineno - 1][:first.col_offset].rstrip()]
    decorators = getattr(first, "decorator_list", [])
    return lines[node.lineno - 1:min([first.lineno, *(d.lineno for d in decorators)]) - 1]


def _field(node, lines):
    "The lines of a class's field, with the comment above it."
    first = node.lineno - 1
    while lines[first - 1].strip().startswith("#"): first -= 1
    return lines[first:node.end_lineno]


def signature(node, lines):
    "How a function or class is called, as its source says: a class by fields or `__init__`."
    found = _head(node, lines)
    for inner in node.body if isinstance(node, ast.ClassDef) else []:
        if isinstance(inner, ast.AnnAssign): found += _field(inner, lines)
        if getattr(inner, "name", None) == "__init__": found += _head(inner, lines)
    return "\n".join(line for line in found if line.strip())


def described(text, source, name):
    """What `show_doc` says of `name`, a dotted one perhaps, with the signature that stands in
    `source`, the whole name in the heading, and no first line in italics."""
    lines = source.splitlines()
    nodes = [n for n in ast.parse(source).body if name.split(".")[-1] in _defined(n)]
    fenced = f"```python\n{signature(nodes[0], lines)}\n```"
    head, _, rest = text.removeprefix("---\n\n").partition("```python")
    rest = re.sub(r"^\*(.+)\*$", r"\1", rest.partition("\n```")[2], count=1, flags=re.MULTILINE)
    title = "### " + name.replace("_", r"\_")
    return re.sub(r"(?m)^###.*", lambda _: title, head) + fenced + rest


def heading(text):
    "The heading and the link to the source of what `show_doc` says."
    return text.partition("```python")[0]


def table(html):
    "A table as markdown that holds it: pages with outputs in HTML load scripts from other hosts."
    html = re.sub(r"<style.*?</style>\s*", "", html, flags=re.DOTALL)
    html = html.replace('border="1" ', "")
    return f"```{{=html}}\n{html.strip()}\n```"


def unnested(text):
    """Without nbdev's link to a name where the page has a link of its own, in a heading, and where
    the name is a helper's."""
    text = re.sub(r"(?m)^(#+ .*)\[(`[^`]+`)\]\(http[^)]*\)", r"\1\2", text)
    text = re.sub(r"\[(`_\w+`)\]\(http[^)]*\)", r"\1", text)
    link = r"\[([^][]*)\[(`[^`]+`)\]\(http[^)]*\)([^][]*)\]\("
    return re.sub(link, r"[\1\2\3](", text)


def run_it(page):
    "Front matter for a link that opens a page in a hosted Jupyter."
    cfg = get_config()
    where = f"{cfg.user}/{cfg.repo}/{cfg.branch}?urlpath=lab/tree/{cfg.nbs_path.name}/{page}"
    return ("code-links:\n  - text: Run in Jupyter (Binder)\n    icon: play-circle\n"
            f"    href: https://mybinder.org/v2/gh/{where}\n")


class Pages:
    """Each exported definition stands below its documentation in a closed fold. A cell marked
    `#| lesson` is open, and its signature is not said a second time. Tables become markdown."""
    def __init__(self, nb): self.nb = nb

    def begin(self):
        cells, self.nb.cells = list(self.nb.cells), []
        front = cells[0]
        front.source = re.sub(r"---\s*$", run_it(Path(self.nb.path_).name) + "---\n", front.source)
        while cells:
            cell, docs = cells.pop(0), []
            while cells and getattr(cells[0], "has_sd", False): docs.insert(0, cells.pop(0))
            if cell.cell_type == "markdown": cell.source = unnested(cell.source)
            is_code = cell.cell_type == "code"
            self.nb.cells += self.code(cell, docs) if is_code else [cell]

    def code(self, cell, docs):
        "A cell of code as the site shows it, behind the documentation of what it exports."
        marks = set(getattr(cell, "directives_", {}))
        if marks & HIDDEN: return []
        for output in cell.get("outputs", []): self.show_table(output)
        if not marks & EXPORTED: return [cell]
        for doc in docs: self.document(doc, cell.source, "lesson" in marks)
        names = [name for node in ast.parse(cell.source).body for name in _defined(node)]
        if "lesson" not in marks: self.fold(cell, names)
        return [*docs, cell] if names else docs

    def fold(self, cell, names):
        summary = f"Source of {', '.join(names)}"
        cell.source = f'#| code-fold: true\n#| code-summary: "{summary}"\n{cell.source}'

    def document(self, doc, source, lesson):
        name = re.search(r"show_doc\((.+)\)", doc.source)[1]
        for output in doc.outputs:
            text = described("".join(output.data["text/markdown"]), source, name)
            if lesson: text = heading(text)
            output.data["text/markdown"] = unnested(text).splitlines(keepends=True)

    def show_table(self, output):
        html = "".join(output.get("data", {}).get("text/html", ""))
        if "<table" in html: output["data"] = {"text/markdown": table(html)}
