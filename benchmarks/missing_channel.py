"""Which signal belongs to a hidden electrode, and which electrode is at fault? Beside splines.

    OMP_NUM_THREADS=1 python benchmarks/missing_channel.py [--real]

For simulated people 62 to 65, whom no pre-training saw and nobody chose by; with --real for
PhysionetMI 1 to 3 (set MNE_DATA). Windows of 1.19 s from the onsets of imagery.

`retrieval`: every eighth electrode in 4 windows, hidden alone or with all within a radius.
Candidates are all channels of the window, or what the electrode recorded in it and in 63 others.
`fault`: two electrodes swapped (less than 0.6 head radii apart, or more), one loose, one dead, four
times each; the AUC of the misfit, and whether the faulty one (or two) have the largest.
Rows go to results/missing_channel.csv; a person's that are there are skipped.
"""
import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score

from sjepa_nb.contextual_encoder import set_precision
from sjepa_nb.missing_channel import (
    candidate_distances, dead, loose, misfit, rank_of, spline_misfit, spline_weights,
    swap)
from sjepa_nb.model import SJEPA, SJEPAConfig, on_montage
from sjepa_nb.simulation import SimulatedMI
from sjepa_nb.trials import load_trials

RESULTS = Path(__file__).resolve().parent.parent / "results" / "missing_channel.csv"
RADII = 0., .4, .6, .8  # head radii
EVERY, QUERIES, CANDIDATES = 8, 4, 64
REPEATS, WINDOWS = 4, (1, 3, 6)  # recordings a fault, windows of each that are looked at
CLASSES = ["left_hand", "right_hand", "hands", "feet"]


def people(real):
    "Dataset, person, windows and montage of each."
    for person in (1, 2, 3) if real else (62, 63, 64, 65):
        data, which = "PhysionetMI", dict(events=CLASSES)
        if not real: data, which = SimulatedMI(65, n_trials=128, test_run=False), {}
        x, _, _, montage = load_trials(data, "MI", [person], length=152, **which)
        yield "PhysionetMI" if real else "simulated", person, x, montage


def models(montage):
    "The shipped models and a random one, on a recording's montage."
    found = {name: SJEPA.from_pretrained(name) for name in ("simulated", "physionet")}
    torch.manual_seed(0)
    found["random"] = SJEPA(montage, SJEPAConfig.preset("4/8/256"))
    found = {name: on_montage(model, montage) for name, model in found.items()}
    for model in found.values(): set_precision(model, "auto", "cpu")
    return found


def spline_distances(montage, window, at, candidates):
    "One minus the correlation of candidates with what splines make of the rest, a row a radius."
    guesses = np.stack([spline_weights(montage, at, r) for r in RADII]) @ window
    n = len(guesses)
    return 1 - np.corrcoef(np.r_[guesses, candidates])[:n, n:]


def ranks(distances, true, n_here):
    "The right one's rank among the window's channels, and among the times of its own."
    here = distances[:, :n_here]
    times = np.c_[distances[:, true], distances[:, n_here:]]
    return {"channels": rank_of(here, true), "times": rank_of(times, 0)}, here.argmin(1)


def retrieval(x, montage, known):
    "For each model and radius, recall among both kinds of candidates."
    rows, apart = [], montage.distances()
    for i in range(0, len(montage), EVERY):
        for w in range(QUERIES):
            others = np.delete(x[:, i], w, 0)[:CANDIDATES - 1]
            candidates, at = np.r_[x[w], others], montage.names[i]
            found = {name: candidate_distances(model, x[w], at, candidates, RADII).numpy()
                     for name, model in known.items()}
            found["splines"] = spline_distances(montage, x[w], at, candidates)
            for name, distances in found.items():
                rank, chosen = ranks(distances, i, len(montage))
                for kind, values in rank.items():
                    told = dict(model=name, question="retrieval", what=kind)
                    rows += [told | dict(setting=r, rank=v, distance=apart[i, c])
                             for r, v, c in zip(RADII, values, chosen)]
    return in_short(pd.DataFrame(rows), len(montage))


def in_short(ranks, n_channels):
    "Recall at 1 and 5 and chance, and how far from the place the chosen channel comes."
    rows = []
    for key, group in ranks.groupby(["model", "question", "what", "setting"], sort=False):
        row = dict(zip(("model", "question", "what", "setting"), key), n=len(group))
        size = n_channels if row["what"] == "channels" else CANDIDATES
        row |= dict(recall_1=(group["rank"] < 1).mean(), recall_5=(group["rank"] < 5).mean(),
                    chance=1 / size)
        if row["what"] == "channels": row["distance"] = group.distance.mean()
        rows.append(row)
    return rows


def faults(x, montage, rng):
    "Recordings with a fault: its name, the faulty channels, the windows."
    apart, n = montage.distances(), len(montage)
    for repeat in range(REPEATS):
        x_now = x[rng.permutation(len(x))[:max(WINDOWS)]]
        a = int(rng.integers(n))
        near = np.flatnonzero((apart[a] < .6) & (apart[a] > 0))
        far = np.flatnonzero(apart[a] >= .6)
        for what, others in {"swapped near": near, "swapped far": far}.items():
            b = int(rng.choice(others))
            yield what, [a, b], swap(x_now, a, b)
        yield "loose", [a], loose(x_now, a, rng)
        yield "dead", [a], dead(x_now, a, rng)


def faulty(x, montage, known, rng):
    "For each model, fault and number of windows, the AUC and how often the fault is named."
    rows = []
    for what, at, spoilt in faults(x, montage, rng):
        found = {name: misfit(model, spoilt).numpy() for name, model in known.items()}
        found["splines"] = spline_misfit(montage, spoilt)
        for name, values in found.items():
            for n in WINDOWS:
                row = dict(model=name, question="fault", what=what, setting=n)
                rows.append(row | judged(values[:n].mean(0), at))
    table = pd.DataFrame(rows)
    key = ["model", "question", "what", "setting"]
    return table.groupby(key, sort=False, as_index=False).mean().to_dict("records")


def judged(values, at):
    "AUC of the faulty channels among all, and whether they have the largest misfits."
    truth = np.isin(np.arange(len(values)), at)
    worst = set(np.argsort(values)[-len(at):])
    return dict(auc=roc_auc_score(truth, values), named=float(worst == set(at)))


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--real", action="store_true", help="PhysionetMI instead of simulated people")
    real = p.parse_args().real
    old = pd.read_csv(RESULTS) if RESULTS.exists() else pd.DataFrame(columns=["dataset", "person"])
    there = set(zip(old.dataset, old.person))
    for dataset, person, x, montage in people(real):
        if (dataset, person) in there: continue
        known = models(montage)
        rows = retrieval(x, montage, known)
        rows += faulty(x, montage, known, np.random.default_rng(person))
        table = pd.DataFrame([dict(dataset=dataset, person=person) | row for row in rows])
        now = pd.read_csv(RESULTS) if RESULTS.exists() else None
        pd.concat([now, table]).to_csv(RESULTS, index=False, float_format="%.4f")
        print(dataset, person, flush=True)


if __name__ == "__main__": main()
