"""The switches of the model: alone, in pairs, refused, and absent."""
import json
from dataclasses import asdict
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open

from sjepa_nb.attention import PackedAttention
from sjepa_nb.collapse import TERMS, held_apart, sigreg, variance_covariance
from sjepa_nb.command_line import sjepa_pretrain
from sjepa_nb.contextual_encoder import Attention, take_channels
from sjepa_nb.diagnostics import lidar, looks_at
from sjepa_nb.finetuning import SJEPAClassifier
from sjepa_nb.heads import Downstream, fingerprint, frozen_features
from sjepa_nb.masking import FixedBudgetMask, SphereMask
from sjepa_nb.model import SWITCHES, SJEPA, SJEPAConfig, masked_l1
from sjepa_nb.montage import lee2019_montage
from sjepa_nb.positional_encoding import gradient_coordinates, place_channels, spatial_code
from sjepa_nb.pretraining import (
    Pretraining, TrainingConfig, coherence_of, make_optimiser, train_step,
)
from sjepa_nb.simulation import SimulatedMI
from sjepa_nb.sources import moabb_sources
from sjepa_nb.store import build_store, split_by_subject
from sjepa_nb.weights import save_pretrained, to_braindecode

LEE = lee2019_montage()
VALUES = dict(target=("signal", "features"), registers=(3,), condition=(True,),
              norm_over=("token",), position=("gradient",),
              collapse=("variance-covariance", "sigreg", "nothing"))
SET = [{name: value} for name, values in VALUES.items() for value in values]
PAIRS = [a | b for a, b in combinations(SET, 2) if a.keys() != b.keys()]
EXCLUDED = [dict(target=t, collapse="nothing") for t in VALUES["target"]]
GOOD = [pair for pair in PAIRS if pair not in EXCLUDED]
FEW = TrainingConfig(epochs=1, batch_size=8, precision="float32")


def small(**switches): return SJEPAConfig.preset("2/8/64", **switches)


def batch(kind=SphereMask, n=3, samples=280):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 62, samples, generator=generator) * 10, kind(LEE, .6)(n, generator)


def model_of(**switches):
    torch.manual_seed(0)
    return SJEPA(LEE, small(**switches))


# ---------------------------------------- none is set

def test_without_a_switch_a_loss_is_what_the_parts_give_to_the_last_digit():
    model, (x, masks) = model_of(), batch()
    tokens, code = model.local_encoder(x), model.position(2)
    seen, seen_exists = take_channels(tokens + code, masks.visible, masks.example)
    asked, exists = take_channels(code[None], masks.hidden, torch.zeros_like(masks.context))
    predicted = model.predictor(asked, model.encoder(seen, seen_exists), exists, seen_exists)
    target = model.hidden_targets((tokens + code).detach(), masks)
    out = model(x, masks)
    assert out.loss == out.error == masked_l1(predicted, target, exists)
    assert type(model.encoder).__name__ == "ContextualEncoder" and not target.requires_grad


def test_without_a_switch_files_are_those_of_older_versions(tmp_path):
    model_of().save(tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", "pt") as f:
        config, names = json.loads(f.metadata()["config"]), list(f.keys())
    assert not set(config) & set(SWITCHES) and len(SWITCHES) == len(VALUES)
    parts = {"local_encoder", "position", "encoder", "predictor", "target_encoder"}
    assert {n.split(".")[0] for n in names} == parts
    assert not [n for n in names if "registers" in n or n.startswith("predictor.output")]
    assert "output" not in repr(model_of()) and "Roomy" not in repr(model_of())


def test_classifiers_and_the_hubs_layout_leave_out_switches_too(tmp_path):
    x, _ = batch(n=8)
    model = model_of().eval()
    fitted = SJEPAClassifier(model, "contextual", "new", channels=LEE, epochs=1)
    fitted.fit(x.numpy(), list("abababab")).save(tmp_path / "c.safetensors")
    save_pretrained(model, tmp_path / "hub")
    with safe_open(tmp_path / "c.safetensors", "pt") as f: about = f.metadata()
    hub = json.loads((tmp_path / "hub" / "config.json").read_text())["sjepa_nb"]
    for config in (json.loads(about["start"])["config"], json.loads(about["fitted"])["sizes"], hub):
        assert "depth" in config and not set(config) & set(SWITCHES)


# ---------------------------------------- alone

@pytest.mark.parametrize("kind", [SphereMask, FixedBudgetMask])
@pytest.mark.parametrize("switches", SET, ids=str)
def test_packed_rows_and_padded_ones_agree(monkeypatch, switches, kind):
    x, masks = batch(kind)
    calls, forward = [], PackedAttention.forward
    counted = staticmethod(lambda *a: calls.append(1) or forward(*a))
    monkeypatch.setattr(PackedAttention, "forward", counted)

    def step():
        model = model_of(**switches)
        torch.manual_seed(1)   # SIGReg's directions
        out = model(x, masks)
        out.loss.backward()
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        return out.loss.detach(), torch.cat(gradients)

    fast, gradient = step()
    assert calls
    monkeypatch.setattr(Attention, "fast", False)
    plain, same = step()
    torch.testing.assert_close(fast, plain, atol=1e-5, rtol=1e-5)
    assert (gradient - same).norm() < 1e-3 * same.norm()


class Plain(SJEPA):
    "Computes every target, as a subclass does that has targets of its own."
    def targets(self, tokens, **extra): return super().targets(tokens, **extra)


TOLD = [dict(registers=3), dict(condition=True),
        dict(condition=True, registers=2, collapse="nothing")]


@pytest.mark.parametrize("switches", TOLD, ids=str)
def test_targets_of_hidden_tokens_are_those_of_all_tokens(switches):
    x, masks = batch()
    torch.manual_seed(0)
    plain = Plain(LEE, small(**switches))
    model = model_of(**switches)
    a, b = model(x, masks), plain(x, masks)
    torch.testing.assert_close(a.target[a.exists], b.target[b.exists], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", [SphereMask, FixedBudgetMask])
def test_conditioned_batches_are_their_examples(kind):
    "Each context, and the teacher beside it, is told of its own mask and of no other."
    model, (x, masks) = model_of(condition=True).eval(), batch(kind)
    with torch.no_grad():
        together = model(x, masks)
        alone = [model(x[[i]], masks.subset(torch.tensor([i]))).loss for i in range(len(x))]
    count = torch.zeros(len(x)).index_add(0, masks.example[masks.context],
                                          masks.hidden.sum(1).float())
    mean = (torch.stack(alone) * count).sum() / count.sum()
    torch.testing.assert_close(together.loss, mean, atol=1e-5, rtol=0)
    moved = SphereMask(LEE, .3)(len(x), torch.Generator().manual_seed(5))
    told, _ = model.right_answers(x, model.local_encoder(x), model.position(2), moved)
    untold = model.hidden_targets(model.local_encoder(x), moved)
    assert (told - untold).abs().max() > 1e-4


def test_with_nothing_hidden_a_conditioned_encoder_is_told_of_all_channels():
    model, (x, _) = model_of(condition=True, registers=2).eval(), batch()
    with torch.no_grad():
        code = model.position(2)
        placed, everywhere = model.local_encoder(x) + code, code.mean((0, 1)).expand(3, 1, -1)
        told = model.encoder(placed.flatten(1, 2), extra=everywhere)
        torch.testing.assert_close(model.encode(x), told)
        assert (told - model.encoder(placed.flatten(1, 2))).abs().max() > 1e-4


def test_a_term_looks_at_each_place_by_itself():
    "Tokens that say where they are and nothing else cost as much as a collapse."
    torch.manual_seed(0)
    place = torch.arange(1200) % 60
    alike, apart = torch.randn(60, 64)[place], torch.randn(1200, 64)
    for way in TERMS:
        collapsed = held_apart(way, torch.zeros(1200, 64), place)
        assert held_apart(way, alike, place) > .9 * collapsed > .5 > held_apart(way, apart, place)


@pytest.mark.parametrize("way", TERMS)
def test_a_term_is_in_the_loss_in_training_alone(way):
    model, (x, masks) = model_of(collapse=way), batch()
    out = model.train()(x, masks)
    assert out.loss > out.error + .01
    out = model.eval()(x, masks)
    assert out.loss == out.error


@pytest.mark.parametrize("target", ["latent", "signal"])
@pytest.mark.parametrize("way", TERMS)
def test_a_term_looks_at_what_is_predicted(way, target):
    "Not at the context, whose last norm could blow up what targets lack; unless they are fixed."
    model, (x, masks) = model_of(collapse=way, target=target).train(), batch()
    terms = []
    for gain in (1., .1):
        torch.nn.init.constant_(model.encoder.norm.weight, gain)
        torch.manual_seed(1)   # SIGReg's directions
        out = model(x, masks)
        terms.append(out.loss - out.error)
    assert (abs(terms[0] - terms[1]) < 1e-6) == (target == "latent")


@pytest.mark.parametrize("way", [*TERMS, "nothing"])
def test_without_a_teacher_the_gradient_flows_into_the_targets(way):
    model, (x, masks) = model_of(collapse=way), batch()
    assert model.target_encoder is None and model(x, masks).target.requires_grad
    model.update_target(.9)   # nothing to move
    with torch.no_grad(): assert not model(x, masks).target.requires_grad


def test_terms_see_what_a_collapse_is():
    torch.manual_seed(0)
    cloud = torch.randn(2000, 64)
    for term in (variance_covariance, sigreg):
        assert term(cloud) < .1 < term(cloud / 4) < term(cloud * 0)


@pytest.mark.parametrize("kind", [SphereMask, FixedBudgetMask])
def test_looks_are_the_mean_visible_tokens_of_each_window(kind):
    model, (x, _), draw = model_of().eval(), batch(), kind(LEE, .6)
    tokens, window = looks_at(model, x, draw, looks=2)
    masks = draw(6, torch.Generator().manual_seed(0))
    with torch.no_grad():
        placed = model.local_encoder(x) + model.position(2)
        for row, (visible, example) in enumerate(zip(masks.visible, masks.example)):
            seen = placed[example % 3, visible].flatten(0, 1)
            alone = model.encoder(seen[None]).mean(1)[0]
            torch.testing.assert_close(tokens[row], alone, atol=1e-5, rtol=0)
    assert window.tolist() == (masks.example % 3).tolist()


def test_lidar_counts_what_tells_windows_apart():
    torch.manual_seed(0)
    window, noise = torch.arange(2000) % 200, torch.randn(2000, 64)
    apart = 3 * torch.randn(200, 64)[window]
    few = apart @ torch.diag((torch.arange(64) < 4).float())
    assert lidar(few + noise, window) < 10 < 50 < lidar(apart + noise, window)


def test_registers_have_no_weight_decay_and_the_encoders_rate():
    groups = make_optimiser(model := model_of(registers=3), TrainingConfig()).param_groups
    group = next(g for g in groups if any(p is model.encoder.registers for p in g["params"]))
    assert group["weight_decay"] == 0 and group["factor"] == 1


# ---------------------------------------- in pairs

@pytest.fixture(scope="module")
def store(tmp_path_factory):
    sources = moabb_sources(SimulatedMI(n_subjects=2, n_trials=4, seed=0))
    path = tmp_path_factory.mktemp("data") / "store"
    return build_store(path, sources, length=152, interval=2., progress=False)


@pytest.mark.parametrize("pair", GOOD, ids=str)
def test_pairs_build_step_save_load_and_resume(pair, store, tmp_path):
    split = split_by_subject(store.index, valid=[2])

    def begin(folder, **settings):
        return Pretraining(store, split, tmp_path / folder, FEW, small(**pair), progress=False,
                           workers=0, **settings)

    whole = begin("whole").run()
    stopped = begin("stopped")
    stopped._epoch({"by": "stop"})
    stopped._save()
    stopped.lock.release()
    assert stopped.step == 1
    again = begin("stopped", resume=True).run()
    one, other = whole.state_dict(), again.state_dict()
    assert again.config == small(**pair) and one.keys() == other.keys()
    assert all(torch.equal(one[k], other[k]) for k in one)
    epochs = pd.read_csv(tmp_path / "whole" / "epochs.csv")
    assert (epochs.random_share.iloc[-1] < 1e-12) == (not whole.config.has_teacher)


@pytest.mark.parametrize("pair", EXCLUDED, ids=str)
def test_what_excludes_each_other_is_refused(pair):
    with pytest.raises(ValueError, match=f'with target "{pair["target"]}" there is no teacher'):
        small(**pair)


@pytest.mark.parametrize("switches, says", [
    (dict(target="sound"), 'target is "latent" or "signal" or "features", not \'sound\''),
    (dict(target="signal", target_norm="none"), "target_norm is for latent targets"),
    (dict(collapse="luck"), 'collapse is "ema" or'),
    (dict(registers=-1), "registers is a whole number of at least 0"),
    (dict(registers=2000), "registers are at most 1000"),
])
def test_other_values_are_refused(switches, says):
    with pytest.raises(ValueError, match=says): small(**switches)


@pytest.mark.parametrize("words, says", [
    ("--target signal --collapse nothing", '--collapse "nothing" is for latent targets: with --t'),
    ("--target features --target-norm centred", "--target-norm is for latent targets: with --ta"),
])
def test_the_command_refuses_in_its_own_words(words, says, tmp_path, capsys):
    given = ["--dataset", "simulated", "--out", str(tmp_path / "run"), *words.split()]
    assert sjepa_pretrain(given) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_an_older_version_is_one_without_switches(store, tmp_path):
    split = split_by_subject(store.index, valid=[2])
    run = Pretraining(store, split, tmp_path, FEW, small(), progress=False, workers=0)
    run._epoch({"by": "stop"})
    run._save()
    run.lock.release()
    path = tmp_path / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    told = json.loads(state["told"])
    for name in SWITCHES: del told["model"][name]
    del told["training"]["mask_schedule"]
    torch.save(state | dict(told=json.dumps(told)), path)
    quiet = dict(resume=True, progress=False, workers=0)
    again = Pretraining(store, split, tmp_path, FEW, small(), **quiet)
    assert again.step == 1
    again.lock.release()
    with pytest.raises(ValueError, match="registers: 0 then, 2 now"):
        Pretraining(store, split, tmp_path, FEW, small(registers=2), **quiet)


# ---------------------------------------- positions from function

def test_rows_start_from_the_coherence_of_the_windows_to_train_on(store, tmp_path):
    split = split_by_subject(store.index, valid=[2])
    seen = coherence_of(store, split["train"], store.montage)
    assert np.isfinite(seen).all() and seen.max() < 1 + 1e-9
    run = Pretraining(store, split, tmp_path, FEW, small(position="gradient"), progress=False,
                      workers=0)
    rows = spatial_code(gradient_coordinates(seen), 1.)
    torch.testing.assert_close(run.model.position.spatial.detach(), rows)
    assert (rows - SJEPA(store.montage, small()).position.spatial).abs().max() > .1
    run.lock.release()


def test_caps_that_share_no_channel_have_no_gradient():
    blocks = np.full((8, 8), np.nan)
    blocks[:4, :4] = blocks[4:, 4:] = .5
    with pytest.raises(ValueError, match="here are 8 in 2 groups"): gradient_coordinates(blocks)
    blocks[3, 4] = blocks[4, 3] = .5   # one pair links them
    assert gradient_coordinates(blocks).shape == (8, 3)


def test_channels_that_nobody_saw_have_rows_of_their_neighbours():
    "Coordinates are of another kind than the learned rows, so they must not be mixed."
    known, new = LEE.select([n for n in LEE.names if n != "Cz"]), LEE.select(["Cz", "C1"])
    torch.manual_seed(0)
    model = SJEPA(known, small(position="gradient"))
    model.position.start_from(np.random.default_rng(0).uniform(-1, 1, (61, 3)))
    placed = place_channels(model.position, new)
    assert placed.learned == ("C1",) and placed.computed == ("Cz",)
    row, rows = placed.position.spatial[0], model.position.spatial
    around = known.index(["C1", "C2", "FC1", "FC2", "CP1", "CP2", "CPz"])
    assert placed.position.kind == "gradient"
    assert (row <= rows[around].max(0).values + 1e-6).all()
    assert (row >= rows[around].min(0).values - 1e-6).all()
    plain = place_channels(SJEPA(known, small()).position, new)
    assert (plain.position.spatial[0] - row).abs().max() > .05


# ---------------------------------------- downstream

EXTRA = [dict(registers=3), dict(condition=True), dict(condition=True, registers=2)]


@pytest.mark.parametrize("switches", EXTRA, ids=str)
def test_the_contextual_head_says_what_the_model_does(switches):
    model, (x, _) = model_of(**switches).eval(), batch()
    net = Downstream("contextual", 2, 280, 62, LEE, model).eval()
    with torch.no_grad():
        torch.testing.assert_close(net.features(x).flatten(1, 2), model.encode(x))


def test_features_of_a_conditioned_encoder_are_not_those_of_a_plain_one():
    "The weights are equal: what is remembered of one must not be given for the other."
    told, plain = model_of(condition=True).eval(), model_of().eval()
    told.load_state_dict(plain.state_dict())
    nets = [Downstream("contextual", 2, 280, 62, LEE, model).eval() for model in (told, plain)]
    assert fingerprint(nets[0]) != fingerprint(nets[1])
    x, _ = batch()
    one, other = (frozen_features(net, x) for net in nets)
    assert (one - other).abs().max() > 1e-4


@pytest.mark.parametrize("switches", EXTRA, ids=str)
def test_a_classifier_with_extra_tokens_is_saved_and_read(switches, tmp_path):
    x, _ = batch(n=8)
    model = model_of(**switches).eval()
    fitted = SJEPAClassifier(model, "contextual", "new", channels=LEE, epochs=1)
    fitted.fit(x.numpy(), list("abababab"))
    fitted.save(tmp_path / "c.safetensors")
    again = SJEPAClassifier.load(tmp_path / "c.safetensors")
    assert (again.predict_proba(x.numpy()) == fitted.predict_proba(x.numpy())).all()


@pytest.mark.parametrize("switches", EXTRA, ids=str)
def test_braindecode_has_no_place_for_extra_tokens(switches):
    model = model_of(**switches)
    for refused in (model, Downstream("contextual", 2, 280, 62, LEE, model)):
        with pytest.raises(ValueError, match="has no extra tokens: with (registers|condition)="):
            to_braindecode(refused)
    assert to_braindecode(Downstream("pre-local", 2, 280, 62, LEE, model))


@pytest.mark.parametrize("switches", SET, ids=str)
def test_files_keep_their_switches_and_lies_are_found(switches, tmp_path):
    model = model_of(**switches)
    model.save(tmp_path / "a.safetensors")
    again = SJEPA.load(tmp_path / "a.safetensors")
    assert asdict(again.config) == asdict(model.config)
    x, masks = batch()
    model.eval()
    torch.testing.assert_close(again(x, masks).loss, model(x, masks).loss)
