"""What the filter of the trials changes: MOABB's own, or that of pre-training (page 05).

    OMP_NUM_THREADS=1 python benchmarks/trial_filter.py [--weights simulated]

For simulated people 9 to 12, of those on whom choices are made, and, with MNE_DATA, for PhysionetMI
1 to 3 and Kalunga2016 1 to 4: how far the frozen local tokens of a model move, as a share of their
spread over trials (the median over tokens), and what its probe scores in five folds under either
filter, beside that of random weights. Rows go to results/trial_filter.csv; those there are skipped.
"""
import argparse
import os
import warnings
from pathlib import Path

import mne
import numpy as np
import pandas as pd

from sjepa_nb.evaluation import Pipeline, Task, cross_validate, default_metric, simulated_tasks
from sjepa_nb.finetuning import BY_PARADIGM, SJEPAFeatures, sjepa_probe
from sjepa_nb.sources import find_dataset
from sjepa_nb.trials import make_paradigm

RESULTS = Path(__file__).resolve().parent.parent / "results" / "trial_filter.csv"
FEET, FLICKER = ("hands", "feet"), ("13", "17", "21")


def tasks():
    "The tasks, with their people."
    yield from simulated_tasks((9, 10, 11, 12), n_trials=(200, 996, 200))
    if not os.environ.get("MNE_DATA"): return
    yield Task("MI", "PhysionetMI", (1, 2, 3), FEET)
    yield Task("SSVEP", "Kalunga2016", (1, 2, 3, 4), FLICKER, scale="standardise")


def moabb_trials(task, subject, montage, samples):
    "The same trials as MOABB gives them, in microvolts and referenced, and their labels."
    dataset = find_dataset(task.dataset)
    events = list(task.events or dataset.event_id) if task.paradigm != "ERP" else None
    paradigm = make_paradigm(task.paradigm, events=events)
    with mne.utils.use_log_level("ERROR"):
        epochs, y, _ = paradigm.get_data(dataset, [subject], return_epochs=True)
    X = epochs.reorder_channels(list(montage.names)).get_data()[..., :samples] * 1e6
    return (X - X.mean(1, keepdims=True)).astype(np.float32), np.asarray(y)


def same_trials(ours, theirs):
    "For each of our trials (some are left out) the same one among MOABB's."
    a, b = (np.asarray(x).reshape(len(x), -1) for x in (ours, theirs))
    alike = np.corrcoef(a, b)[:len(a), len(a):]   # (ours, theirs)
    return theirs[alike.argmax(1)]


def moved(ours, theirs, weights, scale):
    "How far tokens move, as a share of their spread over trials."
    features = SJEPAFeatures(weights, "local", None, scale=scale).fit(ours)
    a, b = features.transform(ours), features.transform(same_trials(ours, theirs))
    return float(np.median((a - b).std(0) / a.std(0)))


def scores(X, y, task, weights):
    "Mean over folds of the probe of the weights, and of random ones."
    names = dict(trained=weights, random=None)
    pipelines = [Pipeline(name, sjepa_probe(w, scale=task.scale, **BY_PARADIGM[task.paradigm]))
                 for name, w in names.items()]
    table = pd.DataFrame(cross_validate(pipelines, X, y, default_metric(task.paradigm)))
    return table.groupby("pipeline").score.mean().to_dict()


def known_rows():
    "What the table holds already."
    return pd.read_csv(RESULTS).to_dict("records") if RESULTS.exists() else []


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--weights", default="simulated")
    weights, rows = p.parse_args().weights, known_rows()
    for task in tasks():
        for subject in task.subjects:
            name = getattr(task.dataset, "code", task.dataset)
            if any(r["dataset"] == name and r["subject"] == subject for r in rows): continue
            X, y, _, montage = task.load(subject)
            theirs, labels = moabb_trials(task, subject, montage, X.shape[2])
            share = moved(X, theirs, weights, task.scale)
            for way, trials, classes in ("ours", X, y), ("MOABB's", theirs, labels):
                row = dict(dataset=name, task=task.name, subject=subject, filter=way, moved=share)
                rows.append(row | scores(trials, classes, task, weights))
            print(rows[-2], rows[-1], flush=True)
            pd.DataFrame(rows).to_csv(RESULTS, index=False, float_format="%.4f")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
