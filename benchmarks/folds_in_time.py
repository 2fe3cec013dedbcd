"""Do shuffled folds flatter ERP scores, where neighbouring flashes share samples?

    OMP_NUM_THREADS=1 python benchmarks/folds_in_time.py

For simulated people 9 to 12, 996 flashes each, 215 ms apart in trials of 1.19 s: the probe of a
shipped and of a random encoder, and xDAWN, in five folds that are shuffled (as everywhere here),
and in five blocks of time. Writes results/folds_in_time.csv.
"""
from pathlib import Path

import pandas as pd
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import KFold, StratifiedKFold

from sjepa_nb.evaluation import baselines
from sjepa_nb.finetuning import sjepa_probe
from sjepa_nb.simulation import SimulatedERP
from sjepa_nb.trials import load_trials

RESULTS = Path(__file__).resolve().parent.parent / "results" / "folds_in_time.csv"


def pipelines():
    "The field's classifier, and the closed-form head on two encoders."
    field, = baselines("ERP", ["NonTarget", "Target"], eegnet=False)
    return {"simulated": sjepa_probe("simulated", filters="xdawn"),
            "random": sjepa_probe(filters="xdawn"), field.name: field.estimator}


def rows(subject, x, y):
    "One row a way to cut folds and a pipeline."
    shuffled = StratifiedKFold(5, shuffle=True, random_state=0)
    for folds, cut in {"shuffled": shuffled, "blocks of time": KFold(5)}.items():
        for name, pipeline in pipelines().items():
            scores = []
            for train, test in cut.split(x, y):
                fitted = pipeline.fit(x[train], y[train])
                target = fitted.predict_proba(x[test])[:, list(fitted.classes_).index("Target")]
                scores.append(roc_auc_score(y[test] == "Target", target))
            yield dict(subject=subject, folds=folds, pipeline=name, auc=sum(scores) / len(scores))


def main():
    people = SimulatedERP(n_subjects=12, n_trials=996, test_run=False)
    found = []
    for subject in (9, 10, 11, 12):
        x, y, _, _ = load_trials(people, "ERP", [subject])
        found += rows(subject, x, y)
        pd.DataFrame(found).to_csv(RESULTS, index=False, float_format="%.4f")


if __name__ == "__main__": main()
