"""What the field's own classifiers score on simulated people, at Lee2019's numbers of trials.

    python benchmarks/simulation_calibration.py --out results/simulation_calibration.csv

Twenty people whom neither pre-training nor evaluation uses, at `effect=1`. A session is that of
MOABB's benchmark: 100 trials of imagery, 1,980 flashes, 100 trials of flicker. The pipelines are
those of MOABB's benchmark, in five-fold cross-validation within the session, without its search
over settings of the SVM and without covariances between two flicker bands; canonical correlation
looks at ten electrodes at the back, and flashes stay at 0.5-40 Hz, where MOABB has 1-24 Hz. A row
holds the mean over the folds, and the person's strengths in nAm (`erd` is a share), by which a test
knows whether the table is that of today's simulation. The rows that OUT has already are kept: a run
that was stopped goes on.
"""
import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from moabb.pipelines.classification import SSVEP_CCA
from pyriemann.estimation import Covariances, XdawnCovariances
from pyriemann.spatialfilters import CSP
from pyriemann.tangentspace import TangentSpace
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer
from sklearn.svm import SVC

from sjepa_nb.diagnostics import bandpass
from sjepa_nb.evaluation import Task, as_epochs, default_metric
from sjepa_nb.montage import LEE2019_CHANNELS
from sjepa_nb.simulation import SimulatedERP, SimulatedMI, SimulatedSSVEP, draw_traits

TRIALS = {SimulatedMI: ("MI", 100), SimulatedERP: ("ERP", 1980), SimulatedSSVEP: ("SSVEP", 100)}
BACK = ["P7", "P3", "Pz", "P4", "P8", "PO9", "O1", "Oz", "O2", "PO10"]
STRENGTHS = ("erd", "p300", "n200", "ssvep")


def covariances(X, low, high):
    "Of each trial by itself, in one band: (trials, channels, channels)."
    return Covariances("oas").transform(bandpass(X, low, high))


def bands_of(C):
    "The tangent spaces of several bands, side by side; `C` is (trials, bands, channels, channels)."
    one = lambda i: make_pipeline(FunctionTransformer(lambda C: C[:, i]), TangentSpace())
    return make_union(*(one(i) for i in range(C.shape[1])))


def pipelines(paradigm, labels, X):
    "The classifiers of one paradigm by their names in MOABB's table, each with what it is given."
    if paradigm == "MI":
        C = covariances(X, 8., 32.)
        return {
            "TS+LR": (make_pipeline(TangentSpace(), LogisticRegression(max_iter=1000)), C),
            "CSP+LDA": (make_pipeline(CSP(6), LinearDiscriminantAnalysis()), C),
        }
    if paradigm == "ERP":
        xdawn = make_pipeline(XdawnCovariances(4), TangentSpace(), SVC(kernel="linear"))
        # under an average reference the last channel is minus the sum of the others; xDAWN inverts
        return {"XDAWNCov+TS+SVM": (xdawn, X[:, :-1].astype(float))}
    rates = {label: float(label) for label in labels}
    C = np.stack([covariances(X, hz - .5, hz + .5) for hz in rates.values()], axis=1)
    back = X[:, [LEE2019_CHANNELS.index(c) for c in BACK]]
    cca = make_pipeline(FunctionTransformer(as_epochs), SSVEP_CCA(freq_map=rates))
    return {
        "TS+LR": (make_pipeline(bands_of(C), LogisticRegression(max_iter=1000)), C),
        "CCA": (cca, back),
    }


def score(kind, subject, seed):
    "The rows of one person in one paradigm."
    start = time.monotonic()
    paradigm, trials = TRIALS[kind]
    dataset = kind(subject, n_trials=trials, seed=seed, test_run=False)
    X, y, _, _ = Task(paradigm, dataset, (subject,)).load(subject)
    metric = default_metric(paradigm)
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    scores = {}
    for name, (pipeline, given) in pipelines(paradigm, list(dataset.event_id), X).items():
        each = cross_val_score(pipeline, given, y, cv=folds, scoring=metric, error_score="raise")
        scores[name] = round(float(each.mean()), 4)
    traits = draw_traits(seed, subject)
    strengths = {k: round(getattr(traits, k), 3) for k in STRENGTHS}
    about = dict(paradigm=paradigm, subject=subject, trials=len(y), metric=metric, seed=seed)
    rows = [about | strengths | dict(pipeline=k, score=v) for k, v in scores.items()]
    print(paradigm, subject, scores, f"{time.monotonic() - start:.0f} s", flush=True)
    return rows


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--subjects", type=int, nargs="+", default=list(range(101, 121)))
    p.add_argument("--seed", type=int, default=0, help="of the population (default: 0)")
    p.add_argument("--jobs", type=int, default=1, help="processes (default: 1)")
    p.add_argument("--out", required=True)
    a = p.parse_args()
    table = pd.DataFrame(columns=["paradigm", "subject"])
    if Path(a.out).exists():
        table = pd.read_csv(a.out)
    known = set(zip(table.paradigm, table.subject))
    todo = []
    for subject in a.subjects:
        for kind, (paradigm, _) in TRIALS.items():
            if (paradigm, subject) not in known:
                todo.append(delayed(score)(kind, subject, a.seed))
    for rows in Parallel(a.jobs, return_as="generator")(todo):
        table = pd.DataFrame(table.to_dict("records") + rows)
        table.to_csv(a.out, index=False)
