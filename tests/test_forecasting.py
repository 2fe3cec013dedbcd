"""Forecasts: from what is seen alone, at the places that follow; and what they have to beat."""
import numpy as np
import pytest
import torch

from sjepa_nb.forecasting import Autoregression, Persistence, explained, forecast, look_ahead
from sjepa_nb.model import SJEPA, SJEPAConfig
from sjepa_nb.montage import named_montage

MONTAGE = named_montage("Fz C3 Cz C4 Pz Oz".split())


def make(**switches):
    torch.manual_seed(0)
    return SJEPA(MONTAGE, SJEPAConfig.preset("2/8/64", norm_over="token", **switches)).eval()


@pytest.fixture(scope="module")
def x(): return 10 * torch.randn(3, 6, 664, generator=torch.Generator().manual_seed(0))


def test_a_forecast_is_the_predictors_answer_at_the_places_that_follow(x):
    model, seen = make(), x[..., :408]                         # three tokens
    with torch.no_grad():
        code = model.position(5)                               # (channels, tokens, 64)
        context = model.encoder((model.local_encoder(seen) + code[:, :3]).flatten(1, 2))
        asked = code[:, 3:].flatten(0, 1).expand(len(x), -1, -1)
        expected = model.predictor(asked, context).unflatten(1, (6, 2))
    torch.testing.assert_close(forecast(model, seen, 2), expected)


@pytest.mark.parametrize("switches", [
    {}, dict(registers=2), dict(condition=True), dict(target="signal"), dict(collapse="sigreg")])
def test_what_follows_is_not_looked_at_and_is_what_is_right(x, switches):
    model, other = make(**switches), x.clone()
    other[..., 408:] = 30 * torch.randn(3, 6, 256, generator=torch.Generator().manual_seed(1))
    (mine, true), (same, another) = look_ahead(model, x, 3), look_ahead(model, other, 3)
    torch.testing.assert_close(mine, same)
    torch.testing.assert_close(mine, forecast(model, x[..., :408], 2))
    assert mine.shape == true.shape == (3, 6, 2, 152 if "target" in switches else 64)
    assert (true - another).abs().mean() > .01


def test_the_truth_is_what_the_teacher_says_of_the_whole_window(x):
    model = make()
    with torch.no_grad(): whole = model.targets(model.local_encoder(x) + model.position(5))
    torch.testing.assert_close(look_ahead(model, x, 3)[1], whole[:, :, 3:])


def test_many_windows_are_asked_in_parts(x):
    model = make()
    many = x.repeat(7, 1, 1)
    torch.testing.assert_close(look_ahead(model, many, 3)[0][-3:], look_ahead(model, x, 3)[0])


@pytest.mark.parametrize("call, message", [
    (lambda m, x: forecast(SJEPA(MONTAGE), x), 'norm_over="token"'),
    (lambda m, x: forecast(m, x, 0), "horizon is a whole number of at least 1"),
    (lambda m, x: forecast(m, x[:, :4]), "6 channels"),
    (lambda m, x: forecast(m, x[..., :100]), "at least 152 samples"),
    (lambda m, x: look_ahead(m, x, 5), "seen of at most 4"),
    (lambda m, x: look_ahead(m, x, 0), "seen is a whole number of at least 1"),
    (lambda m, x: look_ahead(m, x[..., :152], 1), "at least 280 samples")])
def test_what_cannot_be_forecast_is_refused_in_words(x, call, message):
    with pytest.raises(ValueError, match=message): call(make(), x)


# ---------------------------------------- what a forecast has to beat

def series(rng, n=400): return rng.standard_normal((n, 3, 4, 2))


def test_persistence_is_the_last_second_with_the_means_exchanged():
    past = series(np.random.default_rng(0))
    future = past[:, :, -1:].repeat(2, 2) + np.array([5., 7])[:, None]
    np.testing.assert_allclose(Persistence().fit(past, future).predict(past), future)


def test_a_regression_finds_the_law_within_a_channel_and_across_channels():
    rng = np.random.default_rng(0)
    past, new = series(rng), series(rng)
    def own(v): return v[:, :, [-1]] - .5 * v[:, :, [-2]] + 3
    def other(v): return v[:, [1, 2, 0]][:, :, [-1]]           # another channel's last second
    assert explained(own(new), Autoregression(2).fit(past, own(past)).predict(new))[0] > .99
    within = Autoregression(2).fit(past, other(past)).predict(new)
    across = Autoregression(1, across=True).fit(past, other(past)).predict(new)
    assert explained(other(new), within)[0] < .05 and explained(other(new), across)[0] > .95


def test_levels_of_people_are_not_learned_where_people_are_told():
    "Half of the last second's deviation from a person's level stays: told who is who, it is found."
    rng, people = np.random.default_rng(0), np.repeat(np.arange(8), 50)
    level, noise = 3 * rng.standard_normal((8, 1, 1, 1))[people], series(rng)
    past, future = level + noise, level + .5 * noise[:, :, -1:]
    blind, told = Autoregression(1).fit(past, future), Autoregression(1).fit(past, future, people)
    mine = people == 0
    scores = [explained(future[mine], m.predict(past[mine]))[0] for m in (blind, told)]
    assert scores[0] < .9 and scores[1] > .99


def test_the_share_explained_is_about_the_mean_of_each_place():
    rng = np.random.default_rng(0)
    true, noise = rng.standard_normal((2, 2000, 3, 2, 4))
    noise[:, :, 1] *= 2
    np.testing.assert_allclose(explained(true, true + 4), [1, 1])
    np.testing.assert_allclose(explained(true, np.zeros_like(true)), [0, 0])
    np.testing.assert_allclose(explained(true, true + noise), [0, -3], atol=.1)
