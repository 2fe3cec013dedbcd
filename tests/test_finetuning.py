"""Fine-tuning as a scikit-learn classifier: scikit-learn's own checks, chance under permuted
labels, nothing learned from test trials, files, MOABB."""
import doctest
import json
import logging
import re
import warnings
from itertools import product

import mne
import numpy as np
import pytest
import torch
from joblib import Parallel, delayed
from moabb.evaluations import (
    CrossSessionEvaluation, CrossSubjectEvaluation, WithinSessionEvaluation,
)
from moabb.paradigms import SSVEP, LeftRightImagery
from pyriemann.estimation import Covariances
from pyriemann.tangentspace import TangentSpace
from safetensors import safe_open
from safetensors.torch import save_file
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator
from torch import nn

from sjepa_nb import finetuning
from sjepa_nb.finetuning import (
    HIDING, SJEPAClassifier, SJEPAFeatures, fine_tune, sjepa_probe,
)
from sjepa_nb.diagnostics import in_band, spatial_filters
from sjepa_nb.evaluation import Whole
from sjepa_nb.heads import FEATURES, HEADS, Downstream, FeatureCache, SpatialAggregation
from sjepa_nb.masking import hiding
from sjepa_nb.montage import named_montage
from sjepa_nb.model import SJEPA, SJEPAConfig
from sjepa_nb.simulation import SimulatedMI, SimulatedSSVEP

CHANNELS = ("C3", "Cz", "C4", "Pz", "Oz", "Fz")
SMALL = SJEPAConfig(depth=2, predictor_depth=1, hidden=64, average_layers=2)
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("quiet")]
each_way = pytest.mark.parametrize("head,strategy", [*product(HEADS, ("new", "full"))])


@pytest.fixture(scope="module")
def quiet():
    logging.disable(logging.WARNING)
    with mne.utils.use_log_level("ERROR"): yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(3)
    return SJEPA(named_montage(CHANNELS), SMALL)


def trials(n=60, classes=2, samples=200, seed=0, strength=8.):
    "Six channels of noise; each class has a rhythm of its own, on one channel."
    rng, t = np.random.default_rng(seed), np.arange(samples) / 128
    y = np.arange(n) % classes
    x = rng.standard_normal((n, 6, samples)) * 5
    x[:, 0] += strength * np.sin(2 * np.pi * (8 + 6 * y[:, None]) * t + rng.uniform(0, 1, (n, 1)))
    return x.astype(np.float32), y


def quick(weights=None, **settings):
    "A classifier that is trained in a moment."
    short = dict(channels=CHANNELS, epochs=30, warmup_epochs=5, learning_rate=3e-3, validation=.2)
    return SJEPAClassifier(weights, **short | settings)


def equal(one, other):
    "Whether the parameters of two networks are the same, one by one."
    return [torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters())]


@pytest.fixture
def computed(monkeypatch):
    "How many trials went through a frozen network, call by call."
    FEATURES.clear()
    seen, features = [], Downstream.features

    def counted(self, x, *visible):
        seen.append(len(x))
        return features(self, x, *visible)

    monkeypatch.setattr(Downstream, "features", counted)
    return seen


# ------------------------------------------------ it learns, and only from what it may see

@each_way
def test_it_learns(weights, head, strategy):
    X, y = trials(120)
    c = quick(weights, head=head, strategy=strategy, epochs=60).fit(X[:90], y[:90])
    assert c.score(X[90:], y[90:]) > .8


@each_way
def test_permuted_labels_score_at_chance(weights, head, strategy):
    "Half of 200 test trials by chance: within 5 standard deviations."
    X, y = trials(320)
    y = np.random.default_rng(1).permutation(y)
    c = quick(weights, head=head, strategy=strategy, epochs=15).fit(X[:120], y[:120])
    assert abs(c.score(X[120:], y[120:]) - .5) < 5 * .5 / 200**.5


@each_way
def test_test_trials_change_nothing(weights, head, strategy):
    "The same training trials, after other test trials were read: the same model, bit for bit."
    X, y = trials(40)
    fitted = []
    for loud in (1, 30):
        FEATURES.clear()
        c = quick(weights, head=head, strategy=strategy, epochs=8, scale="standardise")
        c.fit(X[:30], y[:30])
        c.predict(X[30:] * loud)
        fitted.append(clone(c).fit(X[:30], y[:30]))  # after the test trials went through the cache
    assert all(equal(*(f.network_ for f in fitted)))
    assert fitted[0].history_.equals(fitted[1].history_)


def test_the_validation_trials_are_not_trained_on(weights, monkeypatch):
    "Their labels may be anything: the weights of a given epoch stay the same."
    X, y = map(torch.from_numpy, trials(40))
    seen = []
    for flip in (False, True):
        torch.manual_seed(0)
        net = Downstream("pre-local", 2, 200, 6)
        train, valid = finetuning.split_validation(y, .2, 0)
        labels = y.clone()
        if flip: labels[valid] = labels[valid].flip(0)
        monkeypatch.setattr(finetuning, "split_validation", lambda *a: (train, valid))
        seen.append(fine_tune(net, X, labels, epochs=6).train_loss)
    assert seen[0].equals(seen[1])


def test_new_leaves_the_pretrained_weights_alone_and_full_does_not(weights):
    X, y = trials(40)
    for head in HEADS:
        c = quick(weights, head=head, epochs=12)
        new, full = (clone(c).set_params(strategy=k).fit(X, y).network_ for k in ("new", "full"))
        assert all(equal(new.local_encoder, weights.local_encoder))
        assert not any(equal(full.local_encoder, weights.local_encoder))
        if head != "contextual": continue
        assert all(equal(new.encoder, weights.encoder))
        assert not any(equal(full.encoder.layers, weights.encoder.layers))


def test_the_warm_up_trains_the_head_alone(weights):
    X, y = trials(40)
    net = quick(weights, epochs=5, warmup_epochs=5).fit(X, y).network_
    assert all(equal(net.local_encoder, weights.local_encoder))


def test_full_has_its_own_patience(weights):
    "What the warm-up used up does not count."
    X, y = trials(40, strength=0.)
    settings = dict(epochs=60, patience=6, warmup_epochs=12, learning_rate=.02)
    h = quick(weights, head="post-local", **settings).fit(X, y).history_
    assert (h.phase == "new").sum() == 12 and (h.phase == "full").sum() >= 6


def test_the_best_epoch_comes_back(weights):
    X, y = trials(40, strength=1.)
    c = quick(weights, head="post-local", epochs=40, patience=10, learning_rate=.01).fit(X, y)
    losses = c.history_.valid_loss
    assert c.n_iter_ == max(c.best_epoch_, 4) + 11 < 40 and c.best_epoch_ == losses.idxmin()
    x, labels = c._prepare(X, False)[0], torch.from_numpy(y)
    valid = torch.from_numpy(finetuning.split_validation(y, .2, 0)[1])
    loss = finetuning.validation_loss(c.network_, "full", x[valid], labels[valid])
    assert np.isclose(loss, losses.min(), atol=1e-6)


def test_frozen_features_are_computed_once(weights, computed):
    X, y = trials(40)
    c = quick(weights, head="contextual", strategy="new", epochs=3)
    for rate in (1e-3, 1e-2): c.set_params(learning_rate=rate).fit(X[:30], y[:30])
    c.fit(X[10:], y[10:])
    assert sum(computed) == 40


def test_features_of_other_weights_or_precision_are_not_mixed_up(weights):
    X, y = trials(30)
    torch.manual_seed(9)
    other = SJEPA(named_montage(CHANNELS), SMALL)
    FEATURES.clear()

    def history(start):
        return quick(start, head="contextual", strategy="new", epochs=4).fit(X, y).history_

    one = history(other)
    history(weights)
    assert history(other).equals(one)
    FEATURES.clear()


def test_the_cache_forgets_the_oldest():
    cache, x = FeatureCache(most=4 * 10 * 4), torch.randn(8, 2, 10)
    for i in range(8): cache(f"{i}", x[i:i + 1], lambda a: a.mean(1))
    assert len(cache.stored) == 4 and cache.size == 160
    assert torch.equal(cache("7", x[7:8], None), x[7:8].mean(1))


def test_a_seed_is_a_seed(weights):
    X, y = trials(40)
    fitted = [quick(weights, epochs=5, random_state=s).fit(X, y) for s in (0, 0, 1)]
    a, b, c = (f.predict_proba(X) for f in fitted)
    assert np.array_equal(a, b) and not np.array_equal(a, c)
    torch.manual_seed(5)
    before = torch.rand(1)
    torch.manual_seed(5)
    quick(weights, epochs=2).fit(X, y)
    assert torch.equal(torch.rand(1), before)  # the user's random numbers go on as they were


# ---------------------------------------------------------------- norm, filters, few trials

@each_way
def test_a_frozen_norm_keeps_the_amplitude(weights, head, strategy):
    "Two classes that differ in nothing but amplitude."
    X, y = trials(160, strength=0.)
    X *= np.where(y, 1.5, 1.)[:, None, None].astype(np.float32)
    scores = {}
    for norm in ("window", "frozen"):
        c = quick(weights, head=head, strategy=strategy, norm=norm, epochs=40, reference=None)
        scores[norm] = c.fit(X[:120], y[:120]).score(X[120:], y[120:])
    assert scores["frozen"] > .8 > scores["window"]


def test_a_frozen_norm_is_learned_from_the_training_trials_alone(weights):
    "Not from the validation trials, and not from those of predict."
    X, y = trials(60)
    _, valid = finetuning.split_validation(y, .2, 0)
    louder = X.copy()
    louder[valid] *= 7
    nets = []
    for x in (X, louder):
        c = quick(weights, head="post-local", norm="frozen", epochs=2, reference=None).fit(x, y)
        before = c.network_.local_encoder.norm.var.clone()
        c.predict(x * 3)
        assert torch.equal(before, c.network_.local_encoder.norm.var)
        nets.append(c.network_.local_encoder.norm)
    assert torch.equal(nets[0].mean, nets[1].mean) and torch.equal(nets[0].var, nets[1].var)


def test_features_of_other_norms_are_not_mixed_up(weights):
    "The cache knows the statistics of a frozen norm."
    X, y = trials(40)

    def features(first, norm):
        f = SJEPAFeatures(weights, "local", channels=CHANNELS, norm=norm)
        return f.fit(X[first:first + 20]).transform(X[:4])

    FEATURES.clear()
    fresh = features(0, "frozen")
    others = [features(20, "frozen"), features(0, "window")]
    assert np.array_equal(features(0, "frozen"), fresh)
    assert all(np.abs(o - fresh).max() > 1e-3 for o in others)


@pytest.mark.parametrize("kind", ["csp", "xdawn", "class means"])
def test_filters_are_computed_without_the_validation_trials(weights, kind):
    X, y = trials(60)
    _, valid = finetuning.split_validation(y, .2, 0)
    other = X.copy()
    other[valid] = trials(60, seed=5)[0][valid][:, ::-1]
    starts = []
    for x in (X, other):
        c = quick(weights, filters=kind, epochs=1, learning_rate=1e-9).fit(x, y)
        starts.append(c.network_.spatial.weight.detach())
    torch.testing.assert_close(*starts, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("head", HEADS)
def test_filters_for_every_head(weights, head):
    X, y = trials(60)
    c = quick(weights, head=head, filters="csp", norm="frozen", epochs=40).fit(X[:40], y[:40])
    assert c.score(X[40:], y[40:]) > .8


def test_few_trials_have_no_validation_part(weights):
    X, y = trials(99)
    c = quick(weights, validation="auto", epochs=12).fit(X[:99], y[:99])
    assert c.history_.valid_loss.isna().all() and c.n_iter_ == 12 and c.best_epoch_ == 11
    X, y = trials(100)
    assert quick(weights, validation="auto", epochs=3).fit(X, y).history_.valid_loss.notna().all()


def test_a_small_validation_part_is_warned_of(weights):
    X, y = trials(40)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quick(weights, epochs=1).fit(X, y)
    assert [str(w.message) for w in caught if "8 validation trials" in str(w.message)]


def test_one_trial_of_a_class_is_enough_without_a_validation_part(weights):
    X, y = trials(30)
    c = quick(weights, validation=0, epochs=1).fit(X, np.r_[np.zeros(29), 1])
    assert c.predict(X).shape == (30,)


def test_the_last_weights_are_averaged(weights):
    "Of three epochs: the mean of the weights after each of them."
    X, y = trials(40)

    def aggregation(epochs, average):
        c = quick(weights, validation=0, epochs=epochs, average=average)
        return c.fit(X, y).network_.spatial.weight

    after, mean = [aggregation(n, 1) for n in (1, 2, 3)], aggregation(3, 3)
    torch.testing.assert_close(mean, sum(after) / 3)


def test_dropout_smoothing_and_decay_change_the_training(weights):
    X, y = trials(40)
    plain = quick(weights, epochs=4).fit(X, y).history_
    for setting in (dict(dropout=.5), dict(label_smoothing=.1), dict(weight_decay=1.)):
        other = quick(weights, epochs=4, **setting).fit(X, y).history_
        assert not other.equals(plain), setting


# ------------------------------------------------------------------------- hidden channels

def hide_the_third(n, generator):
    "A mask that hides one channel of six in every trial."
    return hiding((torch.arange(6) == 2).expand(n, -1))


def tuned(model, x, y, head, strategy, mask, **settings):
    "A network that `fine_tune` trained, and its history."
    torch.manual_seed(0)
    net = Downstream(head, 2, x.shape[2], 6, model.montage, model)
    settings = dict(epochs=4, warmup_epochs=2, validation=0) | settings
    return net, fine_tune(net, x, y, strategy, mask=mask, **settings)


@each_way
def test_what_is_hidden_changes_no_loss_and_no_weight(weights, head, strategy):
    "Not through the features that were computed once, not through what looked at it."
    x, y = map(torch.from_numpy, trials(20))
    other = x.clone()
    other[:, 2] = 50 * torch.randn(20, 200)
    for mask, same in ((hide_the_third, True), (None, False)):
        (one, losses), (two, others) = [
            tuned(weights, signals, y, head, strategy, mask) for signals in (x, other)]
        assert losses.equals(others) == same and all(equal(one, two)) == same
    assert not torch.equal(one(x), one(other))  # a prediction sees all


@each_way
def test_validation_trials_are_seen_whole(weights, head, strategy):
    x, y = map(torch.from_numpy, trials(40))
    net, history = tuned(weights, x, y, head, strategy, hide_the_third, validation=.2)
    valid = torch.from_numpy(finetuning.split_validation(y, .2, 0)[1])
    loss = finetuning.validation_loss(net, "full", x[valid], y[valid])
    assert np.isclose(loss, history.valid_loss.min(), atol=1e-6)


def test_a_sum_of_what_is_left_is_as_large_as_that_of_all():
    aggregate, visible = SpatialAggregation(6, 2), hide_the_third(5, None).visible
    torch.nn.init.constant_(aggregate.weight, .3)
    for x in (torch.ones(5, 6, 7), torch.ones(5, 6, 3, 4)):  # signals, tokens
        torch.testing.assert_close(aggregate(x, visible), aggregate(x))


@pytest.mark.parametrize("mask", HIDING)
def test_masks_are_drawn_from_the_seed(weights, mask):
    "Whatever else draws; and a classifier that was kept is fitted again with the same ones."
    X, y = trials(40)
    fits = []
    for settings in (dict(), dict(), dict(random_state=1), dict(mask=None)):
        torch.rand(3)
        fits.append(quick(weights, epochs=6, **dict(mask=mask) | settings).fit(X, y).history_)
    assert fits[0].equals(fits[1]) and not fits[0].equals(fits[2])
    assert not fits[0].equals(fits[3])


def test_a_mask_is_kept_in_a_file(weights, tmp_path):
    X, y = trials(40)
    c = quick(weights, head="post-local", mask="sphere", epochs=3).fit(X, y)
    c.save(tmp_path / "c")
    again = SJEPAClassifier.load(tmp_path / "c")
    assert np.array_equal(again.predict_proba(X), c.predict_proba(X))
    again.save(tmp_path / "c")
    again = SJEPAClassifier.load(tmp_path / "c")
    assert clone(again).fit(X, y).history_.equals(c.history_) and again.mask == "sphere"


def test_one_channel_cannot_be_hidden(weights):
    with pytest.raises(ValueError, match="a mask needs at least 2 channels"):
        quick(weights, channels=("Cz",), mask="sphere").fit(trials(30)[0][:, :1], trials(30)[1])


def test_threads_give_what_one_thread_gives(weights):
    "First weights, order and dropout come from the seed, whatever other threads draw."
    X, y = trials(40)
    some = [quick(epochs=3, dropout=.3, random_state=s) for s in range(4)]
    def fit(c): return clone(c).fit(X, y).predict_proba(X)
    alone = [fit(c) for c in some]
    for _ in range(3):
        together = Parallel(4, backend="threading")(delayed(fit)(c) for c in some)
        for a, b in zip(alone, together): assert np.array_equal(a, b)


def test_the_closed_form_head(weights):
    X, y = trials(120)
    for norm in ("window", "frozen"):
        probe = sjepa_probe(weights, "csp", norm, channels=CHANNELS).fit(X[:90], y[:90])
        assert probe.score(X[90:], y[90:]) > .8
    assert cross_val_score(clone(sjepa_probe(weights, "class means")), X, y, cv=3).min() > .5
    with pytest.raises(ValueError, match="no place for the contextual encoder"):
        SJEPAFeatures(weights, filters="csp").fit(X, y)
    with pytest.raises(ValueError, match="fit requires y"):
        SJEPAFeatures(weights, "local", filters="csp").fit(X)


# ---------------------------------------------------------------- scikit-learn

class Flat:
    """For scikit-learn's checks, whose data are tables: every column becomes a channel that holds a
    wave of that size."""
    def _wave(self, X):
        X = finetuning.check_array(X, dtype=np.float32)
        wave, other = np.sin(np.arange(152) / 8), np.cos(np.arange(152) / 3)
        return X[..., None] * wave.astype(np.float32) + other.astype(np.float32)

    def _prepare(self, X, fitting):
        wave = self._wave(X)
        if fitting: self.n_features_in_ = wave.shape[1]
        return super()._prepare(wave, fitting)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        return tags


class FlatClassifier(Flat, SJEPAClassifier): pass
class FlatFeatures(Flat, SJEPAFeatures): pass


# The one check that cannot hold, with its reason.
EXPECTED = {"check_n_features_in_after_fitting":
            "trials have channels and samples: what does not fit is named in those words"}
FLAT = [FlatClassifier(epochs=15, warmup_epochs=0, learning_rate=.03, reference=None),
        FlatFeatures(encoder="local", reference=None)]


@pytest.mark.parametrize("estimator", FLAT, ids=lambda e: type(e).__name__)
def test_scikit_learns_checks(estimator):
    results = check_estimator(estimator, expected_failed_checks=EXPECTED, on_fail=None,
                              on_skip=None)
    failed = [r for r in results if r["status"] == "failed"]
    failed = {r["check_name"]: str(r["exception"])[:300] for r in failed}
    assert not failed, failed
    assert sum(r["status"] == "passed" for r in results) > 30


def documented(text, section):
    "Names in a section of a numpydoc docstring."
    body = text.split(f"{section}\n    ---")[1].split("\n\n")[0]
    entries = re.findall(r"^    ([a-z][\w, ]*)", body, flags=re.MULTILINE)
    return {name.strip() for entry in entries for name in entry.split(",")}


@pytest.mark.parametrize("kind", [SJEPAClassifier, SJEPAFeatures])
def test_help_has_each_parameter_each_attribute_and_an_example_that_runs(kind):
    assert documented(kind.__doc__, "Parameters") == set(kind().get_params())
    X, y = trials(20)
    fitted = kind(channels=CHANNELS, scale="standardise").set_params(
        **{"epochs": 1} if kind is SJEPAClassifier else {"encoder": "local", "filters": "csp"})
    learned = {k for k in vars(fitted.fit(X, y)) if k.endswith("_")}
    assert documented(kind.__doc__, "Attributes") == learned
    examples = doctest.DocTestFinder(recurse=False).find(kind, globs={kind.__name__: kind})
    assert [doctest.DocTestRunner().run(e).failed for e in examples] == [0]


def test_trials_of_two_dimensions_are_refused():
    with pytest.raises(ValueError, match="Reshape your data"):
        SJEPAClassifier().fit(np.zeros((10, 200)), np.arange(10) % 2)


def test_clone_pipeline_grid_search(weights):
    X, y = trials(40)
    c = quick(weights, strategy="new", epochs=4)
    params, copied = c.get_params(), clone(c).get_params()
    for each in (params, copied): each.pop("weights")
    assert copied == params
    pipe = make_pipeline(FunctionTransformer(lambda x: x * 2), c)
    assert cross_val_score(pipe, X, y, cv=3).shape == (3,)
    grid = {"sjepaclassifier__virtual_channels": [2, 3],
            "sjepaclassifier__head": ["pre-local", "post-local"]}
    search = GridSearchCV(pipe, grid, cv=2).fit(X, y)
    assert len(search.cv_results_["params"]) == 4 and search.predict(X).shape == (40,)


@pytest.mark.parametrize("labels", [["left", "right"], [True, False], [2, 11, 5]], ids=str)
def test_labels_of_any_type(labels):
    X, y = trials(36, len(labels))
    named = np.array(labels)[y]
    c = quick(epochs=3).fit(X, list(named))
    assert set(c.predict(X)) <= set(labels) and c.predict_proba(X).shape == (36, len(labels))
    assert np.allclose(c.predict_proba(X).sum(1), 1, atol=1e-5)


# ---------------------------------------------------------------- epochs, files, bad input

def epochs_of(X, channels=CHANNELS, sfreq=128.):
    info = mne.create_info(list(channels), sfreq, "eeg")
    return mne.EpochsArray(X * 1e-6, info, verbose="ERROR")


def test_epochs_in_volts_are_arrays_in_microvolts(weights):
    X, y = trials(30)
    a = quick(weights, head="contextual", epochs=3).fit(X, y)
    b = quick(weights, head="contextual", epochs=3, channels=None).fit(epochs_of(X), y)
    assert np.allclose(a.predict_proba(X), b.predict_proba(epochs_of(X)), atol=1e-3)
    mixed = [5, 0, 3, 1, 4, 2]
    shuffled = epochs_of(X[:, mixed], np.array(CHANNELS)[mixed])
    assert np.allclose(b.predict_proba(epochs_of(X)), b.predict_proba(shuffled), atol=1e-6)
    with pytest.raises(ValueError, match="that were there in fit are missing: Fz"):
        b.predict(epochs_of(X, CHANNELS[:-1] + ("AFz",)))
    with pytest.raises(ValueError, match="resample=128"): b.fit(epochs_of(X, sfreq=250.), y)
    with pytest.raises(ValueError, match="channels without a position: Ear"):
        quick(weights, channels=None).fit(epochs_of(X, CHANNELS[:-1] + ("Ear",)), y)


@pytest.mark.parametrize("head", HEADS)
def test_a_file_holds_the_classifier(weights, head, tmp_path):
    X, y = trials(30)
    X = X * 1e4
    c = quick(weights, head=head, epochs=3, scale="standardise").fit(X, np.array(["a", "b"])[y])
    c.save(tmp_path / "c.safetensors")
    again = SJEPAClassifier.load(tmp_path / "c.safetensors")
    assert np.array_equal(again.predict_proba(X), c.predict_proba(X))
    assert list(again.classes_) == ["a", "b"]
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


def test_a_number_of_numpy_is_saved_as_a_number(weights, tmp_path):
    "As a grid search over np.arange leaves it."
    X, y = trials(30)
    quick(weights, epochs=np.int64(2)).fit(X, y).save(tmp_path / "c")
    assert SJEPAClassifier.load(tmp_path / "c").epochs == 2


def test_other_files_are_refused(weights, tmp_path):
    X, y = trials(30)
    quick(weights, epochs=1).fit(X, y).save(tmp_path / "c")
    (tmp_path / "half").write_bytes((tmp_path / "c").read_bytes()[:500])
    weights.save(tmp_path / "other")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        SJEPAClassifier.load(tmp_path / "half")
    with pytest.raises(ValueError, match="not written by SJEPAClassifier.save"):
        SJEPAClassifier.load(tmp_path / "other")
    with pytest.raises(FileNotFoundError): SJEPAClassifier.load(tmp_path / "none")


def test_an_array_in_fit_and_epochs_in_predict(weights):
    "Which channel is which cannot be known: refused. With names, channels are found."
    X, y = trials(30)
    nameless = quick(weights, channels=None, epochs=1).fit(X, y)
    mixed = [5, 0, 3, 1, 4, 2]
    shuffled = epochs_of(X[:, mixed], np.array(CHANNELS)[mixed])
    with pytest.raises(ValueError, match="fit saw an array without names"):
        nameless.predict(shuffled)
    named = quick(weights, epochs=1).fit(X, y)
    np.testing.assert_allclose(named.predict_proba(shuffled), named.predict_proba(X), atol=1e-5)


FACTORS = {"zeros": (0, "trials 4 are flat"), "volts": (1e-6, "trials 4 look like volts"),
           "large": (1e6, "trials 4 are too large"), "NaN": (np.nan, "NaN")}


@pytest.mark.parametrize("factor,message", FACTORS.values(), ids=FACTORS)
@pytest.mark.parametrize("scale", ["raise", "standardise"])
def test_each_trial_is_looked_at(weights, factor, message, scale):
    X, y = trials(30)
    c = quick(weights, epochs=1, scale=scale).fit(X, y)
    bad = X.copy()
    bad[4] *= factor
    with pytest.raises(ValueError, match=message): c.predict_proba(bad)
    with pytest.raises(ValueError, match=message): c.fit(bad, y)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("norm", ["window", "frozen"])
def test_a_classifier_from_a_file_begins_where_the_first_one_began(weights, head, norm, tmp_path):
    "Cloned and fitted again, as MOABB and cross_val_score do."
    X, y = trials(40)
    for start in (weights, None):
        c = quick(start, head=head, epochs=3, norm=norm).fit(X[:30], y[:30])
        c.save(tmp_path / "c")
        again = SJEPAClassifier.load(tmp_path / "c").set_params(channels=CHANNELS)
        assert np.array_equal(again.predict_proba(X), c.predict_proba(X))
        again.save(tmp_path / "d")
        third = SJEPAClassifier.load(tmp_path / "d").set_params(channels=CHANNELS)
        expected = clone(c).fit(X[10:], y[10:]).history_
        for other in (again, third):
            assert clone(other).fit(X[10:], y[10:]).history_.equals(expected)


@pytest.mark.parametrize("kind", ["csp", "class means", "xdawn"])
def test_filters_of_signals_are_found_in_their_band(kind):
    X, y = trials(30)
    spatial = SpatialAggregation(X.shape[1], 4)
    spatial.learn_filters(torch.from_numpy(X), torch.from_numpy(y), kind)
    found = spatial_filters(in_band(X.astype(float), kind), y, kind)
    alike = np.einsum("vc,vc->v", spatial.weight.detach(), found)
    length = np.linalg.norm(spatial.weight.detach(), axis=1) * np.linalg.norm(found, axis=1)
    np.testing.assert_allclose(alike / length, 1, atol=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_weights_from_a_file_are_the_model_itself(weights, head, tmp_path):
    "Opening a file draws no random numbers: neither the caller's, nor the head's first weights."
    X, y = trials(20)
    weights.save(tmp_path / "m.safetensors")
    c = quick(weights, head=head, epochs=1).fit(X, y)
    other = quick(tmp_path / "m.safetensors", head=head, epochs=1).fit(X, y)
    assert all(equal(c.network_, other.network_))
    c.save(tmp_path / "c.safetensors")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    SJEPA.from_pretrained(tmp_path / "m.safetensors")
    SJEPAClassifier.load(tmp_path / "c.safetensors")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_file_without_a_contextual_encoder_cannot_start_one(weights, tmp_path):
    X, y = trials(30)
    quick(weights, epochs=1).fit(X, y).save(tmp_path / "c")
    again = SJEPAClassifier.load(tmp_path / "c").set_params(channels=CHANNELS, head="contextual")
    with pytest.raises(ValueError, match="without a contextual encoder"): clone(again).fit(X, y)


def opened(path):
    "Header and tensors of a file."
    with safe_open(path, "pt") as f: return f.metadata(), {k: f.get_tensor(k) for k in f.keys()}


def test_older_files_predict_and_refuse_to_begin_anew(weights, tmp_path):
    "Files before the options: no start, no norm in the settings."
    X, y = trials(30)
    c = quick(weights, epochs=1).fit(X, y)
    c.save(tmp_path / "c")
    about, tensors = opened(tmp_path / "c")
    tensors = {k: v for k, v in tensors.items() if not k.startswith("start.")}
    del about["start"]
    settings = json.loads(about["settings"])
    for k in ("norm", "filters", "average", "weight_decay", "dropout", "label_smoothing"):
        del settings[k]
    about["settings"] = json.dumps(settings)
    save_file(tensors, tmp_path / "old", metadata=about)
    old = SJEPAClassifier.load(tmp_path / "old")
    assert np.array_equal(old.predict_proba(X), c.predict_proba(X)) and old.norm == "window"
    with pytest.raises(ValueError, match="read from an older file"): clone(old).fit(X, y)


NAN = np.where(np.arange(200) == 7, np.nan, trials(30)[0])
TRIALS = {"only one class": dict(y=np.zeros(30)),
          "at least 2 of each class": dict(y=np.r_[np.zeros(29), 1]),
          "fewer than 152": dict(X=trials(30)[0][..., :151]),
          "multiply by 1e6": dict(X=trials(30)[0] * 1e-6),
          "NaN": dict(X=NAN),
          "inconsistent|trials and 29 labels": dict(y=np.arange(29) % 2)}
SETTINGS = {"channels without a position: Ear": dict(channels=CHANNELS[:-1] + ("Ear",),
                                                     head="contextual"),
            'head="contextual" needs to know where': dict(channels=None, head="contextual"),
            'mask="sphere" needs to know where': dict(channels=None, mask="sphere"),
            "channels without a position: Eye": dict(channels=CHANNELS[:-1] + ("Eye",),
                                                     mask="sphere"),
            "6 channels, and 3 names": dict(channels=CHANNELS[:3]),
            "weights are an SJEPA": dict(weights=3)}
IMPOSSIBLE = [("epochs", 0), ("patience", 0), ("validation", 1.5), ("learning_rate", 0.),
              ("head", "x"), ("strategy", "x"), ("virtual_channels", 0), ("scale", "x"),
              ("reference", "Cz"), ("norm", "x"), ("filters", "ica"), ("average", 0),
              ("weight_decay", -1.), ("dropout", 1.), ("label_smoothing", 1.),
              ("mask", "fixed budget")]


@pytest.mark.parametrize("message", TRIALS)
def test_bad_trials(weights, message):
    X, y = trials(30)
    given = dict(X=X, y=y) | TRIALS[message]
    with pytest.raises(ValueError, match=message): quick(weights).fit(**given)


@pytest.mark.parametrize("message", SETTINGS)
def test_bad_settings(weights, message):
    with pytest.raises(ValueError, match=message):
        quick(**dict(weights=weights) | SETTINGS[message]).fit(*trials(30))


@pytest.mark.parametrize("name,value", IMPOSSIBLE)
def test_a_setting_that_cannot_be_is_named(weights, name, value):
    with pytest.raises(ValueError, match=name): quick(weights, **{name: value}).fit(*trials(30))


def test_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no pre-trained model"):
        quick(tmp_path / "none").fit(*trials(30))
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"123")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        quick(str(bad)).fit(*trials(30))


def test_weights_of_another_width(tmp_path):
    "A file whose tensors are not those its header describes."
    SJEPA(named_montage(CHANNELS), SMALL).save(tmp_path / "m.safetensors")
    about, tensors = opened(tmp_path / "m.safetensors")
    for k, v in tensors.items():
        if v.ndim == 2 and v.shape[-1] == 64: tensors[k] = v[..., :32].contiguous()
    save_file(tensors, tmp_path / "w.safetensors", metadata=about)
    with pytest.raises(ValueError, match="not those of the model that its header describes"):
        quick(tmp_path / "w.safetensors").fit(*trials(30))


# ---------------------------------------------------------------- MOABB

SECOND = dict(fmin=.5, fmax=40, tmin=0, tmax=152 / 128, resample=128)


def riemann():
    return make_pipeline(Covariances("oas"), TangentSpace(), LogisticRegression(max_iter=1000))


def evaluated(kind, paradigm, dataset, folder, pipelines, **settings):
    "The scores of one of MOABB's evaluations."
    evaluation = kind(paradigm, [dataset], overwrite=True, hdf5_path=str(folder), **settings)
    results = evaluation.process(pipelines)
    assert results.score.between(0, 1).all()
    return results


@pytest.mark.parametrize("return_epochs", [False, True])
def test_within_session_evaluation(return_epochs, tmp_path):
    "Beside a Riemannian pipeline, in one call."
    pipelines = {"S-JEPA": make_pipeline(SJEPAClassifier(epochs=3))}
    if not return_epochs: pipelines["Riemann"] = riemann()
    people = SimulatedMI(n_subjects=2, n_trials=10)
    results = evaluated(WithinSessionEvaluation, LeftRightImagery(**SECOND), people, tmp_path,
                        pipelines, return_epochs=return_epochs)
    assert len(results) == (2 if return_epochs else 4)


EVALUATIONS = [(CrossSessionEvaluation, dict(n_sessions=2, n_subjects=1)),
               (CrossSubjectEvaluation, dict(n_subjects=2))]


@pytest.mark.parametrize("kind,settings", EVALUATIONS)
def test_other_evaluations(kind, settings, tmp_path):
    pipelines = {"S-JEPA": SJEPAClassifier(epochs=2), "Riemann": riemann()}
    people = SimulatedSSVEP(n_trials=8, **settings)
    results = evaluated(kind, SSVEP(**SECOND, n_classes=4), people, tmp_path, pipelines)
    assert set(results.pipeline) == {"S-JEPA", "Riemann"}


def test_real_recordings_in_moabbs_evaluation(real_data, tmp_path):
    from moabb.datasets import PhysionetMI
    data = PhysionetMI(imagined=True, executed=False)
    data.subject_list = [1]
    pipelines = {"S-JEPA": SJEPAClassifier(epochs=5), "Riemann": riemann()}
    results = evaluated(WithinSessionEvaluation, LeftRightImagery(**SECOND), data, tmp_path,
                        pipelines)
    assert len(results) == 2 and set(results["samples"]) == {45.}


# ---------------------------------------------------------------- features

@pytest.fixture
def float32(monkeypatch):
    "Feed-forward networks in float32 on every machine."
    monkeypatch.setattr(finetuning, "set_precision", lambda *a: None)
    FEATURES.clear()


@pytest.mark.parametrize("encoder", ["contextual", "local"])
def test_features_are_the_models_tokens(weights, encoder, float32):
    X, _ = trials(5)
    x = torch.from_numpy(X - X.mean(1, keepdims=True))
    with torch.no_grad():
        tokens = weights.local_encoder(x)
        if encoder == "contextual": tokens = weights.encode(x).unflatten(1, tokens.shape[1:3])
    FEATURES.clear()
    for mean, axes in finetuning.MEANS.items():
        f = SJEPAFeatures(weights, encoder, mean, CHANNELS, batch_size=2).fit(X)
        expected = (tokens.mean(axes) if axes else tokens).flatten(1).numpy()
        np.testing.assert_allclose(f.transform(X), expected, atol=1e-5)
        assert len(f.get_feature_names_out()) == expected.shape[1]


def test_features_in_a_pipeline_are_computed_once(weights, computed, tmp_path):
    X, y = trials(40, strength=20.)
    weights.save(tmp_path / "weights.safetensors")
    features = SJEPAFeatures(tmp_path / "weights.safetensors", channels=CHANNELS)
    pipe = make_pipeline(features, LogisticRegression(max_iter=1000))
    search = GridSearchCV(pipe, {"logisticregression__C": [.1, 10.]}, cv=4).fit(X, y)
    assert sum(computed) == 40 and search.best_score_ > .7


def test_features_of_epochs_and_of_their_array_are_equal(weights, float32):
    X, _ = trials(6)
    info = mne.create_info(list(CHANNELS[::-1]), 128., "eeg")
    info.set_montage("standard_1005")
    epochs = mne.EpochsArray(X[:, ::-1] * 1e-6, info)
    f = SJEPAFeatures(weights, channels=CHANNELS)
    expected = f.fit_transform(X)
    FEATURES.clear()
    found = f.transform(epochs)  # channels are found by name
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert f.set_output(transform="pandas").transform(X).shape == (6, 6 * 64)


REFUSED = {"mean is one of": dict(mean="space"),
           "encoder is one of 'contextual', 'local'": dict(encoder="conv"),
           "batch_size is a whole number": dict(batch_size=0),
           "weights are an SJEPA": dict(weights=3),
           'encoder="contextual" needs to know where': dict(channels=None)}


@pytest.mark.parametrize("message", REFUSED)
def test_features_refuse_settings(weights, message):
    settings = dict(weights=weights, channels=CHANNELS) | REFUSED[message]
    with pytest.raises(ValueError, match=message): SJEPAFeatures(**settings).fit(trials(6)[0])


def test_features_refuse_trials(weights):
    X, _ = trials(6)
    f = SJEPAFeatures(weights, channels=CHANNELS).fit(X)
    with pytest.raises(ValueError, match="fit saw 6 and 200"): f.transform(X[..., :160])
    with pytest.raises(ValueError, match="multiply by 1e6"): f.transform(X * 1e-6)


def test_a_network_of_ones_own_needs_to_know_nothing_of_masks():
    "EEGNet's wrapper leaves hidden channels out; another network is not told of masks."
    class Plain(nn.Module):
        def scores(self, x): return x.mean(2)

    x, y = torch.randn(4, 2, 50), torch.tensor([0, 1, 0, 1])
    plain = finetuning._loss(Plain(), "new", x, y)
    whole = Whole(nn.AvgPool1d(50))
    few = torch.tensor([[True, False]]).expand(4, -1)
    scores = whole.scores(x, few).flatten(1)
    assert torch.equal(scores[:, 1], torch.zeros(4)) and scores[:, 0].abs().min() > 0
    assert torch.isclose(nn.functional.cross_entropy(whole(x).flatten(1), y), plain)
