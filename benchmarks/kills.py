"""Fifty kills: SIGKILL at random moments of a training and of a store being built.

    python benchmarks/kills.py --training 30 --store 20

After each, the work is taken up again; what it ends with must be what an undisturbed one ends with.
Losses of every step, figures of every epoch and weights must be equal to the last digit, a store
equal byte by byte. A row for each kill goes to results/kills.csv.
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
TRAIN = """import sys
from sjepa_nb.command_line import sjepa_pretrain
sys.exit(sjepa_pretrain(sys.argv[1:]))"""
BUILD = """import sys
from sjepa_nb.simulation import simulated_datasets
from sjepa_nb.sources import moabb_sources
from sjepa_nb.store import build_store
sources = [s for d in simulated_datasets(n_subjects=3, seed=0) for s in moabb_sources(d)]
build_store(sys.argv[1], sources, length=152, interval=4., progress=False)"""
OPTIONS = [
    "--dataset", "simulated", "--subjects", "1", "2", "--valid-subjects", "2", "--length", "1",
    "--interval", "20", "--batch-size", "8", "--epochs", "3", "--precision", "float32", "--quiet",
    "--checkpoint-minutes", "0.02"]


def start(program, *args):
    env = {**os.environ, "PYTHONWARNINGS": "ignore", "MOABB_DOWNLOAD_PROVIDER": "upstream"}
    words = [sys.executable, "-c", program, *map(str, args)]
    return subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=env)


def finish(p):
    wrong = p.communicate()[1]
    if p.returncode: raise SystemExit(f"failed with code {p.returncode}: {wrong[-2000:]}")


def begin_or_go_on(out):
    "Start the training, or resume it."
    begun = (out / "command.json").exists()
    return start(TRAIN, *(["--resume", "--quiet"] if begun else OPTIONS), "--out", out)


def build(out): return start(BUILD, out)


def contents(folder):
    "A digest of a folder: names and bytes."
    digest = hashlib.sha256()
    for f in sorted(p for p in Path(folder).rglob("*") if p.is_file()):
        digest.update(str(f.relative_to(folder)).encode() + f.read_bytes())
    return digest.hexdigest()


def outcome(out):
    "All that a training ends with, but for times."
    steps, epochs = pd.read_csv(out / "steps.csv"), pd.read_csv(out / "epochs.csv")
    weights = SJEPA.load(out / "model.safetensors").state_dict()
    digest = hashlib.sha256(b"".join(v.numpy().tobytes() for v in weights.values())).hexdigest()
    steps = steps.drop(columns="seconds").to_csv()
    epochs = epochs.drop(columns=["seconds", "waiting", "memory_gb"]).to_csv()
    return steps, epochs, digest, contents(out / "windows.zarr")


def rows(path):
    "Rows of a table, its heading not counted; 0 where there is none."
    return max(0, len(path.read_text().splitlines()) - 1) if path.exists() else 0


def training_state(out):
    "How far a training had come."
    return dict(steps=rows(out / "steps.csv"), epochs=rows(out / "epochs.csv"),
                checkpoint=any(out.glob("checkpoint*.pt")), store=(out / "windows.zarr").exists())


def store_state(out): return dict(steps=0, epochs=0, checkpoint=False, store=out.exists())


def kill_and_go_on(what, begin, state_of, result_of, folder, times, rng):
    "A row for each kill, in the time that an undisturbed one takes, but for its first third."
    begun = time.monotonic()
    finish(begin(folder / f"whole {what}"))
    lasts, expected = time.monotonic() - begun, result_of(folder / f"whole {what}")
    table = []
    for _ in range(times):
        out, after = folder / f"killed {what}", rng.uniform(lasts / 3, lasts)
        p = begin(out)
        time.sleep(after)
        hit = p.poll() is None
        p.kill()
        p.communicate()
        state = state_of(out)
        finish(begin(out))
        equal = result_of(out) == expected
        table.append(dict(what=what, seconds=round(after, 2), hit=hit, **state, equal=equal))
        print(table[-1], flush=True)
        shutil.rmtree(out)
    return table


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--training", type=int, default=30)
    p.add_argument("--store", type=int, default=20)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, default=RESULTS)
    a = p.parse_args()
    rng = random.Random(a.seed)
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        table = kill_and_go_on(
            "training", begin_or_go_on, training_state, outcome, here, a.training, rng)
        table += kill_and_go_on("store", build, store_state, contents, here, a.store, rng)
    table = pd.DataFrame(table).assign(torch=torch.__version__, threads=torch.get_num_threads())
    table.to_csv(a.out, index=False)
    for what, t in table.groupby("what"):
        print(f"{what}: {len(t)} kills, {t.hit.sum()} while it ran, {t.equal.sum()} ended equal")


if __name__ == "__main__": main()
