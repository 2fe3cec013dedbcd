"""The fast way through the layers against the plain one: what the pages do not show."""
import copy

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from sjepa_nb import contextual_encoder
from sjepa_nb.contextual_encoder import (
    Attention, ContextualEncoder, EncoderLayer, FeedForward, PackedAttention, Rows, is_fast,
    share_out,
)
from sjepa_nb.masking import FixedBudgetMask, SphereMask
from sjepa_nb.model import SJEPA, SJEPAConfig

pytestmark = pytest.mark.skipif(contextual_encoder.njit is None, reason="numba is not installed")


def plain_attention(q, k, v):
    split = lambda t: t.unflatten(-1, (8, 8)).transpose(0, 1)[None]
    return scaled_dot_product_attention(split(q), split(k), split(v))[0].transpose(0, 1).flatten(1)


@pytest.mark.parametrize("size", [1., 10., 60.])  # 60: scores in the thousands, weights that underflow
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_rows_of_unequal_length(size, threads):
    torch.manual_seed(0)
    queries, keys = np.array([0, 5, 6, 40]), np.array([0, 33, 34, 131])
    q, k, v = (torch.randn(n, 64, dtype=torch.float64) * s for n, s in ((40, size), (131, size), (131, 1.)))
    q[3] = -k[:33].mean(0) * size  # one that fits no key
    for t in (q, k, v): t.requires_grad_()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        out = PackedAttention.apply(*(t.float() for t in (q, k, v)), queries, keys, 8)
        weights = torch.randn_like(out)
        mine = torch.autograd.grad((out * weights).sum(), (q, k, v))
    finally: torch.set_num_threads(before)
    expected = torch.cat([plain_attention(q[a:b], k[c:d], v[c:d]) for a, b, c, d in zip(queries, queries[1:], keys, keys[1:])])
    theirs = torch.autograd.grad((expected * weights).sum(), (q, k, v))
    tolerance = 1e-5 if size == 1 else 1e-3 * size  # the scores themselves are rounded to float32
    torch.testing.assert_close(out.double(), expected, atol=tolerance, rtol=tolerance)
    for a, b in zip(mine, theirs): torch.testing.assert_close(a, b, atol=tolerance * max(1, float(b.abs().max())), rtol=0)


def test_the_same_on_any_number_of_threads():
    torch.manual_seed(0)
    x, starts = torch.randn(90, 192), np.array([0, 20, 61, 90])
    before, seen = torch.get_num_threads(), []
    for n in (1, 2, 5):
        torch.set_num_threads(n)
        y = x.clone().requires_grad_()
        out = PackedAttention.apply(*y.chunk(3, -1), starts, starts, 8)
        seen.append((out.detach(), torch.autograd.grad(out.square().sum(), y)[0]))
    torch.set_num_threads(before)
    for out, gradient in seen[1:]: assert torch.equal(out, seen[0][0]) and torch.equal(gradient, seen[0][1])


@pytest.mark.parametrize("own_threads", [False, True])
def test_work_is_shared_out_once(monkeypatch, own_threads):
    if own_threads: monkeypatch.setattr(contextual_encoder, "team", None)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        done = []
        share_out(lambda i, n: done.append((i, n)))
        assert sorted(done) == [(0, 3), (1, 3), (2, 3)]
        with pytest.raises(ZeroDivisionError): share_out(lambda i, n: 1 / (i - 1))
    finally: torch.set_num_threads(before)


@pytest.mark.parametrize("tokens", [1, 1023, 1024, 2500])
def test_feed_forward_in_chunks(tokens):
    torch.manual_seed(0)
    layer, x = EncoderLayer(hidden=128), torch.randn(tokens, 64)
    def gradients(feed_forward):
        layer.zero_grad(); y = x.clone().requires_grad_()
        out = feed_forward(y); out.square().mean().backward()
        return [out.detach(), y.grad] + [p.grad for p in (layer.linear1.weight, layer.linear1.bias, layer.linear2.weight, layer.linear2.bias)]
    for a, b in zip(gradients(layer.plain), gradients(layer.feed_forward)): torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    layer.bf16 = True
    for a, b in zip(gradients(layer.plain), gradients(layer.feed_forward)): torch.testing.assert_close(a, b, atol=2e-2, rtol=2e-2)


def test_nothing_is_kept_without_gradients():
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t), torch.no_grad(): EncoderLayer()(torch.randn(1, 9, 64))
    assert not kept


def test_when_the_plain_way_is_taken(monkeypatch):
    layer, x = EncoderLayer(), torch.randn(1, 3, 64)
    assert is_fast(layer, x)
    assert not is_fast(EncoderLayer(dropout=.1), x) and is_fast(EncoderLayer(dropout=.1).eval(), x)
    assert not is_fast(layer, x.double()) and not is_fast(copy.deepcopy(layer).double(), x) and not is_fast(EncoderLayer(heads=4), x)
    with torch.autocast("cpu", torch.bfloat16): assert not is_fast(layer, x)
    monkeypatch.setattr(Attention, "fast", False)
    assert not is_fast(layer, x)


@pytest.mark.parametrize("config", [dict(), dict(target_norm="none", average_layers=1), dict(target_norm="instance"), dict(heads=4)], ids=str)
@pytest.mark.parametrize("kind", [SphereMask, FixedBudgetMask])
def test_whole_step(monkeypatch, config, kind):
    "Masks, normalisations and widths: plain and fast agree, and the fast one is taken where it can be."
    torch.manual_seed(0)
    model = SJEPA(config=SJEPAConfig(**(dict(depth=3, predictor_depth=2, hidden=128, average_layers=2) | config)))
    x, masks = torch.randn(3, 62, 280) * 10, kind(model.montage, .6)(3, torch.Generator().manual_seed(0))
    def step():
        model.zero_grad(); out = model(x, masks); out.loss.backward()
        keep = ... if out.keep is None else out.keep
        return [out.loss.detach(), out.predicted[keep].detach(), out.target[keep]] + [p.grad.clone() for p in model.parameters() if p.requires_grad]
    calls = []
    forward = PackedAttention.forward
    monkeypatch.setattr(PackedAttention, "forward", staticmethod(lambda *a: calls.append(1) or forward(*a)))
    fast = step()
    assert bool(calls) == (config != dict(heads=4))
    monkeypatch.setattr(Attention, "fast", False)
    monkeypatch.setattr(SJEPA, "hidden_targets", SJEPA.plain_hidden_targets)
    for a, b in zip(step(), fast): torch.testing.assert_close(a, b, atol=3e-5, rtol=1e-3)


def test_rows_there_and_back():
    x, keep = torch.randn(3, 5, 64), torch.tensor([[1, 1, 0, 0, 0], [1] * 5, [1, 1, 1, 1, 0]], dtype=torch.bool)
    rows = Rows(x, keep)
    assert rows.starts.tolist() == [0, 2, 7, 11]
    assert torch.equal(rows.unpack(rows.pack(x)), x * keep[..., None])
    assert torch.equal(Rows(x).unpack(Rows(x).pack(x)), x)


def test_without_numba(monkeypatch):
    "A Python that numba does not know yet gets the plain way."
    monkeypatch.setattr(contextual_encoder, "njit", None)
    encoder, x = ContextualEncoder(depth=2).eval(), torch.randn(2, 4, 64)
    with torch.no_grad(): slow = encoder(x)
    monkeypatch.undo()
    with torch.no_grad(): torch.testing.assert_close(encoder(x), slow, atol=1e-5, rtol=0)
