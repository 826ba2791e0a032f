"""Wrong answers in the chapter on the Transformer, each with the hint it deserves."""

import torch
import torch.nn.functional as F
from torch import nn

from course.testing import misconception

# Names of the chapter's set-up cells, which the answers below use.
PAD = BOS = EOS = keys_values = attend = look = sinusoid = None
EncoderLayer = DecoderLayer = Seq2Seq = reversal = None

# --- masks -----------------------------------------------------------------------------------


@misconception(
    "masks",
    hint="This mask marks what is *forbidden*. In this chapter True means `may look`, as in "
    "F.scaled_dot_product_attention.",
)
def make_mask(tgt_ids, pad):
    T = tgt_ids.shape[1]
    future = torch.ones(T, T, dtype=torch.bool, device=tgt_ids.device).triu(1)
    return future | (tgt_ids == pad)[:, None, :]


@misconception(
    "masks",
    hint="No position sees itself, so the first one sees nothing at all. In the decoder's input "
    "position i holds the token *before* the one to predict, so it may be seen.",
)
def make_mask(tgt_ids, pad):
    T = tgt_ids.shape[1]
    past = torch.ones(T, T, dtype=torch.bool, device=tgt_ids.device).tril(-1)
    return past & (tgt_ids != pad)[:, None, :]


@misconception(
    "masks",
    hint="The padding is hidden as a query: its rows are empty, but other tokens can still look "
    "at it. Which of the last two axes are the keys?",
)
def make_mask(tgt_ids, pad):
    T = tgt_ids.shape[1]
    past = torch.ones(T, T, dtype=torch.bool, device=tgt_ids.device).tril()
    return past & (tgt_ids != pad)[:, :, None]


@misconception(
    "masks",
    hint="The future is visible and the past is hidden: rows are queries, columns are keys, and "
    "the key must not be later than the query.",
)
def make_mask(tgt_ids, pad):
    T = tgt_ids.shape[1]
    past = torch.ones(T, T, dtype=torch.bool, device=tgt_ids.device).triu()
    return past & (tgt_ids != pad)[:, None, :]


@misconception(
    "masks",
    hint="Padding is taken to be 0, but its id is the argument `pad`.",
)
def make_mask(tgt_ids, pad):
    T = tgt_ids.shape[1]
    past = torch.ones(T, T, dtype=torch.bool, device=tgt_ids.device).tril()
    return past & (tgt_ids != 0)[:, None, :]


@misconception(
    "masks",
    hint="Only the future is hidden. Padding that stands before a real token can still be seen.",
)
def make_mask(tgt_ids, pad):
    N, T = tgt_ids.shape
    past = torch.ones(T, T, dtype=torch.bool, device=tgt_ids.device).tril()
    return past.expand(N, T, T)


@misconception(
    "masks",
    hint="The rows of pads are empty. A pad may ask: its answer is never used, but a softmax "
    "over nothing is 0 / 0. Hide the padding as a *key* only.",
)
def make_mask(tgt_ids, pad):
    T = tgt_ids.shape[1]
    past = torch.ones(T, T, dtype=torch.bool, device=tgt_ids.device).tril()
    real = tgt_ids != pad
    return past & real[:, None, :] & real[:, :, None]


@misconception(
    "masks",
    hint="This is one mask of shape (T, T) for all sequences. But each has its own padding: "
    "the shape is (N, T, T).",
)
def make_mask(tgt_ids, pad):
    T = tgt_ids.shape[1]
    return torch.ones(T, T, dtype=torch.bool, device=tgt_ids.device).tril()


@misconception(
    "masks",
    hint="The mask is made of numbers. Attention *adds* a floating-point mask to the scores, "
    "and 1 hides nothing; a boolean one says who may look.",
)
def make_mask(tgt_ids, pad):
    T = tgt_ids.shape[1]
    past = torch.ones(T, T, device=tgt_ids.device).tril()
    return past * (tgt_ids != pad)[:, None, :]


# --- shift -----------------------------------------------------------------------------------


@misconception(
    "shift",
    hint="eos is at the end of the *row*. A short sequence ends before its padding, and the model "
    "should learn to stop there.",
)
def shift_right(y, bos, eos, pad):
    inp = F.pad(y, (1, 0), value=bos)
    target = F.pad(y, (0, 1), value=eos)
    return inp, target, target != pad


@misconception(
    "shift",
    hint="eos is not counted by the mask, so the model never learns to stop.",
)
def shift_right(y, bos, eos, pad):
    length = (y != pad).sum(1, keepdim=True)
    inp = F.pad(y, (1, 0), value=bos)
    target = F.pad(y, (0, 1), value=pad).scatter(1, length, eos)
    mask = torch.arange(y.shape[1] + 1, device=y.device) < length
    return inp, target, mask


@misconception(
    "shift",
    hint="The mask is made from the target's ids. Where eos has the id of the padding, the end is "
    "lost: count the real tokens of y instead.",
)
def shift_right(y, bos, eos, pad):
    length = (y != pad).sum(1, keepdim=True)
    inp = F.pad(y, (1, 0), value=bos)
    target = F.pad(y, (0, 1), value=pad).scatter(1, length, eos)
    return inp, target, target != pad


@misconception(
    "shift",
    hint="Input and target are the same sequence, bos included: the model would learn to repeat "
    "the token it has just read. The target is one step ahead.",
)
def shift_right(y, bos, eos, pad):
    inp = F.pad(y, (1, 0), value=bos)
    return inp, inp.clone(), inp != pad


@misconception(
    "shift",
    hint="The last token of the longest sequence is cut off from the input, and its eos from the "
    "target: both need one column more than y.",
)
def shift_right(y, bos, eos, pad):
    length = (y != pad).sum(1, keepdim=True)
    inp = F.pad(y, (1, 0), value=bos)
    target = F.pad(y, (0, 1), value=pad).scatter(1, length, eos)
    mask = torch.arange(y.shape[1] + 1, device=y.device) <= length
    return inp[:, :-1], target[:, :-1], mask[:, :-1]


@misconception(
    "shift",
    hint="bos and eos are both put into y first, and it gets two columns longer. The decoder "
    "reads bos and y; it should say y and eos: one column more each.",
)
def shift_right(y, bos, eos, pad):
    length = (y != pad).sum(1, keepdim=True)
    y = F.pad(y, (0, 1), value=pad).scatter(1, length, eos)
    target = F.pad(y, (0, 1), value=pad)
    return F.pad(y, (1, 0), value=bos), target, target != pad


@misconception(
    "shift",
    hint="eos is written over the last real token. It belongs directly *behind* it; counted "
    "from 0 that place is the number of real tokens.",
)
def shift_right(y, bos, eos, pad):
    length = (y != pad).sum(1, keepdim=True)
    target = F.pad(y, (0, 1), value=pad).scatter(1, (length - 1).clamp(min=0), eos)
    mask = torch.arange(y.shape[1] + 1, device=y.device) < length
    return F.pad(y, (1, 0), value=bos), target, mask


@misconception(
    "shift",
    hint="eos is written over the last real token. It belongs directly *behind* it; counted "
    "from 0 that place is the number of real tokens.",
)
def shift_right(y, bos, eos, pad):
    length = (y != pad).sum(1)
    target = F.pad(y, (0, 1), value=pad)
    target[torch.arange(len(y), device=y.device), length - 1] = eos
    mask = torch.arange(y.shape[1] + 1, device=y.device) <= length[:, None]
    return F.pad(y, (1, 0), value=bos), target, mask


@misconception(
    "shift",
    hint="Padding is taken to be 0, but its id is the argument `pad`.",
)
def shift_right(y, bos, eos, pad):
    length = (y != 0).sum(1, keepdim=True)
    target = F.pad(y, (0, 1), value=pad).scatter(1, length, eos)
    mask = torch.arange(y.shape[1] + 1, device=y.device) <= length
    return F.pad(y, (1, 0), value=bos), target, mask


# --- addnorm ---------------------------------------------------------------------------------


@misconception(
    "addnorm",
    hint="Only the sublayer's output is normalised. Add first; the sum is what is normalised.",
)
class AddNorm(nn.Module):
    def __init__(self, d, p):
        super().__init__()
        self.norm, self.drop = nn.LayerNorm(d), nn.Dropout(p)

    def forward(self, x, y):
        if x.shape != y.shape:
            raise ValueError("shapes differ")
        return x + self.norm(self.drop(y))


@misconception(
    "addnorm",
    hint="Dropout acts on the sum, so it damages the path around the sublayer too. It belongs to "
    "the sublayer's output alone.",
)
class AddNorm(nn.Module):
    def __init__(self, d, p):
        super().__init__()
        self.norm, self.drop = nn.LayerNorm(d), nn.Dropout(p)

    def forward(self, x, y):
        if x.shape != y.shape:
            raise ValueError("shapes differ")
        return self.norm(self.drop(x + y))


@misconception(
    "addnorm",
    hint="Shapes that broadcast are accepted: one sentence is added to all, without a word. "
    "Compare the shapes yourself.",
)
class AddNorm(nn.Module):
    def __init__(self, d, p):
        super().__init__()
        self.norm, self.drop = nn.LayerNorm(d), nn.Dropout(p)

    def forward(self, x, y):
        return self.norm(x + self.drop(y))


@misconception(
    "addnorm",
    hint="Dropout never acts, or acts in eval mode too: F.dropout does not know the module's mode. "
    "Hand it `training=self.training`, or use nn.Dropout.",
)
class AddNorm(nn.Module):
    def __init__(self, d, p):
        super().__init__()
        self.norm, self.p = nn.LayerNorm(d), p

    def forward(self, x, y):
        if x.shape != y.shape:
            raise ValueError("shapes differ")
        return self.norm(x + F.dropout(y, self.p))


@misconception(
    "addnorm",
    hint="There is no ReLU between the two layers. Two linear layers in a row are one linear "
    "layer, with more parameters.",
)
class FFN(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(d, h), nn.Linear(h, d)

    def forward(self, x):
        return self.linear2(self.linear1(x))


@misconception(
    "addnorm",
    hint="A ReLU also acts on the output, so the sublayer can only ever add. It belongs between "
    "the two layers only.",
)
class FFN(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(d, h), nn.Linear(h, d)

    def forward(self, x):
        return F.relu(self.linear2(F.relu(self.linear1(x))))


@misconception(
    "addnorm",
    hint="Only x is normalised, and the sublayer's output is added to it afterwards. Add "
    "first; the sum is what is normalised.",
)
class AddNorm(nn.Module):
    def __init__(self, d, p):
        super().__init__()
        self.norm, self.drop = nn.LayerNorm(d), nn.Dropout(p)

    def forward(self, x, y):
        if x.shape != y.shape:
            raise ValueError("shapes differ")
        return self.norm(x) + self.drop(y)


@misconception(
    "addnorm",
    hint="Dropout comes last and drops what is finished, x too. It belongs to the sublayer's "
    "output alone, before the sum.",
)
class AddNorm(nn.Module):
    def __init__(self, d, p):
        super().__init__()
        self.norm, self.drop = nn.LayerNorm(d), nn.Dropout(p)

    def forward(self, x, y):
        if x.shape != y.shape:
            raise ValueError("shapes differ")
        return self.drop(self.norm(x + y))


@misconception(
    "addnorm",
    hint="There is no dropout. It acts on the sublayer's output, before the sum.",
)
class AddNorm(nn.Module):
    def __init__(self, d, p):
        super().__init__()
        self.norm, self.drop = nn.LayerNorm(d), nn.Dropout(p)

    def forward(self, x, y):
        if x.shape != y.shape:
            raise ValueError("shapes differ")
        return self.norm(x + y)


@misconception(
    "addnorm",
    hint="FFN adds its input to its output. That path is the work of AddNorm, which comes "
    "after it; here it would be there twice.",
)
class FFN(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(d, h), nn.Linear(h, d)

    def forward(self, x):
        return x + self.linear2(F.relu(self.linear1(x)))


@misconception(
    "addnorm",
    hint="Between the two layers stands another function than the ReLU, max(0, x).",
)
class FFN(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(d, h), nn.Linear(h, d)

    def forward(self, x):
        return self.linear2(F.gelu(self.linear1(x)))


# --- encoder ---------------------------------------------------------------------------------


@misconception(
    "encoder",
    hint="`norm_first` makes no difference here: the order is always post-norm.",
)
class EncoderBlock(nn.Module):
    def __init__(self, d, h, ff, p, norm_first=False):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d, h, p, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(d, ff), nn.Linear(ff, d)
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.drop = nn.Dropout(p)

    def forward(self, x, mask=None):
        x = self.norm1(x + self.drop(look(self.self_attn, x, x, mask)))
        hidden = self.drop(F.relu(self.linear1(x)))
        return self.norm2(x + self.drop(self.linear2(hidden)))


@misconception(
    "encoder",
    hint="In the pre-norm order x is *replaced* by its normalised version before it is added. The "
    "path around the sublayer should carry x as it is.",
)
class EncoderBlock(nn.Module):
    def __init__(self, d, h, ff, p, norm_first=False):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d, h, p, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(d, ff), nn.Linear(ff, d)
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.drop, self.norm_first = nn.Dropout(p), norm_first

    def forward(self, x, mask=None):
        feed = lambda x: self.drop(self.linear2(self.drop(F.relu(self.linear1(x)))))  # noqa: E731
        if self.norm_first:
            x = self.norm1(x)
            x = x + self.drop(look(self.self_attn, x, x, mask))
            x = self.norm2(x)
            return x + feed(x)
        x = self.norm1(x + self.drop(look(self.self_attn, x, x, mask)))
        return self.norm2(x + feed(x))


@misconception(
    "encoder",
    hint="The mask never reaches the attention, so everybody looks at the padding.",
)
class EncoderBlock(nn.Module):
    def __init__(self, d, h, ff, p, norm_first=False):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d, h, p, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(d, ff), nn.Linear(ff, d)
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.drop, self.norm_first = nn.Dropout(p), norm_first

    def forward(self, x, mask=None):
        attn = lambda x: self.drop(look(self.self_attn, x, x))  # noqa: E731
        feed = lambda x: self.drop(self.linear2(self.drop(F.relu(self.linear1(x)))))  # noqa: E731
        if self.norm_first:
            x = x + attn(self.norm1(x))
            return x + feed(self.norm2(x))
        x = self.norm1(x + attn(x))
        return self.norm2(x + feed(x))


@misconception(
    "encoder",
    hint="The path around the feed-forward network starts at the block's input, not at the "
    "attention's result; the first sublayer is lost on it.",
)
class EncoderBlock(nn.Module):
    def __init__(self, d, h, ff, p, norm_first=False):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d, h, p, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(d, ff), nn.Linear(ff, d)
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.drop, self.norm_first = nn.Dropout(p), norm_first

    def forward(self, x, mask=None):
        attn = lambda x: self.drop(look(self.self_attn, x, x, mask))  # noqa: E731
        feed = lambda x: self.drop(self.linear2(self.drop(F.relu(self.linear1(x)))))  # noqa: E731
        if self.norm_first:
            return x + feed(self.norm2(x + attn(self.norm1(x))))
        return self.norm2(x + feed(self.norm1(x + attn(x))))


@misconception(
    "encoder",
    hint="One normalisation is used for both sublayers; each should have its own.",
)
class EncoderBlock(nn.Module):
    def __init__(self, d, h, ff, p, norm_first=False):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d, h, p, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(d, ff), nn.Linear(ff, d)
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.drop, self.norm_first = nn.Dropout(p), norm_first

    def forward(self, x, mask=None):
        attn = lambda x: self.drop(look(self.self_attn, x, x, mask))  # noqa: E731
        feed = lambda x: self.drop(self.linear2(self.drop(F.relu(self.linear1(x)))))  # noqa: E731
        if self.norm_first:
            x = x + attn(self.norm1(x))
            return x + feed(self.norm1(x))
        x = self.norm1(x + attn(x))
        return self.norm1(x + feed(x))


@misconception(
    "encoder",
    hint="In the pre-norm order the first sublayer is added to the *normalised* x. The path "
    "around it should carry x as it is.",
)
class EncoderBlock(nn.Module):
    def __init__(self, d, h, ff, p, norm_first=False):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d, h, p, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(d, ff), nn.Linear(ff, d)
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.drop, self.norm_first = nn.Dropout(p), norm_first

    def forward(self, x, mask=None):
        attn = lambda x: self.drop(look(self.self_attn, x, x, mask))  # noqa: E731
        feed = lambda x: self.drop(self.linear2(self.drop(F.relu(self.linear1(x)))))  # noqa: E731
        if self.norm_first:
            x = self.norm1(x)
            x = x + attn(x)
            return x + feed(self.norm2(x))
        x = self.norm1(x + attn(x))
        return self.norm2(x + feed(x))


@misconception(
    "encoder",
    hint="The attention weights are not dropped: give nn.MultiheadAttention `dropout=p`.",
)
class EncoderBlock(nn.Module):
    def __init__(self, d, h, ff, p, norm_first=False):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d, h, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(d, ff), nn.Linear(ff, d)
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.drop, self.norm_first = nn.Dropout(p), norm_first

    def forward(self, x, mask=None):
        attn = lambda x: self.drop(look(self.self_attn, x, x, mask))  # noqa: E731
        feed = lambda x: self.drop(self.linear2(self.drop(F.relu(self.linear1(x)))))  # noqa: E731
        if self.norm_first:
            x = x + attn(self.norm1(x))
            return x + feed(self.norm2(x))
        x = self.norm1(x + attn(x))
        return self.norm2(x + feed(x))


@misconception(
    "encoder",
    hint="Dropout is missing behind the ReLU, on the hidden features.",
)
class EncoderBlock(nn.Module):
    def __init__(self, d, h, ff, p, norm_first=False):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d, h, p, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(d, ff), nn.Linear(ff, d)
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.drop, self.norm_first = nn.Dropout(p), norm_first

    def forward(self, x, mask=None):
        attn = lambda x: self.drop(look(self.self_attn, x, x, mask))  # noqa: E731
        feed = lambda x: self.drop(self.linear2(F.relu(self.linear1(x))))  # noqa: E731
        if self.norm_first:
            x = x + attn(self.norm1(x))
            return x + feed(self.norm2(x))
        x = self.norm1(x + attn(x))
        return self.norm2(x + feed(x))


@misconception(
    "encoder",
    hint="The attention's output is added without dropout. Both sublayers' outputs are dropped "
    "before the sum.",
)
class EncoderBlock(nn.Module):
    def __init__(self, d, h, ff, p, norm_first=False):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d, h, p, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(d, ff), nn.Linear(ff, d)
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.drop, self.norm_first = nn.Dropout(p), norm_first

    def forward(self, x, mask=None):
        attn = lambda x: look(self.self_attn, x, x, mask)  # noqa: E731
        feed = lambda x: self.drop(self.linear2(self.drop(F.relu(self.linear1(x)))))  # noqa: E731
        if self.norm_first:
            x = x + attn(self.norm1(x))
            return x + feed(self.norm2(x))
        x = self.norm1(x + attn(x))
        return self.norm2(x + feed(x))


@misconception(
    "encoder",
    hint="The feed-forward network's output is added without dropout. Both sublayers' outputs "
    "are dropped before the sum.",
)
class EncoderBlock(nn.Module):
    def __init__(self, d, h, ff, p, norm_first=False):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d, h, p, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(d, ff), nn.Linear(ff, d)
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.drop, self.norm_first = nn.Dropout(p), norm_first

    def forward(self, x, mask=None):
        attn = lambda x: self.drop(look(self.self_attn, x, x, mask))  # noqa: E731
        feed = lambda x: self.linear2(self.drop(F.relu(self.linear1(x))))  # noqa: E731
        if self.norm_first:
            x = x + attn(self.norm1(x))
            return x + feed(self.norm2(x))
        x = self.norm1(x + attn(x))
        return self.norm2(x + feed(x))


@misconception(
    "encoder",
    hint="In the post-norm order the attention's output takes the place of x. It should be "
    "added to it, and the sum normalised.",
)
class EncoderBlock(nn.Module):
    def __init__(self, d, h, ff, p, norm_first=False):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d, h, p, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(d, ff), nn.Linear(ff, d)
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.drop, self.norm_first = nn.Dropout(p), norm_first

    def forward(self, x, mask=None):
        attn = lambda x: self.drop(look(self.self_attn, x, x, mask))  # noqa: E731
        feed = lambda x: self.drop(self.linear2(self.drop(F.relu(self.linear1(x)))))  # noqa: E731
        if self.norm_first:
            x = x + attn(self.norm1(x))
            return x + feed(self.norm2(x))
        x = self.norm1(attn(x))
        return self.norm2(x + feed(x))


@misconception(
    "encoder",
    hint="In the post-norm order only the sublayers' outputs are normalised. Add first; the "
    "sum is what is normalised.",
)
class EncoderBlock(nn.Module):
    def __init__(self, d, h, ff, p, norm_first=False):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d, h, p, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(d, ff), nn.Linear(ff, d)
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.drop, self.norm_first = nn.Dropout(p), norm_first

    def forward(self, x, mask=None):
        attn = lambda x: self.drop(look(self.self_attn, x, x, mask))  # noqa: E731
        feed = lambda x: self.drop(self.linear2(self.drop(F.relu(self.linear1(x)))))  # noqa: E731
        if self.norm_first:
            x = x + attn(self.norm1(x))
            return x + feed(self.norm2(x))
        x = x + self.norm1(attn(x))
        return x + self.norm2(feed(x))


@misconception(
    "encoder",
    hint="The mask is handed to nn.MultiheadAttention, whose True means *may not look*, and "
    "which wants other shapes. Use `look`, which knows ours.",
)
class EncoderBlock(nn.Module):
    def __init__(self, d, h, ff, p, norm_first=False):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d, h, p, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(d, ff), nn.Linear(ff, d)
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.drop, self.norm_first = nn.Dropout(p), norm_first

    def forward(self, x, mask=None):
        def attn(x):
            return self.drop(self.self_attn(x, x, x, attn_mask=mask)[0])

        feed = lambda x: self.drop(self.linear2(self.drop(F.relu(self.linear1(x)))))  # noqa: E731
        if self.norm_first:
            x = x + attn(self.norm1(x))
            return x + feed(self.norm2(x))
        x = self.norm1(x + attn(x))
        return self.norm2(x + feed(x))


@misconception(
    "encoder",
    hint="Behind the first linear layer stands another function than the ReLU.",
)
class EncoderBlock(nn.Module):
    def __init__(self, d, h, ff, p, norm_first=False):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d, h, p, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(d, ff), nn.Linear(ff, d)
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.drop, self.norm_first = nn.Dropout(p), norm_first

    def forward(self, x, mask=None):
        attn = lambda x: self.drop(look(self.self_attn, x, x, mask))  # noqa: E731
        feed = lambda x: self.drop(self.linear2(self.drop(F.gelu(self.linear1(x)))))  # noqa: E731
        if self.norm_first:
            x = x + attn(self.norm1(x))
            return x + feed(self.norm2(x))
        x = self.norm1(x + attn(x))
        return self.norm2(x + feed(x))


@misconception(
    "encoder",
    hint="The attention has batch_first=False, the library's default. Say batch_first=True.",
)
class EncoderBlock(nn.Module):
    def __init__(self, d, h, ff, p, norm_first=False):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d, h, p)
        self.linear1, self.linear2 = nn.Linear(d, ff), nn.Linear(ff, d)
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.drop, self.norm_first = nn.Dropout(p), norm_first

    def forward(self, x, mask=None):
        attn = lambda x: self.drop(look(self.self_attn, x, x, mask))  # noqa: E731
        feed = lambda x: self.drop(self.linear2(self.drop(F.relu(self.linear1(x)))))  # noqa: E731
        if self.norm_first:
            x = x + attn(self.norm1(x))
            return x + feed(self.norm2(x))
        x = self.norm1(x + attn(x))
        return self.norm2(x + feed(x))


# --- decoder ---------------------------------------------------------------------------------


@misconception(
    "decoder",
    hint="In the cross-attention the roles are exchanged: the decoder asks (queries from x), the "
    "memory answers (keys and values). The result should be as long as x.",
)
class DecoderBlock(nn.Module):
    def __init__(self, d, h, ff, p):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d, h, p, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(d, h, p, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(d, ff), nn.Linear(ff, d)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(d), nn.LayerNorm(d), nn.LayerNorm(d)
        self.drop = nn.Dropout(p)

    def forward(self, x, memory, mask=None, memory_mask=None):
        x = self.norm1(x + self.drop(look(self.self_attn, x, x, mask)))
        read = look(self.multihead_attn, memory, x, None)
        x = self.norm2(x + self.drop(read.mean(1, keepdim=True).expand_as(x)))
        hidden = self.drop(F.relu(self.linear1(x)))
        return self.norm3(x + self.drop(self.linear2(hidden)))


@misconception(
    "decoder",
    hint="The second attention looks at x again. Then nothing of the source ever reaches the "
    "output.",
)
class DecoderBlock(nn.Module):
    def __init__(self, d, h, ff, p):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d, h, p, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(d, h, p, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(d, ff), nn.Linear(ff, d)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(d), nn.LayerNorm(d), nn.LayerNorm(d)
        self.drop = nn.Dropout(p)

    def forward(self, x, memory, mask=None, memory_mask=None):
        x = self.norm1(x + self.drop(look(self.self_attn, x, x, mask)))
        x = self.norm2(x + self.drop(look(self.multihead_attn, x, x, mask)))
        hidden = self.drop(F.relu(self.linear1(x)))
        return self.norm3(x + self.drop(self.linear2(hidden)))


@misconception(
    "decoder",
    hint="The self-attention is not masked, so each token sees the ones it should predict.",
)
class DecoderBlock(nn.Module):
    def __init__(self, d, h, ff, p):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d, h, p, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(d, h, p, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(d, ff), nn.Linear(ff, d)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(d), nn.LayerNorm(d), nn.LayerNorm(d)
        self.drop = nn.Dropout(p)

    def forward(self, x, memory, mask=None, memory_mask=None):
        x = self.norm1(x + self.drop(look(self.self_attn, x, x)))
        x = self.norm2(x + self.drop(look(self.multihead_attn, x, memory, memory_mask)))
        hidden = self.drop(F.relu(self.linear1(x)))
        return self.norm3(x + self.drop(self.linear2(hidden)))


@misconception(
    "decoder",
    hint="`memory_mask` is not used, so the decoder reads the padding of the source.",
)
class DecoderBlock(nn.Module):
    def __init__(self, d, h, ff, p):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d, h, p, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(d, h, p, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(d, ff), nn.Linear(ff, d)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(d), nn.LayerNorm(d), nn.LayerNorm(d)
        self.drop = nn.Dropout(p)

    def forward(self, x, memory, mask=None, memory_mask=None):
        x = self.norm1(x + self.drop(look(self.self_attn, x, x, mask)))
        x = self.norm2(x + self.drop(look(self.multihead_attn, x, memory)))
        hidden = self.drop(F.relu(self.linear1(x)))
        return self.norm3(x + self.drop(self.linear2(hidden)))


@misconception(
    "decoder",
    hint="The cross-attention's result is not added to x but takes its place: what has been "
    "written so far is forgotten.",
)
class DecoderBlock(nn.Module):
    def __init__(self, d, h, ff, p):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d, h, p, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(d, h, p, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(d, ff), nn.Linear(ff, d)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(d), nn.LayerNorm(d), nn.LayerNorm(d)
        self.drop = nn.Dropout(p)

    def forward(self, x, memory, mask=None, memory_mask=None):
        x = self.norm1(x + self.drop(look(self.self_attn, x, x, mask)))
        x = self.norm2(self.drop(look(self.multihead_attn, x, memory, memory_mask)))
        hidden = self.drop(F.relu(self.linear1(x)))
        return self.norm3(x + self.drop(self.linear2(hidden)))


@misconception(
    "decoder",
    hint="In the cross-attention the roles are exchanged: queries come from x, keys and values "
    "from the memory. The result should be as long as x.",
)
class DecoderBlock(nn.Module):
    def __init__(self, d, h, ff, p):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d, h, p, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(d, h, p, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(d, ff), nn.Linear(ff, d)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(d), nn.LayerNorm(d), nn.LayerNorm(d)
        self.drop = nn.Dropout(p)

    def forward(self, x, memory, mask=None, memory_mask=None):
        x = self.norm1(x + self.drop(look(self.self_attn, x, x, mask)))
        x = self.norm2(x + self.drop(look(self.multihead_attn, memory, x, memory_mask)))
        hidden = self.drop(F.relu(self.linear1(x)))
        return self.norm3(x + self.drop(self.linear2(hidden)))


@misconception(
    "decoder",
    hint="The causal mask is used for the memory. The source is there from the start and may "
    "be seen as a whole; `memory_mask` hides its padding.",
)
class DecoderBlock(nn.Module):
    def __init__(self, d, h, ff, p):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d, h, p, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(d, h, p, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(d, ff), nn.Linear(ff, d)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(d), nn.LayerNorm(d), nn.LayerNorm(d)
        self.drop = nn.Dropout(p)

    def forward(self, x, memory, mask=None, memory_mask=None):
        x = self.norm1(x + self.drop(look(self.self_attn, x, x, mask)))
        x = self.norm2(x + self.drop(look(self.multihead_attn, x, memory, mask)))
        hidden = self.drop(F.relu(self.linear1(x)))
        return self.norm3(x + self.drop(self.linear2(hidden)))


@misconception(
    "decoder",
    hint="norm2 is used twice, and norm3 never. Each of the three sublayers has its own.",
)
class DecoderBlock(nn.Module):
    def __init__(self, d, h, ff, p):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d, h, p, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(d, h, p, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(d, ff), nn.Linear(ff, d)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(d), nn.LayerNorm(d), nn.LayerNorm(d)
        self.drop = nn.Dropout(p)

    def forward(self, x, memory, mask=None, memory_mask=None):
        x = self.norm1(x + self.drop(look(self.self_attn, x, x, mask)))
        x = self.norm2(x + self.drop(look(self.multihead_attn, x, memory, memory_mask)))
        hidden = self.drop(F.relu(self.linear1(x)))
        return self.norm2(x + self.drop(self.linear2(hidden)))


@misconception(
    "decoder",
    hint="The cross-attention uses self_attn, so one set of weights does two jobs. It has its "
    "own: multihead_attn.",
)
class DecoderBlock(nn.Module):
    def __init__(self, d, h, ff, p):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d, h, p, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(d, h, p, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(d, ff), nn.Linear(ff, d)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(d), nn.LayerNorm(d), nn.LayerNorm(d)
        self.drop = nn.Dropout(p)

    def forward(self, x, memory, mask=None, memory_mask=None):
        x = self.norm1(x + self.drop(look(self.self_attn, x, x, mask)))
        x = self.norm2(x + self.drop(look(self.self_attn, x, memory, memory_mask)))
        hidden = self.drop(F.relu(self.linear1(x)))
        return self.norm3(x + self.drop(self.linear2(hidden)))


@misconception(
    "decoder",
    hint="The cross-attention comes first. The order is masked self-attention, cross-"
    "attention, feed-forward.",
)
class DecoderBlock(nn.Module):
    def __init__(self, d, h, ff, p):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d, h, p, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(d, h, p, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(d, ff), nn.Linear(ff, d)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(d), nn.LayerNorm(d), nn.LayerNorm(d)
        self.drop = nn.Dropout(p)

    def forward(self, x, memory, mask=None, memory_mask=None):
        x = self.norm1(x + self.drop(look(self.multihead_attn, x, memory, memory_mask)))
        x = self.norm2(x + self.drop(look(self.self_attn, x, x, mask)))
        hidden = self.drop(F.relu(self.linear1(x)))
        return self.norm3(x + self.drop(self.linear2(hidden)))


@misconception(
    "decoder",
    hint="This is the pre-norm order. This block is post-norm: norm(x + dropout(sublayer(x))), "
    "three times.",
)
class DecoderBlock(nn.Module):
    def __init__(self, d, h, ff, p):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d, h, p, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(d, h, p, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(d, ff), nn.Linear(ff, d)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(d), nn.LayerNorm(d), nn.LayerNorm(d)
        self.drop = nn.Dropout(p)

    def forward(self, x, memory, mask=None, memory_mask=None):
        z = self.norm1(x)
        x = x + self.drop(look(self.self_attn, z, z, mask))
        x = x + self.drop(look(self.multihead_attn, self.norm2(x), memory, memory_mask))
        hidden = self.drop(F.relu(self.linear1(self.norm3(x))))
        return x + self.drop(self.linear2(hidden))


@misconception(
    "decoder",
    hint="Dropout is missing behind the ReLU, on the hidden features.",
)
class DecoderBlock(nn.Module):
    def __init__(self, d, h, ff, p):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d, h, p, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(d, h, p, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(d, ff), nn.Linear(ff, d)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(d), nn.LayerNorm(d), nn.LayerNorm(d)
        self.drop = nn.Dropout(p)

    def forward(self, x, memory, mask=None, memory_mask=None):
        x = self.norm1(x + self.drop(look(self.self_attn, x, x, mask)))
        x = self.norm2(x + self.drop(look(self.multihead_attn, x, memory, memory_mask)))
        hidden = F.relu(self.linear1(x))
        return self.norm3(x + self.drop(self.linear2(hidden)))


@misconception(
    "decoder",
    hint="The attention weights are not dropped: give both nn.MultiheadAttention `dropout=p`.",
)
class DecoderBlock(nn.Module):
    def __init__(self, d, h, ff, p):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d, h, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(d, h, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(d, ff), nn.Linear(ff, d)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(d), nn.LayerNorm(d), nn.LayerNorm(d)
        self.drop = nn.Dropout(p)

    def forward(self, x, memory, mask=None, memory_mask=None):
        x = self.norm1(x + self.drop(look(self.self_attn, x, x, mask)))
        x = self.norm2(x + self.drop(look(self.multihead_attn, x, memory, memory_mask)))
        hidden = self.drop(F.relu(self.linear1(x)))
        return self.norm3(x + self.drop(self.linear2(hidden)))


@misconception(
    "decoder",
    hint="The outputs of the sublayers are added without dropout.",
)
class DecoderBlock(nn.Module):
    def __init__(self, d, h, ff, p):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d, h, p, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(d, h, p, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(d, ff), nn.Linear(ff, d)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(d), nn.LayerNorm(d), nn.LayerNorm(d)
        self.drop = nn.Dropout(p)

    def forward(self, x, memory, mask=None, memory_mask=None):
        x = self.norm1(x + look(self.self_attn, x, x, mask))
        x = self.norm2(x + look(self.multihead_attn, x, memory, memory_mask))
        hidden = self.drop(F.relu(self.linear1(x)))
        return self.norm3(x + self.linear2(hidden))


# --- train -----------------------------------------------------------------------------------


@misconception(
    "train",
    hint="`[block] * n` is n times the same block: all layers of a stack share one set of weights. "
    "Call the constructor once for each layer.",
)
def build_model(cfg):
    d = cfg["d"]
    embed = nn.Embedding(cfg["vocab"], d)
    nn.init.normal_(embed.weight, std=d**-0.5)
    table = sinusoid(cfg["max_len"], d) * cfg["positions"]
    sizes = d, cfg["h"], cfg["ff"], cfg["p"]
    encoder = [EncoderLayer(*sizes)] * cfg["layers"]
    decoder = [DecoderLayer(*sizes)] * cfg["layers"]
    return Seq2Seq(embed, table, encoder, decoder, nn.Linear(d, cfg["vocab"]))


@misconception(
    "train",
    hint="`positions` is ignored: the model always gets the sinusoids.",
)
def build_model(cfg):
    d = cfg["d"]
    embed = nn.Embedding(cfg["vocab"], d)
    nn.init.normal_(embed.weight, std=d**-0.5)
    sizes = d, cfg["h"], cfg["ff"], cfg["p"]
    encoder = [EncoderLayer(*sizes) for _ in range(cfg["layers"])]
    decoder = [DecoderLayer(*sizes) for _ in range(cfg["layers"])]
    table = sinusoid(cfg["max_len"], d)
    return Seq2Seq(embed, table, encoder, decoder, nn.Linear(d, cfg["vocab"]))


@misconception(
    "train",
    hint="The embedding keeps its standard deviation of 1. After the multiplication by sqrt(d) it "
    "drowns the positions: draw it with d ** -0.5.",
)
def build_model(cfg):
    d = cfg["d"]
    table = sinusoid(cfg["max_len"], d) * cfg["positions"]
    sizes = d, cfg["h"], cfg["ff"], cfg["p"]
    encoder = [EncoderLayer(*sizes) for _ in range(cfg["layers"])]
    decoder = [DecoderLayer(*sizes) for _ in range(cfg["layers"])]
    embed = nn.Embedding(cfg["vocab"], d)
    return Seq2Seq(embed, table, encoder, decoder, nn.Linear(d, cfg["vocab"]))


@misconception(
    "train",
    hint="The pads count in the loss. The model spends its effort on predicting padding.",
)
def train(model, steps, seed, batch=reversal):
    g = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    model.train()
    losses = []
    for _ in range(steps):
        src, inp, target = (t.to(model.head.weight.device) for t in batch(64, g))
        loss = F.cross_entropy(model(src, inp).flatten(0, 1), target.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@misconception(
    "train",
    hint="The gradients are never set to zero, so each step uses the sum of all so far.",
)
def train(model, steps, seed, batch=reversal):
    g = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    model.train()
    losses = []
    for _ in range(steps):
        src, inp, target = (t.to(model.head.weight.device) for t in batch(64, g))
        logits = model(src, inp).flatten(0, 1)
        loss = F.cross_entropy(logits, target.flatten(), ignore_index=PAD)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@misconception(
    "train",
    hint="The decoder reads the target itself instead of the shifted input. It can copy the "
    "answer, so the loss looks wonderful, and it cannot write.",
)
def train(model, steps, seed, batch=reversal):
    g = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    model.train()
    losses = []
    for _ in range(steps):
        src, inp, target = (t.to(model.head.weight.device) for t in batch(64, g))
        logits = model(src, target).flatten(0, 1)
        loss = F.cross_entropy(logits, target.flatten(), ignore_index=PAD)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@misconception(
    "train",
    hint="The generator is made anew for every step, so all batches are the same one. Make it "
    "once, before the loop.",
)
def train(model, steps, seed, batch=reversal):
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    model.train()
    losses = []
    for _ in range(steps):
        g = torch.Generator().manual_seed(seed)
        src, inp, target = (t.to(model.head.weight.device) for t in batch(64, g))
        logits = model(src, inp).flatten(0, 1)
        loss = F.cross_entropy(logits, target.flatten(), ignore_index=PAD)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@misconception(
    "train",
    hint="Adam has its default learning rate, 0.001. The docstring asks for 5e-3.",
)
def train(model, steps, seed, batch=reversal):
    g = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters())
    model.train()
    losses = []
    for _ in range(steps):
        src, inp, target = (t.to(model.head.weight.device) for t in batch(64, g))
        logits = model(src, inp).flatten(0, 1)
        loss = F.cross_entropy(logits, target.flatten(), ignore_index=PAD)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@misconception(
    "train",
    hint="The optimizer is plain gradient descent. The docstring asks for Adam.",
)
def train(model, steps, seed, batch=reversal):
    g = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=5e-3)
    model.train()
    losses = []
    for _ in range(steps):
        src, inp, target = (t.to(model.head.weight.device) for t in batch(64, g))
        logits = model(src, inp).flatten(0, 1)
        loss = F.cross_entropy(logits, target.flatten(), ignore_index=PAD)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@misconception(
    "train",
    hint="The model is never put into train mode, so its dropout does not act.",
)
def train(model, steps, seed, batch=reversal):
    g = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(steps):
        src, inp, target = (t.to(model.head.weight.device) for t in batch(64, g))
        logits = model(src, inp).flatten(0, 1)
        loss = F.cross_entropy(logits, target.flatten(), ignore_index=PAD)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@misconception(
    "train",
    hint="The losses are tensors, and each keeps its whole graph alive. `.item()` makes a float.",
)
def train(model, steps, seed, batch=reversal):
    g = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    model.train()
    losses = []
    for _ in range(steps):
        src, inp, target = (t.to(model.head.weight.device) for t in batch(64, g))
        logits = model(src, inp).flatten(0, 1)
        loss = F.cross_entropy(logits, target.flatten(), ignore_index=PAD)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss)
    return losses


@misconception(
    "train",
    hint="The batches always come from `reversal`. Call the argument `batch`: the same loop is "
    "to learn other tasks.",
)
def train(model, steps, seed, batch=reversal):
    g = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    model.train()
    losses = []
    for _ in range(steps):
        src, inp, target = (t.to(model.head.weight.device) for t in reversal(64, g))
        logits = model(src, inp).flatten(0, 1)
        loss = F.cross_entropy(logits, target.flatten(), ignore_index=PAD)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


# --- decode ----------------------------------------------------------------------------------


@misconception(
    "decode",
    hint="Every token is placed at position 0. The new token stands at position cache['t'], which "
    "is also to be counted on.",
)
def step(model, cache, token):
    x = model.place(token[:, None])
    for block, past in zip(model.decoder, cache["layers"], strict=True):
        new = keys_values(block.self_attn, x)
        past["self"] = [torch.cat(kv, 2) for kv in zip(past["self"], new, strict=True)]
        x = block.norm1(x + attend(block.self_attn, x, *past["self"]))
        read = attend(block.multihead_attn, x, *past["memory"], cache["memory_mask"])
        x = block.norm2(x + read)
        x = block.norm3(x + block.linear2(F.relu(block.linear1(x))))
    cache["t"] += 1
    return model.head(x[:, 0])


@misconception(
    "decode",
    hint="The new keys and values are used, but not kept: the next step will not know that this "
    "token was written. Store them in the cache.",
)
def step(model, cache, token):
    x = model.place(token[:, None], cache["t"])
    for block, past in zip(model.decoder, cache["layers"], strict=True):
        new = keys_values(block.self_attn, x)
        both = [torch.cat(kv, 2) for kv in zip(past["self"], new, strict=True)]
        x = block.norm1(x + attend(block.self_attn, x, *both))
        read = attend(block.multihead_attn, x, *past["memory"], cache["memory_mask"])
        x = block.norm2(x + read)
        x = block.norm3(x + block.linear2(F.relu(block.linear1(x))))
    cache["t"] += 1
    return model.head(x[:, 0])


@misconception(
    "decode",
    hint="The cross-attention has no mask, so it reads the padding of the source. The cache holds "
    "the mask that it needs.",
)
def step(model, cache, token):
    x = model.place(token[:, None], cache["t"])
    for block, past in zip(model.decoder, cache["layers"], strict=True):
        new = keys_values(block.self_attn, x)
        past["self"] = [torch.cat(kv, 2) for kv in zip(past["self"], new, strict=True)]
        x = block.norm1(x + attend(block.self_attn, x, *past["self"]))
        x = block.norm2(x + attend(block.multihead_attn, x, *past["memory"]))
        x = block.norm3(x + block.linear2(F.relu(block.linear1(x))))
    cache["t"] += 1
    return model.head(x[:, 0])


@misconception(
    "decode",
    hint="The token sees those before it, but not itself: append its key and value first, then "
    "ask.",
)
def step(model, cache, token):
    x = model.place(token[:, None], cache["t"])
    for block, past in zip(model.decoder, cache["layers"], strict=True):
        old, new = past["self"], keys_values(block.self_attn, x)
        past["self"] = [torch.cat(kv, 2) for kv in zip(old, new, strict=True)]
        seen = old if cache["t"] else past["self"]
        x = block.norm1(x + attend(block.self_attn, x, *seen))
        read = attend(block.multihead_attn, x, *past["memory"], cache["memory_mask"])
        x = block.norm2(x + read)
        x = block.norm3(x + block.linear2(F.relu(block.linear1(x))))
    cache["t"] += 1
    return model.head(x[:, 0])


@misconception(
    "decode",
    hint="The loop ends when the *first* sequence has ended. It should go on until all have.",
)
@torch.no_grad()
def greedy(model, src, max_len):
    cache = model.begin(src)
    token = torch.full_like(src[:, 0], BOS)
    written = []
    while len(written) < max_len and not (token == EOS).any():
        token = step(model, cache, token).argmax(-1)
        written.append(token)
    return torch.stack(written, dim=1)


@misconception(
    "decode",
    hint="A sequence that has ended goes on writing. Behind its EOS there should be PAD only.",
)
@torch.no_grad()
def greedy(model, src, max_len):
    cache = model.begin(src)
    token = torch.full_like(src[:, 0], BOS)
    done = torch.zeros_like(token, dtype=torch.bool)
    written = []
    while len(written) < max_len and not done.all():
        token = step(model, cache, token).argmax(-1)
        written.append(token)
        done = done | (token == EOS)
    return torch.stack(written, dim=1)


@misconception(
    "decode",
    hint="It always writes max_len tokens, long after all sequences have ended.",
)
@torch.no_grad()
def greedy(model, src, max_len):
    cache = model.begin(src)
    token = torch.full_like(src[:, 0], BOS)
    done = torch.zeros_like(token, dtype=torch.bool)
    written = []
    for _ in range(max_len):
        token = step(model, cache, token).argmax(-1).masked_fill(done, PAD)
        written.append(token)
        done = done | (token == EOS)
    return torch.stack(written, dim=1)


@misconception(
    "decode",
    hint="cache['t'] is not counted on, so all tokens are placed at position 0. Add 1 at the "
    "end of the step.",
)
def step(model, cache, token):
    x = model.place(token[:, None], cache["t"])
    for block, past in zip(model.decoder, cache["layers"], strict=True):
        new = keys_values(block.self_attn, x)
        past["self"] = [torch.cat(kv, 2) for kv in zip(past["self"], new, strict=True)]
        x = block.norm1(x + attend(block.self_attn, x, *past["self"]))
        read = attend(block.multihead_attn, x, *past["memory"], cache["memory_mask"])
        x = block.norm2(x + read)
        x = block.norm3(x + block.linear2(F.relu(block.linear1(x))))
    return model.head(x[:, 0])


@misconception(
    "decode",
    hint="The new keys and values *replace* the cached ones, so the token sees only itself. "
    "Append them, along axis 2.",
)
def step(model, cache, token):
    x = model.place(token[:, None], cache["t"])
    for block, past in zip(model.decoder, cache["layers"], strict=True):
        past["self"] = keys_values(block.self_attn, x)
        x = block.norm1(x + attend(block.self_attn, x, *past["self"]))
        read = attend(block.multihead_attn, x, *past["memory"], cache["memory_mask"])
        x = block.norm2(x + read)
        x = block.norm3(x + block.linear2(F.relu(block.linear1(x))))
    cache["t"] += 1
    return model.head(x[:, 0])


@misconception(
    "decode",
    hint="The token asks before its own key and value are there: it sees those before it, but "
    "not itself. And the keys are then made of the changed x. Append first, then ask.",
)
def step(model, cache, token):
    x = model.place(token[:, None], cache["t"])
    for block, past in zip(model.decoder, cache["layers"], strict=True):
        x = block.norm1(x + attend(block.self_attn, x, *past["self"]))
        new = keys_values(block.self_attn, x)
        past["self"] = [torch.cat(kv, 2) for kv in zip(past["self"], new, strict=True)]
        read = attend(block.multihead_attn, x, *past["memory"], cache["memory_mask"])
        x = block.norm2(x + read)
        x = block.norm3(x + block.linear2(F.relu(block.linear1(x))))
    cache["t"] += 1
    return model.head(x[:, 0])


@misconception(
    "decode",
    hint="BOS is handed out too. What is asked for are the tokens *after* it.",
)
@torch.no_grad()
def greedy(model, src, max_len):
    cache = model.begin(src)
    token = torch.full_like(src[:, 0], BOS)
    done = torch.zeros_like(token, dtype=torch.bool)
    written = [token]
    for _ in range(max_len):
        token = step(model, cache, token).argmax(-1).masked_fill(done, PAD)
        done = done | (token == EOS)
        written.append(token)
        if done.all():
            break
    return torch.stack(written, dim=1)


@misconception(
    "decode",
    hint="EOS itself has become PAD. A sequence is filled up *behind* its EOS: first mask by "
    "those that were done before, then look for EOS.",
)
@torch.no_grad()
def greedy(model, src, max_len):
    cache = model.begin(src)
    token = torch.full_like(src[:, 0], BOS)
    done = torch.zeros_like(token, dtype=torch.bool)
    written = []
    for _ in range(max_len):
        token = step(model, cache, token).argmax(-1)
        done = done | (token == EOS)
        token = token.masked_fill(done, PAD)
        written.append(token)
        if done.all():
            break
    return torch.stack(written, dim=1)
