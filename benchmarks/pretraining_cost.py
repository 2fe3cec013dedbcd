"""Time and memory of a pre-training step against the length of the windows, the batch, the channels
and the masks.

    python benchmarks/pretraining_cost.py

One quantity at a time, each setting in a process of its own. Noise in microvolts, masks drawn anew
each step. Rows go to results/pretraining_cost.csv.
"""
import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import torch

RESULTS = Path(__file__).resolve().parent.parent / "results" / "pretraining_cost.csv"
BASE = dict(tokens=4, batch=8, channels=62, mask="sphere 0.6")
SWEEPS = dict(
    tokens=[1, 2, 4, 8, 16, 24, 32], batch=[2, 4, 8, 16, 32, 64],
    channels=[8, 16, 32, 62, 128, 256],
    mask=["sphere 0.4", "sphere 0.6", "sphere 0.8", "fixed budget 0.6"])
SECOND_NAMES = "T3", "T4", "T5", "T6", "M1", "M2", "A1", "A2"


def make_montage(channels):
    "Lee2019's, or so many places of the 10-05 system."
    from sjepa_nb.montage import lee2019_montage, named_montage
    if channels == 62: return lee2019_montage()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = mne.channels.make_standard_montage("standard_1005").ch_names
    names = [n for n in names if n not in SECOND_NAMES]
    some = np.linspace(0, len(names) - 1, channels).astype(int)
    return named_montage([names[i] for i in some])


def child(tokens, batch, channels, mask, seconds, threads, device):
    "Measure one setting, and print what was found."
    from sjepa_nb.contextual_encoder import set_precision
    from sjepa_nb.masking import FixedBudgetMask, SphereMask
    from sjepa_nb.model import SJEPA
    from sjepa_nb.pretraining import (
        TrainingConfig, keep_memory, make_optimiser, memory_gb, train_step,
    )
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    keep_memory()
    montage, (kind, radius) = make_montage(channels), mask.rsplit(" ", 1)
    draw = (SphereMask if kind == "sphere" else FixedBudgetMask)(montage, float(radius))
    model, config = SJEPA(montage).train(), TrainingConfig()
    x = (torch.randn(batch, channels, 152 + 128 * (tokens - 1)) * 10).to(device)
    precision = set_precision(model, "auto", device)
    optimiser = make_optimiser(model.to(device), config)
    rows, generator = torch.arange(channels, device=device), torch.Generator().manual_seed(0)
    took, hidden, begun = [], [], None
    while len(took) < 6 or time.perf_counter() - begun < seconds:
        masks = draw(batch, generator)
        t = time.perf_counter()
        train_step(model, optimiser, x, masks.to(device), rows, len(took), 10**6, config)
        if device == "cuda": torch.cuda.synchronize()
        took.append(time.perf_counter() - t)
        hidden.append(float(masks.hidden.sum(1).float().mean()))
        begun = begun or time.perf_counter()
    memory = torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else memory_gb()
    print(json.dumps(dict(
        seconds=float(np.median(took[2:])), memory_gb=memory, hidden=float(np.mean(hidden)),
        steps=len(took) - 2, precision=precision)))


def measure(setting, a):
    "What a process of its own finds."
    words = ["--child", json.dumps(setting), "--seconds", str(a.seconds),
             "--threads", str(a.threads), "--device", a.device]
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True)
    if done.returncode: raise SystemExit(f"{setting}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("--seconds", type=float, default=4.)
    p.add_argument("--threads", type=int, default=min(2, os.cpu_count()))
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--out", type=Path, default=RESULTS)
    p.add_argument("--child", help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.child:
        return child(**json.loads(a.child), seconds=a.seconds, threads=a.threads, device=a.device)
    table, machine = [], dict(threads=a.threads, device=a.device, torch=torch.__version__)
    for what, values in SWEEPS.items():
        for value in values:
            setting = BASE | {what: value}
            table.append(dict(sweep=what, **setting, **measure(setting, a), **machine))
            print(table[-1], flush=True)
    pd.DataFrame(table).round(5).to_csv(a.out, index=False)


if __name__ == "__main__": main()
