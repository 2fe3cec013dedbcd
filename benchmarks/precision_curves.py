"""Does bfloat16 in the feed-forward networks change what is learned? The same short training in float32 and in bfloat16, three seeds each.

    python benchmarks/precision_curves.py

Full-size model, simulated recordings. The losses of every step go to results/precision_curves.csv.
"""
import argparse
import tempfile
from pathlib import Path

import pandas as pd

from sjepa_nb.data import build_store, moabb_sources, split_by_subject
from sjepa_nb.pretraining import Pretraining, TrainingConfig
from sjepa_nb.simulation import simulated_datasets

RESULTS = Path(__file__).resolve().parent.parent / "results" / "precision_curves.csv"


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--seeds", type=int, default=3); p.add_argument("--epochs", type=int, default=5); p.add_argument("--out", type=Path, default=RESULTS)
    a = p.parse_args()
    tables = []
    with tempfile.TemporaryDirectory() as folder:
        sources = [s for d in simulated_datasets(n_subjects=6, seed=1) for s in moabb_sources(d)]
        store = build_store(f"{folder}/store", sources, length=152, interval=5., progress=False)
        split = split_by_subject(store.index, valid=[6])
        for seed in range(a.seeds):
            for precision in ("float32", "bfloat16"):
                run = Pretraining(store, split, f"{folder}/{precision}{seed}", TrainingConfig(epochs=a.epochs, batch_size=16, learning_rate=2e-4, predictor_rate=1., seed=seed, precision=precision), progress=False)
                run.run()
                epochs = pd.read_csv(run.folder / "epochs.csv")
                tables.append(pd.read_csv(run.folder / "steps.csv")[["step", "loss"]].assign(precision=precision, seed=seed))
                print(precision, seed, run.steps, "steps, validation", epochs.loss.round(4).tolist(), flush=True)
    pd.concat(tables).round(5).to_csv(a.out, index=False)


if __name__ == "__main__": main()
