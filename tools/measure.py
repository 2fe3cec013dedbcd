"""How readable is the code? One row a page: line lengths, packed statements, cells, functions.

    python tools/measure.py [--csv FILE] [PAGE or FILE …]

Columns: code lines; lines over 100 and over 120 characters; statements packed behind a `;`; exported cells and their lines (median, 90th percentile, longest,
longest that is not one class); exported lines before the first call; lines of the longest
function; branches of the worst; public names.
"""
import argparse
import ast
import csv
import io
import json
import re
import tokenize
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
BRANCHES = (ast.If, ast.For, ast.While, ast.IfExp, ast.ExceptHandler, ast.comprehension, ast.And,
            ast.Or, ast.match_case)


def code_cells(path):
    "The code of a page's cells, or a Python file as one cell."
    if path.suffix == ".py": return [path.read_text(encoding="utf-8")]
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]


def is_export(source): return bool(re.match(r"(\s*#\|.*\n)*\s*#\|\s*exports?\b", source))


def body(source):
    "A cell's lines without its directives and blank ends."
    lines = [line for line in source.strip().splitlines() if not re.match(r"\s*#\|", line)]
    return "\n".join(lines).strip().splitlines()


def parse(source):
    "The syntax tree of a cell, without its magics."
    return ast.parse(re.sub(r"^\s*[%!].*", "pass", source, flags=re.M))


def packed(source):
    "How many statements share a line with another one."
    text = re.sub(r"^\s*[%!].*", "", source, flags=re.M)
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return sum(t.type == tokenize.OP and t.string == ";" for t in tokens)


def is_imports(source):
    "Whether a cell holds nothing but imports."
    return all(isinstance(n, (ast.Import, ast.ImportFrom, ast.Try)) for n in parse(source).body)


def branches(function):
    "Branches of a function: each `if`, loop, handler, comprehension, `and` and `or` adds one."
    inner = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    count, todo = 1, list(ast.iter_child_nodes(function))
    while todo:
        node = todo.pop()
        count += isinstance(node, BRANCHES)
        if not isinstance(node, inner): todo += ast.iter_child_nodes(node)
    return count


def functions(cells):
    "Name, lines and branches of each function."
    res = []
    for source in cells:
        for node in ast.walk(parse(source)):
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)): continue
            res.append((node.name, node.end_lineno - node.lineno + 1, branches(node)))
    return res


def one_class(source):
    "Whether a cell is one class and nothing else."
    nodes = parse(source).body
    return len(nodes) == 1 and isinstance(nodes[0], ast.ClassDef)


def before_a_call(cells):
    "The most exported lines that a reader passes before a cell that runs something."
    most = count = 0
    for source in cells:
        if is_export(source) and not is_imports(source):
            count += len(body(source))
            most = max(most, count)
        elif body(source) and "#| hide" not in source: count = 0
    return most


def public(cells):
    "How many names without an underscore the cells define at their top."
    names = set()
    for source in cells:
        for node in parse(source).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)): names.add(node.name)
            if not isinstance(node, ast.Assign): continue
            names |= {t.id for t in node.targets if isinstance(t, ast.Name)}
    return sum(not n.startswith("_") for n in names)


def measure(path):
    "One row of the table."
    cells = code_cells(path)
    lines = [line for source in cells for line in source.splitlines() if line.strip()]
    is_page = path.suffix == ".ipynb"
    exported = [s for s in cells if is_export(s) and not is_imports(s)] if is_page else []
    sizes = [len(body(s)) for s in exported] or [0]
    loose = [len(body(s)) for s in exported if not one_class(s)] or [0]
    found = functions(exported or cells) or [("", 0, 0)]
    worst = max(found, key=lambda f: f[2])
    row = {"file": path.name, "lines": len(lines), "over 100": sum(len(s) > 100 for s in lines),
           "over 120": sum(len(s) > 120 for s in lines), "packed": sum(map(packed, cells))}
    row |= {"cells": len(exported), "median": int(np.median(sizes)),
            "90 %": int(np.percentile(sizes, 90)), "longest": max(sizes), "no class": max(loose)}
    row |= {"before a call": before_a_call(cells) if is_page else 0,
            "longest function": max(f[1] for f in found), "branches": worst[2], "worst": worst[0],
            "public": public(exported)}
    return row, sizes


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("files", nargs="*", type=Path)
    p.add_argument("--csv", type=Path)
    args = p.parse_args()
    groups = ["nbs/*.ipynb", "tests/*.py", "benchmarks/*.py", "tools/*.py"]
    paths = args.files or [f for g in groups for f in sorted(ROOT.glob(g))]
    rows, sizes = [], []
    for path in paths:
        row, own = measure(path)
        rows.append(row)
        if row["cells"]: sizes += own
    sums = ("lines", "over 100", "over 120", "packed", "cells", "public")
    total = {k: sum(r[k] for r in rows) for k in sums}
    if sizes: total |= {"median": int(np.median(sizes)), "90 %": int(np.percentile(sizes, 90))}
    for k in ("longest", "no class", "before a call", "longest function", "branches"):
        total[k] = max(r[k] for r in rows)
    rows.append({k: total.get(k, "") for k in rows[0]} | {"file": "all"})
    if args.csv:
        with open(args.csv, "w", newline="") as f:
            out = csv.DictWriter(f, rows[0])
            out.writeheader()
            out.writerows(rows)
    widths = {k: max(len(str(r[k])) for r in [*rows, {k: k}]) for k in rows[0]}
    for r in [{k: k for k in rows[0]}, *rows]:
        words = []
        for k, w in widths.items():
            words.append(str(r[k]).ljust(w) if k in ("file", "worst") else str(r[k]).rjust(w))
        print("  ".join(words).rstrip())


if __name__ == "__main__": main()
