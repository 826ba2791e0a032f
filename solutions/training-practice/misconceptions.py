"""Wrong answers in the chapter on training practice, each with the hint it deserves."""

import math
import os
import random
import time
import zlib
from contextlib import contextmanager
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F

from course.testing import misconception


def get_states():
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def set_states(states):
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


# --- lcg -------------------------------------------------------------------------------------


@misconception(
    "lcg",
    hint="`next` returns the number that it leaves instead of the one that it reaches, so the seed "
    "comes first. Step, then answer.",
)
class LCG:
    def __init__(self, a, c, m, seed):
        if m <= 0:
            raise ValueError("m should be positive")
        self.a, self.c, self.m, self.x = a, c, m, seed % m

    def next(self):
        x = self.x
        self.x = (self.a * x + self.c) % self.m
        return x

    def random(self):
        return self.next() / self.m

    def period(self):
        x, seen = self.x, {}
        while x not in seen:
            seen[x] = len(seen)
            x = (self.a * x + self.c) % self.m
        return len(seen) - seen[x]


@misconception(
    "lcg",
    hint="The remainder is taken of a x alone, and c is added afterwards: so numbers up to m - 1 + c "
    "come out. Look at the brackets of the formula.",
)
class LCG:
    def __init__(self, a, c, m, seed):
        if m <= 0:
            raise ValueError("m should be positive")
        self.a, self.c, self.m, self.x = a, c, m, seed % m

    def next(self):
        self.x = self.a * self.x % self.m + self.c
        return self.x

    def random(self):
        return self.next() / self.m

    def period(self):
        x, seen = self.x, {}
        while x not in seen:
            seen[x] = len(seen)
            x = self.a * x % self.m + self.c
        return len(seen) - seen[x]


@misconception(
    "lcg",
    hint="Dividing by m - 1 lets 1 come out, but random() is to be in [0, 1). By what must the "
    "largest number m - 1 be divided?",
)
class LCG:
    def __init__(self, a, c, m, seed):
        if m <= 0:
            raise ValueError("m should be positive")
        self.a, self.c, self.m, self.x = a, c, m, seed % m

    def next(self):
        self.x = (self.a * self.x + self.c) % self.m
        return self.x

    def random(self):
        return self.next() / (self.m - 1)

    def period(self):
        x, seen = self.x, {}
        while x not in seen:
            seen[x] = len(seen)
            x = (self.a * x + self.c) % self.m
        return len(seen) - seen[x]


@misconception(
    "lcg",
    hint="This counts all different numbers until the first repetition, the way into the cycle "
    "included. Only the cycle itself repeats.",
)
class LCG:
    def __init__(self, a, c, m, seed):
        if m <= 0:
            raise ValueError("m should be positive")
        self.a, self.c, self.m, self.x = a, c, m, seed % m

    def next(self):
        self.x = (self.a * self.x + self.c) % self.m
        return self.x

    def random(self):
        return self.next() / self.m

    def period(self):
        x, seen = self.x, set()
        while x not in seen:
            seen.add(x)
            x = (self.a * x + self.c) % self.m
        return len(seen)


@misconception(
    "lcg",
    hint="`period` walks with the generator itself, so that `next` goes on from somewhere else. "
    "Walk with a local variable.",
)
class LCG:
    def __init__(self, a, c, m, seed):
        if m <= 0:
            raise ValueError("m must be positive")
        self.a, self.c, self.m = a, c, m
        self.x = seed % m

    def next(self):
        self.x = (self.a * self.x + self.c) % self.m
        return self.x

    def random(self):
        return self.next() / self.m

    def period(self):
        seen, n = {}, 0
        while self.x not in seen:
            seen[self.x] = n
            self.next()
            n += 1
        return n - seen[self.x]


@misconception(
    "lcg",
    hint="This waits until the present number comes back. It may never do so: with a = 2, c = 0,"
    " m = 8 the seed 1 leads to 0 and stays there.",
)
class LCG:
    def __init__(self, a, c, m, seed):
        if m <= 0:
            raise ValueError("m must be positive")
        self.a, self.c, self.m = a, c, m
        self.x = seed % m

    def next(self):
        self.x = (self.a * self.x + self.c) % self.m
        return self.x

    def random(self):
        return self.next() / self.m

    def period(self):
        x, n = self.x, 0
        while n <= self.m:
            x, n = (self.a * x + self.c) % self.m, n + 1
            if x == self.x:
                break
        return n


# --- seed ------------------------------------------------------------------------------------


@misconception(
    "seed",
    hint="torch's seed reaches neither Python's `random` nor NumPy. Each library has a generator of "
    "its own, and each must be seeded.",
)
def seed_everything(seed):
    if not 0 <= seed < 2**32:
        raise ValueError("seed should be in [0, 2**32)")
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


@misconception(
    "seed",
    hint="`benchmark = True` lets cuDNN time its algorithms and choose, which may end otherwise in "
    "the next run. For reproducible runs it is switched off.",
)
def seed_everything(seed):
    if not 0 <= seed < 2**32:
        raise ValueError("seed should be in [0, 2**32)")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.deterministic = True


@misconception(
    "seed",
    hint="NumPy does refuse a bad seed, but only after `random` was seeded. Check the argument "
    "before you touch the first generator.",
)
def seed_everything(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


@misconception(
    "seed",
    hint="The text of a long tensor is shortened by dots, so most of the state is not in it, and the "
    "fingerprint misses draws. Take the bytes.",
)
def rng_fingerprint():
    return tuple(zlib.crc32(str(state).encode()) for state in get_states())


@misconception(
    "seed",
    hint="NumPy's state is more than its array: the array stays as it is for hundreds of draws, and "
    "only the position moves. Which part of the tuple holds it?",
)
def rng_fingerprint():
    python, numpy, torch_cpu = get_states()
    return (
        zlib.crc32(repr(python).encode()),
        zlib.crc32(numpy[1].tobytes()),
        zlib.crc32(torch_cpu.numpy().tobytes()),
    )


@misconception(
    "seed",
    hint="To look at the next number of each library you draw it, and so you change what you want to "
    "observe. Read the states instead.",
)
def rng_fingerprint():
    return (
        random.getrandbits(32),
        int(np.random.randint(2**31)),
        int(torch.randint(2**31, (1,))),
    )


@misconception(
    "seed",
    hint="The other caller reads from the front of the tape. What is left for the later one is the "
    "end of the row, not the beginning.",
)
def predict_shift(draws, k):
    if not 0 <= k <= len(draws):
        raise ValueError("k should be from 0 to n")
    return draws[: len(draws) - k]


@misconception(
    "seed",
    hint="The drawn numbers do not come again at the end: nothing goes round in a circle here. The "
    "last k cannot be known from draws.",
)
def predict_shift(draws, k):
    if not 0 <= k <= len(draws):
        raise ValueError("k should be from 0 to n")
    return draws.roll(-k)


@misconception(
    "seed",
    hint="`np.random.default_rng(seed)` makes a new generator and leaves the global one alone, "
    "from which `np.random.rand` and most data sets draw.",
)
def seed_everything(seed):
    if not 0 <= seed < 2**32:
        raise ValueError("seed must be in [0, 2**32)")
    random.seed(seed)
    np.random.default_rng(seed)
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


# --- stable ----------------------------------------------------------------------------------


@misconception(
    "stable",
    hint="If the block raises an error, what stands behind `yield` is never reached. Which statement "
    "makes sure that a last part runs in any case?",
)
@contextmanager
def preserve_rng():
    states = get_states()
    yield
    set_states(states)


@misconception(
    "stable",
    hint="Only torch's generator is put back. The block may use `random` and NumPy as well.",
)
@contextmanager
def preserve_rng():
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)


@misconception(
    "stable",
    hint="The error of the block is caught here and goes no further. The caller has to hear of it.",
)
@contextmanager
def preserve_rng():
    states = get_states()
    try:
        yield
    except Exception:
        pass
    set_states(states)


@misconception(
    "stable",
    hint="This reseeds the *global* generators, so that dropout and everything else of the caller "
    "start anew with each epoch. The loader should have a stream of its own.",
)
def stable(loader, seed, epoch):
    torch.manual_seed(1000 * seed + epoch)
    random.seed(1000 * seed + epoch)
    np.random.seed(1000 * seed + epoch)
    yield from loader


@misconception(
    "stable",
    hint="Protected is only the moment in which the loop begins. The sampler makes its order when "
    "the first batch is asked for, and items are made batch by batch: each `next` needs it too.",
)
def stable(loader, seed, epoch):
    states = get_states()
    words = np.random.SeedSequence((seed, epoch)).generate_state(3).tolist()
    random.seed(words[0])
    np.random.seed(words[1])
    torch.manual_seed(words[2])
    batches = iter(loader)
    set_states(states)
    yield from batches


@misconception(
    "stable",
    hint="The sum gives (0, 1) and (1, 0) the same stream, so runs with other seeds share their "
    "orders. Mix the two numbers with a hash.",
)
def stable(loader, seed, epoch):
    outside = get_states()
    random.seed(seed + epoch)
    np.random.seed(seed + epoch)
    torch.manual_seed(seed + epoch)
    batches, own = iter(loader), get_states()
    set_states(outside)
    while True:
        outside = get_states()
        set_states(own)
        try:
            batch = next(batches)
        except StopIteration:
            return
        finally:
            own = get_states()
            set_states(outside)
        yield batch


@misconception(
    "stable",
    hint="The seed is used and the epoch is not, so every epoch has the same order and the same "
    "augmentations.",
)
def stable(loader, seed, epoch):
    outside = get_states()
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    batches, own = iter(loader), get_states()
    set_states(outside)
    while True:
        outside = get_states()
        set_states(own)
        try:
            batch = next(batches)
        except StopIteration:
            return
        finally:
            own = get_states()
            set_states(outside)
        yield batch


@misconception(
    "stable",
    hint="All batches are made before the first is handed out. A whole epoch may not fit into "
    "memory, and nobody can stop early. Make each one when it is asked for.",
)
def stable(loader, seed, epoch):
    outside = get_states()
    words = np.random.SeedSequence((seed, epoch)).generate_state(3).tolist()
    random.seed(words[0])
    np.random.seed(words[1])
    torch.manual_seed(words[2])
    try:
        batches = list(loader)
    finally:
        set_states(outside)
    yield from batches


@misconception(
    "stable",
    hint="The loader's own states are set before each batch, but not noted after it, so each batch "
    "starts again from the same numbers.",
)
def stable(loader, seed, epoch):
    outside = get_states()
    words = np.random.SeedSequence((seed, epoch)).generate_state(3).tolist()
    random.seed(words[0])
    np.random.seed(words[1])
    torch.manual_seed(words[2])
    batches, own = iter(loader), get_states()
    set_states(outside)
    while True:
        outside = get_states()
        set_states(own)
        try:
            batch = next(batches)
        except StopIteration:
            return
        finally:
            set_states(outside)
        yield batch


@misconception(
    "stable",
    hint="The generators are put back when the loop is over, but between two batches the caller "
    "works with those of the loader. The `yield` has to stand outside of what is protected.",
)
def stable(loader, seed, epoch):
    states = get_states()
    a, b, c = np.random.SeedSequence((seed, epoch)).generate_state(3).tolist()
    random.seed(a)
    np.random.seed(b)
    torch.manual_seed(c)
    try:
        yield from loader
    finally:
        set_states(states)


@misconception(
    "stable",
    hint="1000 * seed + epoch is the same number for (1, 0) and (0, 1000), so a long run meets "
    "the streams of the next seed. A hash of the pair does not.",
)
def stable(loader, seed, epoch):
    outside = get_states()
    random.seed(1000 * seed + epoch)
    np.random.seed(1000 * seed + epoch)
    torch.manual_seed(1000 * seed + epoch)
    batches, own = iter(loader), get_states()
    set_states(outside)
    while True:
        outside = get_states()
        set_states(own)
        try:
            batch = next(batches)
        except StopIteration:
            return
        finally:
            own = get_states()
            set_states(outside)
        yield batch


# --- accum -----------------------------------------------------------------------------------


@misconception(
    "accum",
    hint="Updates come only when the number of batches is divisible by k, so the tail of the epoch "
    "never reaches the parameters.",
)
def train_epoch(model, opt, loader, k, loss_fn):
    if k < 1:
        raise ValueError("k should be at least 1")
    opt.zero_grad()
    updates = 0
    for i, (x, y) in enumerate(loader):
        (loss_fn(model(x), y) / k).backward()
        if (i + 1) % k == 0:
            opt.step()
            opt.zero_grad()
            updates += 1
    return updates


@misconception(
    "accum",
    hint="Divided by k, also where the last group has fewer batches: that update comes out too "
    "small. By what should be divided there?",
)
def train_epoch(model, opt, loader, k, loss_fn):
    if k < 1:
        raise ValueError("k should be at least 1")
    batches, updates = iter(loader), 0
    while group := list(islice(batches, k)):
        opt.zero_grad()
        for x, y in group:
            (loss_fn(model(x), y) / k).backward()
        opt.step()
        updates += 1
    return updates


@misconception(
    "accum",
    hint="Each batch counts the same here. But the mean over all examples gives a batch of 7 more "
    "weight than a batch of 1.",
)
def train_epoch(model, opt, loader, k, loss_fn):
    if k < 1:
        raise ValueError("k should be at least 1")
    batches, updates = iter(loader), 0
    while group := list(islice(batches, k)):
        opt.zero_grad()
        for x, y in group:
            (loss_fn(model(x), y) / len(group)).backward()
        opt.step()
        updates += 1
    return updates


@misconception(
    "accum",
    hint="The gradients are added up and never scaled, so the step is about k times too long. The "
    "weights of the batches of a group should add up to 1.",
)
def train_epoch(model, opt, loader, k, loss_fn):
    if k < 1:
        raise ValueError("k should be at least 1")
    batches, updates = iter(loader), 0
    while group := list(islice(batches, k)):
        opt.zero_grad()
        for x, y in group:
            loss_fn(model(x), y).backward()
        opt.step()
        updates += 1
    return updates


@misconception(
    "accum",
    hint="`zero_grad` stands inside the inner loop and wipes out what was accumulated: only the last "
    "batch of each group counts.",
)
def train_epoch(model, opt, loader, k, loss_fn):
    if k < 1:
        raise ValueError("k should be at least 1")
    batches, updates = iter(loader), 0
    while group := list(islice(batches, k)):
        size = sum(len(x) for x, _ in group)
        for x, y in group:
            opt.zero_grad()
            (loss_fn(model(x), y) * len(x) / size).backward()
        opt.step()
        updates += 1
    return updates


@misconception(
    "accum",
    hint="The losses of a group are added up and go backward together: right values, but all graphs "
    "of the group are in memory at once, which is what accumulation should avoid.",
)
def train_epoch(model, opt, loader, k, loss_fn):
    if k < 1:
        raise ValueError("k should be at least 1")
    batches, updates = iter(loader), 0
    while group := list(islice(batches, k)):
        size = sum(len(x) for x, _ in group)
        opt.zero_grad()
        sum(loss_fn(model(x), y) * len(x) / size for x, y in group).backward()
        opt.step()
        updates += 1
    return updates


@misconception(
    "accum",
    hint="The batches of a group are joined and go through the model at once: the right update, "
    "but the large batch is in memory after all, which accumulation should avoid.",
)
def train_epoch(model, opt, loader, k, loss_fn):
    if k < 1:
        raise ValueError("k must be at least 1")
    batches = iter(loader)
    updates = 0
    while group := list(islice(batches, k)):
        opt.zero_grad()
        x, y = (torch.cat(part) for part in zip(*group, strict=True))
        loss_fn(model(x), y).backward()
        opt.step()
        updates += 1
    return updates


@misconception(
    "accum",
    hint="Gradients are zeroed after each step only, so what was in .grad at the beginning "
    "counts in the first update. Zero them at the start of a group.",
)
def train_epoch(model, opt, loader, k, loss_fn):
    if k < 1:
        raise ValueError("k must be at least 1")
    batches = iter(loader)
    updates = 0
    while group := list(islice(batches, k)):
        N = sum(len(x) for x, _ in group)
        for x, y in group:
            (loss_fn(model(x), y) * len(x) / N).backward()
        opt.step()
        opt.zero_grad()
        updates += 1
    return updates


# --- checkpoint ------------------------------------------------------------------------------


@misconception(
    "checkpoint",
    hint="The random states are not in the file, so the resumed run draws other dropout masks and "
    "another order than the unbroken one.",
)
def save_ckpt(path, **objs):
    saved = {n: o.state_dict() if hasattr(o, "state_dict") else o for n, o in objs.items()}
    part = f"{path}.part"
    python, numpy, torch_cpu = get_states()
    numpy = np.random.RandomState(0).get_state()
    rng = {
        "python": random.Random(0).getstate(),
        "numpy": [numpy[0], numpy[1].tolist(), *numpy[2:]],
        "torch": torch.Generator().manual_seed(0).get_state().tolist(),
    }
    torch.save({"objs": saved, "rng": rng}, part)
    os.replace(part, path)


@misconception(
    "checkpoint",
    hint="The file is written in place. If anything fails on the way, the old checkpoint is already "
    "gone. Write to another name, and rename when all is there.",
)
def save_ckpt(path, **objs):
    saved = {n: o.state_dict() if hasattr(o, "state_dict") else o for n, o in objs.items()}
    python, numpy, torch_cpu = get_states()
    rng = {
        "python": python,
        "numpy": [numpy[0], numpy[1].tolist(), *numpy[2:]],
        "torch": torch_cpu.tolist(),
    }
    torch.save({"objs": saved, "rng": rng}, path)


@misconception(
    "checkpoint",
    hint="The new file is copied to its place, and the temporary one stays behind. Renaming does both "
    "in one step: `os.replace`.",
)
def save_ckpt(path, **objs):
    saved = {n: o.state_dict() if hasattr(o, "state_dict") else o for n, o in objs.items()}
    python, numpy, torch_cpu = get_states()
    rng = {
        "python": python,
        "numpy": [numpy[0], numpy[1].tolist(), *numpy[2:]],
        "torch": torch_cpu.tolist(),
    }
    part = f"{path}.part"
    torch.save({"objs": saved, "rng": rng}, part)
    with open(part, "rb") as new, open(path, "wb") as old:
        old.write(new.read())


@misconception(
    "checkpoint",
    hint="NumPy's state holds an array, and weights_only reads no arrays of NumPy. Store it as a "
    "list of numbers.",
)
def save_ckpt(path, **objs):
    saved = {n: o.state_dict() if hasattr(o, "state_dict") else o for n, o in objs.items()}
    python, numpy, torch_cpu = get_states()
    rng = {"python": python, "numpy": numpy, "torch": torch_cpu.tolist()}
    part = f"{path}.part"
    torch.save({"objs": saved, "rng": rng}, part)
    os.replace(part, path)


@misconception(
    "checkpoint",
    hint="With weights_only=False any program in the file is run when it is read. The default is "
    "safe, and your file needs no more than plain data.",
)
def load_ckpt(path, map_location=None, **objs):
    file = torch.load(path, map_location=map_location, weights_only=False)
    saved, rng = file["objs"], file["rng"]
    for name in objs:
        if name not in saved:
            raise KeyError(f"the checkpoint has no {name}")
    for name, obj in objs.items():
        obj.load_state_dict(saved[name])
    set_states((rng["python"], tuple(rng["numpy"]), torch.tensor(rng["torch"], dtype=torch.uint8)))
    return {name: saved[name] for name in saved if name not in objs}


@misconception(
    "checkpoint",
    hint="Half of the objects are loaded when the missing name is noticed. Look for all names first, "
    "and change things only when nothing can fail any more.",
)
def load_ckpt(path, map_location=None, **objs):
    file = torch.load(path, map_location=map_location, weights_only=True)
    saved, rng = file["objs"], file["rng"]
    for name, obj in objs.items():
        if name not in saved:
            raise KeyError(f"the checkpoint has no {name}")
        obj.load_state_dict(saved[name])
    set_states((rng["python"], tuple(rng["numpy"]), torch.tensor(rng["torch"], dtype=torch.uint8)))
    return {name: saved[name] for name in saved if name not in objs}


@misconception(
    "checkpoint",
    hint="A name that the file does not have is passed over in silence. A run that goes on with a "
    "fresh scheduler looks fine, and is another run: raise a KeyError.",
)
def load_ckpt(path, map_location=None, **objs):
    file = torch.load(path, map_location=map_location, weights_only=True)
    saved, rng = file["objs"], file["rng"]
    for name, obj in objs.items():
        if name in saved:
            obj.load_state_dict(saved[name])
    set_states((rng["python"], tuple(rng["numpy"]), torch.tensor(rng["torch"], dtype=torch.uint8)))
    return {name: saved[name] for name in saved if name not in objs}


@misconception(
    "checkpoint",
    hint="The random states are read from the file and never set.",
)
def load_ckpt(path, map_location=None, **objs):
    file = torch.load(path, map_location=map_location, weights_only=True)
    saved = file["objs"]
    missing = [name for name in objs if name not in saved]
    if missing:
        raise KeyError(f"the checkpoint has no {', '.join(missing)}")
    for name, obj in objs.items():
        obj.load_state_dict(saved[name])
    return {name: saved[name] for name in saved if name not in objs}


@misconception(
    "checkpoint",
    hint="`map_location` is not handed on, so a file from a GPU cannot be read on a machine without "
    "one.",
)
def load_ckpt(path, map_location=None, **objs):
    file = torch.load(path, weights_only=True)
    saved, rng = file["objs"], file["rng"]
    missing = [name for name in objs if name not in saved]
    if missing:
        raise KeyError(f"the checkpoint has no {', '.join(missing)}")
    for name, obj in objs.items():
        obj.load_state_dict(saved[name])
    set_states((rng["python"], tuple(rng["numpy"]), torch.tensor(rng["torch"], dtype=torch.uint8)))
    return {name: saved[name] for name in saved if name not in objs}


@misconception(
    "checkpoint",
    hint="Everything that was saved is returned, the objects that were just loaded included. The"
    " caller asks for what is left.",
)
def load_ckpt(path, map_location=None, **objs):
    file = torch.load(path, map_location=map_location, weights_only=True)
    saved, rng = file["objs"], file["rng"]
    missing = [name for name in objs if name not in saved]
    if missing:
        raise KeyError(f"the checkpoint has no {', '.join(missing)}")
    for name, obj in objs.items():
        obj.load_state_dict(saved[name])
    set_states((rng["python"], tuple(rng["numpy"]), torch.tensor(rng["torch"], dtype=torch.uint8)))
    return saved


# --- scaler ----------------------------------------------------------------------------------


@misconception(
    "scaler",
    hint="The gradients are never divided again, so the steps are as many times too long as the "
    "factor is large.",
)
class Scaler:
    def __init__(self, init=2.0**16, growth=2.0, backoff=0.5, interval=2000):
        self.factor, self.growth, self.backoff, self.interval = init, growth, backoff, interval
        self.good, self.finite = 0, None

    def scale(self, loss):
        return loss * self.factor

    def unscale_(self, opt):
        if self.finite is not None:
            raise RuntimeError("already done")
        grads = [p.grad for g in opt.param_groups for p in g["params"] if p.grad is not None]
        self.finite = all(bool(g.isfinite().all()) for g in grads)

    def step(self, opt):
        if self.finite is None:
            self.unscale_(opt)
        if self.finite:
            opt.step()

    def update(self):
        self.good = self.good + 1 if self.finite else 0
        if not self.finite:
            self.factor *= self.backoff
        elif self.good == self.interval:
            self.factor *= self.growth
            self.good = 0
        self.finite = None


@misconception(
    "scaler",
    hint="`step` divides even when `unscale_` was called before, so the gradients are divided twice. "
    "Remember that it is done.",
)
class Scaler:
    def __init__(self, init=2.0**16, growth=2.0, backoff=0.5, interval=2000):
        self.factor, self.growth, self.backoff, self.interval = init, growth, backoff, interval
        self.good, self.finite = 0, True

    def scale(self, loss):
        return loss * self.factor

    def unscale_(self, opt):
        grads = [p.grad for g in opt.param_groups for p in g["params"] if p.grad is not None]
        for g in grads:
            g /= self.factor
        self.finite = all(bool(g.isfinite().all()) for g in grads)

    def step(self, opt):
        self.unscale_(opt)
        if self.finite:
            opt.step()

    def update(self):
        self.good = self.good + 1 if self.finite else 0
        if not self.finite:
            self.factor *= self.backoff
        elif self.good == self.interval:
            self.factor *= self.growth
            self.good = 0


@misconception(
    "scaler",
    hint="The count of good updates goes on after an overflow. It should be good updates *in a row*.",
)
class Scaler:
    def __init__(self, init=2.0**16, growth=2.0, backoff=0.5, interval=2000):
        self.factor, self.growth, self.backoff, self.interval = init, growth, backoff, interval
        self.good, self.finite = 0, None

    def scale(self, loss):
        return loss * self.factor

    def unscale_(self, opt):
        if self.finite is not None:
            raise RuntimeError("already done")
        grads = [p.grad for g in opt.param_groups for p in g["params"] if p.grad is not None]
        for g in grads:
            g /= self.factor
        self.finite = all(bool(g.isfinite().all()) for g in grads)

    def step(self, opt):
        if self.finite is None:
            self.unscale_(opt)
        if self.finite:
            opt.step()

    def update(self):
        if not self.finite:
            self.factor *= self.backoff
        else:
            self.good += 1
            if self.good == self.interval:
                self.factor *= self.growth
                self.good = 0
        self.finite = None


@misconception(
    "scaler",
    hint="The count is not set back when the factor grows, so it grows once and never again (or with "
    "every step that follows).",
)
class Scaler:
    def __init__(self, init=2.0**16, growth=2.0, backoff=0.5, interval=2000):
        self.factor, self.growth, self.backoff, self.interval = init, growth, backoff, interval
        self.good, self.finite = 0, None

    def scale(self, loss):
        return loss * self.factor

    def unscale_(self, opt):
        if self.finite is not None:
            raise RuntimeError("already done")
        grads = [p.grad for g in opt.param_groups for p in g["params"] if p.grad is not None]
        for g in grads:
            g /= self.factor
        self.finite = all(bool(g.isfinite().all()) for g in grads)

    def step(self, opt):
        if self.finite is None:
            self.unscale_(opt)
        if self.finite:
            opt.step()

    def update(self):
        self.good = self.good + 1 if self.finite else 0
        if not self.finite:
            self.factor *= self.backoff
        elif self.good >= self.interval:
            self.factor *= self.growth
        self.finite = None


@misconception(
    "scaler",
    hint="Only NaN is looked for. An overflow gives an infinite gradient first, and that step must be "
    "skipped, too.",
)
class Scaler:
    def __init__(self, init=2.0**16, growth=2.0, backoff=0.5, interval=2000):
        self.factor, self.growth, self.backoff, self.interval = init, growth, backoff, interval
        self.good, self.finite = 0, None

    def scale(self, loss):
        return loss * self.factor

    def unscale_(self, opt):
        if self.finite is not None:
            raise RuntimeError("already done")
        grads = [p.grad for g in opt.param_groups for p in g["params"] if p.grad is not None]
        for g in grads:
            g /= self.factor
        self.finite = not any(bool(g.isnan().any()) for g in grads)

    def step(self, opt):
        if self.finite is None:
            self.unscale_(opt)
        if self.finite:
            opt.step()

    def update(self):
        self.good = self.good + 1 if self.finite else 0
        if not self.finite:
            self.factor *= self.backoff
        elif self.good == self.interval:
            self.factor *= self.growth
            self.good = 0
        self.finite = None


@misconception(
    "scaler",
    hint="The step is made although a gradient is infinite, and the weights are ruined. After an "
    "overflow there is nothing good in the gradients: skip the step.",
)
class Scaler:
    def __init__(self, init=2.0**16, growth=2.0, backoff=0.5, interval=2000):
        self.factor, self.growth, self.backoff, self.interval = init, growth, backoff, interval
        self.good, self.finite = 0, None

    def scale(self, loss):
        return loss * self.factor

    def unscale_(self, opt):
        if self.finite is not None:
            raise RuntimeError("already done")
        grads = [p.grad for g in opt.param_groups for p in g["params"] if p.grad is not None]
        for g in grads:
            g /= self.factor
        self.finite = all(bool(g.isfinite().all()) for g in grads)

    def step(self, opt):
        if self.finite is None:
            self.unscale_(opt)
        opt.step()

    def update(self):
        self.good = self.good + 1 if self.finite else 0
        if not self.finite:
            self.factor *= self.backoff
        elif self.good == self.interval:
            self.factor *= self.growth
            self.good = 0
        self.finite = None


@misconception(
    "scaler",
    hint="`unscale_` returns early after an overflow, with gradients that are still scaled. "
    "Divide all of them in any case; whether to step is decided in `step`.",
)
class Scaler:
    def __init__(self, init=2.0**16, growth=2.0, backoff=0.5, interval=2000):
        self.factor, self.growth, self.backoff, self.interval = init, growth, backoff, interval
        self.good = 0
        self.finite = None

    def scale(self, loss):
        return loss * self.factor

    def unscale_(self, opt):
        if self.finite is not None:
            raise RuntimeError("already unscaled")
        grads = [p.grad for g in opt.param_groups for p in g["params"] if p.grad is not None]
        self.finite = all(bool(g.isfinite().all()) for g in grads)
        if not self.finite:
            return
        for group in opt.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad.div_(self.factor)

    def step(self, opt):
        if self.finite is None:
            self.unscale_(opt)
        if self.finite:
            opt.step()

    def update(self):
        if self.finite is False:
            self.factor *= self.backoff
            self.good = 0
        elif self.finite:
            self.good += 1
            if self.good == self.interval:
                self.factor *= self.growth
                self.good = 0
        self.finite = None


@misconception(
    "scaler",
    hint="The factor grows one good update too late: after `interval` good ones, not after one "
    "more.",
)
class Scaler:
    def __init__(self, init=2.0**16, growth=2.0, backoff=0.5, interval=2000):
        self.factor, self.growth, self.backoff, self.interval = init, growth, backoff, interval
        self.good = 0
        self.finite = None

    def scale(self, loss):
        return loss * self.factor

    def unscale_(self, opt):
        if self.finite is not None:
            raise RuntimeError("already unscaled")
        self.finite = True
        for group in opt.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad.div_(self.factor)
                    if not torch.isfinite(p.grad).all():
                        self.finite = False

    def step(self, opt):
        if self.finite is None:
            self.unscale_(opt)
        if self.finite:
            opt.step()

    def update(self):
        if self.finite is False:
            self.factor *= self.backoff
            self.good = 0
        elif self.finite:
            self.good += 1
            if self.good > self.interval:
                self.factor *= self.growth
                self.good = 0
        self.finite = None


@misconception(
    "scaler",
    hint="Only infinities are looked for. A NaN (infinity minus infinity, say) is no true "
    "gradient either.",
)
class Scaler:
    def __init__(self, init=2.0**16, growth=2.0, backoff=0.5, interval=2000):
        self.factor, self.growth, self.backoff, self.interval = init, growth, backoff, interval
        self.good = 0
        self.finite = None

    def scale(self, loss):
        return loss * self.factor

    def unscale_(self, opt):
        if self.finite is not None:
            raise RuntimeError("already unscaled")
        self.finite = True
        for group in opt.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad.div_(self.factor)
                    if torch.isinf(p.grad).any():
                        self.finite = False

    def step(self, opt):
        if self.finite is None:
            self.unscale_(opt)
        if self.finite:
            opt.step()

    def update(self):
        if self.finite is False:
            self.factor *= self.backoff
            self.good = 0
        elif self.finite:
            self.good += 1
            if self.good == self.interval:
                self.factor *= self.growth
                self.good = 0
        self.finite = None


@misconception(
    "scaler",
    hint="Each parameter overwrites what the ones before have found, so that only the last one "
    "decides. One bad gradient is enough.",
)
class Scaler:
    def __init__(self, init=2.0**16, growth=2.0, backoff=0.5, interval=2000):
        self.factor, self.growth, self.backoff, self.interval = init, growth, backoff, interval
        self.good = 0
        self.finite = None

    def scale(self, loss):
        return loss * self.factor

    def unscale_(self, opt):
        if self.finite is not None:
            raise RuntimeError("already unscaled")
        self.finite = True
        for group in opt.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad.div_(self.factor)
                    self.finite = bool(torch.isfinite(p.grad).all())

    def step(self, opt):
        if self.finite is None:
            self.unscale_(opt)
        if self.finite:
            opt.step()

    def update(self):
        if self.finite is False:
            self.factor *= self.backoff
            self.good = 0
        elif self.finite:
            self.good += 1
            if self.good == self.interval:
                self.factor *= self.growth
                self.good = 0
        self.finite = None


@misconception(
    "scaler",
    hint="`step` calls `unscale_` again although it was called by hand. Let it look whether that"
    " is done.",
)
class Scaler:
    def __init__(self, init=2.0**16, growth=2.0, backoff=0.5, interval=2000):
        self.factor, self.growth, self.backoff, self.interval = init, growth, backoff, interval
        self.good = 0
        self.finite = None

    def scale(self, loss):
        return loss * self.factor

    def unscale_(self, opt):
        if self.finite is not None:
            raise RuntimeError("already unscaled")
        self.finite = True
        for group in opt.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad.div_(self.factor)
                    if not torch.isfinite(p.grad).all():
                        self.finite = False

    def step(self, opt):
        self.unscale_(opt)
        if self.finite:
            opt.step()

    def update(self):
        if self.finite is False:
            self.factor *= self.backoff
            self.good = 0
        elif self.finite:
            self.good += 1
            if self.good == self.interval:
                self.factor *= self.growth
                self.good = 0
        self.finite = None


# --- search ----------------------------------------------------------------------------------


@misconception(
    "search",
    hint="The rate is drawn evenly between low and high, so that nearly all draws have the size of "
    "high. Draw its logarithm evenly.",
)
def random_search(space, objective, n, rng):
    if n < 1:
        raise ValueError("n should be at least 1")

    def draw(values):
        if isinstance(values, list):
            return values[rng.integers(len(values))]
        kind, low, high = values
        if kind in ("log", "uniform"):
            return low + (high - low) * rng.random()
        raise ValueError("unknown kind")

    trials = []
    for _ in range(n):
        config = {name: draw(values) for name, values in space.items()}
        trials.append((objective(config), config))

    def rank(trial):
        return -math.inf if math.isnan(trial[0]) else trial[0]

    return sorted(trials, key=rank, reverse=True)


@misconception(
    "search",
    hint="The list begins with the smallest score. Larger is better here.",
)
def random_search(space, objective, n, rng):
    if n < 1:
        raise ValueError("n should be at least 1")

    def draw(values):
        if isinstance(values, list):
            return values[rng.integers(len(values))]
        kind, low, high = values
        if kind == "log":
            return low * (high / low) ** rng.random()
        if kind == "uniform":
            return low + (high - low) * rng.random()
        raise ValueError("unknown kind")

    trials = []
    for _ in range(n):
        config = {name: draw(values) for name, values in space.items()}
        trials.append((objective(config), config))

    def rank(trial):
        return math.inf if math.isnan(trial[0]) else trial[0]

    return sorted(trials, key=rank)


@misconception(
    "search",
    hint="The numbers come from NumPy's global generator and not from `rng`, so the same rng gives "
    "other trials.",
)
def random_search(space, objective, n, rng):
    if n < 1:
        raise ValueError("n should be at least 1")

    def draw(values):
        if isinstance(values, list):
            return values[np.random.randint(len(values))]
        kind, low, high = values
        if kind == "log":
            return low * (high / low) ** np.random.rand()
        if kind == "uniform":
            return low + (high - low) * np.random.rand()
        raise ValueError("unknown kind")

    trials = []
    for _ in range(n):
        config = {name: draw(values) for name, values in space.items()}
        trials.append((objective(config), config))

    def rank(trial):
        return -math.inf if math.isnan(trial[0]) else trial[0]

    return sorted(trials, key=rank, reverse=True)


@misconception(
    "search",
    hint="One random number is drawn for each trial and used for all entries, so they rise and fall "
    "together. Draw one for each entry.",
)
def random_search(space, objective, n, rng):
    if n < 1:
        raise ValueError("n should be at least 1")

    def place(values, u):
        if isinstance(values, list):
            return values[int(u * len(values))]
        kind, low, high = values
        if kind == "log":
            return low * (high / low) ** u
        if kind == "uniform":
            return low + (high - low) * u
        raise ValueError("unknown kind")

    trials = []
    for _ in range(n):
        u = rng.random()
        config = {name: place(values, u) for name, values in space.items()}
        trials.append((objective(config), config))

    def rank(trial):
        return -math.inf if math.isnan(trial[0]) else trial[0]

    return sorted(trials, key=rank, reverse=True)


@misconception(
    "search",
    hint="The mean lets a single very good or very bad neighbour decide. The median asks what most "
    "of them say.",
)
def neighbourhood(best, radius, objective, k):
    if radius <= 0:
        raise ValueError("radius should be positive")
    scores = [
        objective({**best, name: value * (1 + radius) ** (j / k)})
        for name, value in best.items()
        if isinstance(value, float)
        for j in range(-k, k + 1)
        if j != 0
    ]
    if not scores:
        raise ValueError("no entry is a float")
    return float(np.mean(scores))


@misconception(
    "search",
    hint="The configuration itself (j = 0) is among its neighbours. A spike would vote for itself.",
)
def neighbourhood(best, radius, objective, k):
    if radius <= 0:
        raise ValueError("radius should be positive")
    scores = [
        objective({**best, name: value * (1 + radius) ** (j / k)})
        for name, value in best.items()
        if isinstance(value, float)
        for j in range(-k, k + 1)
    ]
    if not scores:
        raise ValueError("no entry is a float")
    return float(np.median(scores))


@misconception(
    "search",
    hint="All entries are changed together. One at a time, so that one can see which of them hurts.",
)
def neighbourhood(best, radius, objective, k):
    if radius <= 0:
        raise ValueError("radius should be positive")
    floats = [name for name, value in best.items() if isinstance(value, float)]
    if not floats:
        raise ValueError("no entry is a float")
    scores = []
    for j in range(-k, k + 1):
        if j != 0:
            scores.append(
                objective({**best, **{n: best[n] * (1 + radius) ** (j / k) for n in floats}})
            )
    return float(np.median(scores))


@misconception(
    "search",
    hint="A step is added here. Rates live on a logarithmic scale, so their neighbours are reached "
    "by multiplying.",
)
def neighbourhood(best, radius, objective, k):
    if radius <= 0:
        raise ValueError("radius should be positive")
    scores = [
        objective({**best, name: value * (1 + radius * j / k)})
        for name, value in best.items()
        if isinstance(value, float)
        for j in range(-k, k + 1)
        if j != 0
    ]
    if not scores:
        raise ValueError("no entry is a float")
    return float(np.median(scores))


@misconception(
    "search",
    hint="A NaN is neither smaller nor larger than anything, so a plain sort leaves it anywhere,"
    " and the order around it is wrong. Give it a key that puts it last.",
)
def random_search(space, objective, n, rng):
    if n < 1:
        raise ValueError("n must be at least 1")
    for v in space.values():
        if isinstance(v, tuple) and v[0] not in ("log", "uniform"):
            raise ValueError(f"unknown kind {v[0]}")
    trials = []
    for _ in range(n):
        config = {}
        for name, v in space.items():
            if isinstance(v, list):
                config[name] = v[rng.integers(len(v))]
            else:
                kind, low, high = v
                u = rng.random()
                config[name] = low * (high / low) ** u if kind == "log" else low + u * (high - low)
        trials.append((objective(config), config))
    return sorted(trials, key=lambda t: -t[0])


@misconception(
    "search",
    hint="Whole numbers are changed as well. A width of 64 cannot become 78.4: only float "
    "entries have neighbours here.",
)
def neighbourhood(best, radius, objective, k):
    if radius <= 0:
        raise ValueError("radius must be positive")
    scores = []
    for name, value in best.items():
        if isinstance(value, (int, float)):
            for j in range(-k, k + 1):
                if j:
                    scores.append(objective({**best, name: value * (1 + radius) ** (j / k)}))
    if not scores:
        raise ValueError("no float entry")
    return float(np.median(scores))


# --- measure ---------------------------------------------------------------------------------


@misconception(
    "measure",
    hint="The mean is spoiled by one call that something else interrupted. The median is not.",
)
def throughput(fn, batch, repeats, warmup):
    if repeats < 1:
        raise ValueError("repeats should be at least 1")

    def clock():
        if batch.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    for _ in range(warmup):
        fn(batch)
    seconds = []
    for _ in range(repeats):
        start = clock()
        fn(batch)
        seconds.append(clock() - start)
    return len(batch) / float(np.mean(seconds))


@misconception(
    "measure",
    hint="The warm-up calls are in the measurement. They are there so that what happens only at the "
    "first calls does not count.",
)
def throughput(fn, batch, repeats, warmup):
    if repeats < 1:
        raise ValueError("repeats should be at least 1")

    def clock():
        if batch.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    seconds = []
    for _ in range(warmup + repeats):
        start = clock()
        fn(batch)
        seconds.append(clock() - start)
    return len(batch) / float(np.median(seconds))


@misconception(
    "measure",
    hint="On a GPU the call returns before the work is done, and this measures how long it takes to "
    "put it into the queue. Wait before you read the clock.",
)
def throughput(fn, batch, repeats, warmup):
    if repeats < 1:
        raise ValueError("repeats should be at least 1")
    for _ in range(warmup):
        fn(batch)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        fn(batch)
        seconds.append(time.perf_counter() - start)
    return len(batch) / float(np.median(seconds))


@misconception(
    "measure",
    hint="You wait at the end, but not before the start: what the warm-up has left in the queue is "
    "counted with the first measurement.",
)
def throughput(fn, batch, repeats, warmup):
    if repeats < 1:
        raise ValueError("repeats should be at least 1")
    for _ in range(warmup):
        fn(batch)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        fn(batch)
        if batch.is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return len(batch) / float(np.median(seconds))


@misconception(
    "measure",
    hint="These are calls per second. The question was how many examples: each call has len(batch).",
)
def throughput(fn, batch, repeats, warmup):
    if repeats < 1:
        raise ValueError("repeats should be at least 1")

    def clock():
        if batch.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    for _ in range(warmup):
        fn(batch)
    seconds = []
    for _ in range(repeats):
        start = clock()
        fn(batch)
        seconds.append(clock() - start)
    return 1 / float(np.median(seconds))


@misconception(
    "measure",
    hint="These are numbers of entries. How many bytes an entry has depends on the dtype.",
)
def optimizer_bytes(opt):
    return sum(v.numel() for s in opt.state.values() for v in s.values() if torch.is_tensor(v))


@misconception(
    "measure",
    hint="Four bytes are right for float32 only. A tensor knows the size of its entries.",
)
def optimizer_bytes(opt):
    return sum(4 * v.numel() for s in opt.state.values() for v in s.values() if torch.is_tensor(v))


@misconception(
    "measure",
    hint="These are the parameters themselves, which belong to the model. The optimizer's own "
    "numbers are in `opt.state`.",
)
def optimizer_bytes(opt):
    return sum(
        p.numel() * p.element_size()
        for group in getattr(opt, "param_groups", [])
        for p in group["params"]
    )


@misconception(
    "measure",
    hint="This is the upper one of the two middle times. The median of an even number of values "
    "is the mean of the two in the middle.",
)
def throughput(fn, batch, repeats, warmup):
    if repeats < 1:
        raise ValueError("repeats must be at least 1")

    def clock():
        if batch.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    for _ in range(warmup):
        fn(batch)
    times = []
    for _ in range(repeats):
        t = clock()
        fn(batch)
        times.append(clock() - t)
    return len(batch) / sorted(times)[repeats // 2]


@misconception(
    "measure",
    hint="The median is taken of the rates, and it should be taken of the seconds: with an even "
    "number of calls the two differ.",
)
def throughput(fn, batch, repeats, warmup):
    if repeats < 1:
        raise ValueError("repeats must be at least 1")

    def clock():
        if batch.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    for _ in range(warmup):
        fn(batch)
    times = []
    for _ in range(repeats):
        t = clock()
        fn(batch)
        times.append(clock() - t)
    return float(np.median([len(batch) / t for t in times]))


@misconception(
    "measure",
    hint="These are single numbers per second: numel() counts every entry of the batch. An "
    "example is a row of it.",
)
def throughput(fn, batch, repeats, warmup):
    if repeats < 1:
        raise ValueError("repeats must be at least 1")

    def clock():
        if batch.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    for _ in range(warmup):
        fn(batch)
    times = []
    for _ in range(repeats):
        t = clock()
        fn(batch)
        times.append(clock() - t)
    return batch.numel() / float(np.median(times))


@misconception(
    "measure",
    hint="Step counters are left out. Such a tensor has no dimension, but it has bytes as well.",
)
def optimizer_bytes(opt):
    return sum(
        v.numel() * v.element_size()
        for s in opt.state.values()
        for v in s.values()
        if isinstance(v, torch.Tensor) and v.dim() > 0
    )


# --- debug -----------------------------------------------------------------------------------


@misconception(
    "debug",
    hint="The mean of the batches' means gives a short last batch too much weight.",
)
def mean_loss(net, batches):
    training = net.training
    net.eval()
    total = 0.0
    with torch.no_grad():
        for x, y in batches:
            total += torch.nn.functional.cross_entropy(net(x), y).item()
    net.train(training)
    return total / len(batches)


@misconception(
    "debug",
    hint="The network stays in evaluation mode, so dropout is off for the rest of the training.",
)
def mean_loss(net, batches):
    net.eval()
    total = count = 0
    with torch.no_grad():
        for x, y in batches:
            total += torch.nn.functional.cross_entropy(net(x), y).item() * len(x)
            count += len(x)
    return total / count


@misconception(
    "debug",
    hint="`no_grad` builds no graph, but does not switch dropout off. That is the mode's business.",
)
def mean_loss(net, batches):
    total = count = 0
    with torch.no_grad():
        for x, y in batches:
            total += torch.nn.functional.cross_entropy(net(x), y).item() * len(x)
            count += len(x)
    return total / count


@misconception(
    "debug",
    hint="The network always ends in training mode, also when it came in evaluation mode. Note "
    "the mode first, and put that one back.",
)
def mean_loss(net, batches):
    net.eval()
    total, n = 0.0, 0
    with torch.no_grad():
        for x, y in batches:
            total += F.cross_entropy(net(x), y).item() * len(x)
            n += len(x)
    net.train()
    return total / n


@misconception(
    "debug",
    hint="The means of the batches are added up without their sizes, and divided by the number "
    "of examples. Multiply each by its number of examples first.",
)
def mean_loss(net, batches):
    mode = net.training
    net.eval()
    total, n = 0.0, 0
    with torch.no_grad():
        for x, y in batches:
            total += F.cross_entropy(net(x), y).item()
            n += len(x)
    net.train(mode)
    return total / n
