"""What frozen tokens are worth to people whom no pre-training saw: each model, person by person.

    OMP_NUM_THREADS=1 python benchmarks/frozen_tokens.py --weights simulated physionet [--real]

The probes of the page on diagnostics at the paper's numbers of trials (200 of imagery, 200 of
flicker, 1,992 flashes), for the simulated people 48 to 54; with --real for Kalunga2016 (SSVEP) and
PhysionetMI 1 to 3 (hands or feet, left or right hand; set MNE_DATA). Random networks of the same
size, six seeds, are the floor. Rows go to results/frozen_tokens.csv; those there are skipped.
"""
import argparse
import platform
import time
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from sjepa_nb.preprocessing import Preprocessing
from sjepa_nb.diagnostics import Probe, make_probe
from sjepa_nb.montage import lee2019_montage
from sjepa_nb.model import SJEPA, SJEPAConfig
from sjepa_nb.contextual_encoder import set_precision
from sjepa_nb.simulation import simulated_datasets

RESULTS = Path(__file__).resolve().parent.parent / "results" / "frozen_tokens.csv"
PEOPLE = 48, 49, 50, 51, 52, 53, 54
TRIALS = 200, 1992, 200  # of a run: MI, ERP (flashes), SSVEP


def simulated():
    "The three simulated paradigms, a probe for each person."
    sets = simulated_datasets(54, n_trials=TRIALS, test_run=False)
    for dataset, paradigm in zip(sets, ("MI", "ERP", "SSVEP")):
        for person in PEOPLE:
            yield "simulated", person, partial(make_probe, dataset, paradigm, [person], most=2000)


TASKS = [
    ("Kalunga2016", "SSVEP", (1, 2, 3, 4), ["13", "17", "21"], "always"),
    ("PhysionetMI", "MI", (1, 2, 3), ["hands", "feet"], "raise"),
    ("PhysionetMI", "MI", (1, 2, 3), ["left_hand", "right_hand"], "raise")]


def real():
    "Kalunga2016 in three classes, PhysionetMI in two pairs of classes."
    for name, paradigm, people, events, scale in TASKS:
        title, prep = f"{paradigm} {'/'.join(events)}", Preprocessing(scale=scale)
        for person in people:
            yield name, person, partial(make_probe, name, paradigm, [person], title, events=events,
                                        preprocessing=prep)


def models(names):
    "The models by name, and random ones."
    found, places = {n: SJEPA.from_pretrained(n) for n in names}, lee2019_montage()
    for model in found.values(): places = places.union(model.montage)
    for seed in range(6):
        torch.manual_seed(seed)
        found[f"random {seed}"] = SJEPA(places, SJEPAConfig.preset("4/8/256")).eval()
    for model in found.values(): set_precision(model, "auto", "cpu")
    return found


def known_rows():
    "The table that is there, and which of its questions have been asked."
    if not RESULTS.exists(): return [], set()
    old = pd.read_csv(RESULTS, dtype=dict(subject=str))
    return [old], set(map(tuple, old[["model", "dataset", "task", "subject"]].to_numpy()))


def ask(probe, name, model, dataset, person):
    "A row of the table."
    start, scores = time.monotonic(), probe(model)
    by_encoder = {k.rsplit(" ", 1)[1]: v for k, v in scores.items()}
    return dict(
        model=Path(name).name, dataset=dataset, task=probe.name, subject=str(person),
        chance=probe.chance, trials=len(probe.trials[0][1]), **by_encoder,
        seconds=round(time.monotonic() - start, 1), torch=torch.__version__,
        processor=platform.machine())


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--weights", nargs="+", default=[],
                   help="shipped models, files or folders of runs")
    p.add_argument("--real", action="store_true", help="real recordings instead of simulated ones")
    args = p.parse_args()
    known = models(args.weights)
    rows, there = known_rows()
    for dataset, person, make in real() if args.real else simulated():
        probe: Probe = make()
        for name, model in known.items():
            if (Path(name).name, dataset, probe.name, str(person)) in there: continue
            row = ask(probe, name, model, dataset, person)
            rows.append(pd.DataFrame([row]))
            pd.concat(rows).to_csv(RESULTS, index=False, float_format="%.4f")
            shown = ("model", "task", "subject", "local", "contextual", "seconds")
            print({k: row[k] for k in shown}, flush=True)


if __name__ == "__main__": main()
