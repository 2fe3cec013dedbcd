"""The simulated datasets: their shape is Lee2019's, their signal is reproducible, in volts, and
holds the effect that it says, and no other."""
import pickle
import socket
from dataclasses import asdict
from pathlib import Path

import mne
import moabb
import numpy as np
import pandas as pd
import pytest
from moabb.datasets import Lee2019_ERP, Lee2019_MI, Lee2019_SSVEP
from moabb.evaluations import WithinSessionEvaluation
from moabb.paradigms import P300, SSVEP, LeftRightImagery
from moabb.pipelines.classification import SSVEP_CCA
from pyriemann.estimation import Covariances, XdawnCovariances
from pyriemann.spatialfilters import CSP
from pyriemann.tangentspace import TangentSpace
from scipy.signal import welch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis as LDA
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline

import sjepa_nb.simulation
from sjepa_nb.montage import LEE2019_CHANNELS
from sjepa_nb.simulation import (
    SOURCES, SimulatedERP, SimulatedMI, SimulatedSSVEP, _fitted_cap, coloured_noise, draw_traits,
    leadfield, make_head, rhythm, scalp_potentials, scatter, simulated_datasets,
)

moabb.set_log_level("error")
mne.set_log_level("ERROR")
KINDS = {SimulatedMI: Lee2019_MI, SimulatedERP: Lee2019_ERP, SimulatedSSVEP: Lee2019_SSVEP}
SMALL = {SimulatedMI: 4, SimulatedERP: 12, SimulatedSSVEP: 4}
QUICK = dict(sfreq=125.)
FOLDS = StratifiedKFold(5, shuffle=True, random_state=0)
each = pytest.mark.parametrize("kind", KINDS)
row = {n: i for i, n in enumerate(LEE2019_CHANNELS)}


def microvolts(raw): return raw.get_data("eeg") * 1e6


def small(kind, **settings): return kind(**{"n_trials": SMALL[kind], **settings})


def places(info): return [c["loc"][:3] for c in info["chs"][:62]]


# ---- the shape of Lee2019

@each
def test_events_interval_paradigm_and_runs_are_those_of_lee2019(kind):
    real, sim = KINDS[kind](), kind()
    assert (sim.event_id, sim.interval) == (real.event_id, real.interval)
    assert sim.paradigm == real.paradigm
    assert (sim.train_run, sim.test_run) == (real.train_run, real.test_run)
    full = kind(54, n_sessions=2)
    assert (full.subject_list, full.n_sessions) == (real.subject_list, real.n_sessions)


@each
def test_data_are_sessions_of_runs_of_62_channels_in_volts(kind):
    data = small(kind, n_sessions=2, test_run=True).get_data([2])
    assert list(data) == [2] and list(data[2]) == ["1", "2"]
    for runs in data[2].values():
        assert list(runs) == ["1train", "4test"]
        for raw in runs.values():
            assert raw.ch_names == [*LEE2019_CHANNELS, "STI 014"]
            assert raw.get_channel_types() == ["eeg"] * 62 + ["stim"]
            assert raw.info["sfreq"] == 250
            x = raw.get_data("eeg")
            assert np.isfinite(x).all() and (x.std(1) > 1e-6).all() and (x.std(1) < 1e-3).all()
            assert np.allclose(places(raw.info), places(_fitted_cap()[0]))


def test_trials_are_balanced_and_do_not_overlap():
    for kind, seconds in ((SimulatedMI, 4), (SimulatedSSVEP, 4)):
        events = mne.find_events(kind(n_trials=12).make_run(1))
        assert np.ptp(np.unique(events[:, 2], return_counts=True)[1]) == 0
        gaps = np.diff(events[:, 0]) / 250
        assert gaps.min() >= seconds + 2 and gaps.max() <= seconds + 3
    events = mne.find_events(SimulatedERP(n_trials=120).make_run(1))
    assert (events[:, 2] == 1).sum() * 5 == (events[:, 2] == 2).sum() == 100
    assert ((events[:, 2] == 1).reshape(10, 12).sum(1) == 2).all()  # two targets in each sequence
    gaps = np.diff(events[:, 0]) / 250
    assert np.allclose(np.delete(gaps, 59), .215, atol=.005)
    assert gaps[59] > 2.5   # a pause after the character


def test_lee2019s_own_sizes():
    mi = SimulatedMI(54, n_sessions=2, n_trials=100, sfreq=1000, pause=(7.5, 10.5))
    onsets, labels, seconds = mi._timetable(np.random.default_rng(0))
    assert len(onsets) == 100 and 1200 < seconds < 1400
    assert np.bincount(labels).tolist() == [0, 50, 50]
    assert len(SimulatedERP(n_trials=1980)._timetable(np.random.default_rng(0))[0]) == 1980


@each
def test_no_file_no_network_no_configuration(kind, monkeypatch, tmp_path):
    monkeypatch.setattr(socket, "socket", lambda *a, **k: pytest.fail("a socket was opened"))
    monkeypatch.delenv("MNE_DATA", raising=False)
    monkeypatch.setenv("_MNE_FAKE_HOME_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    sim = small(kind, n_subjects=1, **QUICK)
    sim.get_data([1])
    assert sim.data_path(1) == [] and not list(tmp_path.iterdir())


# ---- the same signal, or another

STORED = {  # µV: standard deviation, Cz at sample 500, the mean of Oz times Fz, T7's last sample
    SimulatedMI: [38.69, -3.843, 417.7, 21.16],
    SimulatedERP: [40.63, -19.05, 338.1, 1.124],
    SimulatedSSVEP: [42.08, 38.31, 782.0, -44.53]}


def summary(kind):
    x = microvolts(small(kind).make_run(3))
    return [x.std(), x[row["Cz"], 500], (x[row["Oz"]] * x[row["Fz"]]).mean(), x[row["T7"], -1]]


@each
def test_the_signal_is_that_of_another_day_and_machine(kind):
    np.testing.assert_allclose(summary(kind), STORED[kind], rtol=2e-3, atol=2e-2)


@each
def test_same_seed_same_signal_in_any_order_and_after_pickling(kind):
    a = small(kind, **QUICK)
    first = microvolts(a.make_run(2))
    a.make_run(1)
    make_head.cache_clear()
    assert np.array_equal(first, microvolts(pickle.loads(pickle.dumps(a)).make_run(2)))
    more = small(kind, n_subjects=3, n_sessions=2, **QUICK)
    assert np.array_equal(first, microvolts(more.get_data([2])[2]["1"]["1train"]))


@each
def test_subjects_sessions_runs_and_seeds_differ(kind):
    sim, other = small(kind, **QUICK), small(kind, seed=1, **QUICK)
    runs = [sim.make_run(1), sim.make_run(2), sim.make_run(1, 2), sim.make_run(1, 1, "4test"),
            other.make_run(1)]
    x = [microvolts(r)[:, :900].ravel() for r in runs]
    assert np.abs(np.corrcoef(x) - np.eye(5)).max() < .5


def test_one_person_in_three_paradigms(monkeypatch):
    a, b = make_head(0, 3), make_head(0, 4)
    assert not np.allclose(a.leadfield, b.leadfield)
    assert draw_traits(0, 3) != draw_traits(0, 4) and draw_traits(0, 3) != draw_traits(1, 3)
    three = simulated_datasets(3, n_trials=(4, 12, 4))
    assert [type(d) for d in three] == list(KINDS) and [d.n_trials for d in three] == [4, 12, 4]
    seen = []

    def noted(head, traits, *rest):
        seen.append((head, traits))
        return scalp_potentials(head, traits, *rest)

    monkeypatch.setattr(sjepa_nb.simulation, "scalp_potentials", noted)
    for d in three: d.make_run(3)
    assert len(seen) == 3 and all(h is seen[0][0] and t == seen[0][1] for h, t in seen)


def test_the_cap_moves_a_little_between_sessions():
    one, two = make_head(0, 1, 1), make_head(0, 1, 2)
    moved = np.linalg.norm(one.positions - two.positions, axis=1)
    assert .001 < moved.max() < .3
    assert np.allclose(np.linalg.norm(one.positions, axis=1), np.linalg.norm(two.positions, axis=1))


def test_code_tells_settings_apart_and_only_those_that_change_the_signal():
    changes = [dict(seed=1), dict(sfreq=125), dict(effect=0), dict(artefacts=0), dict(unable=0),
               dict(n_trials=10), dict(pause=(1, 2)), dict(test_run=True)]
    assert len({SimulatedMI(**s).code for s in [{}, *changes]}) == 9
    for same in (SimulatedMI(54, n_sessions=2), SimulatedMI(subjects=[1])):
        assert same.code == SimulatedMI().code
    words = "SimulatedMI(1 subject, 1 session, 40 trials a run, 250 Hz, seed 0)"
    assert repr(SimulatedMI(1)) == words


# ---- physics

def test_leadfield_agrees_with_mnes_own_dipole():
    info, radius, centre = _fitted_cap()
    position, orientation = np.array([[.1, -.3, .6]]), np.array([[.6, 0, .8]])
    dipole = mne.Dipole([0.], centre + radius * position, [1e-9], orientation, [1.])
    sphere = mne.make_sphere_model(centre, radius, info)
    fwd, stc = mne.make_forward_dipole(dipole, sphere, info)
    evoked = mne.apply_forward(fwd, stc, info).data[:, 0] * 1e6  # µV of 1 nAm
    mine = leadfield(position, orientation)[:, 0]
    assert np.allclose(mine - mine.mean(), evoked - evoked.mean(), atol=1e-4 * np.abs(mine).max())


def test_sources_are_inside_the_skull_and_near_their_electrodes():
    for s in range(1, 30):
        head = make_head(0, s)
        assert np.linalg.norm(head.positions, axis=1).max() < .9
        assert np.allclose(np.linalg.norm(head.orientations, axis=1), 1)
        left, right = head.positions[head.rows("mu")]
        assert left[0] < -.3 and right[0] > .3  # x points to the right ear
    assert sum(len(v[0]) for v in SOURCES.values()) + 48 == len(head.names)


def test_the_reference_is_the_nasion():
    head, traits = make_head(0, 1), draw_traits(0, 1)
    x = scalp_potentials(head, traits, 2000, 250., np.random.default_rng(0), artefacts=0)
    outside = head.leadfield[:62] - head.leadfield[62]
    assert np.linalg.matrix_rank(outside) == 62
    residual = x - outside @ np.linalg.lstsq(outside, x, rcond=None)[0]
    assert np.abs(residual).max() < 1e-2
    assert x[row["Fp1"]].std() < x[row["Oz"]].std()  # near the reference little is left


def test_noise_has_the_spectrum_asked_for():
    x = coloured_noise(np.random.default_rng(0), rhythm(10, .7), 40_001, 250., 4)
    f, p = welch(x, 250., nperseg=1000)
    assert x.shape == (4, 40_001) and x.dtype == np.float32
    assert np.allclose(x.std(1), 1, atol=.15) and np.allclose(f[p.argmax(1)], 10, atol=.5)
    assert p[:, (f > 8) & (f < 12)].sum() / p.sum() > .95


def test_scatter_adds_where_events_overlap():
    x = scatter([1, 2, 9], [1., 10., 5.], np.ones(3), 10)
    assert x.round(4).tolist() == [0, 1, 11, 11, 10, 0, 0, 0, 0, 5]


def test_traits_stay_in_range_and_some_cannot_imagine():
    traits = pd.DataFrame([asdict(draw_traits(0, s)) for s in range(1, 201)])
    ranges = dict(alpha_hz=(8, 12), mu_hz=(8.5, 13.5), exponent=(1.1, 2.1), p300_delay=(.3, .46),
                  erd=(0, .9))
    for name, limits in ranges.items(): assert traits[name].between(*limits).all(), name
    assert .15 < (traits.erd == 0).mean() < .35
    for s in range(1, 9):
        nobody, everybody = draw_traits(0, s, unable=1), draw_traits(0, s, unable=0)
        assert nobody.erd == 0 < everybody.erd
        assert nobody.p300 == everybody.p300


def test_the_table_of_the_calibration_is_that_of_these_traits():
    table = pd.read_csv(Path(__file__).parent.parent / "results/simulation_calibration.csv")
    assert set(table.subject) == set(range(101, 121)) and len(table) == 5 * 20
    assert table.groupby("paradigm").trials.first().to_dict() == dict(MI=100, ERP=1980, SSVEP=100)
    for r in table.itertuples():
        traits = draw_traits(r.seed, r.subject)
        for name in ("erd", "p300", "n200", "ssvep"):
            assert getattr(traits, name) == pytest.approx(getattr(r, name), abs=1e-3), (
                "draw_traits has other strengths now: "
                "run benchmarks/simulation_calibration.py again")


def rest(s, **k):
    rng = np.random.default_rng(s)
    x = scalp_potentials(make_head(0, s), draw_traits(0, s), 15_000, 250., rng, **k)
    x = mne.filter.filter_data((x - x.mean(0)).astype(float), 250., .5, 40.)
    return x, *welch(x, 250., nperseg=500)


def test_rest_looks_like_eeg():
    for s in range(1, 9):
        x, f, p = rest(s)
        assert 8 < np.median(x.std(1)) < 60                                       # µV
        band = ((f >= 2) & (f <= 6.5)) | ((f >= 14) & (f <= 38))
        assert .8 < -np.median(np.polyfit(np.log10(f[band]), np.log10(p[:, band]).T, 1)[0]) < 2.2
        inside = (f >= 7) & (f <= 13)
        assert abs(f[inside][p[row["Oz"], inside].argmax()] - draw_traits(0, s).alpha_hz) <= 1.5
        assert x[row["Fp1"]].max() > 60                                           # blinks


def test_artefacts_can_be_turned_off():
    (x, f, p), (y, f, q) = rest(2, artefacts=0), rest(2)
    assert x[row["Fp1"]].std() < .7 * y[row["Fp1"]].std()                         # blinks
    temporal, fast = [row["T7"], row["T8"], row["TP9"], row["TP10"]], (f > 30) & (f < 40)
    assert p[temporal][:, fast].mean() < .7 * q[temporal][:, fast].mean()         # muscles
    runs = [microvolts(SimulatedMI(n_trials=4).make_run(s))[:, :7000] for s in (1, 2, 3)]
    f, p = welch(np.concatenate(runs), 250., nperseg=500)
    assert np.median(p[:, f == 60] / p[:, f == 55]) > 3                           # the mains
    f, q = welch(microvolts(SimulatedMI(n_trials=4, sfreq=120).make_run(1)), 120., nperseg=240)
    assert q[:, f > 58].max() < 10 * q[:, (f > 50) & (f < 58)].max()   # never folded back


def test_rest_lies_in_the_range_of_real_recordings(real_data):
    real = []
    for name in ("S002R01", "S003R02", "S040R01", "S050R02"):
        path = next(real_data.glob(f"**/{name}.edf"), None)
        if path is None: pytest.skip(f"PhysionetMI's {name}.edf is not in MNE_DATA")
        raw = mne.io.read_raw_edf(path, preload=True).crop(0, 58)
        raw.set_eeg_reference("average").filter(.5, 40)
        real.append(np.median(raw.get_data().std(1)) * 1e6)
    simulated = [np.median(rest(s)[0].std(1)) for s in range(1, 9)]
    assert .5 * min(real) < min(simulated) and max(simulated) < 1.5 * max(real)


# ---- the effects

def mi_trials(s, **k):
    sim = SimulatedMI(n_trials=60, **QUICK, **k)
    return LeftRightImagery(fmin=7, fmax=32).get_data(sim, [s])[:2]


def test_imagery_takes_mu_and_beta_from_the_other_side():
    t, (x, y) = draw_traits(0, 7), mi_trials(7)
    assert t.erd > .7
    f, p = welch((x - x.mean(1, keepdims=True))[..., 100:], 125., nperseg=250)
    left, right = y == "left_hand", y == "right_hand"
    for hz, width, least in ((t.mu_hz, 1.5, .6), (2.05 * t.mu_hz, 3, .3)):
        band = p[..., abs(f - hz) < width].mean(-1)
        change = np.log(band[left].mean(0) / band[right].mean(0))
        # the right hand empties C3
        assert change[row["C3"]] > least and change[row["C4"]] < -least


def test_targets_have_an_n200_and_a_p300():
    x, y, _ = P300(fmin=1, fmax=24).get_data(SimulatedERP(**QUICK), [1, 2, 3, 4])
    x = x - x.mean(1, keepdims=True)
    d = x[y == "Target"].mean(0) - x[y == "NonTarget"].mean(0)
    seconds = np.arange(d.shape[1]) / 125
    late, early = (seconds > .3) & (seconds < .46), (seconds > .17) & (seconds < .26)
    assert d[row["Pz"], late].max() > 8 and .3 < seconds[d[row["Pz"]].argmax()] < .46
    assert min(d[row["P7"], early].min(), d[row["P8"], early].min()) < -5
    # nothing before the brain can know
    assert np.abs(d[:, seconds < .1]).max() < d[row["Pz"], late].max()
    flash = x[y == "NonTarget"].mean(0)[row["Oz"]]
    assert flash[(seconds > .07) & (seconds < .13)].max() > 1   # every flash is seen


def ssvep_trials(s, **k):
    sim, flicker = SimulatedSSVEP(**QUICK, **k), SSVEP(n_classes=4, fmin=4, fmax=45)
    return flicker.get_data(sim, [s], return_epochs=True)[:2]


def test_flicker_drives_the_back_of_the_head_at_its_rate_and_harmonics():
    e, y = ssvep_trials(1)
    x, seconds = e.get_data() * 1e6, e.times
    for rate in ("5.45", "6.67", "8.57", "12.0"):
        m = x[y == rate].mean(0)[:, 62:]

        def power(hz, at="Oz"):
            return np.abs(m[row[at]] @ np.exp(-2j * np.pi * hz * seconds[62:]))

        hz = float(rate)
        assert power(hz) > 3 * power(hz + 1.3)
        assert power(2 * hz) > power(2 * hz + 1.3)
        assert power(hz) > power(hz, "Fz")


def mi_score(s, **k):
    csp = make_pipeline(Covariances("scm"), CSP(6), LDA())
    return cross_val_score(csp, *mi_trials(s, **k), cv=FOLDS).mean()


def erp_score(s, **k):
    x, y, _ = P300(fmin=1, fmax=24).get_data(SimulatedERP(test_run=False, **QUICK, **k), [s])
    pipe = make_pipeline(XdawnCovariances(2), TangentSpace(), LDA(solver="lsqr", shrinkage="auto"))
    return cross_val_score(pipe, x[..., ::2], y == "Target", cv=FOLDS, scoring="roc_auc").mean()


def ssvep_score(s, **k):
    e, y = ssvep_trials(s, **k)
    e = e.pick(["O1", "Oz", "O2", "PO3", "POz", "PO4"])
    return np.mean(np.array(SSVEP_CCA(n_harmonics=3).fit(e, y).predict(e)) == y)


# subject 7 is the best imaginer of the first eight, 3 and 5 cannot
@pytest.mark.parametrize("score, subjects, least, chance, slack", [
    (mi_score, (7, 4), .8, .5, .1),
    (erp_score, (1, 2), .95, .5, .1),
    (ssvep_score, (1, 2), .9, .25, .1),
])
def test_decoders_find_the_effect_and_nothing_without_it(score, subjects, least, chance, slack):
    assert np.mean([score(s) for s in subjects]) > least
    assert abs(np.mean([score(s, effect=0) for s in (1, 2, 7)]) - chance) < slack


def test_those_who_cannot_imagine_stay_at_chance():
    assert draw_traits(0, 3).erd == draw_traits(0, 5).erd == 0
    assert abs(np.mean([mi_score(3), mi_score(5)]) - .5) < .12


@pytest.mark.filterwarnings("ignore:Creating a dataset without passing")
def test_moabb_evaluates_it(tmp_path):
    sim = SimulatedMI(2, n_trials=20, unable=0, **QUICK)
    evaluation = WithinSessionEvaluation(
        paradigm=LeftRightImagery(), datasets=[sim], hdf5_path=str(tmp_path), overwrite=True,
        random_state=0)
    results = evaluation.process({"csp": make_pipeline(Covariances("oas"), CSP(4), LDA())})
    assert len(results) == 2 and results.score.between(0, 1).all()
    assert set(results.dataset) == {sim.code}


# ---- called wrongly

@pytest.mark.parametrize("kind, settings, message", [
    (SimulatedMI, dict(n_trials=5), "n_trials is a multiple of 2 for SimulatedMI"),
    (SimulatedERP, dict(n_trials=100), "n_trials is a multiple of 12 for SimulatedERP"),
    (SimulatedSSVEP, dict(n_trials=6), "n_trials is a multiple of 4 for SimulatedSSVEP"),
    (SimulatedMI, dict(n_trials=0), "n_trials is a whole number of at least 1, not 0"),
    (SimulatedMI, dict(n_subjects=0), "n_subjects is a whole number of at least 1, not 0"),
    (SimulatedMI, dict(n_subjects=2.5), "n_subjects is a whole number of at least 1, not 2.5"),
    (SimulatedMI, dict(n_sessions=0), "n_sessions is a whole number of at least 1"),
    (SimulatedMI, dict(sfreq=64), r"sfreq \(Hz\) is a number from 100, not 64"),
    (SimulatedMI, dict(sfreq="fast"), r"sfreq \(Hz\) is a number from 100, not 'fast'"),
    (SimulatedMI, dict(seed=-1), "seed is a whole number of at least 0, not -1"),
    (SimulatedMI, dict(effect=-1), "effect is a number from 0, not -1"),
    (SimulatedMI, dict(effect=float("nan")), "effect is a number from 0, not nan"),
    (SimulatedMI, dict(artefacts=None), "artefacts is a number from 0, not None"),
    (SimulatedMI, dict(unable=1.5), "unable is a number from 0 to 1, not 1.5"),
    (SimulatedMI, dict(pause=(3, 2)), r"pause is \(least, most\) in seconds"),
    (SimulatedMI, dict(pause=2), r"pause is \(least, most\) in seconds"),
    (SimulatedMI, dict(train_run=False), "no run is left"),
    (SimulatedMI, dict(subjects=[9]), "Invalid subjects"),
    (SimulatedMI, dict(sessions=[2]), r"sessions are 1 to 1, not \[2\]"),
])
def test_bad_settings_say_what_is_wrong(kind, settings, message):
    with pytest.raises(ValueError, match=message): kind(**settings)


def test_bad_calls_say_what_is_wrong():
    with pytest.raises(ValueError, match='run is "1train" or "4test"'):
        SimulatedMI().make_run(1, run="3rest")
    with pytest.raises(ValueError, match="three numbers"): simulated_datasets(n_trials=40)
    with pytest.raises(ValueError, match="Invalid subject 9"): SimulatedMI().get_data([9])
    assert list(small(SimulatedMI, n_sessions=2, sessions=[2], **QUICK).get_data([1])[1]) == ["2"]
