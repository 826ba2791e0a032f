"""Public checks of the chapter on the Transformer."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course.testing import assert_close, assert_equal, assert_true, probe, raises

HINTS = {
    "masks": [
        "There are two conditions. Write each as a boolean tensor of its own, then combine them.",
        "`torch.tril` keeps the lower triangle of a matrix, the diagonal included.",
        "The padding belongs to the *keys*, the last axis: `(tgt_ids != pad)[:, None, :]` has the "
        "shape (N, 1, T) and broadcasts against (T, T).",
    ],
    "shift": [
        "`F.pad(y, (1, 0), value=...)` adds a column on the left, `(0, 1)` one on the right.",
        "How many real tokens does each sequence have? That number is also the place of eos.",
        "`target.scatter(1, length, eos)` writes eos at one column for each row; length needs the "
        "shape (N, 1). For the mask, compare the columns' numbers with the length.",
    ],
    "addnorm": [
        "`nn.LayerNorm(d)` normalises over the last axis. Dropout touches y only, before the sum.",
        "Compare `x.shape` with `y.shape` first, and raise a ValueError if they differ.",
        "FFN: linear1 from d to h, ReLU, linear2 from h to d. `nn.Linear` works on the last axis "
        "of any shape.",
    ],
    "encoder": [
        "Make six parts in `__init__`: self_attn, linear1, linear2, norm1, norm2, and a dropout.",
        "`look(self.self_attn, x, x, mask)` is the first sublayer. Write the two sublayers as two "
        "small functions of x; then each order of equations is two lines.",
        "Pre-norm: the sublayer gets `norm(x)`, but it is *x* that its output is added to.",
    ],
    "decoder": [
        "It is the encoder block in post-norm order with one more sublayer in the middle.",
        "Self-attention looks from x at x, with `mask`. Cross-attention looks from x at memory, "
        "with `memory_mask`.",
        "Each of the three sublayers ends in its own `norm(x + dropout(...))`.",
    ],
    "train": [
        "`build_model`: make the five parts in the order of Seq2Seq's arguments. Blocks are "
        "called as EncoderLayer(d, h, ff, p).",
        "A list comprehension calls the constructor once for each layer; `[layer] * n` does not.",
        "`train`: the logits are (64, T, V) and F.cross_entropy wants (64 * T, V) and (64 * T,). "
        "It has an argument `ignore_index`.",
    ],
    "decode": [
        "`model.place(token[:, None], cache['t'])` is the new position, of shape (N, 1, d).",
        "In each block: keys_values of the new position, appended to the old ones along axis 2; "
        "then `attend`. The rest is the decoder block without dropout.",
        "`greedy`: remember which sequences are done. Their token becomes PAD; check for EOS "
        "after that, and leave the loop when all are done.",
    ],
    "debug": [
        "Which numbers share one mean in the broken function?",
        "The second argument of F.layer_norm is the shape of the axes to normalise over: only "
        "the last one.",
    ],
}


# --- masks -----------------------------------------------------------------------------------


@pytest.mark.exercise("masks")
def test_small_mask(student):
    """For `[[1, 7, 4, 0]]` with pad 0 the mask is the lower triangle without the last column."""
    causal = torch.ones(4, 4).tril().bool()
    real = torch.tensor([True, True, True, False])
    assert_close(
        student.make_mask(torch.tensor([[1, 7, 4, 0]]), 0),
        (causal & real)[None],
        "the mask",
        symptoms={
            "True should mean `may look`; here it means `may not`.": ~(causal & real)[None],
            "Each position should also see itself.": (causal.tril(-1) & real)[None],
            "The padding can still be seen.": causal[None],
            "The padding should be hidden as a key (column), not as a query (row).": (
                causal & real[:, None]
            )[None],
            "Queries and keys have changed places: this shows the future.": (causal.T & real)[None],
        },
    )


@pytest.mark.exercise("masks")
def test_mask_of_a_batch(student):
    """Two sequences have two masks, and the pad may be another number."""
    got = student.make_mask(torch.tensor([[0, 9], [5, 5]]), 9)
    one, two = [[True, False], [True, False]], [[True, False], [True, True]]
    assert_close(got, torch.tensor([one, two]), "the mask")


# --- shift -----------------------------------------------------------------------------------


@pytest.mark.exercise("shift")
def test_worked_example(student):
    """`shift_right` gives the three tensors of the worked example."""
    inp, target, mask = student.shift_right(torch.tensor([[7, 4], [5, 0]]), 1, 2, 0)
    assert_close(inp, torch.tensor([[1, 7, 4], [1, 5, 0]]), "inp")
    assert_close(
        target,
        torch.tensor([[7, 4, 2], [5, 2, 0]]),
        "target",
        symptoms={
            "eos should stand behind the last real token, not at the end of the row.": torch.tensor(
                [[7, 4, 2], [5, 0, 2]]
            ),
            "eos is missing.": torch.tensor([[7, 4, 0], [5, 0, 0]]),
        },
    )
    assert_close(
        mask,
        torch.tensor([[True, True, True], [True, True, False]]),
        "mask",
        symptoms={
            "eos counts too: the model has to learn when to stop.": torch.tensor(
                [[True, True, False], [True, False, False]]
            ),
        },
    )


@pytest.mark.exercise("shift")
def test_nothing_to_say(student):
    """An empty sequence has the input bos and the target eos."""
    inp, target, mask = student.shift_right(torch.tensor([[0], [8]]), 5, 6, 0)
    assert_close(inp, torch.tensor([[5, 0], [5, 8]]), "inp")
    assert_close(target, torch.tensor([[6, 0], [8, 6]]), "target")
    assert_close(mask, torch.tensor([[True, False], [True, True]]), "mask")


# --- addnorm ---------------------------------------------------------------------------------


@pytest.mark.exercise("addnorm")
def test_add_and_norm(student):
    """`AddNorm` normalises the sum of x and y for each token."""
    x, y = torch.tensor([[[1.0, 2.0, 6.0]]]), torch.tensor([[[2.0, 1.0, 0.0]]])
    got = student.AddNorm(3, 0.0)(x, y)
    assert_close(
        got.detach(),
        F.layer_norm(x + y, (3,)),
        symptoms={
            "Only the sublayer's output is normalised; x should be added before the norm.": x
            + F.layer_norm(y, (3,)),
            "x is missing.": F.layer_norm(y, (3,)),
        },
    )


@pytest.mark.exercise("addnorm")
def test_shapes_must_agree(student):
    """`AddNorm` raises a ValueError for shapes that differ."""
    with raises(ValueError):
        student.AddNorm(4, 0.0)(torch.ones(2, 3, 4), torch.ones(1, 3, 4))


@probe
def small_ffn(student, x):
    ffn = student.FFN(2, 3)
    with torch.no_grad():
        ffn.linear1.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]))
        ffn.linear1.bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
        ffn.linear2.weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 1.0]]))
        ffn.linear2.bias.copy_(torch.tensor([0.0, 10.0]))
    return ffn(x).detach()


@pytest.mark.exercise("addnorm")
def test_feed_forward(student):
    """`FFN` is linear1, ReLU, linear2, the same at every position."""
    x = torch.tensor([[[1.0, 2.0], [-1.0, -2.0]]])
    expected = torch.tensor([[[7.0, 13.0], [9.0, 13.0]]])
    assert_close(
        student.run(small_ffn, x),
        expected,
        symptoms={
            "There seems to be no ReLU.": torch.tensor([[[-2.0, 10.0], [6.0, 12.0]]]),
        },
    )


# --- encoder ---------------------------------------------------------------------------------


@probe
def encode_like(student, state, sizes, norm_first, x, mask):
    """An EncoderBlock with the given weights, in eval mode."""
    block = student.EncoderBlock(*sizes, norm_first=norm_first)
    block.load_state_dict(state)
    with torch.no_grad():
        return block.eval()(x, mask)


def encoder_layer(sizes, norm_first):
    torch.manual_seed(1)
    layer = nn.TransformerEncoderLayer(*sizes, batch_first=True, norm_first=norm_first)
    with torch.no_grad():  # a new norm is the identity; give it something to do
        for norm in (layer.norm1, layer.norm2):
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.uniform_(-0.5, 0.5)
    return layer.eval()


@pytest.mark.exercise("encoder")
def test_post_norm(student):
    """With its weights `EncoderBlock` gives what nn.TransformerEncoderLayer gives."""
    sizes, x = (4, 2, 8, 0.0), torch.linspace(-1, 1, 24).view(2, 3, 4).sin()
    layer, other = encoder_layer(sizes, False), encoder_layer(sizes, True)
    other.load_state_dict(layer.state_dict())
    got = student.run(encode_like, layer.state_dict(), sizes, False, x, None)
    assert_close(
        got,
        layer(x).detach(),
        atol=1e-4,
        symptoms={
            "This is pre-norm; without norm_first the norm comes after the sum.": other(x).detach(),
        },
    )


@pytest.mark.exercise("encoder")
def test_pre_norm(student):
    """With `norm_first=True` each sublayer gets the normalised x, and x itself is added."""
    sizes, x = (4, 2, 8, 0.0), torch.linspace(-2, 1, 24).view(2, 3, 4).cos()
    layer = encoder_layer(sizes, True)
    got = student.run(encode_like, layer.state_dict(), sizes, True, x, None)
    assert_close(got, layer(x).detach(), atol=1e-4)


@pytest.mark.exercise("encoder")
def test_hidden_tokens(student):
    """What the mask hides changes nothing for the others."""
    sizes, x = (4, 2, 8, 0.0), torch.linspace(-1, 2, 12).view(1, 3, 4).sin()
    layer = encoder_layer(sizes, False)
    mask = torch.tensor([[[True, True, False]]])
    other = x.clone()
    other[0, 2] = 9.0
    a, b = (
        student.run(encode_like, layer.state_dict(), sizes, False, v, mask)[:, :2]
        for v in (x, other)
    )
    assert_close(a, b, "the outputs of the two tokens that may be seen")


# --- decoder ---------------------------------------------------------------------------------


@probe
def decode_like(student, state, sizes, x, memory, mask, memory_mask):
    """A DecoderBlock with the given weights, in eval mode."""
    block = student.DecoderBlock(*sizes)
    block.load_state_dict(state)
    with torch.no_grad():
        return block.eval()(x, memory, mask, memory_mask)


def decoder_layer(sizes):
    torch.manual_seed(2)
    layer = nn.TransformerDecoderLayer(*sizes, batch_first=True)
    with torch.no_grad():
        for norm in (layer.norm1, layer.norm2, layer.norm3):
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.uniform_(-0.5, 0.5)
    return layer.eval()


X = torch.linspace(-1, 1, 12).view(1, 3, 4).sin()
MEMORY = torch.linspace(0, 2, 20).view(1, 5, 4).cos()
CAUSAL = torch.ones(1, 3, 3).tril().bool()


@pytest.mark.exercise("decoder")
def test_three_sublayers(student):
    """With its weights `DecoderBlock` gives what nn.TransformerDecoderLayer gives."""
    sizes = (4, 2, 8, 0.0)
    layer = decoder_layer(sizes)
    got = student.run(decode_like, layer.state_dict(), sizes, X, MEMORY, CAUSAL, None)
    swapped = copy_of(layer)
    swapped.self_attn, swapped.multihead_attn = layer.multihead_attn, layer.self_attn
    assert_close(
        got,
        layer(X, MEMORY, tgt_mask=~CAUSAL[0]).detach(),
        atol=1e-4,
        symptoms={
            "`mask` is not used in the self-attention.": layer(X, MEMORY).detach(),
            "self_attn and multihead_attn have changed places.": swapped(
                X, MEMORY, tgt_mask=~CAUSAL[0]
            ).detach(),
        },
    )


def copy_of(layer):
    other = decoder_layer((4, 2, 8, 0.0))
    other.load_state_dict(layer.state_dict())
    return other


@pytest.mark.exercise("decoder")
def test_source_padding(student):
    """What `memory_mask` hides in the memory changes nothing."""
    sizes = (4, 2, 8, 0.0)
    state = decoder_layer(sizes).state_dict()
    seen = torch.tensor([[[True, True, True, False, False]]])
    a = student.run(decode_like, state, sizes, X, MEMORY, CAUSAL, seen)
    b = student.run(decode_like, state, sizes, X, MEMORY[:, :3], CAUSAL, None)
    assert_close(a, b, atol=1e-4)


# --- train -----------------------------------------------------------------------------------

CFG = {"vocab": 13, "d": 8, "h": 2, "ff": 12, "layers": 2, "p": 0.0, "max_len": 9}


@probe
def model_parts(student, cfg):
    model = student.build_model(cfg)
    state = {name: list(p.shape) for name, p in model.named_parameters()}
    spread = model.embed.weight.std().item() * cfg["d"] ** 0.5
    return state, spread, model.table.detach(), len(model.encoder), len(model.decoder)


@pytest.mark.exercise("train")
def test_parts(student):
    """`build_model` has two blocks on each side with weights of their own, and a head."""
    state, spread, _, encoders, decoders = student.run(model_parts, CFG | {"positions": True})
    assert_equal((encoders, decoders), (2, 2), "the numbers of blocks")
    assert_equal(state["embed.weight"], [13, 8], "the shape of the embedding")
    assert_equal(state["head.weight"], [13, 8], "the shape of the head's weight")
    assert_true(
        "encoder.1.linear1.weight" in state and "decoder.1.linear1.weight" in state,
        "The two blocks of a stack should not share their weights.",
    )
    assert_true(0.6 < spread < 1.5, "The embedding should have standard deviation d ** -0.5.")


@pytest.mark.exercise("train")
def test_position_table(student):
    """The table has max_len rows, and is zero without positions."""
    *_, table, _, _ = student.run(model_parts, CFG | {"positions": True})
    assert_equal(list(table.shape), [9, 8], "the shape of the table")
    assert_close(table[0], torch.tensor([0.0, 1.0] * 4), "position 0")
    *_, table, _, _ = student.run(model_parts, CFG | {"positions": False})
    assert_close(table, torch.zeros(9, 8), "the table without positions")


@probe
def short_training(student, cfg):
    torch.manual_seed(0)
    model = student.build_model(cfg)
    with torch.no_grad():
        src, inp, target = student.reversal(64, torch.Generator().manual_seed(3))
        logits = model(src, inp)
        wanted = F.cross_entropy(logits[target != 0], target[target != 0]).item()
        padded = F.cross_entropy(logits.flatten(0, 1), target.flatten()).item()
    return student.train(model, 8, 3), wanted, padded


@pytest.mark.exercise("train")
def test_training_starts(student):
    """`train` gives one loss for each step; the first is that of the new model."""
    losses, wanted, padded = student.run(short_training, CFG | {"positions": True})
    assert_equal(len(losses), 8, "the number of losses")
    assert_close(
        losses[0],
        wanted,
        "the first loss",
        rtol=1e-3,
        symptoms={"Pads are counted in the loss.": padded},
    )
    assert_true(losses[-1] < losses[0], "The loss should fall.")


# --- decode ----------------------------------------------------------------------------------


@probe
def step_by_step(student, seed, src, tgt):
    torch.manual_seed(seed)
    sizes = (8, 2, 12, 0.0)
    model = student.Seq2Seq(
        nn.Embedding(6, 8),
        student.sinusoid(10, 8),
        [student.EncoderLayer(*sizes)],
        [student.DecoderLayer(*sizes) for _ in range(2)],
        nn.Linear(8, 6),
    ).eval()
    with torch.no_grad():
        cache = model.begin(src)
        rows = [student.step(model, cache, tgt[:, t]) for t in range(tgt.shape[1])]
        return torch.stack(rows, 1), model(src, tgt)


@pytest.mark.exercise("decode")
def test_cache_changes_nothing(student):
    """`step` after `step` gives the logits of one full pass."""
    src, tgt = torch.tensor([[3, 4, 5], [5, 3, 0]]), torch.tensor([[1, 3, 4], [1, 5, 5]])
    got, expected = student.run(step_by_step, 0, src, tgt)
    assert_close(got[:, 0], expected[:, 0], "the logits of the first step", atol=1e-4)
    assert_close(got, expected, "the logits of three steps", atol=1e-4)


@probe
def write(student, seed, bias, src, longest):
    torch.manual_seed(seed)
    sizes = (8, 2, 12, 0.0)
    model = student.Seq2Seq(
        nn.Embedding(6, 8),
        student.sinusoid(10, 8),
        [student.EncoderLayer(*sizes)],
        [student.DecoderLayer(*sizes) for _ in range(2)],
        nn.Linear(8, 6),
    ).eval()
    with torch.no_grad():
        model.head.bias[2] += bias
    return student.greedy(model, src, longest)


@pytest.mark.exercise("decode")
def test_the_end(student):
    """`greedy` stops at EOS, and after max_len tokens if there is none."""
    src = torch.tensor([[3, 4], [5, 0]])
    got = student.run(write, 0, 50.0, src, 7)
    assert_close(
        got,
        torch.tensor([[2], [2]]),
        "a model that ends at once",
        symptoms={"It goes on after all have ended.": torch.tensor([[2] + [0] * 6] * 2)},
    )
    got = student.run(write, 0, -50.0, src, 4)
    assert_equal(list(got.shape), [2, 4], "the shape for a model that never ends")


# --- debug -----------------------------------------------------------------------------------


@pytest.mark.exercise("debug")
def test_each_token_alone(student):
    """`normalise` gives every token mean 0 and standard deviation 1, whatever the others are."""
    x = torch.tensor([[[1.0, 3.0], [10.0, 30.0]]])
    assert_close(
        student.normalise(x),
        torch.tensor([[[-1.0, 1.0], [-1.0, 1.0]]]),
        atol=1e-3,
        symptoms={
            "All tokens of a sequence still share one mean.": F.layer_norm(x, x.shape[1:]),
        },
    )
