"""Does a classifier need the network? Tokens beside the signals that they are made of.

    OMP_NUM_THREADS=1 python benchmarks/signals_or_tokens.py

For simulated people 9 to 12, behind the same spatial filters and before the same regression:
the filtered signals, and frozen local tokens of both shipped models and of a random one,
by the number of training trials; five folds. Writes results/signals_or_tokens.csv.
"""
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.model_selection import StratifiedKFold

from sjepa_nb.diagnostics import (
    PROBES, in_band, linear_score, local_tokens, make_probe, spatial_filters)
from sjepa_nb.evaluation import fewer
from sjepa_nb.model import SJEPA, SJEPAConfig
from sjepa_nb.simulation import simulated_datasets

RESULTS = Path(__file__).resolve().parent.parent / "results" / "signals_or_tokens.csv"
PEOPLE = 9, 10, 11, 12
TRIALS = 20, 40, 80, 160


def encoders():
    "What becomes of trials behind filters, by name."
    models = {name: SJEPA.from_pretrained(name).eval() for name in ("simulated", "physionet")}
    torch.manual_seed(0)
    places = models["simulated"].montage
    models["random"] = SJEPA(places, SJEPAConfig.preset("4/8/256")).eval()
    found = {"signals": lambda x, filters: (filters @ x).reshape(len(x), -1)}
    for name, model in models.items():
        found[name] = lambda x, filters, model=model: local_tokens(model, x, filters)
    return found


def rows(probe, known):
    "A row a person, number of trials and encoder: the mean over the folds."
    kind, metric = PROBES[probe.paradigm]
    for subject, (x, y) in zip(PEOPLE, probe.trials):
        seen, folds = in_band(x, kind), StratifiedKFold(5, shuffle=True, random_state=0)
        for n in TRIALS:
            scores = {name: [] for name in known}
            for train, test in folds.split(x, y):
                train = fewer(train, y, n)
                filters = spatial_filters(seen[train], y[train], kind)
                for name, make in known.items():
                    scores[name].append(linear_score(make(x, filters), y, train, test, metric))
            for name, s in scores.items():
                yield dict(task=probe.paradigm, subject=subject, trials=n, features=name,
                           score=np.mean(s))


def main():
    _, erp, ssvep = simulated_datasets(max(PEOPLE), n_trials=(200, 996, 200), test_run=False)
    found, known = [], encoders()
    for paradigm, dataset in dict(ERP=erp, SSVEP=ssvep).items():
        found += rows(make_probe(dataset, paradigm, PEOPLE, most=996), known)
        pd.DataFrame(found).to_csv(RESULTS, index=False, float_format="%.4f")


if __name__ == "__main__": main()
