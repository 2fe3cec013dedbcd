"""What does attention follow, layer by layer: distance, coherence, the window?

    OMP_NUM_THREADS=1 python benchmarks/scalp_attention.py [--real]

For simulated people 62 to 65, whom no pre-training saw, and the model from simulation; with --real
for PhysionetMI 1 to 3 (set MNE_DATA), whom the model from real recordings has seen unlabelled; and
for a random network of the same size. 40 windows of 1.19 s. The encoder with nothing hidden; the
predictor with a patch of 0.6 head radii hidden around six channels in turn, means over them.
Writes its people's rows to results/scalp_attention.csv.
"""
import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from sjepa_nb.model import SJEPA, SJEPAConfig, on_montage
from sjepa_nb.positional_encoding import coherence
from sjepa_nb.scalp_attention import (
    beyond_distance, change, hidden_maps, reach, visible_maps)
from sjepa_nb.simulation import SimulatedMI
from sjepa_nb.trials import load_trials

RESULTS = Path(__file__).resolve().parent.parent / "results" / "scalp_attention.csv"
PATCHES = "C3", "C4", "Fz", "Pz", "P7", "P8"
CLASSES = ["left_hand", "right_hand", "hands", "feet"]


def windows(dataset, person):
    "40 windows of a person, and their montage."
    data, which = "PhysionetMI", dict(events=CLASSES)
    if dataset == "simulated": data, which = SimulatedMI(65, n_trials=40, test_run=False), {}
    x, _, _, montage = load_trials(data, "MI", [person], length=152, **which)
    return x[:40], montage


def described(part, maps, coherent, apart):
    "A row for each layer of some maps."
    moves, rows = change(maps), []
    for n, layer in enumerate(maps):
        near, with_coherence = beyond_distance(layer.mean((0, 1)), coherent, apart)
        rows.append(dict(part=part, layer=n + 1, reach=reach(layer, apart).mean().item(),
                         nearness=near, coherence=with_coherence, change=moves[n].mean().item()))
    return rows


def of_model(model, x, coherent):
    "All rows of a model and a person."
    apart = model.montage.distances()
    rows = described("encoder", visible_maps(model, x), coherent, apart)
    for name in PATCHES:
        hidden = apart[model.montage.index([name])[0]] < .6
        pairs = np.ix_(hidden, ~hidden)
        rows += described("predictor", hidden_maps(model, x, hidden), coherent[pairs], apart[pairs])
    return pd.DataFrame(rows).groupby(["part", "layer"], as_index=False).mean().to_dict("records")


def rows_of(dataset, person):
    "All rows of a person."
    x, montage = windows(dataset, person)
    name = "simulated" if dataset == "simulated" else "physionet"
    torch.manual_seed(0)
    random = SJEPA(montage, SJEPAConfig.preset("4/8/256"))
    known = {name: SJEPA.from_pretrained(name), "random": random}
    for model, weights in known.items():
        for row in of_model(on_montage(weights, montage), x, coherence(x)):
            yield dict(dataset=dataset, person=person, model=model) | row


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--real", action="store_true", help="PhysionetMI instead of simulated people")
    dataset = "PhysionetMI" if p.parse_args().real else "simulated"
    people = (1, 2, 3) if dataset == "PhysionetMI" else (62, 63, 64, 65)
    rows = [row for person in people for row in rows_of(dataset, person)]
    table = pd.DataFrame(rows)
    if RESULTS.exists():
        old = pd.read_csv(RESULTS)
        table = pd.concat([old[old.dataset != dataset], table])
    table.to_csv(RESULTS, index=False, float_format="%.4f")


if __name__ == "__main__": main()
