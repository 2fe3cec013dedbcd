"""How readable is the code? One row a page: line lengths, packed statements, cells, functions.

    python tools/measure.py [--csv FILE] [PAGE or FILE …]

Columns: code lines; lines over 100 and over 120 characters (without `#|` directives, which are
one line for nbdev); statements packed behind a `;`; exported cells and their lines (median, 90th
percentile, longest, longest that is not one class); exported lines before the first call; lines
of the longest function; branches of the worst; public names.
"""
import argparse
import ast
import csv
import io
import json
import re
import tokenize
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
BRANCHES = (ast.If, ast.For, ast.While, ast.IfExp, ast.ExceptHandler, ast.comprehension, ast.And,
            ast.Or, ast.match_case)
FUNCTIONS = ast.FunctionDef, ast.AsyncFunctionDef
GROUPS = "nbs/*.ipynb", "tests/*.py", "benchmarks/*.py", "tools/*.py"
SUMS = "lines", "over 100", "over 120", "packed", "cells", "public"
MAXIMA = "longest", "no class", "before a call", "longest function", "branches"


# ---------------------------------------------------------------- one cell

def ninth_decile(sizes):
    "What nine of ten are at most."
    return sorted(sizes)[9 * (len(sizes) - 1) // 10]


def code_cells(path):
    "The code of a page's cells, or a Python file as one cell."
    if path.suffix == ".py": return [path.read_text(encoding="utf-8")]
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]


def is_export(source): return bool(re.match(r"(\s*#\|.*\n)*\s*#\|\s*exports?\b", source))


def code_lines(source):
    "A cell's lines without its directives."
    return [line for line in source.splitlines() if not re.match(r"\s*#\|", line)]


def body(source):
    "A cell's lines without its directives and blank ends."
    return "\n".join(code_lines(source)).strip().splitlines()


def long_lines(source, most=100):
    "The lines of a cell with more characters than `most`."
    return [line for line in code_lines(source) if len(line) > most]


def parse(source):
    "The syntax tree of a cell, without its magics."
    return ast.parse(re.sub(r"^\s*[%!].*", "pass", source, flags=re.M))


def packed(source):
    """How many statements share a line with another one. A `;` that ends a line, as notebooks have
    it under a figure, packs nothing."""
    text = re.sub(r"^\s*[%!].*", "", source, flags=re.M)
    tokens = [*tokenize.generate_tokens(io.StringIO(text).readline)]
    ends = tokenize.NEWLINE, tokenize.COMMENT
    after = [b for a, b in zip(tokens, tokens[1:]) if a.type == tokenize.OP and a.string == ";"]
    return sum(t.type not in ends for t in after)


def is_imports(source):
    "Whether a cell holds nothing but imports."
    return all(isinstance(n, (ast.Import, ast.ImportFrom, ast.Try)) for n in parse(source).body)


def one_class(source):
    "Whether a cell is one class and nothing else."
    nodes = parse(source).body
    return len(nodes) == 1 and isinstance(nodes[0], ast.ClassDef)


# ---------------------------------------------------------------- all cells of a page

def branches(function):
    "Branches of a function: each `if`, loop, handler, comprehension, `and` and `or` adds one."
    inner = (*FUNCTIONS, ast.ClassDef, ast.Lambda)
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
            if not isinstance(node, FUNCTIONS): continue
            res.append((node.name, node.end_lineno - node.lineno + 1, branches(node)))
    return res


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


# ---------------------------------------------------------------- the table

def exported_cells(path):
    "The cells that make the module, without its imports; none in a Python file."
    if path.suffix == ".py": return []
    return [s for s in code_cells(path) if is_export(s) and not is_imports(s)]


def spread(sizes):
    if not sizes: return {"median": 0, "90 %": 0}
    return {"median": int(median(sizes)), "90 %": ninth_decile(sizes)}


def of_functions(cells):
    "The columns about functions."
    found = functions(cells) or [("", 0, 0)]
    worst = max(found, key=lambda f: f[2])
    return {"longest function": max(f[1] for f in found), "branches": worst[2], "worst": worst[0]}


def measure(path):
    "One row of the table, and the lines of each exported cell."
    cells, exported = code_cells(path), exported_cells(path)
    sizes = [len(body(s)) for s in exported]
    row = {"file": path.name, "lines": len(re.findall(r"^.*\S", "\n".join(cells), flags=re.M))}
    for n in (100, 120): row[f"over {n}"] = sum(len(long_lines(s, n)) for s in cells)
    row |= {"packed": sum(map(packed, cells)), "cells": len(exported)} | spread(sizes)
    row["longest"] = max(sizes, default=0)
    row["no class"] = max((len(body(s)) for s in exported if not one_class(s)), default=0)
    row["before a call"] = before_a_call(cells) if exported else 0
    return row | of_functions(exported or cells) | {"public": public(exported)}, sizes


def totals(rows, sizes):
    "The last row: sums, maxima, and the spread over the exported cells of all pages."
    total = dict.fromkeys(rows[0], "") | {"file": "all"}
    for k in SUMS: total[k] = sum(r[k] for r in rows)
    for k in MAXIMA: total[k] = max(r[k] for r in rows)
    return total | spread(sizes)


def write_csv(rows, path):
    with open(path, "w", newline="") as f:
        out = csv.DictWriter(f, rows[0])
        out.writeheader()
        out.writerows(rows)


def show(rows):
    "Print the rows in columns, words to the left and numbers to the right."
    rows = [{k: k for k in rows[0]}, *rows]
    widths = {k: max(len(str(r[k])) for r in rows) for k in rows[0]}
    for r in rows:
        words = []
        for k, w in widths.items():
            words.append(str(r[k]).ljust(w) if k in ("file", "worst") else str(r[k]).rjust(w))
        print("  ".join(words).rstrip())


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("files", nargs="*", type=Path)
    p.add_argument("--csv", type=Path)
    args = p.parse_args()
    paths = args.files or [f for g in GROUPS for f in sorted(ROOT.glob(g))]
    rows, sizes = [], []
    for path in paths:
        row, own = measure(path)
        rows.append(row)
        sizes += own
    rows.append(totals(rows, sizes))
    if args.csv: write_csv(rows, args.csv)
    show(rows)


if __name__ == "__main__": main()
