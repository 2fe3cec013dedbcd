"""What the field's own classifiers score on simulated people, at Lee2019's numbers of trials.

    python benchmarks/simulation_calibration.py --out results/simulation_calibration.csv

Twenty people whom neither pre-training nor evaluation uses, at `effect=1`. A session is that of
MOABB's benchmark: 100 trials of imagery, 1,980 flashes, 100 trials of flicker. The pipelines are
those of MOABB's benchmark, in five-fold cross-validation within the session, without its search
over settings of the SVM and without covariances between two flicker bands; canonical correlation
looks at ten electrodes at the back. A row holds the mean over the folds, and the person's strengths
in nAm (`erd` is a share), by which a test knows whether the table is that of today's simulation.
"""
import argparse
import time

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

from sjepa_nb.evaluation import Task, as_epochs, band, default_metric
from sjepa_nb.montage import LEE2019_CHANNELS
from sjepa_nb.simulation import SimulatedERP, SimulatedMI, SimulatedSSVEP, draw_traits

TRIALS = {SimulatedMI: ("MI", 100), SimulatedERP: ("ERP", 1980), SimulatedSSVEP: ("SSVEP", 100)}
BACK = ["P7", "P3", "Pz", "P4", "P8", "PO9", "O1", "Oz", "O2", "PO10"]
STRENGTHS = ("erd", "p300", "n200", "ssvep")


def tangent(low, high):
    "Covariances of one band, in the tangent space."
    return make_pipeline(band(low, high), Covariances("oas"), TangentSpace())


def without_last(X):
    "Under an average reference the last channel is minus the sum of the others; xDAWN inverts."
    return X[:, :-1].astype(float)


def at_the_back(X):
    "MNE epochs of the electrodes above the visual cortex."
    return as_epochs(X[:, [LEE2019_CHANNELS.index(c) for c in BACK]])


def pipelines(paradigm, labels):
    "The classifiers of one paradigm, by the names of MOABB's table."
    if paradigm == "MI":
        csp = make_pipeline(band(8., 32.), Covariances("oas"), CSP(6))
        return {
            "TS+LR": make_pipeline(tangent(8., 32.), LogisticRegression(max_iter=1000)),
            "CSP+LDA": make_pipeline(csp, LinearDiscriminantAnalysis()),
        }
    if paradigm == "ERP":
        xdawn = make_pipeline(FunctionTransformer(without_last), XdawnCovariances(4))
        return {"XDAWNCov+TS+SVM": make_pipeline(xdawn, TangentSpace(), SVC(kernel="linear"))}
    rates = {label: float(label) for label in labels}
    bands = make_union(*(tangent(hz - .5, hz + .5) for hz in rates.values()))
    return {
        "TS+LR": make_pipeline(bands, LogisticRegression(max_iter=1000)),
        "CCA": make_pipeline(FunctionTransformer(at_the_back), SSVEP_CCA(freq_map=rates)),
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
    for name, pipeline in pipelines(paradigm, list(dataset.event_id)).items():
        each = cross_val_score(pipeline, X, y, cv=folds, scoring=metric, error_score="raise")
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
    todo = [delayed(score)(kind, s, a.seed) for kind in TRIALS for s in a.subjects]
    rows = sum(Parallel(a.jobs)(todo), [])
    pd.DataFrame(rows).to_csv(a.out, index=False)
