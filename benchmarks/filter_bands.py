"""In which band are spatial filters to be looked for? Frozen local tokens behind them say.

    OMP_NUM_THREADS=1 python benchmarks/filter_bands.py

For simulated people 9 to 12, of those on whom choices are made: the probe of flicker (filters of
the class means) and of evoked responses (xDAWN), with the filters from trials as they are and from
band-passed ones, for both shipped models and a random network, with many trials and with few.
The trials behind the filters keep all frequencies. Writes results/filter_bands.csv.
"""
from pathlib import Path

import pandas as pd
import torch

from sjepa_nb.diagnostics import (
    PROBES, bandpass, fold_scores, local_tokens, make_probe, spatial_filters)
from sjepa_nb.model import SJEPA, SJEPAConfig
from sjepa_nb.simulation import simulated_datasets

RESULTS = Path(__file__).resolve().parent.parent / "results" / "filter_bands.csv"
PEOPLE = 9, 10, 11, 12
TRIALS = dict(SSVEP=(200, 60), ERP=(996, 120))
BANDS = dict(
    SSVEP=(None, (1, 40), (2, 40), (4, 40), (6, 40), (6, 30), (8, 32)),
    ERP=(None, (.7, 40), (1, 30), (1, 20), (1, 12)))


def models():
    "The shipped models, and a random one."
    found = {name: SJEPA.from_pretrained(name).eval() for name in ("simulated", "physionet")}
    torch.manual_seed(0)
    places = found["simulated"].montage
    return found | {"random": SJEPA(places, SJEPAConfig.preset("4/8/256")).eval()}


def score(model, x, y, paradigm, band):
    "What local tokens are worth behind filters that were found in a band."
    kind, metric = PROBES[paradigm]
    seen = bandpass(x, *band) if band else x

    def tokens(train):
        "Tokens of all trials behind filters from those to train on."
        return local_tokens(model, x, spatial_filters(seen[train], y[train], kind))
    return fold_scores(tokens, y, metric)


def rows(paradigm, dataset, known):
    "One row a model, person, number of trials and band."
    probe = make_probe(dataset, paradigm, PEOPLE, most=max(TRIALS[paradigm]))
    for subject, (x, y) in zip(PEOPLE, probe.trials):
        for n in TRIALS[paradigm]:
            for band in BANDS[paradigm]:
                told = "as they are" if band is None else f"{band[0]}-{band[1]} Hz"
                for name, model in known.items():
                    s = score(model, x[:n], y[:n], paradigm, band)
                    yield dict(task=paradigm, subject=subject, trials=n, band=told, model=name,
                               score=s)


def main():
    _, erp, ssvep = simulated_datasets(max(PEOPLE), n_trials=(200, 996, 200), test_run=False)
    found, known = [], models()
    for paradigm, dataset in dict(SSVEP=ssvep, ERP=erp).items():
        for row in rows(paradigm, dataset, known):
            found.append(row)
            pd.DataFrame(found).to_csv(RESULTS, index=False, float_format="%.3f")


if __name__ == "__main__": main()
