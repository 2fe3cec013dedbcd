"""Masks over tokens: what they hide, that it stays hidden, and whole trainings with them."""
import pandas as pd
import pytest
import torch

from sjepa_nb.batches import MASKS, montage_masks, over_tokens
from sjepa_nb.collapse import token_places
from sjepa_nb.command_line import sjepa_pretrain
from sjepa_nb.finetuning import SJEPAClassifier
from sjepa_nb.heads import Downstream, fingerprint
from sjepa_nb.masking import SphereMask, hiding
from sjepa_nb.model import SJEPA, SJEPAConfig, masked_l1
from sjepa_nb.montage import lee2019_montage
from sjepa_nb.pretraining import Pretraining, TrainingConfig
from sjepa_nb.simulation import SimulatedMI
from sjepa_nb.sources import moabb_sources
from sjepa_nb.store import build_store, split_by_subject
from sjepa_nb.time_masking import TOKEN_MASKS, BlockMask, TokenMask
from sjepa_nb.weights import to_braindecode

LEE = lee2019_montage()
each_kind = pytest.mark.parametrize("kind", TOKEN_MASKS)


def small(**switches): return SJEPAConfig.preset("2/8/64", **dict(norm_over="token") | switches)


def model_of(**switches):
    torch.manual_seed(0)
    return SJEPA(LEE, small(**switches)).eval()


def batch(kind, n=4):
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(n, 62, 536, generator=generator) * 10,
            TOKEN_MASKS[kind](LEE, .6, 4)(n, generator))


# ---------------------------------------- what is hidden

@each_kind
def test_nothing_is_seen_and_asked_and_both_are_there(kind):
    masks = TOKEN_MASKS[kind](LEE, .6, 7)(200, torch.Generator().manual_seed(1))
    assert masks.visible.shape[1] == masks.hidden.shape[1] == 62 * 7
    assert masks.visible.any(1).all() and masks.hidden.any(1).all()
    assert not (masks.visible[masks.context] & masks.hidden).any()
    again = TOKEN_MASKS[kind](LEE, .6, 7)(200, torch.Generator().manual_seed(1))
    assert torch.equal(again.hidden, masks.hidden) and torch.equal(again.visible, masks.visible)


@pytest.mark.parametrize("kind, per_channel", [("time", True), ("future", True)])
def test_masks_in_time_are_alike_at_all_channels_and_in_one_piece(kind, per_channel):
    hidden = TOKEN_MASKS[kind](LEE, .6, 8)(100).hidden.view(100, 62, 8)
    assert (hidden == hidden[:, :1]).all()
    edges = hidden[:, 0].int().diff(dim=1)
    assert (edges.abs().sum(1) <= 2).all()
    if kind == "future": assert (edges.sum(1) == 1).all() and hidden[:, 0, -1].all()
    else: assert (hidden[:, 0].sum(1) == 4).all()


def test_regions_are_those_of_brain_jepa():
    masks = TOKEN_MASKS["regions"](LEE, .6, 6)(50, torch.Generator().manual_seed(0))
    visible, asked = masks.visible.view(50, 62, 6), masks.hidden.view(50, 3, 62, 6)
    channels, seconds = visible.any(2), visible.any(1)
    for region, (same_channels, same_seconds) in enumerate([(0, 1), (1, 0), (0, 0)]):
        at, when = asked[:, region].any(2), asked[:, region].any(1)
        assert ((at & ~channels).any(1) != bool(same_channels)).all()
        assert ((at & channels).any(1) == bool(same_channels)).all()
        assert ((when & seconds).any(1) == bool(same_seconds)).all()
        assert ((when & ~seconds).any(1) != bool(same_seconds)).all()
    assert (asked[:, 0].any(2).sum(1) == asked[:, 1].any(2).sum(1)).all()


def test_blocks_leave_something_to_see_of_two_channels():
    draw = BlockMask(LEE.select(["C3", "C4"]), .6, 2, visible=.05)
    assert draw.n_blocks > 3 and draw(300).visible.any(1).all()


def test_a_mask_of_channels_is_the_same_over_tokens():
    "The loss, the gradient and the places are those of the mask over channels."
    x, _ = batch("time", 3)
    spheres = SphereMask(LEE, .6)(3, torch.Generator().manual_seed(0))
    tokens = hiding(spheres.hidden.repeat_interleave(4, 1))
    for switches in ({}, dict(condition=True), dict(target="signal"), dict(collapse="sigreg")):
        losses = []
        for masks in (spheres, tokens):
            model = model_of(norm_over="window", **switches).train()
            torch.manual_seed(1)
            loss = model(x, masks).loss
            loss.backward()
            losses.append((loss.detach(), model.encoder.layers[0].linear1.weight.grad))
        torch.testing.assert_close(losses[0], losses[1], atol=1e-5, rtol=1e-4)
    channels = torch.randperm(62)
    places = [token_places(m.hidden, channels, 4) for m in (spheres, tokens)]
    assert torch.equal(*places)


def test_masks_of_other_windows_are_refused():
    x, masks = batch("time")
    with pytest.raises(ValueError, match="over 248 columns do not fit 62 channels of 3 tokens"):
        model_of()(x[..., :408], masks)


# ---------------------------------------- in the model

@each_kind
def test_an_answer_is_what_the_parts_give(kind):
    "One example at a time, its tokens taken out one by one."
    model, (x, masks) = model_of(), batch(kind)
    with torch.no_grad():
        out = model(x, masks)
        code = model.position(4).flatten(0, 1)
        placed = model.local_encoder(x).flatten(1, 2) + code
        for i, (hidden, context) in enumerate(zip(masks.hidden, masks.context)):
            example = masks.example[context]
            seen = model.encoder(placed[example][masks.visible[context]][None])
            said = model.predictor(code[hidden][None], seen)[0]
            layers = model.target_encoder(placed[example][None], every_layer=True)
            right = model.mean_target(layers)[0, hidden]
            n = int(hidden.sum())
            torch.testing.assert_close(out.predicted[i, :n], said, atol=1e-5, rtol=0)
            torch.testing.assert_close(out.target[i, :n], right, atol=1e-5, rtol=0)
        assert out.loss == masked_l1(out.predicted, out.target, out.exists)


def unseen(x, masks):
    "Windows whose samples are five times as large wherever no visible token holds them."
    seen, x = masks.visible.view(len(x), 62, 4), x.clone()
    held = torch.zeros(len(x), 62, 536, dtype=torch.bool)
    for second in range(4): held[..., second * 128:second * 128 + 152] |= seen[..., second, None]
    x[~held] *= 5
    return x


@each_kind
@pytest.mark.parametrize("over", ["token", "window"])
def test_what_is_hidden_reaches_the_answers_through_the_windows_norm_alone(kind, over):
    model, (x, masks) = model_of(norm_over=over), batch(kind)
    other = unseen(x, masks)
    with torch.no_grad(): moved = (model(x, masks).predicted - model(other, masks).predicted).abs()
    assert (moved.max() < 1e-5) == (over == "token")


def test_each_token_alone_is_what_a_window_of_a_second_gives():
    model, (x, _) = model_of(), batch("time")
    with torch.no_grad():
        whole = model.local_encoder(x)
        for second in range(4):
            alone = model.local_encoder(x[..., second * 128:second * 128 + 152])
            torch.testing.assert_close(whole[:, :, [second]], alone, atol=1e-5, rtol=0)


# ---------------------------------------- trainings

@pytest.fixture(scope="module")
def store(tmp_path_factory):
    sources = moabb_sources(SimulatedMI(n_subjects=2, n_trials=4, seed=0))
    path = tmp_path_factory.mktemp("data") / "store"
    return build_store(path, sources, length=280, interval=2.5, progress=False)


def begin(store, folder, kind, schedule="constant", **settings):
    config = TrainingConfig(epochs=1, batch_size=8, precision="float32", mask=kind,
                            mask_schedule=schedule)
    return Pretraining(store, split_by_subject(store.index, valid=[2]), folder, config,
                       small(**settings.pop("switches", {})), progress=False, workers=0, **settings)


@pytest.mark.parametrize("kind, schedule", [
    *((kind, "constant") for kind in TOKEN_MASKS), ("sphere", "scattered first"),
    ("fixed budget", "scattered first"), ("regions", "scattered first")])
def test_a_stopped_training_goes_on_as_one_that_was_not(kind, schedule, store, tmp_path):
    whole = begin(store, tmp_path / "whole", kind, schedule).run()
    stopped = begin(store, tmp_path / "stopped", kind, schedule)
    stopped._epoch({"by": "stop"})
    stopped._save()
    stopped.lock.release()
    assert stopped.step == 1
    again = begin(store, tmp_path / "stopped", kind, schedule, resume=True).run()
    one, other = whole.state_dict(), again.state_dict()
    assert again.config.norm_over == "token" and all(torch.equal(one[k], other[k]) for k in one)
    row = pd.read_csv(tmp_path / "whole" / "epochs.csv").iloc[-1]
    assert 0 < row.spread and row.loss < row.trivial * 3 and row["rank"] > 1
    assert row.bands == row.bands


def test_a_training_begins_with_scattered_channels_and_ends_with_patches(store, tmp_path):
    run = begin(store, tmp_path, "sphere", "scattered first")
    (draw, _), = run.maskers
    meant = {tuple(row) for row in draw.draw.table.tolist()}
    def patches(step):
        run.step = step
        return tuple(run._masks(draw, 8)[0].hidden[0].tolist()) in meant
    run.steps = 1000
    early = [patches(step) for step in range(100)]
    late = [patches(step) for step in range(900, 1000)]
    assert sum(early) < 20 and sum(late) > 80
    assert all(run._masks(draw, 8)[0].hidden.sum(1) < 15)
    run.lock.release()


def test_a_norm_that_would_tell_is_refused_before_the_run(store, tmp_path):
    with pytest.raises(ValueError, match='mask "blocks" hides seconds.*needs norm_over "token"'):
        begin(store, tmp_path / "run", "blocks", switches=dict(norm_over="window"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("words, says", [
    ("--mask future --length 4", 'of which a norm over the whole window tells: it needs --norm-o'),
    ("--mask future --length 1 --norm-over token", "need windows of two tokens or more"),
    ("--mask time --length 4 --crop 1 --norm-over token", "need windows of two tokens or more"),
    ("--norm-over second", "--norm-over"),
])
def test_the_command_says_so_before_it_reads(words, says, tmp_path, capsys):
    given = ["--dataset", "simulated", "--out", str(tmp_path / "run"), *words.split()]
    assert sjepa_pretrain(given) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_mask_of_ones_own_that_hides_seconds(store, monkeypatch):
    class Last(TokenMask):
        def __call__(self, n, generator=None):
            hidden = torch.zeros(n, 62, self.n_tokens, dtype=torch.bool)
            hidden[..., -1] = True
            return hiding(hidden.flatten(1))

    monkeypatch.setitem(MASKS, "last", Last)
    assert over_tokens("last") and not over_tokens("sphere")
    (draw, _), = montage_masks(store, store.montage, "last", .6)
    assert draw.n_tokens == 2 and draw(3).hidden.sum() == 3 * 62
    (draw, _), = montage_masks(store, store.montage, "time", .6, crop=280)
    assert draw.n_tokens == 2


# ---------------------------------------- downstream

@pytest.mark.parametrize("head", ["contextual", "post-local", "pre-local"])
def test_classifiers_keep_the_norm_of_their_model(head, tmp_path):
    (x, _), y = batch("time", 8), list("abababab")
    fitted = SJEPAClassifier(model_of(), head, "new", channels=LEE, epochs=1).fit(x.numpy(), y)
    assert fitted.network_.local_encoder.norm_over == "token"
    fitted.save(tmp_path / "c.safetensors")
    again = SJEPAClassifier.load(tmp_path / "c.safetensors")
    assert again.network_.local_encoder.norm_over == "token"
    assert (again.predict_proba(x.numpy()) == fitted.predict_proba(x.numpy())).all()


def test_a_frozen_norm_has_no_window():
    x, _ = batch("time")
    net = Downstream("post-local", 2, 536, 62, LEE, model_of(), norm="frozen").eval()
    plain = Downstream("post-local", 2, 536, 62, LEE, model_of(norm_over="window"),
                       norm="frozen").eval()
    with torch.no_grad(): torch.testing.assert_close(net.features(x), plain.features(x))


def test_features_of_two_norms_are_not_mistaken_for_each_other():
    nets = [Downstream("post-local", 2, 536, 62, LEE, model_of(norm_over=over))
            for over in ("token", "window")]
    assert fingerprint(nets[0]) != fingerprint(nets[1])


def test_braindecode_has_the_windows_norm_alone():
    for refused in (model_of(), Downstream("pre-local", 2, 536, 62, LEE, model_of())):
        with pytest.raises(ValueError, match="over each window: one with norm_over"):
            to_braindecode(refused)
