"""Recordings, windows, trials and the store: on made-up recordings, on files in the layout of OpenBMI, and on real recordings where MNE_DATA has them."""
import json
import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import time
import warnings
from functools import partial
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import pytest
import zarr
from moabb.datasets.base import BaseDataset
from scipy.io import savemat

import sjepa_nb.preprocessing
import sjepa_nb.store
import sjepa_nb.trials
from sjepa_nb.preprocessing import (
    Preprocessing, Recording, check_microvolts, preprocess, window_samples,
)
from sjepa_nb.sources import Source, file_sources, find_dataset, moabb_sources
from sjepa_nb.store import (
    WindowStore, build_store, cut_windows, plan_windows, split_by_subject, subjects_of,
)
from sjepa_nb.trials import load_trials
from sjepa_nb.montage import (
    LEE2019_CHANNELS, Montage, atlas, canonical_name, lee2019_montage, recording_montage,
    template_montage,
)

CHANNELS = ["Fp1", "Fz", "C3", "Cz", "C4", "Pz", "O1", "Oz"]
REAL = Path(os.environ.get("MNE_DATA", "/nonexistent"))
EEGMMIDB, EXO = REAL / "MNE-eegbci-data/files/eegmmidb/1.0.0", REAL / "MNE-ssvepexo-data/zenodo/2392979"
real = pytest.mark.skipif(not (EEGMMIDB.exists() and EXO.exists()), reason="MNE_DATA holds no eegmmidb and SSVEPExo recordings")
fork = multiprocessing.get_context("fork")


def make_raw(sfreq=200., seconds=40, seed=0, names=CHANNELS, unit=1e-6):
    "A made-up recording in volts: random walks that leak, 12 µV or so in the band."
    rng = np.random.default_rng(seed)
    f = np.fft.rfftfreq(int(sfreq * seconds), 1 / sfreq)
    x = np.fft.irfft(np.fft.rfft(rng.standard_normal((len(names), int(sfreq * seconds)))) / np.maximum(f, .2)**.7, int(sfreq * seconds))
    return mne.io.RawArray(x / x.std() * 20 * unit, mne.create_info(list(names), sfreq, "eeg"), verbose="ERROR")


def make_runs(subject, runs=2, **kw):
    for r in range(runs): yield dict(dataset="made", subject=subject, session="0", run=str(r)), make_raw(seed=10 * int(subject) + r, **kw)


def made_sources(subjects=("1", "2", "3"), runs=2, **kw):
    return [Source(f"made/{s}", "0", partial(make_runs, s, runs, **kw)) for s in subjects]


def build(path, sources=None, length=1., interval=2., **kw):
    return build_store(path, made_sources() if sources is None else sources, length, interval, progress=False, **kw)


def tree(folder):
    "Every file of a folder and its bytes."
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "A store that was built without interruption."
    path = tmp_path_factory.mktemp("whole") / "store"
    build(path)
    return path


# ---------------------------------------------------------------- preprocessing

@pytest.mark.parametrize("sfreq", [100., 160., 256., 1000.])
def test_preprocess_is_mne(sfreq):
    "The signal equals MNE's own methods one after the other, also above and below 128 Hz."
    raw = make_raw(sfreq, 20)
    rec = preprocess(raw)
    by_hand = raw.copy().set_eeg_reference("average", verbose="ERROR").filter(.5, 40., verbose="ERROR").resample(128., verbose="ERROR")
    np.testing.assert_allclose(rec.data, by_hand.get_data() * 1e6, atol=1e-4)
    assert rec.data.dtype == np.float32 and rec.data.shape == (8, 20 * 128) and not rec.bad.any()
    own = preprocess(raw, Preprocessing(reference=None))
    np.testing.assert_allclose(own.data - own.data.mean(0), rec.data, atol=1e-3)  # reference and filter commute


def test_filter_passes_and_stops():
    "A sine inside the band keeps its amplitude; drift and mains vanish."
    t = np.arange(200 * 60) / 200
    gains = {}
    for f in (.05, 1, 10, 38, 60, 90):
        x = np.zeros((2, len(t)))
        x[0] = 50e-6 * np.sin(2 * np.pi * f * t)
        x[1] = 5e-6 * np.sin(2 * np.pi * 10.3 * t)
        raw = mne.io.RawArray(x, mne.create_info(["Cz", "Pz"], 200., "eeg"), verbose="ERROR")
        gains[f] = preprocess(raw, Preprocessing(reference=None)).data[0, 1280:-1280].std() / (50 / np.sqrt(2))
    assert all(abs(gains[f] - 1) < .03 for f in (1, 10, 38)), gains
    assert all(gains[f] < .02 for f in (.05, 60, 90)), gains


def test_raw_is_not_changed():
    raw = make_raw()
    raw._data[0, 100] = np.nan
    before = raw.get_data().copy()
    preprocess(raw)
    np.testing.assert_array_equal(raw.get_data(), before)


@pytest.mark.parametrize("defect", ["nan", "inf", "flat", "annotated"])
def test_no_window_touches_a_defect(defect):
    "No window reaches a defect or its margin, the counts add up, and the rest of the signal is what it would have been."
    raw, a, b = make_raw(), 4000, 4200  # 20 to 21 s
    if defect in ("nan", "inf"): raw._data[3, a:b] = np.nan if defect == "nan" else np.inf
    elif defect == "flat": raw._data[:, a:b] = 0
    else: raw.set_annotations(mne.Annotations(20, 1, "bad_artifact"))
    rec, good = preprocess(raw), preprocess(make_raw())
    windows, offsets, rejected = cut_windows(rec, 152, 160)
    margin = 0 if defect == "annotated" else 128
    touch = [o for o in offsets if o < 21 * 128 + margin and o + 152 > 20 * 128 - margin]
    assert not touch and set(rejected) == {"nan" if defect == "inf" else defect}
    assert len(windows) + sum(rejected.values()) == 40 * 128 // 160
    assert np.isfinite(rec.data).all()
    same = cut_windows(good, 152, 160)[0][np.isin([o for o, _ in plan_windows(good, 152, 160)], offsets)]
    assert (windows - same).std() < .06 * same.std()


def test_flat_tail_leaves_no_cliff():
    "The end of zeros, below a channel with an offset, does not ring into the windows before it."
    raw = make_raw()
    raw._data += 1e-3  # 1000 µV of offset
    raw._data[:, -160:] = 0
    own = Preprocessing(reference=None)
    rec, good = preprocess(raw, own), preprocess(make_raw(), own)
    naive = raw.copy().filter(.5, 40., verbose="ERROR").resample(128., verbose="ERROR").get_data() * 1e6
    error = (rec.data - good.data)[:, ~rec.bad].std()
    assert error < .05 * good.data.std() and (naive - good.data)[:, ~rec.bad].std() > 5 * error


def test_annotations_keep_their_place_after_a_crop():
    raw = make_raw().set_annotations(mne.Annotations([20, 30], [1, 0], ["BAD_x", "EDGE boundary"]))
    for dated in (False, True):
        if dated: raw = make_raw().set_meas_date(0).set_annotations(mne.Annotations([20, 30], [1, 0], ["BAD_x", "EDGE boundary"], orig_time=0))
        marks = sjepa_nb.preprocessing._stretches(preprocess(raw.crop(10)).reasons["annotated"]) / 128
        np.testing.assert_allclose(marks[:, 0], [10, 20], atol=.02)
        assert marks[0, 1] == 11 and marks[1, 1] > marks[1, 0]


def test_channels_marked_bad_and_non_eeg_are_left_out():
    raw = make_raw(names=CHANNELS + ["EOG", "STI 014"]).set_channel_types({"EOG": "eog", "STI 014": "stim"}, verbose="ERROR")
    raw._data[2] = np.nan
    raw.info["bads"] = ["C3"]
    rec = preprocess(raw)
    assert rec.montage.names == tuple(c for c in CHANNELS if c != "C3") and rec.notes == ("marked as bad: C3",) and not rec.bad.any()


def test_position_comes_from_the_right_slice_of_loc():
    "loc[:3] is the channel, loc[3:6] its reference: with channels that no atlas knows, positions must differ, be finite, and be where the channels are."
    raw = make_raw(names=LEE2019_CHANNELS, seconds=10).set_montage(template_montage())
    mne.rename_channels(raw.info, {n: f"E{i}" for i, n in enumerate(LEE2019_CHANNELS)})
    for c in raw.info["chs"]: c["loc"][3:6] = [.01, .02, .03]
    positions = preprocess(raw).montage.positions
    assert np.isfinite(positions).all() and np.linalg.norm(positions - lee2019_montage().positions, axis=1).max() < .05


# ---------------------------------------------------------------- bad input

def spoiled(what):
    raw = make_raw()
    if what == "flat channel": raw._data[4] = 3e-6
    if what == "nan channel": raw._data[4] = np.nan
    if what == "mostly flat channel": raw._data[4, 100:6000] = 0
    if what == "all zeros": raw._data[:] = 0
    if what == "all nan": raw._data[:] = np.nan
    if what == "microvolts": raw._data *= 1e6
    if what == "uncalibrated": raw._data *= 300
    if what == "nanovolts": raw._data *= 1e-3
    if what == "duplicates": raw.rename_channels({"C3": "T3", "C4": "T7"})
    if what == "no positions": raw.rename_channels({"C3": "X1", "C4": "X2"})
    if what == "no eeg": raw.set_channel_types(dict.fromkeys(CHANNELS, "misc"), verbose="ERROR")
    if what == "slow": raw = make_raw(64.)
    if what == "one channel": raw.pick(["Cz"])
    return raw


@pytest.mark.parametrize("what, words", [
    ("flat channel", "flat or NaN for most of the recording: C4; mark as bad"), ("nan channel", "flat or NaN for most of the recording: C4"),
    ("mostly flat channel", "flat or NaN for most of the recording: C4"), ("all zeros", "no signal"), ("all nan", "no signal"),
    ("microvolts", "looks like microvolts where volts are due"), ("uncalibrated", "not calibrated"), ("nanovolts", "not calibrated"),
    ("duplicates", "T3 and T7 are both T7"), ("no positions", "channels without a position: X1, X2"), ("no eeg", "no EEG channel"),
    ("slow", "holds nothing above 32 Hz"), ("one channel", "average reference of one channel")])
def test_recordings_that_are_refused(what, words):
    with pytest.raises(ValueError, match=words): preprocess(spoiled(what), Preprocessing(bad_channels="raise"))


def test_what_can_be_mended_by_an_option():
    rec = preprocess(spoiled("uncalibrated"), Preprocessing(scale="implausible"))
    q = np.percentile(rec.data, [25, 75], axis=1)
    np.testing.assert_allclose((q[1] - q[0]) / 1.349, 10, rtol=1e-4)
    assert "standardised" in rec.notes[0]
    plain = preprocess(make_raw(), Preprocessing(scale="implausible"))
    np.testing.assert_array_equal(plain.data, preprocess(make_raw()).data)  # a plausible recording is not touched
    assert abs(preprocess(make_raw(), Preprocessing(scale="always")).data.std() - 10) < 1
    rec = preprocess(spoiled("no positions"), Preprocessing(on_missing="drop"))
    assert len(rec.montage) == 6 and "2 channels without a position" in rec.notes[0]


@pytest.mark.parametrize("kw, words", [(dict(reference="Cz"), "reference is"), (dict(scale="no"), "scale is"), (dict(h_freq=70.), "does not hold"), (dict(l_freq=0.), "does not hold")])
def test_preprocessing_refuses_nonsense(kw, words):
    with pytest.raises(ValueError, match=words): Preprocessing(**kw)


@pytest.mark.parametrize("x, words", [
    (np.random.default_rng(0).normal(0, 1e-5, (2, 152)), "looks like volts"), (np.random.default_rng(0).normal(0, 1e7, (2, 152)), "no EEG"),
    (np.full((2, 152), np.nan), "NaN"), (np.full((2, 152), np.inf), "NaN or infinite"), (np.zeros((2, 152)), "flat")])
def test_check_microvolts(x, words):
    with pytest.raises(ValueError, match=words): check_microvolts(x)
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError, match=words): check_microvolts(torch.tensor(x, requires_grad=True))
    check_microvolts(torch.randn(3, 2, 152) * 20)


@pytest.mark.parametrize("call, words", [
    (lambda r: cut_windows(r, 151), "fewer than 152 samples: 151"), (lambda r: cut_windows(r, 4), "a length in seconds is a float: 4.0"),
    (lambda r: cut_windows(r, .9), "fewer than 152 samples"), (lambda r: window_samples(0), "fewer than 152 samples"), (lambda r: cut_windows(r, 1., 0.), "at least one sample"),
    (lambda r: cut_windows(r, np.nan), "finite number, not nan"), (lambda r: cut_windows(r, np.inf), "finite number, not inf"),
    (lambda r: cut_windows(r, 1., np.nan), "at least one sample and finite, not nan"), (lambda r: cut_windows(r, 1., np.inf), "finite, not inf")])
def test_lengths_that_are_refused(call, words):
    with pytest.raises(ValueError, match=words): call(preprocess(make_raw(seconds=10)))


def test_nan_is_never_passed_on_in_silence():
    rec = preprocess(make_raw())
    rec.data[2, 1000] = np.nan  # a defect that `reasons` does not know
    with pytest.raises(ValueError, match="NaN or infinite"): cut_windows(rec, 1., 1.)


def write_edf(path, seconds=20, sfreq=160, names=CHANNELS, announced=None):
    "A small EDF file: 16-bit samples, records of one second; `announced` records in its header."
    x = np.clip(make_raw(sfreq, seconds, names=names).get_data() * 1e6, -3276, 3276)
    cell = lambda v, n: str(v).ljust(n)[:n].encode()
    n = len(names)
    head = b"".join([cell(0, 8), cell("X X X X", 80), cell("Startdate X X X X", 80), cell("01.01.20", 8), cell("00.00.00", 8), cell(256 * (n + 1), 8), cell("", 44), cell(announced or seconds, 8), cell(1, 8), cell(n, 4)])
    columns = [(16, names), (80, [""] * n), (8, ["uV"] * n), (8, [-3276.8] * n), (8, [3276.7] * n), (8, [-32768] * n), (8, [32767] * n), (80, [""] * n), (8, [sfreq] * n), (32, [""] * n)]
    head += b"".join(cell(v, w) for w, values in columns for v in values)
    body = np.round(x * 10).astype("<i2").reshape(n, seconds, sfreq).transpose(1, 0, 2).tobytes()
    path.write_bytes(head + body)
    return path


def test_bad_files_each_get_a_line(tmp_path):
    good = write_edf(tmp_path / "s1.edf")
    assert len(file_sources([good])) == 1
    (tmp_path / "notes.txt").write_text("not a recording")
    (tmp_path / "notes.edf").write_text("not a recording either")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG....")
    (tmp_path / "empty.edf").touch()
    cut = tmp_path / "cut.edf"
    cut.write_bytes(good.read_bytes()[:-20_000])
    (tmp_path / "cut_raw.fif").touch()
    make_raw().save(tmp_path / "good_raw.fif", verbose="ERROR")
    (tmp_path / "cut_raw.fif").write_bytes((tmp_path / "good_raw.fif").read_bytes()[:50_000])
    spoiled("no eeg").save(tmp_path / "misc_raw.fif", verbose="ERROR")
    names = ["notes.txt", "notes.edf", "picture.png", "empty.edf", "cut.edf", "cut_raw.fif", "misc_raw.fif", "gone.edf"]
    with pytest.raises(ValueError) as e: file_sources([good] + [tmp_path / n for n in names])
    lines = str(e.value).splitlines()
    assert [Path(line.split(": ")[0]).name for line in lines] == names
    words = ["not a recording"] * 3 + ["is empty", "truncated", "truncated", "no EEG channel", "no such file"]
    assert all(w in line for w, line in zip(words, lines)), lines
    with pytest.raises(ValueError, match="given twice"): file_sources([good, good])
    with pytest.raises(ValueError, match="no files"): file_sources([])


def test_whose_recordings_files_are(tmp_path):
    paths = ["mmi/1.0.0/S001/S001R01.edf", "mmi/1.0.0/S001/S001R02.edf", "exo/subject01_run1.edf", "study/sub-03/ses-2/eeg/sub-03_ses-2_task-a_eeg.edf", "lee/sess01_subj02_EEG.edf", "p7/day1/rest.edf", "p7/day2/rest.edf"]
    for p in paths:
        (tmp_path / p).parent.mkdir(parents=True, exist_ok=True)
        write_edf(tmp_path / p, 8)
    with pytest.warns(UserWarning, match="rest.edf, rest.edf; give subject_regex"): labels = [next(s.read())[0] for s in file_sources([tmp_path / p for p in paths])]
    assert [v["subject"] for v in labels] == ["S001", "S001", "subject01", "03", "subj02", "day1-rest", "day2-rest"]
    assert [v["dataset"] for v in labels] == ["mmi", "mmi", "exo", "study", "lee", "p7", "p7"] and labels[3]["session"] == "ses-2"
    labels = [next(s.read())[0] for s in file_sources([tmp_path / p for p in paths[-2:]], r"/(p\d+)/")]
    assert [v["subject"] for v in labels] == ["p7", "p7"]
    for regex, words in [(r"patient(\d+)", "finds no subject"), (r"mmi|patient(\d+)", "finds no subject"), (r"p(\d+", "^subject_regex 'p.* is not a regular expression: [^\n]*$")]:
        with pytest.raises(ValueError, match=words): file_sources([tmp_path / paths[0]], regex)


def test_one_person_in_two_folders(tmp_path):
    "By the regular expression, one person whatever the folder; a folder and a file of two people are refused."
    paths = [tmp_path / p for p in ("left/eeg/P1.edf", "right/eeg/P1.edf", "right/eeg/P2.edf", "S001/S002R01.edf", "subject3/s03_rest.edf")]
    for p in paths:
        p.parent.mkdir(parents=True, exist_ok=True)
        write_edf(p, 8)
    store = build(tmp_path / "store", file_sources(paths[:3], r"P(\d)"))
    assert set(subjects_of(store.index)) == {"recordings/1", "recordings/2"}
    assert list(dict.fromkeys(store.index.run)) == ["left-eeg-P1", "right-eeg-P1", "P2"]
    with pytest.raises(ValueError, match="S002R01.edf: its path says two subjects, S001 and S002: give subject_regex"): file_sources(paths[3:])
    assert next(file_sources(paths[4:])[0].read())[0]["subject"] == "subject3"  # the folder's word, where they agree


def test_wrong_dataset_and_subject_names():
    with pytest.raises(ValueError, match="no dataset 'PhysioNetMI'; close: PhysionetMI"): moabb_sources("PhysioNetMI")
    with pytest.raises(ValueError, match="no dataset 'xyzzy'$"): find_dataset("xyzzy")
    with pytest.raises(ValueError, match="has no subject 110: it has 109, 1 to 109"): moabb_sources("PhysionetMI", [1, 110])
    assert [s.name for s in moabb_sources("Lee2019_MI", "12")] == [s.name for s in moabb_sources("Lee2019_MI", 12)] == ["Lee2019-MI/12"]
    with pytest.raises(ValueError, match="names or whole numbers, not 0.5"): moabb_sources("Lee2019_MI", .5)


def put_in_cache(root, subject, runs):
    folder = root / f"MNE-eegbci-data/files/eegmmidb/1.0.0/S{subject:03d}"
    folder.mkdir(parents=True)
    return [write_edf(folder / f"S{subject:03d}R{r:02d}.edf", 8) for r in runs]


@pytest.mark.parametrize("harm, words", [("cut", "the file is truncated"), ("empty", "the file is empty"), ("garbage", "not a recording")])
def test_broken_files_in_the_cache(tmp_path, monkeypatch, harm, words):
    "A damaged file of eegmmidb is an error of one line with subject and file; subjects of whom a part is there are listed once."
    monkeypatch.setenv("MNE_DATA", str(tmp_path))
    monkeypatch.setenv("MNE_DATASETS_EEGBCI_PATH", str(tmp_path))
    file = put_in_cache(tmp_path, 1, [1])[0]
    put_in_cache(tmp_path, 2, [1, 2])
    file.write_bytes(dict(cut=file.read_bytes()[:-9000], empty=b"", garbage=b"not a recording at all")[harm])
    with pytest.warns(UserWarning) as said: sources = moabb_sources("PhysionetMI", [1, 2])
    assert len(said) == 1 and "(subject 1: 1 of 14 runs, 2: 2 of 14 runs)" in str(said[0].message)
    with pytest.raises(ValueError, match=f"^PhysionetMotorImagery/1 cannot be read: S001R01.edf: {words}[^\n]*$"): build(tmp_path / "store", sources)
    assert build(tmp_path / "other", sources[1:]).index.run.unique().tolist() == ["1", "2"]


# ---------------------------------------------------------------- windows

def test_every_length_sees_as_many_windows():
    "For runs of any duration, windows up to the interval's length come in equal numbers, and never leave the run."
    for n in (2162, 2163, 2164, 9760, 20_000, 4326, 4327):
        rec = Recording(np.ones((1, n), np.float32), None)
        plans = [plan_windows(rec, s) for s in (1., 4., 16.)]
        assert [p == plans[0] for p in plans] == [True] * 3 and len(plans[0]) == int(n / 2163.2 + .0005)
        assert all(s + 2072 <= n for s, _ in plans[2])
    rec = Recording(np.ones((1, 20_000), np.float32), None)
    starts = np.array([s for s, _ in plan_windows(rec, 16., 8.)])  # windows that overlap
    assert (np.diff(starts) == 1024).all() and starts[-1] + 2072 <= 20_000 < starts[-1] + 1024 + 2072
    assert plan_windows(rec, 536, 1024) == plan_windows(rec, 4., 8.)


# ---------------------------------------------------------------- the store

def test_store_describes_itself(whole):
    store = WindowStore(whole)
    assert list(store.index.columns) == ["dataset", "subject", "session", "run", "recording", "montage", "offset", "row"]
    assert len(store) == 6 * 20 and store.sfreq == 128 and store.length == 152
    about = json.loads((whole / "made_sub-1_ses-0_run-0/zarr.json").read_text())["attributes"]
    assert about["channels"] == CHANNELS and np.shape(about["positions"]) == (8, 3) and about["unit"] == "uV"
    assert about["plan"]["preprocessing"] == dict(reference="average", l_freq=.5, h_freq=40., sfreq=128., scale="raise", on_missing="raise", bad_channels="drop")
    assert set(store.about["packages"]) == {"mne", "moabb", "numpy", "scipy", "zarr"}
    assert str(whole.parent) not in "".join(p.read_text() for p in whole.rglob("zarr.json"))  # no paths inside
    assert "120 windows of 152 samples" in store.describe() and store.verify() == []
    # windows are bit for bit what was cut
    for i, (labels, raw) in enumerate(make_runs("1")):
        rows = np.flatnonzero((store.index.subject == "1") & (store.index.run == str(i)))
        np.testing.assert_array_equal(store.read(rows), cut_windows(preprocess(raw), 1., 2.)[0])
    shuffled = np.random.default_rng(0).permutation(len(store))[:50]
    np.testing.assert_array_equal(store.read(shuffled), np.stack([store[int(i)][0] for i in shuffled]))
    # another program reads it without this package
    assert zarr.open_group(whole, mode="r")["made_sub-1_ses-0_run-0/windows"].shape == (20, 8, 152)


def test_only_the_chunks_asked_for_are_read(whole, tmp_path):
    "With every other chunk gone, a window of the one that is left can still be read."
    path = tmp_path / "store"
    shutil.copytree(whole, path)
    for c in path.glob("*/windows/c/*/0/0"):
        if "run-0" not in str(c) or c.parts[-3] != "1": c.unlink()
    store = WindowStore(path)
    assert np.isfinite(store[8][0]).all() and np.isfinite(store.read([8, 15])).all()
    with pytest.raises(ValueError, match="damaged store"): store[0]


def test_two_processes_give_the_same_bytes(tmp_path):
    files = [write_edf(tmp_path / f"s{i}.edf", 20 + i) for i in range(4)]
    for n in (1, 2): build(tmp_path / f"store{n}", file_sources(files), n_jobs=n)
    assert tree(tmp_path / "store1") == tree(tmp_path / "store2")


def test_two_builds_at_once(whole, tmp_path):
    "Independent builds of one path wait for each other; the store is whole, and nothing else is left."
    children = [fork.Process(target=build, args=(tmp_path / "store",)) for _ in range(3)]
    for c in children: c.start()
    for c in children: c.join(60)
    assert [c.exitcode for c in children] == [0, 0, 0]
    assert tree(tmp_path / "store") == tree(whole)
    assert {p.name for p in tmp_path.iterdir()} <= {"store", ".store.lock"}


def _die_at(path, moment, before):
    "Build, and be killed before or after the `moment`-th step that the file system sees."
    count = [0]
    def killing(call):
        def wrapped(*a, **kw):
            count[0] += 1
            if before and count[0] == moment: os.kill(os.getpid(), signal.SIGKILL)
            res = call(*a, **kw)
            if not before and count[0] == moment: os.kill(os.getpid(), signal.SIGKILL)
            return res
        return wrapped
    os.replace, zarr.create_group, zarr.consolidate_metadata, zarr.Array.__setitem__ = (killing(f) for f in (os.replace, zarr.create_group, zarr.consolidate_metadata, zarr.Array.__setitem__))
    Path.unlink, shutil.rmtree = killing(Path.unlink), killing(shutil.rmtree)
    build(path)


@pytest.mark.parametrize("before", [True, False])
def test_killed_at_any_moment(whole, tmp_path, before):
    "Whenever a build is killed, there is no store at its path; the next build gives the same bytes."
    expected, killed = tree(whole), 0
    for moment in [1, 2, 3, 4, 6, 9, 14, 23, *range(30, 50, 3)]:
        path = tmp_path / f"store{moment}"
        child = fork.Process(target=_die_at, args=(path, moment, before))
        child.start(); child.join(60)
        if child.exitcode == -signal.SIGKILL:
            killed += 1
            if path.exists(): assert WindowStore(path).verify() == []  # killed after the last rename: whole
            elif moment > 2:
                with pytest.raises(ValueError, match="interrupted"): WindowStore(f"{path}.partial")
        build(path)
        assert tree(path) == expected, f"killed at {moment}"
        assert not path.with_name(path.name + ".partial").exists()
        shutil.rmtree(path)
    assert killed > 8


def test_resuming_keeps_what_is_whole(tmp_path):
    "After an interruption only what is missing is read again."
    seen = []
    def reading(subject, fail):
        for labels, raw in make_runs(subject):
            seen.append((subject, labels["run"]))
            if fail and labels["run"] == "1": raise RuntimeError("pulled the plug")
            yield labels, raw
    sources = lambda fail: [Source("made/1", "0", partial(reading, "1", False)), Source("made/2", "0", partial(reading, "2", fail))]
    with pytest.raises(RuntimeError): build(tmp_path / "store", sources(True))
    assert not (tmp_path / "store").exists()
    seen.clear()
    made = []
    original, sjepa_nb.store._write_run = sjepa_nb.store._write_run, lambda folder, *a: made.append(folder.name) or original(folder, *a)
    try: build(tmp_path / "store", sources(False))
    finally: sjepa_nb.store._write_run = original
    assert seen == [("2", "0"), ("2", "1")] and made == ["made_sub-2_ses-0_run-1"]
    # with another plan it starts clean
    with pytest.raises(RuntimeError): build(tmp_path / "other", sources(True))
    build(tmp_path / "other", sources(False), interval=4.)
    assert len(WindowStore(tmp_path / "other")) == 4 * 10


def test_a_store_behind_a_url(whole):
    "What fsspec opens (an object store, a web server) is read like a folder; here, memory."
    import fsspec
    memory = fsspec.filesystem("memory")
    memory.put(f"{whole}/", "/bucket/windows.zarr", recursive=True)
    here, there = WindowStore(whole), WindowStore("memory://bucket/windows.zarr")
    np.testing.assert_array_equal(there.read([0, len(here) - 1]), here.read([0, len(here) - 1]))
    assert there.describe() == here.describe() and there.verify() == []
    with pytest.raises(ValueError, match="memory://bucket/nothing is not a window store"): WindowStore("memory://bucket/nothing")


@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_a_damaged_chunk_is_found(whole, tmp_path, harm):
    path = tmp_path / "store"
    shutil.copytree(whole, path)
    chunk = path / "made_sub-2_ses-0_run-1/windows/c/1/0/0"
    content = bytearray(chunk.read_bytes())
    if harm == "flip": content[len(content) // 2] ^= 1
    chunk.write_bytes(content[:-7] if harm == "cut" else content)
    if harm == "remove": chunk.unlink()
    store = WindowStore(path)
    i = int(np.flatnonzero(store.index.recording == "made_sub-2_ses-0_run-1")[9])
    for read in (lambda: store[i], lambda: store.read([0, i])):
        with pytest.raises(ValueError, match="damaged store: made_sub-2_ses-0_run-1/windows/c/1/0/0; build it again"): read()
    assert store.verify() == ["made_sub-2_ses-0_run-1/windows/c/1/0/0"]
    assert np.isfinite(store[0][0]).all()


def test_paths_that_are_taken(whole, tmp_path):
    path = tmp_path / "store"
    shutil.copytree(whole, path)
    before = tree(path)
    assert len(build(path)) == 120  # the same plan: reopened
    for kw, words in [(dict(length=4.), "length 152, now 536"), (dict(interval=3.), "interval 2.0, now 3.0"), (dict(preprocessing=Preprocessing(reference=None)), "reference 'average', now None"),
                      (dict(sources=made_sources("1234")), "without made/4"), (dict(sources=made_sources("12")), "with made/3"),
                      (dict(sources=[Source(s.name, "1", s.read) for s in made_sources()]), "made/1 has other options")]:
        with pytest.raises(ValueError, match=words): build(path, **kw)
    assert tree(path) == before
    assert len(build(path, made_sources("12"), overwrite=True)) == 80
    for other in (tmp_path, tmp_path / "gone"):
        with pytest.raises(ValueError, match="is not a window store"): WindowStore(other)
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday/photo.jpg").touch()
    with pytest.raises(ValueError, match="is not a window store"): build(tmp_path / "holiday", overwrite=True)  # other people's folders are left alone
    assert (tmp_path / "holiday/photo.jpg").exists()


def test_sources_that_are_refused(tmp_path):
    with pytest.raises(ValueError, match="given twice"): build(tmp_path / "s", made_sources("11"))
    with pytest.raises(ValueError, match="no sources"): build(tmp_path / "s", [])
    with pytest.raises(ValueError, match="two sources hold the same run"): build(tmp_path / "s", [Source("a", "0", made_sources("1")[0].read), Source("b", "0", made_sources("1")[0].read)])
    with pytest.raises(ValueError, match="made/1, session 0, run 0: median SD .* looks like microvolts"): build(tmp_path / "t", made_sources("1", unit=1.))
    with pytest.raises(ValueError, match="no window at all: 6 runs"): build(tmp_path / "u", interval=100.)
    assert not any((tmp_path / n).exists() for n in "stu")


def _small_files(path, messages):
    "Build on a disk where no file may pass 20 kB."
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try: build(path)
    except OSError as e: messages.put(str(e))


def test_folders_that_cannot_be_written(whole, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot write the store"): build(tmp_path / "file/store")
    if Path("/proc/1").exists():
        with pytest.raises(OSError, match="cannot write the store"): build("/proc/sjepa/store")
    messages = fork.Queue()
    child = fork.Process(target=_small_files, args=(tmp_path / "full", messages))
    child.start(); child.join(60)
    assert "no room left for the store" in messages.get(timeout=5)
    assert not (tmp_path / "full").exists()
    build(tmp_path / "full")  # room again
    assert tree(tmp_path / "full") == tree(whole)


def test_workers_read_the_store(whole):
    "A store that was read in this process is read by workers too, forked and pickled."
    from torch.utils.data import DataLoader
    store = WindowStore(whole)
    here = [store[i][0] for i in range(len(store))]
    there = list(DataLoader(store, batch_size=None, num_workers=2, multiprocessing_context="fork"))
    assert len(there) == 120 and all(np.array_equal(a, np.asarray(b)) for a, (b, _) in zip(here, there))
    copy = pickle.loads(pickle.dumps(store))
    assert not copy._arrays and np.array_equal(copy[5][0], here[5])


def test_two_montages_in_one_store(tmp_path):
    other = [Source("few/1", "0", lambda: iter([(dict(dataset="few", subject="1", session="0", run="0"), make_raw(names=["Oz", "O2", "Pz"], sfreq=256.))]))]
    store = build(tmp_path / "store", made_sources("1") + other)
    assert [len(m) for m in store.montages] == [8, 3] and store.montage.names == (*CHANNELS, "O2")
    assert store[0][0].shape == (8, 152) and store[len(store) - 1][0].shape == (3, 152) and store[len(store) - 1][1] == 1
    with pytest.raises(ValueError, match="different montages"): store.read([0, len(store) - 1])


def _slow_source(pids, subject):
    if subject == "1":
        while not list(pids.iterdir()): time.sleep(.05)
        yield from make_runs("1")
    else:
        (pids / str(os.getpid())).touch()
        time.sleep(60)


def test_no_worker_outlives_a_build(tmp_path, monkeypatch):
    "An interrupt between two results: the processes are gone, and with them whatever they would have written."
    def interrupted(work, **kw):
        yield next(iter(work))
        raise KeyboardInterrupt
    monkeypatch.setattr(D, "tqdm", interrupted)
    (tmp_path / "pids").mkdir()
    with pytest.raises(KeyboardInterrupt) as e: build(tmp_path / "store", [Source(f"made/{s}", "0", partial(_slow_source, tmp_path / "pids", s)) for s in "12"], n_jobs=2)
    stat = Path("/proc", next((tmp_path / "pids").iterdir()).name, "stat")
    alive = lambda: stat.exists() and " Z " not in stat.read_text()
    for _ in range(50):
        if not alive(): break
        time.sleep(.1)
    assert not alive() and e.tb  # while the traceback, which keeps joblib's generator alive, is still held


def test_one_name_at_two_places():
    "Two nets with an E1 each cannot be one montage; a known name that is digitised elsewhere gets its own."
    lee = lee2019_montage()
    moved = lee.positions.copy()
    moved[[3, 5]] += [0, .25, 0]
    assert lee.union(Montage(lee.names, lee.positions + .05)).names == lee.names
    with pytest.raises(ValueError, match="the same name at different places in two recordings: F3, F4; rename"): lee.union(Montage(lee.names, moved))
    cap = mne.channels.make_standard_montage("biosemi128")
    info = mne.create_info(cap.ch_names, 128., "eeg").set_montage(cap)
    montage, names = recording_montage(info)
    assert names == cap.ch_names and {"A1*", "A2*"} <= set(montage.names) and not {"A1", "A2"} & set(montage.names)
    assert np.linalg.norm(montage.select(["A1*"]).positions - atlas()["Cz"]) < .4 and not any(canonical_name(n) for n in montage.names if n.endswith("*"))
    few, _ = recording_montage(mne.pick_info(info, range(8)))
    assert {"A1", "A2"} <= set(few.names)  # eight places do not tell where the head is
    turned = mne.create_info(list(LEE2019_CHANNELS), 128., "eeg").set_montage(template_montage())
    for c in turned["chs"]: c["loc"][:3] = c["loc"][[1, 0, 2]] * [-1, 1, 1]
    assert recording_montage(turned)[0] == lee  # another frame: names hold
    assert recording_montage(mne.create_info(list(LEE2019_CHANNELS), 128., "eeg").set_montage(template_montage()))[0] == lee


# ---------------------------------------------------------------- splits

def test_families_of_datasets_and_ways_to_write_a_subject():
    names = ["ErpCore2021-N170", "ErpCore2021-P3", "Shin2017A", "Shin2017B", "MAMEM1", "MAMEM3", "CastillosCVEP40", "CastillosBurstVEP100", "Dreyer2023", "Dreyer2023A", "PhysionetMotorImagery", "Lee2019-MI"]
    index = pd.DataFrame(dict(dataset=np.repeat(names, 2), subject=["1", "12"] * len(names)))
    assert {s.split("/")[0] for s in subjects_of(index)} == {"ErpCore2021", "Shin2017", "MAMEM", "Castillos", "Dreyer2023", "PhysionetMotorImagery", "Lee2019"}
    people = lambda valid, **kw: set(subjects_of(index.iloc[split_by_subject(index, valid, **kw)["valid"]]))
    for valid, who in [("PhysionetMI/1", "PhysionetMotorImagery/1"), ("Lee2019_MI/1", "Lee2019/1"), ("Lee2019-MI/12", "Lee2019/12"), ("Lee2019/1", "Lee2019/1"), ("ErpCore2021_N170/12", "ErpCore2021/12"), ("Shin2017B/1", "Shin2017/1")]:
        assert people([valid]) == people(valid) == {who}
    assert people("12") == people(12) == people(["12"]) == people(np.int64(12)) and len(people("12")) == 7
    assert len(people(np.float32(.5), test="MAMEM1/1")) == 6
    with pytest.raises(ValueError, match="no windows of subject Kalunga2016/1: .* \\(give dataset/subject, or the subject alone\\)"): people(["Kalunga2016/1"])


def test_nobody_is_in_two_parts():
    rng = np.random.default_rng(0)
    index = pd.DataFrame(dict(dataset=rng.choice(["Lee2019-MI", "Lee2019-ERP", "Lee2019-SSVEP", "Kalunga2016"], 2000), subject=rng.integers(1, 13, 2000).astype(str)))
    for seed in range(20):
        parts = split_by_subject(index, .25, test=["3", "Lee2019/4"], seed=seed)
        people = {k: set(subjects_of(index.iloc[v])) for k, v in parts.items()}
        assert not people["train"] & people["valid"] and not people["train"] & people["test"] and not people["valid"] & people["test"]
        assert people["test"] == {"Lee2019/3", "Kalunga2016/3", "Lee2019/4"} and "Kalunga2016/4" in people["train"] | people["valid"]
        assert sorted(np.concatenate(list(parts.values()))) == list(range(2000))
    # one person in three paradigms is one person
    parts = split_by_subject(index, ["Lee2019/7"])
    assert set(index.iloc[parts["valid"]].dataset) == {"Lee2019-MI", "Lee2019-ERP", "Lee2019-SSVEP"}
    same = [split_by_subject(index, .25, seed=3)["valid"].tolist() for _ in range(2)]
    assert same[0] == same[1] != split_by_subject(index, .25, seed=4)["valid"].tolist()


@pytest.mark.parametrize("valid, test, words", [(["9"], (), "no windows of subject 9: there are d/1, d/2"), (["1", "2"], (), "no subject is left for train"), ([], (), "no subject is left for valid"),
                                                (["1"], ["1"], "in two parts: d/1"), (1.5, (), "between 0 and 1"), (np.nan, (), "between 0 and 1"), (np.float32(0), (), "between 0 and 1"), (["1"], .5, "names or whole numbers"), ("12", (), "no windows of subject 12"), (.5, ["1", "2"], "no subject is left for train and valid")])
def test_splits_that_are_refused(valid, test, words):
    with pytest.raises(ValueError, match=words): split_by_subject(pd.DataFrame(dict(dataset="d", subject=["1", "2"])), valid, test)


# ---------------------------------------------------------------- Lee2019 through MOABB's own class

CLASSES = dict(MI=[(1, "right"), (2, "left")], ERP=[(1, "target"), (2, "nontarget")], SSVEP=[(1, "up"), (2, "left"), (3, "right"), (4, "down")])
SPACING = dict(MI=6, ERP=2, SSVEP=6)


def lee_run(task, seed, seconds=40, fs=250):
    "One run in the layout of OpenBMI: `x` (samples, 62) in µV."
    rng = np.random.default_rng(seed)
    x = make_raw(fs, seconds, seed, LEE2019_CHANNELS, unit=1.).get_data().T
    t = np.arange(2, seconds - 5, SPACING[task]) * fs
    text = lambda names: np.array([[np.array([n])] for n in names], dtype=object).T
    classes = np.empty((len(CLASSES[task]), 2), dtype=object)
    for i, (v, c) in enumerate(CLASSES[task]): classes[i] = [np.array([[v]]), np.array([c])]
    n = len(classes)
    return dict(x=x, t=t[None], fs=np.array([[fs]]), y_dec=(np.arange(len(t)) % n + 1)[None], chan=text(LEE2019_CHANNELS), EMG=rng.normal(0, 10, (len(x), 4)), EMG_index=text(["EMG1", "EMG2", "EMG3", "EMG4"]),
                pre_rest=x[:fs], post_rest=x[:fs], **{"class": classes})


@pytest.fixture(scope="module")
def lee_files(tmp_path_factory):
    "MOABB's cache with subjects 1 and 2 of Lee2019, both sessions, three paradigms."
    root = tmp_path_factory.mktemp("mne_data")
    for k, task in enumerate(CLASSES):
        for subject in (1, 2):
            for session in (1, 2):
                path = root / f"MNE-lee2019-{task.lower()}-data/gigadb-datasets/live/pub/10.5524/100001_101000/100542/session{session}/s{subject}/sess{session:02d}_subj{subject:02d}_EEG_{task}.mat"
                path.parent.mkdir(parents=True)
                savemat(path, {f"EEG_{task}_{p}": lee_run(task, 1000 * k + 100 * subject + 10 * session + i) for i, p in enumerate(("train", "test"))})
    return root


@pytest.fixture
def lee(lee_files, monkeypatch):
    "MOABB reads that cache, and leaves the user's own configuration as it is."
    config = Path(mne.get_config_path())
    before = config.read_bytes() if config.exists() else None
    monkeypatch.setenv("MNE_DATA", str(lee_files))
    monkeypatch.setenv("MOABB_DOWNLOAD_PROVIDER", "upstream")
    yield
    assert (config.read_bytes() if config.exists() else None) == before


def test_lee2019_becomes_one_store(lee, tmp_path):
    "Three paradigms, two subjects, two sessions, both runs; 62 channels in the order of the weights, at their places; microvolts."
    sources = [s for task in CLASSES for s in moabb_sources(f"Lee2019_{task}", [1, 2])]
    store = build(tmp_path / "store", sources, 4., 8.)
    index = store.index
    assert set(index.dataset) == {"Lee2019-MI", "Lee2019-ERP", "Lee2019-SSVEP"} and set(index.run) == {"1train", "4test"} and set(index.session) == {"1", "2"}
    assert index.groupby(["dataset", "subject", "session", "run"]).size().tolist() == [5] * 24
    assert store.montages == [lee2019_montage()] and store.montage.names == LEE2019_CHANNELS
    assert np.isfinite(store.montage.positions).all()
    x = store.read(range(5))
    assert x.shape == (5, 62, 536) and 2 < x.std() < 40
    check_microvolts(x)
    # the first window is the file's own numbers, filtered
    raw = make_raw(250, 40, 1 * 100 + 10, LEE2019_CHANNELS)
    row = int(np.flatnonzero((index.dataset == "Lee2019-MI") & (index.subject == "1") & (index.session == "1") & (index.run == "1train"))[0])
    np.testing.assert_allclose(store[row][0], preprocess(raw).data[:, :536], atol=1e-3)
    # a person stays on one side, whatever the paradigm
    parts = split_by_subject(index, ["2"])
    assert set(index.iloc[parts["valid"]].dataset) == set(index.dataset) and set(index.iloc[parts["valid"]].subject) == {"2"}


@pytest.mark.parametrize("task, n, classes", [("MI", 536, {"left_hand", "right_hand"}), ("ERP", 152, {"Target", "NonTarget"}), ("SSVEP", 536, {"5.45", "6.67", "8.57", "12.0"})])
def test_lee2019_trials(lee, task, n, classes):
    X, y, meta, montage = load_trials(f"Lee2019_{task}", task, [1])
    per_run = len(np.arange(2, 35, SPACING[task]))
    runs = 2 if task == "ERP" else 1  # the test runs of MI and SSVEP carry no usable labels, and MOABB leaves them out
    assert X.shape == (2 * runs * per_run, 62, n) and X.dtype == np.float32 and len(meta) == len(y) == len(X)
    assert set(y) == classes and montage == lee2019_montage() and {"subject", "session", "run"} <= set(meta)
    check_microvolts(X)
    np.testing.assert_allclose(X.mean(1), 0, atol=1e-3)
    # the same numbers as MOABB's array, but for the reference
    paradigm, ds = sjepa_nb.trials.make_paradigm(task), find_dataset(f"Lee2019_{task}")
    with mne.utils.use_log_level("ERROR"): theirs, labels, _ = paradigm.get_data(ds, [1])
    np.testing.assert_allclose(X, (theirs - theirs.mean(1, keepdims=True))[..., :n], atol=1e-3)
    assert list(labels) == list(y)


def test_trials_that_are_refused(lee):
    with pytest.raises(ValueError, match="Lee2019-MI has no trials for ERP"): load_trials("Lee2019_MI", "ERP", [1])
    with pytest.raises(ValueError, match="choose MI, ERP, SSVEP"): load_trials("Lee2019_MI", "imagery", [1])
    with pytest.raises(ValueError, match="Lee2019-MI has no subject 77"): load_trials("Lee2019_MI", "MI", [77])
    with pytest.raises(ValueError, match="fewer than 152 samples: 100"): load_trials("Lee2019_MI", "MI", [1], length=100)
    from moabb.paradigms import LeftRightImagery
    with pytest.raises(ValueError, match="the paradigm gives 250 Hz: build it with resample=128"): load_trials("Lee2019_MI", LeftRightImagery(), [1])


class Defective(BaseDataset):
    "An imagery dataset whose runs have what is asked for."
    def __init__(self, what):
        super().__init__(subjects=[1], sessions_per_subject=1, events=dict(left_hand=1, right_hand=2), code="Defective", interval=[0, 4], paradigm="imagery")
        self.what = what

    def data_path(self, subject, **kwargs): return []

    def _get_single_subject_data(self, subject):
        raw = make_raw(seconds=61)
        if self.what == "nan": raw._data[2, 4000:4010] = np.nan      # 20 s: the trial at 20
        if self.what == "flat": raw._data[:, 11_400:] = 0             # from 57 s: the trial at 56
        if self.what == "volts": raw._data *= 1e6
        if self.what == "dead": raw._data[3] = 0
        onset = np.arange(2, 60 if self.what == "late" else 57, 6.)
        return {"0": {"0": raw.set_annotations(mne.Annotations(onset, 4, np.where(np.arange(len(onset)) % 2, "left_hand", "right_hand")))}}


@pytest.mark.parametrize("what, words", [("nan", "1 trials left out \\(1 flat or NaN"), ("flat", "1 trials left out \\(1 flat or NaN"), ("late", "beyond the end of the run")])
def test_defective_trials_are_left_out_and_counted(what, words):
    whole, _, _, _ = load_trials(Defective(None), "MI")
    ds = Defective(what)
    length = 700 if what == "late" else None
    with pytest.warns(UserWarning, match=words): X, y, meta, _ = load_trials(ds, "MI", length=length)
    assert len(X) == len(y) == len(meta) == len(whole) - 1 and np.isfinite(X).all()


def test_trials_in_the_wrong_unit_or_with_a_dead_channel():
    with pytest.raises(ValueError, match="Defective, subject 1: median SD .* looks like microvolts where volts are due"): load_trials(Defective("volts"), "MI")
    X, *_ = load_trials(Defective("volts"), "MI", preprocessing=Preprocessing(scale="implausible", reference=None))
    assert 8 < X.std() < 14
    with pytest.raises(ValueError, match="Defective, subject 1: flat or NaN for most of the recording: Cz"): load_trials(Defective("dead"), "MI")


def test_options_of_a_dataset_are_part_of_a_source():
    assert moabb_sources(Defective("nan"))[0] != moabb_sources(Defective("flat"))[0] == moabb_sources(Defective("flat"))[0]
    assert moabb_sources("PhysionetMI", [1])[0] != moabb_sources(find_dataset("PhysionetMI"), [1])[0]


# ---------------------------------------------------------------- real recordings

@real
def test_flat_tails_of_eegmmidb_are_counted():
    "S001R03 ends in half a second of zeros; S002R03 does not."
    for name, tail in (("S001/S001R03", 1), ("S002/S002R03", 0)):
        raw = mne.io.read_raw(EEGMMIDB / f"{name}.edf", verbose="ERROR")
        rec = preprocess(raw)
        windows, offsets, rejected = cut_windows(rec, 152, 160)
        assert rec.reasons["flat"].any() == bool(tail) and rejected.get("flat", 0) in ((1, 2) if tail else (0,))
        assert not rec.reasons["flat"][:-3 * 128].any()
        assert windows.std(-1).min() > .5 and len(rec.montage) == 64
        check_microvolts(windows)


@real
def test_physionetmi_with_its_rest_runs(monkeypatch, tmp_path):
    "By name: all 14 runs of subject 1, and the two that are there of subject 38."
    monkeypatch.setenv("MOABB_DOWNLOAD_PROVIDER", "upstream")
    with pytest.warns(UserWarning, match="subject 38: 2 of 14 runs"): one, rest = moabb_sources("PhysionetMI", [1, 38])
    store = build(tmp_path / "store", [rest], 16., 16.9)
    assert store.index.drop_duplicates("run").run.tolist() == ["1", "2"] and len(store) == 6 and len(store.montage) == 64
    assert [labels["run"] for labels, _ in one.read()] == [str(i) for i in range(1, 15)]


@real
def test_uncalibrated_recordings_and_two_montages(monkeypatch, tmp_path):
    "SSVEPExo is in no unit: refused, or standardised on request, and then in one store with eegmmidb."
    files = [EXO / "subject01_run1_raw.fif", EEGMMIDB / "S003/S003R01.edf"]
    with pytest.raises(ValueError, match="subject01_run1_raw: median SD 3.4e\\+03 µV .* scale='implausible'"): build(tmp_path / "refused", file_sources(files))
    store = build(tmp_path / "store", file_sources(files), 4., 16.9, preprocessing=Preprocessing(scale="implausible"))
    assert [len(m) for m in store.montages] == [8, 64] and len(store.montage) == 64
    assert set(subjects_of(store.index)) == {"2392979/subject01", "eegmmidb/S003"}
    for i in (0, len(store) - 1): check_microvolts(store[i][0])
    assert [bool(r["notes"]) for r in store.about["runs"]] == [True, False]
    monkeypatch.setenv("MOABB_DOWNLOAD_PROVIDER", "upstream")
    with pytest.raises(ValueError, match="Kalunga2016, subject 1: .* not calibrated"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load_trials("Kalunga2016", "SSVEP", [1])


@real
def test_a_truncated_recording_is_refused(tmp_path):
    whole = (EEGMMIDB / "S001/S001R01.edf").read_bytes()
    (tmp_path / "S001R01.edf").write_bytes(whole[:len(whole) // 2])
    with pytest.raises(ValueError, match="S001R01.edf: the file is truncated"): file_sources([tmp_path / "S001R01.edf"])
