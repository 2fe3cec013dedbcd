"""SIGKILL at random moments of every command that writes, and two that write at once.

    OMP_NUM_THREADS=1 python benchmarks/kills.py --training 10 --store 8 --writers 4

After each kill the work is taken up again; what it ends with must be what an undisturbed one ends
with. Of a training: losses of every step, figures of every epoch, weights and windows to the last
digit; of a store: every byte; of fine-tuning, evaluation and demonstration: all scores but their
seconds, and the classifiers' weights. Of two writers, the second has to leave with code 2 while the
first ends undisturbed. A row for each goes to results/kills.csv.
"""
import argparse
import hashlib
import random
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Callable, NamedTuple

import pandas as pd
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))
from forked import Copy  # noqa: E402

RESULTS = Path(__file__).resolve().parent.parent / "results" / "kills.csv"
TRAIN = [
    "--dataset", "simulated", "--subjects", "1", "2", "--valid-subjects", "2", "--length", "1",
    "--interval", "20", "--batch-size", "8", "--epochs", "3", "--precision", "float32", "--quiet",
    "--checkpoint-minutes", "0.005"]
TRIALS = ["--subjects", "11", "12", "--paradigm", "MI", "--trials", "20", "48", "20",
          "--folds", "2", "--epochs", "5"]
SWEEP = ["--heads", "pre-local", "--strategies", "probe", "new", "full", "--quiet"]
DEMO = ["--steps", "20", "--subjects", "12", "--quiet"]
CLOCKS = ["seconds", "waiting", "memory_gb", "fit_seconds"]  # columns that no two runs share


# ---------------------------------------------------------------- what runs, in other processes

def run_command(name, args):
    "A command, as a shell would give it."
    from sjepa_nb import command_line
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    sys.exit(getattr(command_line, name)(args))


def build(out, people):
    "A store of so many simulated people."
    from sjepa_nb.simulation import simulated_datasets
    from sjepa_nb.sources import moabb_sources
    from sjepa_nb.store import build_store
    warnings.simplefilter("ignore")
    sources = []
    for d in simulated_datasets(n_subjects=3, seed=0):
        sources += moabb_sources(d, range(1, people + 1))
    build_store(out, sources, length=152, interval=4., progress=False)


def train(out):
    "Start the training, or resume it."
    begun = (out / "command.json").exists()
    words = ["--resume", "--quiet"] if begun else TRAIN
    return Copy(run_command, "sjepa_pretrain", [*words, "--out", str(out)])


def finetune(out): return Copy(run_command, "sjepa_finetune", [*TRIALS, "--out", str(out)])


def evaluate(out):
    return Copy(run_command, "sjepa_evaluate", [*TRIALS, *SWEEP, "--out", str(out)])


def demonstrate(out): return Copy(run_command, "sjepa_demo", [*DEMO, "--out", str(out)])


def store(out): return Copy(build, out / "store.zarr", 3)


def nothing():
    "The first copy loads the libraries for all others."


def finish(p):
    wrong = p.communicate()[1]
    if p.returncode: raise SystemExit(f"failed with code {p.returncode}: {wrong[-2000:]}")


# ---------------------------------------------------------------- what is there

def digest(named):
    "Of names and bytes."
    found = hashlib.sha256()
    for name, data in named: found.update(str(name).encode() + data)
    return found.hexdigest()


def contents(folder):
    "Names and bytes in a folder, but for locks."
    files = [f for f in sorted(folder.rglob("*")) if f.is_file() and f.suffix != ".lock"]
    return digest((f.relative_to(folder), f.read_bytes()) for f in files)


def weights(file): return digest((k, v.numpy().tobytes()) for k, v in load_file(file).items())


def outcome(out):
    "Tables, weights and stores of a folder and of those in it; times are left out."
    found = {}
    for f in sorted(out.rglob("*")):
        name = str(f.relative_to(out))
        if f.suffix == ".csv": found[name] = pd.read_csv(f).drop(columns=CLOCKS, errors="ignore")
        if f.suffix == ".safetensors": found[name] = weights(f)
        if f.suffix == ".zarr": found[name] = contents(f)
        if f.suffix in (".png", ".partial"): found[name] = ""
    return {k: v.to_csv() if isinstance(v, pd.DataFrame) else v for k, v in found.items()}


def rows(out):
    "Rows of the tables of steps and of scores; 0 where there is none."
    tables = [*out.rglob("steps.csv"), *out.rglob("results.csv")]
    return sum(max(0, len(f.read_text().splitlines()) - 1) for f in tables)


def left(out):
    "How far the work had come: rows of its tables, files of its stores, classifiers."
    chunks = len([f for f in out.rglob("c/**/*") if f.is_file()])
    return dict(rows=rows(out), chunks=chunks, checkpoint=any(out.rglob("checkpoint*.pt")),
                models=len(list(out.rglob("*.safetensors"))))


# ---------------------------------------------------------------- kills

class Work(NamedTuple):
    "What is killed."
    begin: Callable  # folder → the process that begins there, or goes on
    prepare: Callable = Path.mkdir  # makes the folder


def two_people(out):
    "A store to which a third is to be added."
    out.mkdir()
    finish(Copy(build, out / "store.zarr", 2))


WORKS = {
    "training": Work(train), "store": Work(store), "addition": Work(store, two_people),
    "fine-tuning": Work(finetune), "evaluation": Work(evaluate), "demonstration": Work(demonstrate)}


def undisturbed(work, folder):
    "Seconds that the quicker of two takes, and what both end with."
    took, found = [], []
    for out in (folder / "once", folder / "again"):
        work.prepare(out)
        start = time.monotonic()
        finish(work.begin(out))
        took.append(time.monotonic() - start)
        found.append(outcome(out))
    if found[0] != found[1]: raise SystemExit("two undisturbed ones differ")
    return min(took), found[0]


def differences(out, expected):
    "Names of what is not as it should be."
    found = outcome(out)
    return [k for k in found.keys() | expected.keys() if found.get(k) != expected.get(k)]


def kill_and_go_on(what, lasts, expected, out, rng):
    "A row: killed at a random moment but for the start, and taken up."
    work, after = WORKS[what], rng.uniform(lasts / 6, lasts)
    work.prepare(out)
    p = work.begin(out)
    time.sleep(after)
    hit = p.poll() is None
    p.kill()
    p.communicate()
    state = left(out)
    finish(work.begin(out))
    differ = differences(out, expected)
    return dict(what=what, seconds=round(after, 2), hit=hit, **state, equal=not differ), differ


def two_writers(what, lasts, expected, out, rng):
    "A row: a second process begins while the first is at work."
    work, after = WORKS[what], rng.uniform(0, lasts / 6)
    work.prepare(out)
    first = work.begin(out)
    while first.poll() is None and not list(out.glob("*.lock")): time.sleep(.05)
    time.sleep(after)
    state, second = left(out), work.begin(out)
    wrong = second.communicate()[1]
    hit = first.poll() is None   # the first was at work all the time
    refused = second.returncode == 2 and f"another process is at work in {out}" in wrong
    finish(first)
    differ = differences(out, expected)
    if hit and not refused: differ.append(f"second: code {second.returncode}, {wrong[-500:]}")
    row = dict(what=f"two writers: {what}", seconds=round(after, 2), hit=hit, **state)
    return row | dict(equal=not differ), differ


def rows_of(what, tries, rng):
    "A row for each try."
    with tempfile.TemporaryDirectory() as folder:
        if tries: whole = undisturbed(WORKS[what], Path(folder))
        for n, attempt in enumerate(tries):
            out = Path(folder) / str(n)
            row, differ = attempt(what, *whole, out, rng)
            print(*row.values(), *differ, flush=True)
            yield row
            shutil.rmtree(out)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for what in WORKS: p.add_argument(f"--{what}", type=int, default=2, help="kills")
    p.add_argument("--writers", type=int, default=1, help="pairs of them for each command")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, default=RESULTS)
    a = p.parse_args()
    rng, table = random.Random(a.seed), []
    finish(Copy(nothing))
    for what in WORKS:
        tries = [kill_and_go_on] * getattr(a, what.replace("-", "_"))
        if tries and what not in ("store", "addition"): tries += [two_writers] * a.writers
        for row in rows_of(what, tries, rng):
            table.append(row | dict(torch=torch.__version__, threads=1))
            pd.DataFrame(table).to_csv(a.out, index=False)
    by = pd.DataFrame(table).groupby("what", sort=False)
    print(by.agg(tried=("hit", "size"), hit=("hit", "sum"), equal=("equal", "sum")).to_string())


if __name__ == "__main__": main()
