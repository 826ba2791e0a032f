"""Public checks of the chapter on BERT."""

import hashlib
import math

import pytest
import torch
from torch import nn

from course.testing import assert_close, assert_equal, assert_true, probe, raises

HINTS = {
    "wordpiece": [
        "`wordpiece`: keep a number `start`, where the rest of the word begins. Which is the "
        "longest end for which the piece is known?",
        "Try ends from len(word) down to start + 1; put `##` before the piece unless start is 0. "
        "A `for … else` notices when no end fits.",
        "`learn_subwords`: count each different word once (`Counter`), keep its list of pieces, "
        "and count pairs with `zip(cut, cut[1:])`, weighted by the word's count. The smallest of "
        "`(-count, pair)` is the pair to merge.",
    ],
    "pair": [
        "`pack`: first work on two Python lists of your own (`list(a)`), cut them, then build ids "
        "and segments, and pad at the very end.",
        "While both together are longer than max_len less the special tokens: `pop` the end of "
        "the longer list.",
        "`BertEmbedding`: the position table's first T rows have shape (T, hidden), which "
        "broadcasts over the batch. Add three, then norm, then dropout.",
    ],
    "mlm": [
        "Three random tensors of the shape of ids are enough: one to choose, one for the kind, "
        "and one with random tokens. Give `generator=rng` to each.",
        "`torch.isin(ids, torch.tensor(special))` finds the special tokens; `masked_fill` makes "
        "the labels.",
        "One uniform number u per token decides: u < 0.8 gives a mask, u >= 0.9 a random token, "
        "what is between stays.",
    ],
    "nsp": [
        "`zip(doc, doc[1:])` gives the neighbours of one document, and never crosses its end.",
        "`torch.randint(n, (), generator=rng).item()` is a random number from 0 to n - 1.",
        "To draw another document: a number from 0 to len(docs) - 2, plus 1 if it is at least "
        "the number of this document.",
    ],
    "count": [
        "A linear layer from m to n features has m * n weights and n biases; a layer norm has "
        "2 * H numbers.",
        "Attention is four H x H linear layers, whatever the number of heads.",
        "V + max_len + 2 rows of width H and one layer norm; L times attention, feed-forward and "
        "two layer norms; one linear layer at the end.",
    ],
    "pretrain": [
        "`src_key_padding_mask` is True for what is to be ignored: the opposite of `mask`.",
        "`words.flatten(0, 1)` and `labels.flatten()` fit `F.cross_entropy`, which skips labels "
        "of -100 by itself.",
        'Take the sum (`reduction="sum"`) and divide it by the number of labels that are not '
        "-100, or by 1 if there are none.",
    ],
    "finetune": [
        "Check first, then change: the two ValueErrors come before anything else.",
        "`module.requires_grad_(False)` freezes all parameters of a module; a slice of an "
        "`nn.ModuleList` is one, too.",
        "Give the optimizer only the parameters that require a gradient. Then, for each batch: "
        "loss, zero_grad, backward, step, and `loss.item()` into the list.",
    ],
    "debug": [
        "Is `inp` another tensor than `ids`, or another name for it?",
        "`masked_fill` (without the underscore at its end) gives a new tensor.",
    ],
}


@pytest.mark.exercise("wordpiece")
def test_unaffable(student):
    """`wordpiece` takes the longest piece each time, with ## inside a word."""
    vocab = ["un", "una", "##a", "##aff", "##able", "##ab", "able", "aff"]
    assert_close(
        student.wordpiece("unaffable", [*vocab[:1], *vocab[2:]]),
        ["un", "##aff", "##able"],
        "the pieces of unaffable",
        symptoms={
            "Inside a word, pieces begin with ##.": ["un", "aff", "able"],
            "It takes the shortest piece; take the longest.": ["un", "##a", "[UNK]"],
        },
    )
    assert_equal(student.wordpiece("able", vocab), ["able"], "the pieces of able")


@pytest.mark.exercise("wordpiece")
def test_unknown(student):
    """Where no piece fits, the whole word is ["[UNK]"]; greedy takes no step back."""
    vocab = {"un", "una", "##a", "##able"}
    assert_close(
        student.wordpiece("unzip", vocab),
        ["[UNK]"],
        "the pieces of unzip",
        symptoms={"The whole word becomes [UNK], not only its rest.": ["un", "[UNK]"]},
    )
    assert_equal(student.wordpiece("unable", vocab), ["[UNK]"], "the pieces of unable")


@pytest.mark.exercise("wordpiece")
def test_merges_by_hand(student):
    """`learn_subwords` makes the merges of the worked example, hug hug hugs bun."""
    words = ["hug", "hug", "hugs", "bun"]
    letters = ["##g", "##n", "##s", "##u", "b", "h"]
    assert_equal(student.learn_subwords(words, 0), letters, "the letters")
    assert_close(
        student.learn_subwords(words, 2),
        [*letters, "##ug", "hug"],
        "the pieces after two merges",
        symptoms={
            "The merged piece has ## in its middle.": [*letters, "##u##g", "h##u##g"],
            "In a tie, take the pair that is smaller in Python's order.": [*letters, "hu", "hug"],
        },
    )


@pytest.mark.exercise("pair")
def test_frame(student):
    """`pack` makes [CLS] a [SEP] b [SEP], with segments and mask, and pads at the end."""
    ids, segments, mask = student.pack([11, 12], [21], 8)
    assert_close(
        ids,
        torch.tensor([2, 11, 12, 3, 21, 3, 0, 0]),
        "ids",
        symptoms={
            "[SEP] ends both sentences, it does not only part them.": torch.tensor(
                [2, 11, 12, 3, 21, 0, 0, 0]
            )
        },
    )
    assert_close(
        segments,
        torch.tensor([0, 0, 0, 0, 1, 1, 0, 0]),
        "segments",
        symptoms={
            "The [SEP] after b belongs to b.": torch.tensor([0, 0, 0, 0, 1, 0, 0, 0]),
            "The first [SEP] belongs to a.": torch.tensor([0, 0, 0, 1, 1, 1, 0, 0]),
            "Padding has segment 0.": torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]),
        },
    )
    assert_close(
        mask,
        torch.tensor([True] * 6 + [False] * 2),
        "mask",
        symptoms={"It is the wrong way round.": torch.tensor([False] * 6 + [True] * 2)},
    )


@pytest.mark.exercise("pair")
def test_cut_and_single(student):
    """`pack` cuts the longer sentence, takes one sentence alone, and refuses too little room."""
    ids, _, _ = student.pack([11, 12, 13, 14], [21, 22], 7)
    assert_close(
        ids,
        torch.tensor([2, 11, 12, 3, 21, 22, 3]),
        "ids",
        symptoms={
            "It cuts b; the longer sentence should lose tokens.": torch.tensor(
                [2, 11, 12, 13, 14, 3, 3]
            ),
            "It cuts at the front; the last tokens should go.": torch.tensor(
                [2, 13, 14, 3, 21, 22, 3]
            ),
        },
    )
    assert_close(student.pack([11], None, 4)[0], torch.tensor([2, 11, 3, 0]), "ids without b")
    with raises(ValueError):
        student.pack([11], [21], 2)


@probe
def embed_small(student):
    """A small embedding with given tables, on two tokens."""
    emb = student.BertEmbedding(3, 2, 4, dropout=0.0)
    with torch.no_grad():
        emb.token.weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]]))
        emb.segment.weight.copy_(torch.tensor([[0.0, 0.0], [0.0, 4.0]]))
        emb.position.weight.copy_(torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 0.0], [0.0, 0.0]]))
        emb.norm = nn.Identity()
        return emb(torch.tensor([[1, 2]]), torch.tensor([[0, 1]]))


@pytest.mark.exercise("pair")
def test_sum_of_three(student):
    """`BertEmbedding` adds token, segment and position vectors, row by row."""
    got = student.run(embed_small)
    assert_close(
        got,
        torch.tensor([[[1.0, 0.0], [3.0, 6.0]]]),
        "the sum before the norm",
        symptoms={
            "The segment's vector is missing.": torch.tensor([[[1.0, 0.0], [3.0, 2.0]]]),
            "The position's vector is missing.": torch.tensor([[[1.0, 0.0], [0.0, 6.0]]]),
        },
    )


@pytest.mark.exercise("mlm")
def test_labels(student):
    """Labels are the old ids where something was chosen, -100 elsewhere; specials never."""
    ids = torch.tensor([[2, 10, 11, 12, 3, 0]]).repeat(500, 1)
    rng = torch.Generator().manual_seed(0)
    inp, labels = student.mask_tokens(ids, 50, 4, [0, 1, 2, 3, 4], rng)
    asked = labels != -100
    assert_true(asked.any(), "Nothing was chosen.")
    assert_close(labels[asked], ids[asked], "the labels of the chosen tokens")
    assert_close(inp[~asked], ids[~asked], "the tokens that were not chosen")
    assert_true(not asked[:, [0, 4, 5]].any(), "A special token was chosen.")


@pytest.mark.exercise("mlm")
def test_shares(student):
    """About 15 % are chosen; of these 80 % become masks, 10 % random, 10 % stay."""
    ids = torch.randint(5, 500, (20_000,), generator=torch.Generator().manual_seed(2))
    inp, labels = student.mask_tokens(ids, 500, 4, [0], torch.Generator().manual_seed(3))
    asked = labels != -100
    assert_close(asked.float().mean().item(), 0.15, "the share of chosen tokens", atol=0.01)
    masks = (inp == 4)[asked].float().mean().item()
    same = (inp == ids)[asked].float().mean().item()
    assert_close(
        [masks, same],
        [0.8, 0.1],
        "the shares of masks and of unchanged tokens",
        atol=0.025,
        symptoms={
            "The random tokens overwrite some masks: one random number should decide.": [
                0.72,
                0.18,
            ],
            "All chosen tokens become masks.": [1.0, 0.0],
            "Unchanged tokens have no label: they are chosen, too.": [0.89, 0.0],
        },
    )


@pytest.mark.exercise("nsp")
def test_pairs(student):
    """One pair for each two neighbours; true ones are neighbours, false ones from elsewhere."""
    docs = [["a1", "a2", "a3"], ["b1"], ["c1", "c2"]]
    follows = {"a1": "a2", "a2": "a3", "c1": "c2"}
    rng = torch.Generator().manual_seed(0)
    for _ in range(40):
        pairs = student.nsp_pairs(docs, rng)
        assert_equal([a for a, _, _ in pairs], ["a1", "a2", "c1"], "the first sentences")
        for a, b, label in pairs:
            if label == 1:
                assert_equal(b, follows[a], f"the sentence after {a}")
            else:
                assert_true(a[0] != b[0], f"The false pair {a}, {b} is from one document.")


@pytest.mark.exercise("nsp")
def test_half_and_one_document(student):
    """Half of the pairs are true; a single document raises a ValueError."""
    docs = [list(range(200)), list(range(200, 400))]
    pairs = student.nsp_pairs(docs, torch.Generator().manual_seed(1))
    assert_equal(len(pairs), 398, "the number of pairs")
    share = sum(label for *_, label in pairs) / 398
    assert_close(share, 0.5, "the share of true pairs", atol=0.12)
    with raises(ValueError):
        student.nsp_pairs([["only", "one"]], torch.Generator())


@pytest.mark.exercise("count")
def test_bert_base(student):
    """`bert_params` gives 109,482,240 for BERT-base, and a small case by hand."""
    assert_close(
        student.bert_params(30522, 768, 12, 12, 3072, 512),
        109_482_240,
        "the count of BERT-base",
        symptoms={
            "The pooler is missing.": 109_482_240 - 768 * 769,
            "The biases of the linear layers are missing.": 109_482_240
            - 12 * (4 * 768 + 3072 + 768)
            - 768,
            "2 H are missing: the two segments, or the layer norm of the embeddings.": 109_482_240
            - 2 * 768,
            "The layer norms of the layers are missing.": 109_482_240 - 12 * 4 * 768,
        },
    )
    # 12 rows of 2 and a norm: 28; attention 24, feed-forward 4 * 3 + 5, norms 8; pooler 6.
    assert_equal(student.bert_params(7, 2, 1, 1, 3, 3), 28 + 24 + 17 + 8 + 6, "a small count")
    with raises(ValueError):
        student.bert_params(7, 4, 1, 3, 3, 3)


@probe
def tiny_run(student):
    """Outputs for a sequence, alone and with other tokens in its padding; shapes."""

    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(9, 4)

        def forward(self, ids, segments):
            return self.table(ids) + segments[..., None]

    torch.manual_seed(0)
    net = student.TinyBERT(Words(), 9, 4, 1, 2, 8)
    ids = torch.tensor([[2, 5, 3, 0, 0], [2, 5, 3, 7, 8]])
    mask = torch.tensor([[True, True, True, False, False]] * 2)
    words, follows = net(ids, torch.zeros_like(ids), mask)
    alone, _ = net(ids[:1, :3], torch.zeros(1, 3).long(), mask[:1, :3])
    names = sorted({name.split(".")[0] for name, _ in net.named_parameters()})
    return words.detach(), follows.detach(), alone.detach(), names


@pytest.mark.exercise("pretrain")
def test_padding_has_no_say(student):
    """`TinyBERT` gives two outputs, and what stands in the padding changes neither."""
    words, follows, alone, names = student.run(tiny_run)
    assert_equal(tuple(words.shape), (2, 5, 9), "the shape of the first output")
    assert_equal(tuple(follows.shape), (2, 2), "the shape of the second output")
    assert_equal(
        list(names), ["embedding", "layers", "mlm", "nsp", "pooler"], "the parts with parameters"
    )
    assert_close(follows[0], follows[1], "the NSP scores with other tokens in the padding")
    assert_close(words[0, :3], alone[0], "the scores of the real tokens, without the padding")


@probe
def losses_of_fixed_scores(student, labels, following):
    """The two losses for a model with fixed scores."""

    class Fixed(nn.Module):
        def forward(self, ids, segments, mask):
            words = torch.tensor([[[0.0, 0.0], [math.log(3), 0.0], [9.0, 0.0]]])
            return words, torch.tensor([[0.0, math.log(4)]])

    ids = torch.zeros(1, 3).long()
    batch = {"ids": ids, "segments": ids, "mask": ids == 0, "labels": labels, "next": following}
    return [float(loss) for loss in student.pretrain_step(Fixed(), batch)]


@pytest.mark.exercise("pretrain")
def test_losses_by_hand(student):
    """`pretrain_step` averages over labelled positions only, and gives 0 where there are none."""
    got = student.run(
        losses_of_fixed_scores, torch.tensor([[1, 0, -100]]), torch.tensor([1], dtype=torch.long)
    )
    mean = (torch.log(torch.tensor(2.0)) + torch.log(torch.tensor(4 / 3))).item() / 2
    assert_close(
        list(got),
        [mean, torch.log(torch.tensor(1.25)).item()],
        "(mlm, nsp)",
        rtol=1e-5,
        symptoms={
            "The sum is divided by all positions, not by the labelled ones.": [
                mean * 2 / 3,
                torch.log(torch.tensor(1.25)).item(),
            ]
        },
    )
    none = torch.full((1, 3), -100)
    got = student.run(losses_of_fixed_scores, none, torch.tensor([-100]))
    assert_close(list(got), [0.0, 0.0], "(mlm, nsp) without labels")


@probe
def tune_small(student, vocab, stored, freeze, batches):
    """Fine-tune a small classifier; its losses and which parts moved."""

    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(6, 4)
            self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
            self.head = nn.Linear(4, 2)
            self.vocab_hash = stored

        def forward(self, ids, segments, mask):
            x = self.embedding(ids).mean(1)
            for layer in self.layers:
                x = torch.tanh(layer(x))
            return self.head(x)

    torch.manual_seed(0)
    net = Small()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    losses = student.finetune(net, {"vocab": vocab, "lr": 0.02, "batches": batches}, freeze)
    moved = [n for n, p in net.named_parameters() if not torch.equal(p.detach(), before[n])]
    return list(losses), sorted({".".join(n.split(".")[:-1]) for n in moved})


WORDS = ["[PAD]", "good", "bad", "fine"]
STORED = hashlib.sha256("\n".join(WORDS).encode()).hexdigest()[:16]


def labelled(n):
    ids = torch.tensor([[1, 3], [2, 2]])
    return [(ids, ids * 0, ids > 0, torch.tensor([1, 0]))] * n


@pytest.mark.exercise("finetune")
def test_learns_and_freezes(student):
    """`finetune` lowers the loss, moves everything, or leaves out what is frozen."""
    losses, moved = student.run(tune_small, WORDS, STORED, 0, labelled(30))
    assert_equal(len(losses), 30, "the number of losses")
    assert_true(losses[-1] < losses[0] / 4, "The loss should fall to less than a quarter.")
    assert_equal(list(moved), ["embedding", "head", "layers.0", "layers.1"], "what has moved")
    _, moved = student.run(tune_small, WORDS, STORED, 1, labelled(3))
    assert_close(
        list(moved),
        ["head", "layers.1"],
        "what has moved with freeze_layers=1",
        symptoms={
            "The embedding should be frozen as well.": ["embedding", "head", "layers.1"],
            "Freeze the first layers, not the last ones.": ["head", "layers.0"],
        },
    )


@pytest.mark.exercise("finetune")
def test_wrong_vocabulary(student):
    """Another vocabulary, or the same in another order, raises a ValueError."""
    for wrong in (WORDS[:3], [*WORDS[:2], WORDS[3], WORDS[2]]):
        with raises(ValueError):
            student.run(tune_small, wrong, STORED, 0, labelled(1))


@pytest.mark.exercise("debug")
def test_labels_are_the_old_words(student):
    """`hide_tokens` gives labels with the old ids, and leaves ids as they are."""
    ids = torch.tensor([[7, 8, 9]])
    chosen = torch.tensor([[False, True, True]])
    inp, labels = student.hide_tokens(ids, chosen)
    assert_close(inp, torch.tensor([[7, 4, 4]]), "inp")
    assert_close(
        labels,
        torch.tensor([[-100, 8, 9]]),
        "labels",
        symptoms={
            "The labels were made after the words were overwritten.": torch.tensor([[-100, 4, 4]])
        },
    )
    assert_close(ids, torch.tensor([[7, 8, 9]]), "ids")
