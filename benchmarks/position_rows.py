"""How far training moves the position rows of the channels from where their coordinates put them.

    python benchmarks/position_rows.py RUN [RUN ...] --out results/position_rows.csv

RUN is the folder of a pre-training. Distances are given as a share of a row's length, which is the same for all rows before training.
"""
import argparse
from pathlib import Path

import pandas as pd
import torch

from sjepa_nb.positional_encoding import PositionalEncoding
from sjepa_nb.predictor import SJEPA


def moved(run):
    "One run's rows, before and after."
    model = SJEPA.load(Path(run) / "model.safetensors")
    after, before = model.position.spatial.detach(), PositionalEncoding(model.montage).spatial.detach()
    length = float(before.norm(dim=1).mean())
    between = torch.pdist(before)
    nearest = torch.cdist(after, before).argmin(1)
    return dict(run=Path(run).name, channels=len(after), moved=round(float((after - before).norm(dim=1).mean()) / length, 4), nearest_two_channels=round(float(between.min()) / length, 4),
                any_two_channels=round(float(between.mean()) / length, 4), still_nearest_to_its_start=float((nearest == torch.arange(len(after))).float().mean()))


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("runs", nargs="+", metavar="RUN"); p.add_argument("--out", required=True)
    a = p.parse_args()
    table = pd.DataFrame([moved(r) for r in a.runs])
    table.to_csv(a.out, index=False); print(table.to_string())
