"""Which of the unpublished choices of S-JEPA's pre-training matter? One short training for each, on simulated or real recordings.

    python benchmarks/pretraining_choices.py --data simulated
    MNE_DATA=... python benchmarks/pretraining_choices.py --data real

Every choice is changed alone, from the same start. A training is judged by what its frozen encoder is worth to a linear classifier that is asked
something the training never was: target or not (simulated ERP, within the held-out subjects), eyes open or closed (PhysionetMI's rest runs, across
the held-out subjects). The loss cannot judge: other targets have another loss. Rows are added to results/pretraining_choices.csv; those already there are skipped.
"""
import argparse
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import LeaveOneGroupOut, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sjepa_nb.data import build_store, load_trials, moabb_sources, split_by_subject
from sjepa_nb.predictor import SJEPA, SJEPAConfig
from sjepa_nb.pretraining import Pretraining, TrainingConfig
from sjepa_nb.simulation import SimulatedERP, simulated_datasets

RESULTS = Path(__file__).resolve().parent.parent / "results" / "pretraining_choices.csv"
BASE = dict(target_norm="layer", average_layers=4, dropout=0., learning_rate=2e-4, predictor_rate=1., momentum=(.999, .9999), precision="bfloat16", mask="sphere")
CHOICES = dict(base=[{}], target_norm=[dict(target_norm="none"), dict(target_norm="instance")], average_layers=[dict(average_layers=1)], dropout=[dict(dropout=.1)],
               learning_rate=[dict(learning_rate=1e-4), dict(learning_rate=5e-4)], momentum=[dict(momentum=(.99, .999)), dict(momentum=(.9, .99))], precision=[dict(precision="float32")])


def stores(data, folder):
    "The windows to train and validate on, and their split."
    if data == "simulated":
        sources = [s for d in simulated_datasets(n_subjects=10, seed=1) for s in moabb_sources(d)]
        store = build_store(folder / "store", sources, length=152, interval=5., progress=False)
        return store, split_by_subject(store.index, valid=[9, 10])
    rest = [38, 40, 50, 59, 64, 71]
    store = build_store(folder / "store", moabb_sources("PhysionetMI", [1, 2, 3, *rest]), length=152, interval=4., progress=False)
    return store, split_by_subject(store.index, valid=rest)


def questions(data, store, split):
    "Windows of held-out subjects `(n, channels, samples)`, their classes, and their groups."
    if data == "simulated":
        x, y, meta, _ = load_trials(SimulatedERP(n_subjects=10, n_trials=240, seed=1, test_run=False), "ERP", subjects=[9, 10])
        return x, (y == "Target").astype(int), meta.subject.to_numpy()
    rows = store.index.loc[split["valid"]]
    x = np.concatenate([store.read([i]) for i in rows.index])
    return x, rows.run.str.contains("2").to_numpy().astype(int), rows.subject.to_numpy()


@torch.no_grad()
def features(model, x):
    "Context tokens of whole windows, averaged over time: `(n, channels × width)`."
    model = model.eval()
    return torch.cat([model.encode(b).unflatten(1, (x.shape[1], -1)).mean(2).flatten(1) for b in torch.from_numpy(np.ascontiguousarray(x)).split(64)]).numpy()


def probe(data, f, y, group):
    "AUC of a linear classifier on features `f`: within subjects (simulated) or across them (real); mean over the subjects."
    clf = make_pipeline(StandardScaler(), PCA(40, random_state=0), LogisticRegression(C=.1, max_iter=2000))
    if data == "real":
        p = cross_val_predict(clf, f, y, groups=group, cv=LeaveOneGroupOut(), method="decision_function")
        return float(np.mean([roc_auc_score(y[group == g], p[group == g]) for g in np.unique(group)]))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return float(np.mean([roc_auc_score(y[group == g], cross_val_predict(clf, f[group == g], y[group == g], cv=folds, method="decision_function")) for g in np.unique(group)]))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", choices=["simulated", "real"], required=True)
    p.add_argument("--steps", type=int, default=150, help="optimiser steps of a training, about (default 150)")
    p.add_argument("--seeds", type=int, default=3, help="untrained networks, and trainings of the base; the other choices get one seed (default 3)")
    p.add_argument("--only", nargs="*", help="names of choices to run (default: all)")
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as d:
        store, split = stores(args.data, Path(d))
        x, y, group = questions(args.data, store, split)
        per_epoch = -(-len(split["train"]) // 16)
        epochs = max(2, round(args.steps / per_epoch))
        done = pd.read_csv(RESULTS) if RESULTS.exists() else pd.DataFrame(columns=["data", "choice", "seed"])
        todo = [("untrained", None, s) for s in range(args.seeds)] + [(c, v, s) for c, values in CHOICES.items() for v in values for s in range(args.seeds if c == "base" else 1)]
        for choice, change, seed in todo:
            label = choice if not change else "; ".join(f"{k}={v}" for k, v in change.items())
            if args.only and choice not in args.only or ((done.data == args.data) & (done.choice == label) & (done.seed == seed)).any(): continue
            row, start = dict(data=args.data, choice=label, seed=seed), time.time()
            if choice == "untrained":
                torch.manual_seed(seed); model = SJEPA(store.montage)
            else:
                s = BASE | change
                config = TrainingConfig(epochs=epochs, patience=epochs, seed=seed, learning_rate=s["learning_rate"], predictor_rate=s["predictor_rate"], momentum=s["momentum"], precision=s["precision"], mask=s["mask"], batch_size=16 if s["mask"] == "sphere" else 4)
                run = Pretraining(store, split, Path(d) / f"{label}{seed}".replace(" ", ""), config, SJEPAConfig(target_norm=s["target_norm"], average_layers=s["average_layers"], dropout=s["dropout"]), progress=False)
                try: run.run()
                except RuntimeError as e: row["failed"] = str(e)[:80]
                last = pd.read_csv(run.folder / "epochs.csv").iloc[-1]
                row |= dict(steps=run.step, train_windows=len(split["train"]), valid_windows=len(split["valid"]), **{k: last[k] for k in ("train_loss", "loss", "trivial", "positional", "spread", "rank")})
                model = run.model
            row |= dict(probe_auc=probe(args.data, features(model, x), y, group), seconds=round(time.time() - start), torch=torch.__version__, processor=platform.machine(), threads=torch.get_num_threads())
            old = pd.read_csv(RESULTS) if RESULTS.exists() else None
            RESULTS.parent.mkdir(exist_ok=True)
            pd.concat([old, pd.DataFrame([row])] if old is not None else [pd.DataFrame([row])]).to_csv(RESULTS, index=False, float_format="%.5g")
            print({k: row.get(k) for k in ("choice", "seed", "loss", "trivial", "positional", "spread", "rank", "probe_auc", "seconds")}, flush=True)


if __name__ == "__main__": main()
