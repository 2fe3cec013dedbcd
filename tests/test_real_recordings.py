"""The command on real recordings, where `MNE_DATA` holds them: one dataset, and files of two montages, rates and units at once."""
import json
from pathlib import Path

import numpy as np
import pandas as pd

from sjepa_nb.command_line import sjepa_pretrain
from sjepa_nb.store import WindowStore
from sjepa_nb.model import SJEPA

QUICK = ["--length", "1", "--epochs", "1", "--batch-size", "16", "--quiet"]


def test_physionet_by_name(real_data, tmp_path):
    "Subjects with all their runs train, rest-only subjects validate; the flat tails are left out and counted."
    out = tmp_path / "run"
    assert sjepa_pretrain(["--dataset", "PhysionetMI", "--subjects", "1", "38", "40", "--valid-subjects", "38", "40", *QUICK, "--out", str(out)]) == 0
    store = WindowStore(out / "windows.zarr")
    assert len(store.montage) == 64 and set(store.index.run[store.index.subject == "1"]) == {str(r) for r in range(1, 15)}
    assert set(store.index.run[store.index.subject == "38"]) == {"1", "2"}
    assert np.isfinite(pd.read_csv(out / "epochs.csv").loss).all()


def test_two_montages_rates_and_units_at_once(real_data, tmp_path, capsys):
    "Eight occipital channels at 256 Hz, uncalibrated, and 64 channels at 160 Hz train one model."
    files = [*sorted(real_data.glob("MNE-ssvepexo-data/**/*run1_raw.fif"))[:3], *(sorted(real_data.glob(f"MNE-eegbci-data/**/S{s:03d}R0[12].edf"))[0] for s in (1, 2, 38))]
    words = ["--recordings", *map(str, files), "--valid-subjects", "subject03", "S038", "--out", str(tmp_path / "run"), *QUICK]
    assert sjepa_pretrain(words) == 2
    assert "scale" in capsys.readouterr().err  # the uncalibrated ones are refused until one says what to do
    assert sjepa_pretrain([*words[:-len(QUICK) - 2], "--out", str(tmp_path / "both"), *QUICK, "--scale", "implausible", "--interval", "5"]) == 0
    model = SJEPA.load(tmp_path / "both" / "model.safetensors")
    data = json.loads((tmp_path / "both" / "run.json").read_text())["data"]
    store = WindowStore(tmp_path / "both" / "windows.zarr")
    assert sorted(len(m) for m in store.montages) == [8, 64] and len(model.montage) == len(data["channels"]) == 64
    start = SJEPA(store.montage).position.spatial
    assert (model.position.spatial - start).detach().abs().amax(1).min() > 0  # every channel's row was trained
