"""Which choices of downstream training matter? One choice changed at a time, on simulated people
whom no pre-training has seen.

    python benchmarks/finetuning_choices.py --part development --weights model.safetensors
    python benchmarks/finetuning_choices.py --part test --weights model.safetensors

Choices are made on the development subjects; the test subjects are looked at once, to confirm them.
Each row of results/finetuning_choices.csv is one fit: so many training trials of one subject, and
the score on all trials that are left (AUC for ERP, accuracy else). Rows that are there already are
skipped, so that an interrupted run goes on.
"""
import argparse
import time
import warnings
from functools import lru_cache
from itertools import product
from pathlib import Path

import mne
import pandas as pd
import torch
from sklearn.model_selection import StratifiedShuffleSplit

from sjepa_nb.trials import load_trials
from sjepa_nb.evaluation import default_metric, score_of
from sjepa_nb.finetuning import SJEPAClassifier, sjepa_probe
from sjepa_nb.simulation import SimulatedERP, SimulatedMI, SimulatedSSVEP

RESULTS = Path(__file__).resolve().parent.parent / "results" / "finetuning_choices.csv"
EFFECT = 1.  # of the simulation: the calibrated strength
SUBJECTS = dict(development=(9, 10, 13, 14, 15, 16), test=(17, 18, 19))
DATA = dict(MI=(SimulatedMI, dict(n_sessions=2, n_trials=100)),
            SSVEP=(SimulatedSSVEP, dict(n_sessions=2, n_trials=100)),
            ERP=(SimulatedERP, dict(n_trials=480, test_run=False)))
KIND = dict(MI="csp", SSVEP="class means", ERP="xdawn")  # of filters from data
TRIALS = 20, 40, 80, 160  # to train on
FIXED = dict(validation=0, epochs=60)
EARLY = dict(validation=.2, epochs=60)  # the same number of epochs at most

# name → settings; "data" stands for the kind of filters that fits the paradigm
CHOICES = {
    "probe, window": dict(probe=True, norm="window"),
    "probe, frozen": dict(probe=True, norm="frozen"),
    "random, window, early stop": dict(EARLY, filters="random", norm="window"),
    "random, window": dict(FIXED, filters="random", norm="window"),
    "data, window": dict(FIXED, filters="data", norm="window"),
    "data, frozen": dict(FIXED, filters="data", norm="frozen"),
    "random, frozen": dict(FIXED, filters="random", norm="frozen"),
    "data, window, early stop": dict(EARLY, filters="data", norm="window"),
    "data, frozen, early stop": dict(EARLY, filters="data", norm="frozen"),
    "data, frozen, dropout": dict(FIXED, filters="data", norm="frozen", dropout=.5),
    "data, frozen, weight decay": dict(FIXED, filters="data", norm="frozen", weight_decay=1.),
    "data, frozen, smoothing": dict(FIXED, filters="data", norm="frozen", label_smoothing=.2),
    "data, frozen, one epoch's weights": dict(FIXED, filters="data", norm="frozen", average=1),
}


@lru_cache(maxsize=1)
def trials(paradigm, subject):
    "Trials, labels, montage of one simulated subject."
    kind, settings = DATA[paradigm]
    data = kind(subject, effect=EFFECT, **settings)
    with mne.utils.use_log_level("ERROR"):
        X, y, _, montage = load_trials(data, paradigm, [subject])
    return X, y, montage


def make(paradigm, choice, weights, montage, strategy):
    "The estimator of one choice."
    settings = dict(CHOICES[choice])
    if settings.get("filters", "data") == "data": settings["filters"] = KIND[paradigm]
    if settings.pop("probe", False): return sjepa_probe(weights, channels=montage, **settings)
    return SJEPAClassifier(weights, "pre-local", strategy, channels=montage, **settings)


def measure(paradigm, subject, choice, n, strategy, weights):
    "Score and seconds of one fit."
    X, y, montage = trials(paradigm, subject)
    parts = StratifiedShuffleSplit(1, train_size=n, test_size=len(y) - n, random_state=0)
    train, test = next(parts.split(y, y))
    start = time.time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = make(paradigm, choice, weights, montage, strategy).fit(X[train], y[train])
        score = score_of(default_metric(paradigm), y[test], fitted, X[test])
    return dict(score=score, test_trials=len(test), seconds=round(time.time() - start, 2))


def arguments():
    raw = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    p.add_argument("--part", choices=SUBJECTS, required=True)
    p.add_argument("--weights", help="a pre-trained model (default: random weights alone)")
    p.add_argument("--no-random", action="store_true", help="leave the random weights out")
    p.add_argument("--subjects", type=int, nargs="+", help="some of the part's (default: all)")
    p.add_argument("--paradigms", nargs="+", choices=DATA, default=list(DATA))
    p.add_argument("--trials", type=int, nargs="+", default=list(TRIALS))
    p.add_argument("--choices", nargs="+", choices=CHOICES, default=list(CHOICES))
    p.add_argument("--strategies", nargs="+", choices=("full", "new"), default=["full"])
    return p.parse_args()


def fits(a, models):
    "Paradigm, subject, model, strategy, choice and number of trials of every fit."
    for subject in a.subjects or SUBJECTS[a.part]:
        if subject not in SUBJECTS[a.part]:
            raise SystemExit(f"subject {subject} is none of {a.part}")
        for paradigm, n, name, choice in product(a.paradigms, a.trials, models, a.choices):
            strategies = ["none"] if "probe" in choice else a.strategies
            for strategy in strategies: yield paradigm, subject, name, strategy, choice, n


def main():
    a = arguments()
    torch.set_num_threads(1)
    keys = ["effect", "part", "paradigm", "subject", "weights", "strategy", "choice", "trials"]
    done = pd.read_csv(RESULTS) if RESULTS.exists() else pd.DataFrame(columns=keys)
    seen = set(map(tuple, done[keys].itertuples(index=False)))
    models = {}
    if a.weights: models["pre-trained"] = a.weights
    if not a.no_random: models["random"] = None
    for fit in fits(a, models):
        key = EFFECT, a.part, *fit
        if key in seen: continue
        paradigm, subject, name, strategy, choice, n = fit
        row = measure(paradigm, subject, choice, n, strategy, models[name])
        row = pd.DataFrame([dict(zip(keys, key)) | row])
        row.to_csv(RESULTS, mode="a", index=False, header=not RESULTS.exists(), float_format="%.4g")
        print(row.iloc[0].to_dict(), flush=True)


if __name__ == "__main__": main()
