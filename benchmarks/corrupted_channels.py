"""Channels dropped, noisy or swapped at test: what is left, for frozen tokens and the field's ways?

    OMP_NUM_THREADS=1 python benchmarks/corrupted_channels.py

For simulated people 62 to 65, whom no pre-training saw: the first half of a run trains (50 trials
of imagery and flicker, 300 flashes), the second half tests, with 0, 5, 20, 40 and 60 % of the
channels at fault, others for each person and share, the same ones for all pipelines. The fault is
known for `interpolated` (dropped, and mended by splines) and `predicted` (dropped, and their tokens
told by the predictor).
Frozen local tokens behind spatial filters, and targets (ERP and SSVEP), of the shipped models and
of a random network; the field's classifiers (of flicker CCA alone). `auc` is of two classes,
`accuracy` of all.
Rows go to results/corrupted_channels.csv; a person's that are there are skipped.
"""
import copy
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sjepa_nb.contextual_encoder import set_precision
from sjepa_nb.corruption import KINDS, average_reference, corrupt, interpolate, target_tokens
from sjepa_nb.diagnostics import PROBES, in_band, spatial_filters
from sjepa_nb.evaluation import baselines
from sjepa_nb.finetuning import BY_PARADIGM, sjepa_probe
from sjepa_nb.model import SJEPA, SJEPAConfig, on_montage
from sjepa_nb.simulation import simulated_datasets
from sjepa_nb.trials import load_trials

RESULTS = Path(__file__).resolve().parent.parent / "results" / "corrupted_channels.csv"
PEOPLE = 62, 63, 64, 65
SHARES = .05, .2, .4, .6
TRIALS = 100, 600, 100  # of a run: MI, ERP (flashes), SSVEP


class Targets:
    "Targets mixed by spatial filters of the training trials, and a logistic regression."
    bads = ()

    def __init__(self, model, paradigm):
        self.model, self.kind = model, PROBES[paradigm][0]
        regression = LogisticRegression(C=.003, max_iter=2000)
        self.classifier = make_pipeline(StandardScaler(), regression)

    def features(self, x):
        tokens = target_tokens(self.model, x, self.bads)
        return np.einsum("vc,nck->nvk", self.filters, tokens.flatten(2)).reshape(len(x), -1)

    def fit(self, x, y):
        self.filters = spatial_filters(in_band(x, self.kind), y, self.kind)
        self.classifier.fit(self.features(x), y)
        self.classes_ = self.classifier.classes_
        return self

    def without(self, bads):
        "The same, fitted already, that predicts these channels' tokens."
        other = copy.copy(self)
        other.bads = bads
        return other

    def predict(self, x): return self.classifier.predict(self.features(x))
    def predict_proba(self, x): return self.classifier.predict_proba(self.features(x))


def pipelines(paradigm, labels, montage):
    "What is compared, by name."
    found = {p.name: p.estimator for p in baselines(paradigm, labels, eegnet=False)}
    if paradigm == "SSVEP": found = {"CCA": found["CCA"]}  # beside which tangent space is weak
    torch.manual_seed(0)
    random = SJEPA(montage, SJEPAConfig.preset("4/8/256"))
    for name in ("simulated", "physionet", "random"):
        model = random if name == "random" else SJEPA.from_pretrained(name)
        found[f"{name}, local"] = sjepa_probe(model, **BY_PARADIGM[paradigm])
        if paradigm == "MI": continue
        placed = on_montage(model, montage)
        set_precision(placed, "auto", "cpu")
        found[f"{name}, targets"] = Targets(placed, paradigm)
    return found


def scores(model, x, y):
    "Accuracy, and of two classes the AUC."
    if len(set(y)) > 2: return dict(accuracy=np.mean(model.predict(x) == y))
    second = model.predict_proba(x)[:, 1]
    truth = y == model.classes_[1]
    return dict(accuracy=np.mean((second > .5) == truth), auc=roc_auc_score(truth, second))


def tests(x, montage, rng):
    "Kind and share of corruption, the channels, and the trials."
    yield "none", 0., [], x
    for share in SHARES:
        bads = rng.permutation(len(montage))[:round(share * len(montage))]
        for kind in KINDS:
            yield kind, share, bads, average_reference(corrupt(x, kind, bads, rng))
        lost = corrupt(x, "dropped", bads, rng)
        yield "interpolated", share, bads, average_reference(interpolate(lost, bads, montage))
        yield "predicted", share, bads, average_reference(lost, bads)


def rows_of(paradigm, dataset, person):
    "All rows of a person and a paradigm."
    x, y, _, montage = load_trials(dataset, paradigm, [person])
    y, half = np.asarray(y), len(x) // 2
    late = list(tests(x[half:], montage, np.random.default_rng(person)))
    for name, model in pipelines(paradigm, sorted(set(y)), montage).items():
        model.fit(x[:half], y[:half])
        for kind, share, bads, trials in late:
            if kind == "predicted" and not isinstance(model, Targets): continue
            asked = model.without(bads) if kind == "predicted" else model
            told = dict(person=person, paradigm=paradigm, pipeline=name, kind=kind, share=share)
            yield told | scores(asked, trials, y[half:])


def main():
    mne.set_log_level("ERROR")
    old = pd.read_csv(RESULTS) if RESULTS.exists() else pd.DataFrame(columns=["person", "paradigm"])
    sets = simulated_datasets(max(PEOPLE), n_trials=TRIALS, test_run=False)
    for person in PEOPLE:
        for paradigm, dataset in zip(("MI", "ERP", "SSVEP"), sets):
            if ((old.person == person) & (old.paradigm == paradigm)).any(): continue
            table = pd.DataFrame(rows_of(paradigm, dataset, person))
            now = pd.read_csv(RESULTS) if RESULTS.exists() else None
            pd.concat([now, table]).to_csv(RESULTS, index=False, float_format="%.4f")
            print(paradigm, person, flush=True)


if __name__ == "__main__": main()
