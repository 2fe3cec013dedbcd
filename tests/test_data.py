"""Recordings, windows, trials and the store: on made-up recordings, on files in the layout of
OpenBMI, and on real recordings where MNE_DATA has them."""
import errno
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
from itertools import product
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import pytest
import zarr
from moabb.datasets.base import BaseDataset
from scipy.io import savemat
from sklearn.preprocessing import FunctionTransformer

import sjepa_nb.preprocessing
import sjepa_nb.store
import sjepa_nb.trials
from sjepa_nb.preprocessing import (
    Preprocessing, Recording, check_microvolts, preprocess, window_samples,
)
from sjepa_nb.sources import Source, file_sources, find_dataset, moabb_sources
from sjepa_nb.store import (
    WindowStore, build_store, cut_windows, plan_windows, split_by_subject, split_in_time,
    subjects_of,
)
from sjepa_nb.trials import load_trials
from sjepa_nb.montage import (
    LEE2019_CHANNELS, Montage, atlas, canonical_name, lee2019_montage, recording_montage,
    template_montage,
)

CHANNELS = ["Fp1", "Fz", "C3", "Cz", "C4", "Pz", "O1", "Oz"]
REAL = Path(os.environ.get("MNE_DATA", "/nonexistent"))
EEGMMIDB = REAL / "MNE-eegbci-data/files/eegmmidb/1.0.0"
EXO = REAL / "MNE-ssvepexo-data/zenodo/2392979"
real = pytest.mark.skipif(not (EEGMMIDB.exists() and EXO.exists()),
                          reason="MNE_DATA holds no eegmmidb and SSVEPExo recordings")
fork = multiprocessing.get_context("fork")


def make_raw(sfreq=200., seconds=40, seed=0, names=CHANNELS, unit=1e-6):
    "A made-up recording in volts: random walks that leak, 12 µV or so in the band."
    rng, n = np.random.default_rng(seed), int(sfreq * seconds)
    white = np.fft.rfft(rng.standard_normal((len(names), n)))
    x = np.fft.irfft(white / np.maximum(np.fft.rfftfreq(n, 1 / sfreq), .2)**.7, n)
    info = mne.create_info(list(names), sfreq, "eeg")
    return mne.io.RawArray(x / x.std() * 20 * unit, info, verbose="ERROR")


def make_runs(subject, runs=2, **kw):
    for r in range(runs):
        labels = dict(dataset="made", subject=subject, session="0", run=str(r))
        yield labels, make_raw(seed=10 * int(subject) + r, **kw)


def made_sources(subjects=("1", "2", "3"), runs=2, **kw):
    return [Source(f"made/{s}", "0", partial(make_runs, s, runs, **kw)) for s in subjects]


def build(path, sources=None, length=1., interval=2., **kw):
    sources = made_sources() if sources is None else sources
    return build_store(path, sources, length, interval, progress=False, **kw)


def tree(folder):
    "Every file of a folder and its bytes."
    files = sorted(p for p in Path(folder).rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def by_hand(raw):
    "MNE's own methods one after the other."
    raw = raw.copy().filter(.5, 40., verbose="ERROR").resample(128., verbose="ERROR")
    return raw.get_data() * 1e6


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
    referenced = raw.copy().set_eeg_reference("average", verbose="ERROR")
    np.testing.assert_allclose(rec.data, by_hand(referenced), atol=1e-4)
    assert rec.data.dtype == np.float32 and rec.data.shape == (8, 20 * 128) and not rec.bad.any()
    own = preprocess(raw, Preprocessing(reference=None))
    # reference and filter commute
    np.testing.assert_allclose(own.data - own.data.mean(0), rec.data, atol=1e-3)


def test_filter_passes_and_stops():
    "A sine inside the band keeps its amplitude; drift and mains vanish."
    t = np.arange(200 * 60) / 200
    gains = {}
    for f in (.05, 1, 10, 38, 60, 90):
        x = np.zeros((2, len(t)))
        x[0] = 50e-6 * np.sin(2 * np.pi * f * t)
        x[1] = 5e-6 * np.sin(2 * np.pi * 10.3 * t)
        raw = mne.io.RawArray(x, mne.create_info(["Cz", "Pz"], 200., "eeg"), verbose="ERROR")
        y = preprocess(raw, Preprocessing(reference=None)).data[0, 1280:-1280]
        gains[f] = y.std() / (50 / np.sqrt(2))
    assert all(abs(gains[f] - 1) < .03 for f in (1, 10, 38)), gains
    assert all(gains[f] < .02 for f in (.05, 60, 90)), gains


def troubled(sfreq, seconds=300):
    """A recording whose troubles lie on the borders of parts of 40 s: gaps over three of them,
    still samples, a spike, cuts, a dead end, a channel that is dead and one that came off."""
    raw = make_raw(sfreq, seconds, names=[*CHANNELS, "F3", "F4", "P3", "P4"])

    def during(start, stop): return slice(int(start * sfreq), int(stop * sfreq))
    raw._data[3, during(75, 165)] = np.nan
    raw._data[3, during(165, seconds)] += 1e-3   # it comes back with another offset
    raw._data[2, during(199.9, 201.2)] = 1e-6
    raw._data[4, during(72, 165)] *= 1e-5   # still, though not equal
    raw._data[5, int(39.99 * sfreq)] += .43
    raw._data[:, during(seconds - 2, seconds)] = 0
    raw._data[8, during(20, seconds)] = 1e-6
    raw._data[9] *= 300
    words = ["boundary", "BAD_movement", "boundary", "boundary"]
    return raw.set_annotations(mne.Annotations([119, 100, 239.5, 240.5], [0, 3, 0, 0], words))


@pytest.mark.parametrize("sfreq", [128., 250., 256., 1000 / 3])
def test_a_long_recording_is_the_same_in_parts(monkeypatch, sfreq):
    """What is left out is the same sample by sample, the rest to two thousandths of a microvolt
    once the whole is padded by whole new samples too (256 Hz needs no such help)."""
    raw, module = troubled(sfreq), sjepa_nb.preprocessing
    with monkeypatch.context() as m:
        exact, filtered = 375 * 100, module._filtered
        if sfreq not in (128, 256):
            m.setattr(module, "_filtered", lambda *a: filtered(*a[:3], npad=exact))
        whole = preprocess(raw)
    monkeypatch.setattr(module, "LONG", 100.)
    monkeypatch.setattr(module, "PART", 40.)
    monkeypatch.setattr(module, "_at_once", None)
    parts = preprocess(raw)
    assert parts.montage == whole.montage and parts.notes == whole.notes
    assert "F3 (flat or NaN), F4 (far from" in whole.notes[0]
    assert parts.data.shape == whole.data.shape and parts.data.dtype == np.float32
    for why, mask in whole.reasons.items():
        np.testing.assert_array_equal(parts.reasons[why], mask, why)
    good = ~whole.bad
    assert good.mean() > .5 and all(v.any() for v in whole.reasons.values())
    np.testing.assert_allclose(parts.data[:, good], whole.data[:, good], atol=2e-3)


def test_a_long_file_stays_on_disk(monkeypatch, tmp_path):
    "It is not loaded as a whole, and its windows are those of the whole."
    raw = make_raw(256., 200)
    raw.save(tmp_path / "s1_raw.fif", fmt="double", verbose="ERROR")
    store = build(tmp_path / "store", file_sources([tmp_path / "s1_raw.fif"]))
    for name, value in (("LONG", 100.), ("PART", 40.)):
        monkeypatch.setattr(sjepa_nb.preprocessing, name, value)
    monkeypatch.setattr(mne.io.BaseRaw, "load_data", None)
    source, = file_sources([tmp_path / "s1_raw.fif"])
    (_, read), = source.read()
    assert not read.preload
    again = build(tmp_path / "again", [source])
    assert again.index.equals(store.index)
    np.testing.assert_allclose(again.read(range(len(again))), store.read(range(len(store))),
                               atol=2e-3)


def test_raw_is_not_changed():
    raw = make_raw()
    raw._data[0, 100] = np.nan
    before = raw.get_data().copy()
    preprocess(raw)
    np.testing.assert_array_equal(raw.get_data(), before)


@pytest.mark.parametrize("defect", ["nan", "inf", "flat", "annotated"])
def test_no_window_touches_a_defect(defect):
    """No window reaches a defect or its margin, the counts add up, and the rest of the signal is
    what it would have been."""
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
    all_windows, all_offsets, _ = cut_windows(good, 152, 160)
    same = all_windows[np.isin(all_offsets, offsets)]
    assert (windows - same).std() < .06 * same.std()


def test_flat_tail_leaves_no_cliff():
    "The end of zeros, below a channel with an offset, does not ring into the windows before it."
    raw = make_raw()
    raw._data += 1e-3  # 1000 µV of offset
    raw._data[:, -160:] = 0
    own = Preprocessing(reference=None)
    rec, good = preprocess(raw, own), preprocess(make_raw(), own)
    error = (rec.data - good.data)[:, ~rec.bad].std()
    assert error < .05 * good.data.std()
    assert (by_hand(raw) - good.data)[:, ~rec.bad].std() > 5 * error


def test_annotations_keep_their_place_after_a_crop():
    marks = [20, 30], [1, 0], ["BAD_x", "EDGE boundary"]
    undated = make_raw().set_annotations(mne.Annotations(*marks))
    dated = make_raw().set_meas_date(0).set_annotations(mne.Annotations(*marks, orig_time=0))
    for raw in (undated, dated):
        mask = preprocess(raw.crop(10)).reasons["annotated"]
        marks = sjepa_nb.preprocessing._stretches(mask) / 128
        np.testing.assert_allclose(marks[:, 0], [10, 20], atol=.02)
        assert marks[0, 1] == 11 and marks[1, 1] > marks[1, 0]


def test_channels_marked_bad_and_non_eeg_are_left_out():
    raw = make_raw(names=CHANNELS + ["EOG", "STI 014"])
    raw.set_channel_types({"EOG": "eog", "STI 014": "stim"}, verbose="ERROR")
    raw._data[2] = np.nan
    raw.info["bads"] = ["C3"]
    rec = preprocess(raw)
    assert rec.montage.names == tuple(c for c in CHANNELS if c != "C3")
    assert rec.notes == ("marked as bad: C3",) and not rec.bad.any()


def test_position_comes_from_the_right_slice_of_loc():
    """loc[:3] is the channel, loc[3:6] its reference: with channels that no atlas knows, positions
    must differ, be finite, and be where the channels are."""
    raw = make_raw(names=LEE2019_CHANNELS, seconds=10).set_montage(template_montage())
    mne.rename_channels(raw.info, {n: f"E{i}" for i, n in enumerate(LEE2019_CHANNELS)})
    for c in raw.info["chs"]: c["loc"][3:6] = [.01, .02, .03]
    positions = preprocess(raw).montage.positions
    assert np.isfinite(positions).all()
    assert np.linalg.norm(positions - lee2019_montage().positions, axis=1).max() < .05


# ---------------------------------------------------------------- bad input

def _put(raw, value, where): raw._data[where] = value


SPOILERS = {  # what is wrong → how a recording is made so
    "flat channel": lambda raw: _put(raw, 3e-6, 4),
    "nan channel": lambda raw: _put(raw, np.nan, 4),
    "mostly flat channel": lambda raw: _put(raw, 0, np.s_[4, 100:6000]),
    "all zeros": lambda raw: _put(raw, 0, np.s_[:]),
    "all nan": lambda raw: _put(raw, np.nan, np.s_[:]),
    "microvolts": lambda raw: _put(raw, raw._data * 1e6, np.s_[:]),
    "uncalibrated": lambda raw: _put(raw, raw._data * 300, np.s_[:]),
    "nanovolts": lambda raw: _put(raw, raw._data * 1e-3, np.s_[:]),
    "duplicates": lambda raw: raw.rename_channels({"C3": "T3", "C4": "T7"}),
    "no positions": lambda raw: raw.rename_channels({"C3": "X1", "C4": "X2"}),
    "no eeg": lambda raw: raw.set_channel_types(dict.fromkeys(CHANNELS, "misc"), verbose="ERROR"),
    "one channel": lambda raw: raw.pick(["Cz"]),
}


def spoiled(what):
    raw = make_raw(64. if what == "slow" else 200.)
    if what != "slow": SPOILERS[what](raw)
    return raw


@pytest.mark.parametrize("what, words", [
    ("flat channel", "flat or NaN for most of the recording: C4; mark as bad"),
    ("nan channel", "flat or NaN for most of the recording: C4"),
    ("mostly flat channel", "flat or NaN for most of the recording: C4"),
    ("all zeros", "no signal"),
    ("all nan", "no signal"),
    ("microvolts", "looks like microvolts where volts are due"),
    ("uncalibrated", "not calibrated"),
    ("nanovolts", "not calibrated"),
    ("duplicates", "T3 and T7 are both T7"),
    ("no positions", "channels without a position: X1, X2"),
    ("no eeg", "no EEG channel"),
    ("slow", "holds nothing above 32 Hz"),
    ("one channel", "average reference of one channel"),
])
def test_recordings_that_are_refused(what, words):
    with pytest.raises(ValueError, match=words):
        preprocess(spoiled(what), Preprocessing(bad_channels="raise"))


def test_what_can_be_mended_by_an_option():
    rec = preprocess(spoiled("uncalibrated"), Preprocessing(scale="implausible"))
    q = np.percentile(rec.data, [25, 75], axis=1)
    np.testing.assert_allclose((q[1] - q[0]) / 1.349, 10, rtol=1e-4)
    assert "standardised" in rec.notes[0]
    plain = preprocess(make_raw(), Preprocessing(scale="implausible"))
    # a plausible recording is not touched
    np.testing.assert_array_equal(plain.data, preprocess(make_raw()).data)
    assert abs(preprocess(make_raw(), Preprocessing(scale="always")).data.std() - 10) < 1
    rec = preprocess(spoiled("no positions"), Preprocessing(on_missing="drop"))
    assert len(rec.montage) == 6 and "2 channels without a position" in rec.notes[0]


@pytest.mark.parametrize("kw, words", [
    (dict(reference="Cz"), "reference is"),
    (dict(scale="no"), "scale is"),
    (dict(h_freq=70.), "does not hold"),
    (dict(l_freq=0.), "does not hold"),
])
def test_preprocessing_refuses_nonsense(kw, words):
    with pytest.raises(ValueError, match=words): Preprocessing(**kw)


@pytest.mark.parametrize("x, words", [
    (np.random.default_rng(0).normal(0, 1e-5, (2, 152)), "looks like volts"),
    (np.random.default_rng(0).normal(0, 1e7, (2, 152)), "no EEG"),
    (np.full((2, 152), np.nan), "NaN"),
    (np.full((2, 152), np.inf), "NaN or infinite"),
    (np.zeros((2, 152)), "flat"),
])
def test_check_microvolts(x, words):
    with pytest.raises(ValueError, match=words): check_microvolts(x)
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError, match=words):
        check_microvolts(torch.tensor(x, requires_grad=True))
    check_microvolts(torch.randn(3, 2, 152) * 20)


@pytest.mark.parametrize("call, words", [
    (lambda r: cut_windows(r, 151), "fewer than 152 samples: 151"),
    (lambda r: cut_windows(r, 4), "a length in seconds is a float: 4.0"),
    (lambda r: cut_windows(r, .9), "fewer than 152 samples"),
    (lambda r: window_samples(0), "fewer than 152 samples"),
    (lambda r: cut_windows(r, 1., 0.), "at least one sample"),
    (lambda r: cut_windows(r, np.nan), "finite number, not nan"),
    (lambda r: cut_windows(r, np.inf), "finite number, not inf"),
    (lambda r: cut_windows(r, 1., np.nan), "at least one sample and finite, not nan"),
    (lambda r: cut_windows(r, 1., np.inf), "finite, not inf"),
    (lambda r: cut_windows(r, 1., 2), "an interval in seconds is a float: 2.0"),
    (lambda r: cut_windows(r, 1., 127), "127 samples is less than a second"),
])
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
    size, records = 256 * (n + 1), announced or seconds
    fields = [(0, 8), ("X X X X", 80), ("Startdate X X X X", 80), ("01.01.20", 8), ("00.00.00", 8),
              (size, 8), ("", 44), (records, 8), (1, 8), (n, 4)]
    head = b"".join(cell(*f) for f in fields)
    columns = [(16, names), (80, [""] * n), (8, ["uV"] * n), (8, [-3276.8] * n),
               (8, [3276.7] * n), (8, [-32768] * n), (8, [32767] * n), (80, [""] * n),
               (8, [sfreq] * n), (32, [""] * n)]
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
    expected = {
        "notes.txt": "not a recording",
        "notes.edf": "not a recording",
        "picture.png": "not a recording",
        "empty.edf": "is empty",
        "cut.edf": "truncated",
        "cut_raw.fif": "truncated",
        "misc_raw.fif": "no EEG channel",
        "gone.edf": "no such file",
    }
    with pytest.raises(ValueError) as e: file_sources([good] + [tmp_path / n for n in expected])
    lines = str(e.value).splitlines()[1:]
    assert [Path(line.split(": ")[0]).name for line in lines] == list(expected)
    assert all(w in line for w, line in zip(expected.values(), lines)), lines
    with pytest.raises(ValueError, match="given twice"): file_sources([good, good])
    with pytest.raises(ValueError, match="no files"): file_sources([])


def test_whose_recordings_files_are(tmp_path):
    whose = {
        "mmi/1.0.0/S001/S001R01.edf": ("mmi", "S001"),
        "mmi/1.0.0/S001/S001R02.edf": ("mmi", "S001"),
        "exo/subject01_run1.edf": ("exo", "subject01"),
        "study/sub-03/ses-2/eeg/sub-03_ses-2_task-a_eeg.edf": ("study", "03"),
        "lee/sess01_subj02_EEG.edf": ("lee", "subj02"),
        "p7/day1/rest.edf": ("p7", "day1-rest"),
        "p7/day2/rest.edf": ("p7", "day2-rest"),
    }
    paths = [tmp_path / p for p in whose]
    for p in paths:
        p.parent.mkdir(parents=True, exist_ok=True)
        write_edf(p, 8)
    with pytest.warns(UserWarning, match="rest.edf, rest.edf; give subject_regex"):
        labels = [next(s.read())[0] for s in file_sources(paths)]
    assert [(v["dataset"], v["subject"]) for v in labels] == list(whose.values())
    assert labels[3]["session"] == "ses-2"
    labels = [next(s.read())[0] for s in file_sources(paths[-2:], r"/(p\d+)/")]
    assert [v["subject"] for v in labels] == ["p7", "p7"]
    for regex, words in [
        (r"patient(\d+)", "finds no subject"),
        (r"mmi|patient(\d+)", "finds no subject"),
        (r"p(\d+", "^subject_regex 'p.* is not a regular expression: [^\n]*$"),
    ]:
        with pytest.raises(ValueError, match=words): file_sources(paths[:1], regex)


def test_one_person_in_two_folders(tmp_path):
    """By the regular expression, one person whatever the folder; a folder and a file of two people
    are refused."""
    names = ("left/eeg/P1.edf", "right/eeg/P1.edf", "right/eeg/P2.edf", "S001/S002R01.edf",
             "subject3/s03_rest.edf")
    paths = [tmp_path / n for n in names]
    for p in paths:
        p.parent.mkdir(parents=True, exist_ok=True)
        write_edf(p, 8)
    store = build(tmp_path / "store", file_sources(paths[:3], r"P(\d)"))
    assert set(subjects_of(store.index)) == {"recordings/1", "recordings/2"}
    assert list(dict.fromkeys(store.index.run)) == ["left-eeg-P1", "right-eeg-P1", "P2"]
    words = "S002R01.edf: its path says two subjects, S001 and S002: give subject_regex"
    with pytest.raises(ValueError, match=words): file_sources(paths[3:])
    # the folder's word, where they agree
    assert next(file_sources(paths[4:])[0].read())[0]["subject"] == "subject3"


def test_wrong_dataset_and_subject_names():
    with pytest.raises(ValueError, match="no dataset 'PhysioNetMI'; close: PhysionetMI"):
        moabb_sources("PhysioNetMI")
    with pytest.raises(ValueError, match="no dataset 'xyzzy'$"): find_dataset("xyzzy")
    with pytest.raises(ValueError, match="has no subject 110: it has 109, 1 to 109"):
        moabb_sources("PhysionetMI", [1, 110])
    for one in ("12", 12):
        assert [s.name for s in moabb_sources("Lee2019_MI", one)] == ["Lee2019-MI/12"]
    with pytest.raises(ValueError, match="names or whole numbers, not 0.5"):
        moabb_sources("Lee2019_MI", .5)


def put_in_cache(root, subject, runs):
    folder = root / f"MNE-eegbci-data/files/eegmmidb/1.0.0/S{subject:03d}"
    folder.mkdir(parents=True)
    return [write_edf(folder / f"S{subject:03d}R{r:02d}.edf", 8) for r in runs]


@pytest.mark.parametrize("harm, words", [
    ("cut", "the file is truncated"),
    ("empty", "the file is empty"),
    ("garbage", "not a recording"),
])
def test_broken_files_in_the_cache(tmp_path, monkeypatch, harm, words):
    """A damaged file of eegmmidb is an error of one line with subject and file; subjects of whom a
    part is there are listed once."""
    monkeypatch.setenv("MNE_DATA", str(tmp_path))
    monkeypatch.setenv("MNE_DATASETS_EEGBCI_PATH", str(tmp_path))
    file = put_in_cache(tmp_path, 1, [1])[0]
    put_in_cache(tmp_path, 2, [1, 2])
    content = dict(cut=file.read_bytes()[:-9000], empty=b"", garbage=b"not a recording at all")
    file.write_bytes(content[harm])
    with pytest.warns(UserWarning) as said: sources = moabb_sources("PhysionetMI", [1, 2])
    assert len(said) == 1 and "(subject 1: 1 of 14 runs, 2: 2 of 14 runs)" in str(said[0].message)
    one_line = f"^PhysionetMotorImagery/1 cannot be read: S001R01.edf: {words}[^\n]*$"
    with pytest.raises(ValueError, match=one_line): build(tmp_path / "store", sources)
    assert build(tmp_path / "other", sources[1:]).index.run.unique().tolist() == ["1", "2"]


# ---------------------------------------------------------------- windows

def test_every_length_sees_as_many_windows():
    """For runs of any duration, windows up to the interval's length come in equal numbers, and
    never leave the run."""
    for n in (2162, 2163, 2164, 9760, 20_000, 4326, 4327):
        rec = Recording(np.ones((1, n), np.float32), None)
        plans = [plan_windows(rec, s) for s in (1., 4., 16.)]
        assert plans[0] == plans[1] == plans[2] and len(plans[0]) == int(n / 2163.2 + .0005)
        assert all(s + 2072 <= n for s, _ in plans[2])
    rec = Recording(np.ones((1, 20_000), np.float32), None)
    starts = np.array([s for s, _ in plan_windows(rec, 16., 8.)])  # windows that overlap
    assert (np.diff(starts) == 1024).all()
    assert starts[-1] + 2072 <= 20_000 < starts[-1] + 1024 + 2072
    assert plan_windows(rec, 536, 1024) == plan_windows(rec, 4., 8.)
    assert plan_windows(rec, 152, 128) == plan_windows(rec, 1., 1.)


# ---------------------------------------------------------------- the store

def test_store_describes_itself(whole):
    store = WindowStore(whole)
    columns = ["dataset", "subject", "session", "run", "recording", "montage", "offset", "row"]
    assert list(store.index.columns) == columns
    assert len(store) == 6 * 20 and store.sfreq == 128 and store.length == 152
    about = json.loads((whole / "made_sub-1_ses-0_run-0/zarr.json").read_text())["attributes"]
    assert about["channels"] == CHANNELS and about["unit"] == "uV"
    assert np.shape(about["positions"]) == (8, 3)
    assert about["plan"]["preprocessing"] == dict(
        reference="average", l_freq=.5, h_freq=40., sfreq=128., scale="raise", on_missing="raise",
        bad_channels="drop")
    assert set(store.about["packages"]) == {"mne", "moabb", "numpy", "scipy", "zarr"}
    written = "".join(p.read_text() for p in whole.rglob("zarr.json"))
    assert str(whole.parent) not in written  # no paths inside
    assert "120 windows of 152 samples" in store.describe() and store.verify() == []
    # windows are bit for bit what was cut
    for i, (labels, raw) in enumerate(make_runs("1")):
        rows = np.flatnonzero((store.index.subject == "1") & (store.index.run == str(i)))
        np.testing.assert_array_equal(store.read(rows), cut_windows(preprocess(raw), 1., 2.)[0])
    shuffled = np.random.default_rng(0).permutation(len(store))[:50]
    one_by_one = np.stack([store[int(i)][0] for i in shuffled])
    np.testing.assert_array_equal(store.read(shuffled), one_by_one)
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
    "Builds of one path wait for each other; the store is whole, and nothing else is left."
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
            now = count[0] == moment
            if now and before: os.kill(os.getpid(), signal.SIGKILL)
            res = call(*a, **kw)
            if now: os.kill(os.getpid(), signal.SIGKILL)
            return res
        return wrapped

    steps = [(os, "replace"), (zarr, "create_group"), (zarr, "consolidate_metadata"),
             (zarr.Array, "__setitem__"), (Path, "unlink"), (shutil, "rmtree")]
    for owner, name in steps: setattr(owner, name, killing(getattr(owner, name)))
    build(path)


@pytest.mark.parametrize("before", [True, False])
def test_killed_at_any_moment(whole, tmp_path, before):
    "Whenever a build is killed, no store is at its path; the next build gives the same bytes."
    expected, killed = tree(whole), 0
    for moment in [1, 2, 3, 4, 6, 9, 14, 23, *range(30, 50, 3)]:
        path = tmp_path / f"store{moment}"
        child = fork.Process(target=_die_at, args=(path, moment, before))
        child.start()
        child.join(60)
        if child.exitcode == -signal.SIGKILL:
            killed += 1
            # killed after the last rename, it is whole
            if path.exists(): assert WindowStore(path).verify() == []
            elif moment > 2:
                with pytest.raises(ValueError, match="interrupted"): WindowStore(f"{path}.partial")
        build(path)
        assert tree(path) == expected, f"killed at {moment}"
        assert not path.with_name(path.name + ".partial").exists()
        shutil.rmtree(path)
    assert killed > 8


def test_resuming_keeps_what_is_whole(tmp_path, monkeypatch):
    "After an interruption only what is missing is read again."
    seen = []

    def reading(subject, fail):
        for labels, raw in make_runs(subject):
            seen.append((subject, labels["run"]))
            if fail and labels["run"] == "1": raise RuntimeError("pulled the plug")
            yield labels, raw

    def sources(fail):
        return [Source("made/1", "0", partial(reading, "1", False)),
                Source("made/2", "0", partial(reading, "2", fail))]

    with pytest.raises(RuntimeError): build(tmp_path / "store", sources(True))
    assert not (tmp_path / "store").exists()
    seen.clear()
    made, original = [], sjepa_nb.store._write_run

    def noted(folder, *a):
        made.append(folder.name)
        original(folder, *a)

    with monkeypatch.context() as m:
        m.setattr(sjepa_nb.store, "_write_run", noted)
        build(tmp_path / "store", sources(False))
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
    nothing = "memory://bucket/nothing"
    with pytest.raises(ValueError, match=f"{nothing} is not a window store"): WindowStore(nothing)


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
    damaged = "made_sub-2_ses-0_run-1/windows/c/1/0/0"
    for read in (lambda: store[i], lambda: store.read([0, i])):
        with pytest.raises(ValueError, match=f"damaged store: {damaged}; build it again"): read()
    assert store.verify() == [damaged]
    assert np.isfinite(store[0][0]).all()


def test_paths_that_are_taken(whole, tmp_path):
    path = tmp_path / "store"
    shutil.copytree(whole, path)
    before = tree(path)
    assert len(build(path)) == 120  # the same plan: reopened
    changed = [Source(s.name, "1", s.read) for s in made_sources()]
    for kw, words in [
        (dict(length=4.), "length 152, now 536"),
        (dict(interval=3.), "interval 2.0, now 3.0"),
        (dict(preprocessing=Preprocessing(reference=None)), "reference 'average', now None"),
        (dict(sources=made_sources("124")), "without made/4; with made/3"),
        (dict(sources=made_sources("12")), "with made/3"),
        (dict(sources=changed), "made/1 has other options"),
    ]:
        with pytest.raises(ValueError, match=words): build(path, **kw)
    assert tree(path) == before
    assert len(build(path, made_sources("12"), overwrite=True)) == 80
    for other in (tmp_path, tmp_path / "gone"):
        with pytest.raises(ValueError, match="is not a window store"): WindowStore(other)
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday/photo.jpg").touch()
    # other people's folders are left alone
    with pytest.raises(ValueError, match="is not a window store"):
        build(tmp_path / "holiday", overwrite=True)
    assert (tmp_path / "holiday/photo.jpg").exists()


def test_sources_that_are_refused(tmp_path):
    read = made_sources("1")[0].read
    for name, sources, words in [
        ("s", made_sources("11"), "given twice"),
        ("s", [], "no sources"),
        ("s", [Source("a", "0", read), Source("b", "0", read)], "two sources hold the same run"),
        ("t", made_sources("1", unit=1.), "made/1, session 0, run 0: median SD .* like microvolts"),
    ]:
        with pytest.raises(ValueError, match=words): build(tmp_path / name, sources)
    with pytest.raises(ValueError, match="no window at all: 6 runs"):
        build(tmp_path / "u", interval=100.)
    assert not any((tmp_path / n).exists() for n in "stu")


def unreadable(subjects):
    return [Source(f"made/{s}", "0", None) for s in subjects]


def test_more_sources_are_added(whole, tmp_path):
    """A store to which a source is added has the bytes of one that was built of all, and nothing
    is read again; with fewer, or of another plan, it is left alone."""
    path, second = tmp_path / "store", made_sources("2")
    build(path, made_sources("13"))
    before = tree(path)
    sources = [*unreadable("1"), *second, *unreadable("3")]
    with pytest.raises(ValueError, match="interval 2.0, now 3.0; without made/2"):
        build(path, sources, interval=3.)
    broken = [*unreadable("13"), Source("made/2", "0", partial(make_runs, "2", unit=1.))]
    with pytest.raises(ValueError, match="made/2, session 0, run 0: median SD"):
        build(path, broken)
    assert tree(path) == before
    assert len(build(path, sources)) == 120
    assert tree(path) == tree(whole)
    assert {p.name for p in tmp_path.iterdir()} <= {"store", ".store.lock"}
    with pytest.raises(ValueError, match="with made/2"): build(path, unreadable("13"))


def test_added_to_what_names_do_not_tell(tmp_path, monkeypatch):
    "Where a source's name says nothing of its runs they are read again, and not cut again."
    a = Source("a", "0", made_sources("1")[0].read)
    build(tmp_path / "store", [a])
    made, original = [], sjepa_nb.store._write_run
    monkeypatch.setattr(sjepa_nb.store, "_write_run",
                        lambda folder, *rest: made.append(folder.name) or original(folder, *rest))
    build(tmp_path / "store", [a, *made_sources("2")])
    assert made == ["made_sub-2_ses-0_run-0", "made_sub-2_ses-0_run-1"]


@pytest.mark.parametrize("before", [True, False])
def test_killed_while_adding(whole, tmp_path, before):
    "Whenever it is killed, the store is the one that it was or the larger one."
    expected, killed = tree(whole), 0
    build(tmp_path / "small", made_sources("13"))
    for moment in [4, 24, 40, *range(45, 50)]:
        path = tmp_path / f"store{moment}"
        shutil.copytree(tmp_path / "small", path)
        child = fork.Process(target=_die_at, args=(path, moment, before))
        child.start()
        child.join(60)
        killed += child.exitcode == -signal.SIGKILL
        store = WindowStore(path)
        assert len(store) in (80, 120) and store.verify() == []
        build(path)
        assert tree(path) == expected, f"killed at {moment}"
        assert not path.with_name(path.name + ".partial").exists()
    assert killed > 6


def read_only(folder, monkeypatch):
    "As if nothing under `folder` could be written."
    def refusing(call, writes):
        def wrapped(path, *a, **kw):
            inside = isinstance(path, (str, os.PathLike)) and str(path).startswith(str(folder))
            if inside and writes(*a): raise OSError(errno.EROFS, "Read-only file system", str(path))
            return call(path, *a, **kw)
        return wrapped
    flags = os.O_WRONLY | os.O_RDWR | os.O_CREAT
    monkeypatch.setattr(os, "open", refusing(os.open, lambda mode=0, *a: mode & flags))
    for name in ("mkdir", "replace", "unlink", "link"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name), lambda *a: True))


def test_a_store_on_a_disk_that_cannot_be_written(whole, tmp_path, monkeypatch):
    "It is opened where it is complete, and refused in words where it would have to grow."
    (tmp_path / "disk").mkdir()
    shutil.copytree(whole, tmp_path / "disk/store")
    read_only(tmp_path / "disk", monkeypatch)
    store = build(tmp_path / "disk/store", unreadable("123"))
    assert len(store.read(range(120))) == 120
    assert [p.name for p in (tmp_path / "disk").iterdir()] == ["store"]
    for path, sources in (("store", "1234"), ("other", "123")):
        with pytest.raises(OSError, match=f"cannot write the store .*{path} .Read-only"):
            build(tmp_path / "disk" / path, made_sources(sources))


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
    child.start()
    child.join(60)
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
    assert len(there) == 120
    assert all(np.array_equal(a, np.asarray(b)) for a, (b, _) in zip(here, there))
    copy = pickle.loads(pickle.dumps(store))
    assert not copy._arrays and np.array_equal(copy[5][0], here[5])


def test_two_montages_in_one_store(tmp_path):
    def few():
        labels = dict(dataset="few", subject="1", session="0", run="0")
        yield labels, make_raw(names=["Oz", "O2", "Pz"], sfreq=256.)

    store = build(tmp_path / "store", [*made_sources("1"), Source("few/1", "0", few)])
    assert [len(m) for m in store.montages] == [8, 3] and store.montage.names == (*CHANNELS, "O2")
    last, montage_id = store[len(store) - 1]
    assert store[0][0].shape == (8, 152) and last.shape == (3, 152) and montage_id == 1
    with pytest.raises(ValueError, match="different montages"): store.read([0, len(store) - 1])


def _slow_source(pids, subject):
    if subject == "1":
        while not list(pids.iterdir()): time.sleep(.05)
        yield from make_runs("1")
    else:
        (pids / str(os.getpid())).touch()
        time.sleep(60)


def test_no_worker_outlives_a_build(tmp_path, monkeypatch):
    """An interrupt between two results: the processes are gone, and with them whatever they would
    have written."""
    def interrupted(work, **kw):
        yield next(iter(work))
        raise KeyboardInterrupt
    monkeypatch.setattr(sjepa_nb.store, "tqdm", interrupted)
    (tmp_path / "pids").mkdir()
    reader = partial(_slow_source, tmp_path / "pids")
    sources = [Source(f"made/{s}", "0", partial(reader, s)) for s in "12"]
    with pytest.raises(KeyboardInterrupt) as e: build(tmp_path / "store", sources, n_jobs=2)
    stat = Path("/proc", next((tmp_path / "pids").iterdir()).name, "stat")
    alive = lambda: stat.exists() and " Z " not in stat.read_text()
    for _ in range(50):
        if not alive(): break
        time.sleep(.1)
    assert not alive()
    assert e.tb  # the traceback, which keeps joblib's generator alive, is still held


def test_one_name_at_two_places():
    """Two nets with an E1 each cannot be one montage; a known name that is digitised elsewhere gets
    its own."""
    lee = lee2019_montage()
    moved = lee.positions.copy()
    moved[[3, 5]] += [0, .25, 0]
    assert lee.union(Montage(lee.names, lee.positions + .05)).names == lee.names
    words = "the same name at different places in two recordings: F3, F4; rename"
    with pytest.raises(ValueError, match=words): lee.union(Montage(lee.names, moved))
    cap = mne.channels.make_standard_montage("biosemi128")
    info = mne.create_info(cap.ch_names, 128., "eeg").set_montage(cap)
    montage, names = recording_montage(info)
    assert names == cap.ch_names
    assert {"A1*", "A2*"} <= set(montage.names) and not {"A1", "A2"} & set(montage.names)
    assert np.linalg.norm(montage.select(["A1*"]).positions - atlas()["Cz"]) < .4
    assert not any(canonical_name(n) for n in montage.names if n.endswith("*"))
    few, _ = recording_montage(mne.pick_info(info, range(8)))
    assert {"A1", "A2"} <= set(few.names)  # eight places do not tell where the head is
    turned = mne.create_info(list(LEE2019_CHANNELS), 128., "eeg").set_montage(template_montage())
    for c in turned["chs"]: c["loc"][:3] = c["loc"][[1, 0, 2]] * [-1, 1, 1]
    assert recording_montage(turned)[0] == lee  # another frame: names hold
    info = mne.create_info(list(LEE2019_CHANNELS), 128., "eeg").set_montage(template_montage())
    assert recording_montage(info)[0] == lee


# ---------------------------------------------------------------- splits

def test_families_of_datasets_and_ways_to_write_a_subject():
    study = {
        "ErpCore2021-N170": "ErpCore2021", "ErpCore2021-P3": "ErpCore2021",
        "Shin2017A": "Shin2017", "Shin2017B": "Shin2017",
        "MAMEM1": "MAMEM", "MAMEM3": "MAMEM",
        "CastillosCVEP40": "Castillos", "CastillosBurstVEP100": "Castillos",
        "Dreyer2023": "Dreyer2023", "Dreyer2023A": "Dreyer2023",
        "PhysionetMotorImagery": "PhysionetMotorImagery", "Lee2019-MI": "Lee2019",
    }
    index = pd.DataFrame(dict(dataset=np.repeat(list(study), 2), subject=["1", "12"] * len(study)))
    assert list(subjects_of(index)) == [f"{s}/{i}" for s in study.values() for i in (1, 12)]

    def people(valid, **kw):
        return set(subjects_of(index.iloc[split_by_subject(index, valid, **kw)["valid"]]))

    for valid, who in [
        ("PhysionetMI/1", "PhysionetMotorImagery/1"),
        ("Lee2019_MI/1", "Lee2019/1"),
        ("Lee2019-MI/12", "Lee2019/12"),
        ("Lee2019/1", "Lee2019/1"),
        ("ErpCore2021_N170/12", "ErpCore2021/12"),
        ("Shin2017B/1", "Shin2017/1"),
    ]:
        assert people([valid]) == people(valid) == {who}
    assert people("12") == people(12) == people(["12"]) == people(np.int64(12))
    assert len(people("12")) == 7
    assert len(people(np.float32(.5), test="MAMEM1/1")) == 6
    words = r"subject Kalunga2016/1: .* \(give dataset/subject, or the subject alone\)"
    with pytest.raises(ValueError, match=words): people(["Kalunga2016/1"])


def test_nobody_is_in_two_parts():
    rng = np.random.default_rng(0)
    lee = ["Lee2019-MI", "Lee2019-ERP", "Lee2019-SSVEP"]
    dataset = rng.choice([*lee, "Kalunga2016"], 2000)
    index = pd.DataFrame(dict(dataset=dataset, subject=rng.integers(1, 13, 2000).astype(str)))
    for seed in range(20):
        parts = split_by_subject(index, .25, test=["3", "Lee2019/4"], seed=seed)
        people = {k: set(subjects_of(index.iloc[v])) for k, v in parts.items()}
        everybody = people["train"] | people["valid"] | people["test"]
        assert len(everybody) == sum(map(len, people.values()))
        assert people["test"] == {"Lee2019/3", "Kalunga2016/3", "Lee2019/4"}
        assert "Kalunga2016/4" in people["train"] | people["valid"]
        assert sorted(np.concatenate(list(parts.values()))) == list(range(2000))
    # one person in three paradigms is one person
    parts = split_by_subject(index, ["Lee2019/7"])
    assert set(index.iloc[parts["valid"]].dataset) == set(lee)
    same = [split_by_subject(index, .25, seed=3)["valid"].tolist() for _ in range(2)]
    assert same[0] == same[1] != split_by_subject(index, .25, seed=4)["valid"].tolist()


@pytest.mark.parametrize("valid, test, words", [
    (["9"], (), "no windows of subject 9: there are d/1, d/2"),
    (["1", "2"], (), "no subject is left for train"),
    ([], (), "no subject is left for valid"),
    (["1"], ["1"], "in two parts: d/1"),
    (1.5, (), "between 0 and 1"),
    (np.nan, (), "between 0 and 1"),
    (np.float32(0), (), "between 0 and 1"),
    (["1"], .5, "names or whole numbers"),
    ("12", (), "no windows of subject 12"),
    (.5, ["1", "2"], "no subject is left for train and valid"),
])
def test_splits_that_are_refused(valid, test, words):
    index = pd.DataFrame(dict(dataset="d", subject=["1", "2"]))
    with pytest.raises(ValueError, match=words): split_by_subject(index, valid, test)


def test_one_person_alone_is_split_in_time():
    offsets = {"a": range(0, 400, 40), "b": range(100, 2100, 200)}
    rows = [dict(recording=r, offset=o) for r, those in offsets.items() for o in those]
    index = pd.DataFrame(rows, index=range(50, 50 + len(rows)))   # labels are not positions
    parts = split_in_time(index, 100, .2)
    train, valid = (index.iloc[parts[k]] for k in ("train", "valid"))
    assert valid.offset.tolist() == [320, 360, 1700, 1900]
    assert train.offset.tolist() == [*range(0, 201, 40), *range(100, 1600, 200)]   # no overlap
    with pytest.raises(ValueError, match="between 0 and 1"): split_in_time(index, 100, 1.)
    with pytest.raises(ValueError, match="too few"): split_in_time(index[:2], 100)
    with pytest.raises(ValueError, match="by split_in_time"):
        split_by_subject(index.assign(dataset="d", subject="1"), .15)


# ---------------------------------------------------------------- Lee2019 through MOABB's own class

CLASSES = dict(MI=["right", "left"], ERP=["target", "nontarget"],
               SSVEP=["up", "left", "right", "down"])  # numbered from 1
SPACING = dict(MI=6, ERP=2, SSVEP=6)
LEE_FOLDER = "gigadb-datasets/live/pub/10.5524/100001_101000/100542"


def lee_run(task, seed, seconds=40, fs=250):
    "One run in the layout of OpenBMI: `x` (samples, 62) in µV."
    rng = np.random.default_rng(seed)
    x = make_raw(fs, seconds, seed, LEE2019_CHANNELS, unit=1.).get_data().T
    t = np.arange(2, seconds - 5, SPACING[task]) * fs
    text = lambda names: np.array([[np.array([n])] for n in names], dtype=object).T
    n = len(CLASSES[task])
    classes = np.empty((n, 2), dtype=object)
    for i, c in enumerate(CLASSES[task]): classes[i] = [np.array([[i + 1]]), np.array([c])]
    muscles = dict(EMG=rng.normal(0, 10, (len(x), 4)),
                   EMG_index=text(["EMG1", "EMG2", "EMG3", "EMG4"]))
    trials = dict(t=t[None], y_dec=(np.arange(len(t)) % n + 1)[None])
    return muscles | trials | {
        "x": x, "fs": np.array([[fs]]), "chan": text(LEE2019_CHANNELS), "pre_rest": x[:fs],
        "post_rest": x[:fs], "class": classes}


@pytest.fixture(scope="module")
def lee_files(tmp_path_factory):
    "MOABB's cache with subjects 1 and 2 of Lee2019, both sessions, three paradigms."
    root = tmp_path_factory.mktemp("mne_data")
    for (k, task), subject, session in product(enumerate(CLASSES), (1, 2), (1, 2)):
        folder = root / f"MNE-lee2019-{task.lower()}-data" / LEE_FOLDER
        folder = folder / f"session{session}/s{subject}"
        folder.mkdir(parents=True)
        seed = 1000 * k + 100 * subject + 10 * session
        train, test = lee_run(task, seed), lee_run(task, seed + 1)
        runs = {f"EEG_{task}_train": train, f"EEG_{task}_test": test}
        savemat(folder / f"sess{session:02d}_subj{subject:02d}_EEG_{task}.mat", runs)
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
    """Three paradigms, two subjects, two sessions, both runs; 62 channels in the order of the
    weights, at their places; microvolts."""
    sources = [s for task in CLASSES for s in moabb_sources(f"Lee2019_{task}", [1, 2])]
    store = build(tmp_path / "store", sources, 4., 8.)
    index = store.index
    assert set(index.dataset) == {"Lee2019-MI", "Lee2019-ERP", "Lee2019-SSVEP"}
    assert set(index.run) == {"1train", "4test"} and set(index.session) == {"1", "2"}
    assert index.groupby(["dataset", "subject", "session", "run"]).size().tolist() == [5] * 24
    assert store.montages == [lee2019_montage()] and store.montage.names == LEE2019_CHANNELS
    assert np.isfinite(store.montage.positions).all()
    x = store.read(range(5))
    assert x.shape == (5, 62, 536) and 2 < x.std() < 40
    check_microvolts(x)
    # the first window is the file's own numbers, filtered
    raw = make_raw(250, 40, 1 * 100 + 10, LEE2019_CHANNELS)
    row = index.query("dataset == 'Lee2019-MI' and subject == '1' and session == '1'").index[0]
    assert index.run[row] == "1train"
    np.testing.assert_allclose(store[row][0], preprocess(raw).data[:, :536], atol=1e-3)
    # a person stays on one side, whatever the paradigm
    parts = split_by_subject(index, ["2"])
    valid = index.iloc[parts["valid"]]
    assert set(valid.dataset) == set(index.dataset) and set(valid.subject) == {"2"}


@pytest.mark.parametrize("task, n, classes", [
    ("MI", 536, {"left_hand", "right_hand"}),
    ("ERP", 152, {"Target", "NonTarget"}),
    ("SSVEP", 536, {"5.45", "6.67", "8.57", "12.0"}),
])
def test_lee2019_trials(lee, monkeypatch, task, n, classes):
    X, y, meta, montage = load_trials(f"Lee2019_{task}", task, [1])
    per_run = len(np.arange(2, 35, SPACING[task]))
    # the test runs of MI and SSVEP carry no usable labels, and MOABB leaves them out
    runs = 2 if task == "ERP" else 1
    assert X.shape == (2 * runs * per_run, 62, n) and X.dtype == np.float32
    assert len(meta) == len(y) == len(X) and {"subject", "session", "run"} <= set(meta)
    assert set(y) == classes and montage == lee2019_montage()
    check_microvolts(X)
    np.testing.assert_allclose(X.mean(1), 0, atol=1e-3)
    # the same numbers as MOABB's array, but for the reference and the filter
    def pretraining(low, high):
        return FunctionTransformer(lambda raw: raw.copy().load_data().filter(low, high))
    monkeypatch.setattr("moabb.paradigms.base.get_filter_pipeline", pretraining)
    paradigm, ds = sjepa_nb.trials.make_paradigm(task), find_dataset(f"Lee2019_{task}")
    with mne.utils.use_log_level("ERROR"): theirs, labels, _ = paradigm.get_data(ds, [1])
    theirs -= theirs.mean(1, keepdims=True)
    np.testing.assert_allclose(X, theirs[..., :n], atol=1e-3)
    assert list(labels) == list(y)


def test_trials_that_are_refused(lee):
    from moabb.paradigms import LeftRightImagery
    for paradigm, subject, kw, words in [
        ("ERP", 1, {}, "Lee2019-MI has no trials for ERP"),
        ("imagery", 1, {}, "choose MI, ERP, SSVEP"),
        ("MI", 77, {}, "Lee2019-MI has no subject 77"),
        ("MI", 1, dict(length=100), "fewer than 152 samples: 100"),
        (LeftRightImagery(), 1, {}, "the paradigm gives 250 Hz: build it with resample=128"),
    ]:
        with pytest.raises(ValueError, match=words):
            load_trials("Lee2019_MI", paradigm, [subject], **kw)


class Defective(BaseDataset):
    "An imagery dataset whose runs have what is asked for."
    def __init__(self, what):
        events = dict(left_hand=1, right_hand=2)
        super().__init__([1], 1, events, "Defective", [0, 4], "imagery")
        self.what = what

    def data_path(self, subject, **kwargs): return []

    def _get_single_subject_data(self, subject):
        raw = make_raw(seconds=61)
        if self.what == "nan": raw._data[2, 4000:4010] = np.nan      # 20 s: the trial at 20
        if self.what == "flat": raw._data[:, 11_400:] = 0             # from 57 s: the trial at 56
        if self.what == "volts": raw._data *= 1e6
        if self.what == "dead": raw._data[3] = 0
        onset = np.arange(2, 60 if self.what == "late" else 57, 6.)
        hand = np.where(np.arange(len(onset)) % 2, "left_hand", "right_hand")
        return {"0": {"0": raw.set_annotations(mne.Annotations(onset, 4, hand))}}


@pytest.mark.parametrize("what, words", [
    ("nan", r"1 trials left out \(1 flat or NaN"),
    ("flat", r"1 trials left out \(1 flat or NaN"),
    ("late", "beyond the end of the run"),
])
def test_defective_trials_are_left_out_and_counted(what, words):
    whole, _, _, _ = load_trials(Defective(None), "MI")
    ds = Defective(what)
    length = 700 if what == "late" else None
    with pytest.warns(UserWarning, match=words):
        X, y, meta, _ = load_trials(ds, "MI", length=length)
    assert len(X) == len(y) == len(meta) == len(whole) - 1 and np.isfinite(X).all()


def test_trials_in_the_wrong_unit_or_with_a_dead_channel():
    words = "Defective, subject 1: median SD .* looks like microvolts where volts are due"
    with pytest.raises(ValueError, match=words): load_trials(Defective("volts"), "MI")
    mended = Preprocessing(scale="implausible", reference=None)
    X, *_ = load_trials(Defective("volts"), "MI", preprocessing=mended)
    assert 8 < X.std() < 14
    words = "Defective, subject 1: flat or NaN for most of the recording: Cz"
    with pytest.raises(ValueError, match=words): load_trials(Defective("dead"), "MI")


def test_options_of_a_dataset_are_part_of_a_source():
    nan, flat, again = (moabb_sources(Defective(what))[0] for what in ("nan", "flat", "flat"))
    assert nan != flat == again
    named, made = (moabb_sources(ds, [1])[0] for ds in ("PhysionetMI", find_dataset("PhysionetMI")))
    assert named != made


# ---------------------------------------------------------------- real recordings

@real
def test_flat_tails_of_eegmmidb_are_counted():
    "S001R03 ends in half a second of zeros; S002R03 does not."
    for name, tail in (("S001/S001R03", 1), ("S002/S002R03", 0)):
        raw = mne.io.read_raw(EEGMMIDB / f"{name}.edf", verbose="ERROR")
        rec = preprocess(raw)
        windows, offsets, rejected = cut_windows(rec, 152, 160)
        assert rec.reasons["flat"].any() == bool(tail)
        assert rejected.get("flat", 0) in ((1, 2) if tail else (0,))
        assert not rec.reasons["flat"][:-3 * 128].any()
        assert windows.std(-1).min() > .5 and len(rec.montage) == 64
        check_microvolts(windows)


@real
def test_physionetmi_with_its_rest_runs(monkeypatch, tmp_path):
    "By name: all 14 runs of subject 1, and the two that are there of subject 38."
    monkeypatch.setenv("MOABB_DOWNLOAD_PROVIDER", "upstream")
    with pytest.warns(UserWarning, match="subject 38: 2 of 14 runs"):
        one, rest = moabb_sources("PhysionetMI", [1, 38])
    store = build(tmp_path / "store", [rest], 16., 16.9)
    assert store.index.run.unique().tolist() == ["1", "2"]
    assert len(store) == 6 and len(store.montage) == 64
    assert [labels["run"] for labels, _ in one.read()] == [str(i) for i in range(1, 15)]


@real
def test_uncalibrated_recordings_and_two_montages(monkeypatch, tmp_path):
    "SSVEPExo is in no unit: refused, or standardised on request, then in one store with eegmmidb."
    files = [EXO / "subject01_run1_raw.fif", EEGMMIDB / "S003/S003R01.edf"]
    words = r"subject01_run1_raw: median SD 3.4e\+03 µV .* scale='implausible'"
    with pytest.raises(ValueError, match=words): build(tmp_path / "refused", file_sources(files))
    mended = Preprocessing(scale="implausible")
    store = build(tmp_path / "store", file_sources(files), 4., 16.9, preprocessing=mended)
    assert [len(m) for m in store.montages] == [8, 64] and len(store.montage) == 64
    assert set(subjects_of(store.index)) == {"2392979/subject01", "eegmmidb/S003"}
    for i in (0, len(store) - 1): check_microvolts(store[i][0])
    assert [bool(r["notes"]) for r in store.about["runs"]] == [True, False]
    monkeypatch.setenv("MOABB_DOWNLOAD_PROVIDER", "upstream")
    words = "Kalunga2016, subject 1: .* not calibrated"
    with pytest.raises(ValueError, match=words), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load_trials("Kalunga2016", "SSVEP", [1])


@real
def test_a_truncated_recording_is_refused(tmp_path):
    whole = (EEGMMIDB / "S001/S001R01.edf").read_bytes()
    (tmp_path / "S001R01.edf").write_bytes(whole[:len(whole) // 2])
    with pytest.raises(ValueError, match="S001R01.edf: the file is truncated"):
        file_sources([tmp_path / "S001R01.edf"])
