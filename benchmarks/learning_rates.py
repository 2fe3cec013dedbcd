"""How fast should the encoders of S-JEPA learn, and how fast the predictor? Trainings that differ in these two rates alone.

    python benchmarks/learning_rates.py --data simulated
    MNE_DATA=... python benchmarks/learning_rates.py --data real

Recordings, windows and the linear classifier are those of `pretraining_choices.py`. A row an epoch (0: before training) goes to results/learning_rates.csv; the last epoch's
has the classifier's AUC, as has epoch 0 and, without rates, a row for plain band powers. Trainings that are there already
are skipped, so one table holds one number of epochs.
"""
import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from pretraining_choices import features, probe, questions, stores
from sjepa_nb.pretraining import Pretraining, TrainingConfig, validate

RESULTS = Path(__file__).resolve().parent.parent / "results" / "learning_rates.csv"
RATES = (2e-4, 1), (5e-5, 1), (5e-5, 10), (1e-4, 10)  # of the encoders; multiple for the predictor
COLUMNS = "data", "learning_rate", "predictor_rate", "seed", "epoch", "step", "train_loss", "loss", "trivial", "positional", "spread", "rank", "probe_auc"


def band_powers(x):
    "Log power of each channel in 1-4, 4-8, 8-13 and 13-30 Hz: `(n, channels × 4)`."
    power, f = np.abs(np.fft.rfft(x * np.hanning(x.shape[-1]), axis=-1))**2, np.fft.rfftfreq(x.shape[-1], 1 / 128)
    return np.concatenate([np.log(power[..., (f >= low) & (f < high)].mean(-1)) for low, high in ((1, 4), (4, 8), (8, 13), (13, 30))], 1)


def add(rows):
    "Write rows behind those that are there."
    pd.DataFrame(rows, columns=COLUMNS).to_csv(RESULTS, mode="a", index=False, header=not RESULTS.exists(), float_format="%.5g")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", choices=["simulated", "real"], required=True)
    p.add_argument("--epochs", type=int, default=5, help="of about 75 batches of 16 windows (default 5)")
    p.add_argument("--seeds", type=int, default=2, help="trainings with each pair of rates (default 2)")
    a = p.parse_args()
    RESULTS.parent.mkdir(exist_ok=True)
    done = pd.read_csv(RESULTS) if RESULTS.exists() else pd.DataFrame(columns=COLUMNS)
    done = done[done.data == a.data]
    with tempfile.TemporaryDirectory() as d:
        store, split = stores(a.data, Path(d))
        x, y, group = questions(a.data, store, split)
        if not done.learning_rate.isna().any(): add([dict(data=a.data, probe_auc=probe(a.data, band_powers(x), y, group))])
        for seed in range(a.seeds):
            for rate, multiple in RATES:
                if ((done.learning_rate == rate) & (done.predictor_rate == multiple) & (done.seed == seed)).any(): continue
                config = TrainingConfig(epochs=a.epochs, patience=a.epochs, batch_size=16, learning_rate=rate, predictor_rate=multiple, seed=seed, precision="float32")
                run = Pretraining(store, split, Path(d) / f"{rate} {multiple} {seed}", config, progress=False)
                about = dict(data=a.data, learning_rate=rate, predictor_rate=multiple, seed=seed)
                begin = about | dict(epoch=0, step=0, probe_auc=probe(a.data, features(run.model, x), y, group), **validate(run.model, store, split["valid"], config))
                run.run()
                epochs = pd.read_csv(run.folder / "epochs.csv").assign(epoch=lambda t: t.epoch + 1, step=lambda t: t.step + 1, **about)
                epochs.loc[epochs.index[-1], "probe_auc"] = probe(a.data, features(run.model, x), y, group)
                add([begin, *epochs.to_dict("records")])
                print(epochs.iloc[-1].to_dict(), flush=True)


if __name__ == "__main__": main()
