"""Fifty kills: SIGKILL at random moments of a training and of a store being built. After each, the work is taken up again; what it ends with must be what an undisturbed one ends with.

    python benchmarks/kills.py --training 30 --store 20

Losses of every step, figures of every epoch and weights must be equal to the last digit, a store equal byte by byte. A row for each kill goes to results/kills.csv.
"""
import argparse
import hashlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch

from sjepa_nb.model import SJEPA

RESULTS = Path(__file__).resolve().parent.parent / "results" / "kills.csv"
TRAIN = "import sys; from sjepa_nb.command_line import sjepa_pretrain; sys.exit(sjepa_pretrain(sys.argv[1:]))"
BUILD = """import sys; from sjepa_nb.sources import moabb_sources; from sjepa_nb.store import build_store; from sjepa_nb.simulation import simulated_datasets
build_store(sys.argv[1], [s for d in simulated_datasets(n_subjects=3, seed=0) for s in moabb_sources(d)], length=152, interval=4., progress=False)"""
OPTIONS = ["--dataset", "simulated", "--subjects", "1", "2", "--valid-subjects", "2", "--length", "1", "--interval", "20", "--batch-size", "8", "--epochs", "3", "--precision", "float32", "--quiet", "--checkpoint-minutes", "0.02"]


def start(program, *args):
    env = {**os.environ, "PYTHONWARNINGS": "ignore", "MOABB_DOWNLOAD_PROVIDER": "upstream"}
    return subprocess.Popen([sys.executable, "-c", program, *map(str, args)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=env)


def finish(p):
    wrong = p.communicate()[1]
    if p.returncode: raise SystemExit(f"failed with code {p.returncode}: {wrong[-2000:]}")


def begin_or_go_on(out): return start(TRAIN, *(["--resume", "--quiet"] if (out / "command.json").exists() else OPTIONS), "--out", out)


def contents(folder):
    "A digest of a folder: names and bytes."
    digest = hashlib.sha256()
    for f in sorted(p for p in Path(folder).rglob("*") if p.is_file()): digest.update(str(f.relative_to(folder)).encode() + f.read_bytes())
    return digest.hexdigest()


def outcome(out):
    "All that a training ends with, but for times."
    steps, epochs = pd.read_csv(out / "steps.csv"), pd.read_csv(out / "epochs.csv")
    weights = SJEPA.load(out / "model.safetensors").state_dict()
    return (steps.drop(columns="seconds").to_csv(), epochs.drop(columns=["seconds", "waiting", "memory_gb"]).to_csv(), hashlib.sha256(b"".join(v.numpy().tobytes() for v in weights.values())).hexdigest(), contents(out / "windows.zarr"))


def rows(path): return max(0, len(path.read_text().splitlines()) - 1) if path.exists() else 0


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--training", type=int, default=30); p.add_argument("--store", type=int, default=20); p.add_argument("--seed", type=int, default=0); p.add_argument("--out", type=Path, default=RESULTS)
    a = p.parse_args()
    rng, table = random.Random(a.seed), []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        begun = time.monotonic(); finish(begin_or_go_on(folder / "whole")); lasts = time.monotonic() - begun
        expected = outcome(folder / "whole")
        for i in range(a.training):
            out, after = folder / "run", rng.uniform(lasts / 3, lasts)
            q = begin_or_go_on(out); time.sleep(after)
            hit = q.poll() is None
            q.kill(); q.communicate()
            state = dict(steps=rows(out / "steps.csv"), epochs=rows(out / "epochs.csv"), checkpoint=any(out.glob("checkpoint*.pt")), store=(out / "windows.zarr").exists())
            finish(begin_or_go_on(out))
            table.append(dict(what="training", seconds=round(after, 2), hit=hit, **state, equal=outcome(out) == expected))
            print(table[-1], flush=True)
            shutil.rmtree(out)
        begun = time.monotonic(); finish(start(BUILD, folder / "store")); lasts = time.monotonic() - begun
        expected = contents(folder / "store")
        for i in range(a.store):
            out, after = folder / "other", rng.uniform(lasts / 3, lasts)
            q = start(BUILD, out); time.sleep(after)
            hit = q.poll() is None
            q.kill(); q.communicate()
            state = dict(steps=0, epochs=0, checkpoint=False, store=out.exists())
            finish(start(BUILD, out))
            table.append(dict(what="store", seconds=round(after, 2), hit=hit, **state, equal=contents(out) == expected))
            print(table[-1], flush=True)
            shutil.rmtree(out)
    table = pd.DataFrame(table).assign(torch=torch.__version__, threads=torch.get_num_threads())
    table.to_csv(a.out, index=False)
    for what, t in table.groupby("what"): print(f"{what}: {len(t)} kills, {t.hit.sum()} while it ran, {t.equal.sum()} ended equal")


if __name__ == "__main__": main()
