"""Other right answers in the chapter on training practice."""

import math
import os
import random
import time
from contextlib import contextmanager

import numpy as np
import torch

from course.testing import alternative


def get_states():
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def set_states(states):
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


@alternative("lcg")
class LCG:
    # Brent's method: no memory of where we have been.
    def __init__(self, a, c, m, seed):
        if not m > 0:
            raise ValueError("the modulus should be positive")
        self.step = lambda x: (a * x + c) % m
        self.m, self.state = m, seed % m

    def next(self):
        self.state = self.step(self.state)
        return self.state

    def random(self):
        self.state = self.step(self.state)
        return float(self.state) / self.m

    def period(self):
        power = length = 1
        slow, fast = self.state, self.step(self.state)
        while slow != fast:
            if power == length:
                slow, power, length = fast, 2 * power, 0
            fast = self.step(fast)
            length += 1
        return length


@alternative("seed")
def seed_everything(seed):
    if seed < 0 or seed > 2**32 - 1:
        raise ValueError(f"no seed: {seed}")
    torch.manual_seed(seed)
    torch.cuda.manual_seed_all(seed)
    np.random.seed(seed)
    random.seed(seed)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


@alternative("seed")
def rng_fingerprint():
    import hashlib

    def digest(*parts):
        h = hashlib.sha256()
        for part in parts:
            h.update(part)
        return int.from_bytes(h.digest()[:8], "big")

    name, keys, position, has_gauss, gauss = np.random.get_state()
    return (
        digest(str(random.getstate()).encode()),
        digest(keys.tobytes(), str((position, has_gauss, gauss)).encode()),
        digest(bytes(torch.random.get_rng_state().tolist())),
    )


@alternative("seed")
def predict_shift(draws, k):
    n = draws.shape[0]
    if k < 0 or k > n:
        raise ValueError("k is too large or negative")
    return draws[torch.arange(k, n)]


@alternative("stable")
@contextmanager
def preserve_rng():
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@alternative("stable")
class preserve_rng:
    def __enter__(self):
        self.states = get_states()

    def __exit__(self, *error):
        set_states(self.states)
        return False


@alternative("stable")
def stable(loader, seed, epoch):
    # A class in place of a generator: two sets of states that are swapped.
    import hashlib

    digest = hashlib.sha256(f"{seed},{epoch}".encode()).digest()
    start = [int.from_bytes(digest[4 * i : 4 * i + 4], "big") for i in range(3)]

    class Batches:
        def __init__(self):
            self.own = None
            self.batches = self.inside(self.begin)

        def inside(self, call):
            outside = get_states()
            try:
                if self.own is not None:
                    set_states(self.own)
                result = call()
                self.own = get_states()
                return result
            finally:
                set_states(outside)

        def begin(self):
            random.seed(start[0])
            np.random.seed(start[1])
            torch.manual_seed(start[2])
            return iter(loader)

        def __iter__(self):
            return self

        def __next__(self):
            return self.inside(lambda: next(self.batches))

    return Batches()


@alternative("accum")
def train_epoch(model, opt, loader, k, loss_fn):
    # Sums first, and one division of the gradients before the step: nothing is read ahead.
    if k <= 0:
        raise ValueError("k should be positive")

    def update():
        for group in opt.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad /= examples
        opt.step()
        opt.zero_grad()

    opt.zero_grad()
    waiting = examples = updates = 0
    for x, y in loader:
        (loss_fn(model(x), y) * len(y)).backward()
        waiting, examples = waiting + 1, examples + len(y)
        if waiting == k:
            update()
            waiting, examples, updates = 0, 0, updates + 1
    if waiting:
        update()
        updates += 1
    return updates


@alternative("checkpoint")
def save_ckpt(path, **objs):
    import tempfile

    name, keys, position, has_gauss, gauss = np.random.get_state()
    states = {}
    for key, obj in objs.items():
        try:
            states[key] = obj.state_dict()
        except AttributeError:
            states[key] = obj
    content = {
        "objs": states,
        "rng": {
            "python": random.getstate(),
            "numpy": (name, [int(v) for v in keys], position, has_gauss, gauss),
            "torch": [int(v) for v in torch.get_rng_state()],
        },
    }
    folder = os.path.dirname(os.path.abspath(path))
    handle, temporary = tempfile.mkstemp(dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


@alternative("checkpoint")
def load_ckpt(path, map_location=None, **objs):
    with open(path, "rb") as file:
        content = torch.load(file, map_location=map_location)
    states = dict(content["objs"])
    for key in objs:
        if key not in states:
            raise KeyError(key)
    for key in objs:
        objs[key].load_state_dict(states.pop(key))
    rng = content["rng"]
    random.setstate(rng["python"])
    np.random.set_state(tuple(rng["numpy"]))
    torch.set_rng_state(torch.ByteTensor(rng["torch"]))
    return states


@alternative("scaler")
class Scaler:
    def __init__(self, init=2.0**16, growth=2.0, backoff=0.5, interval=2000):
        self.now, self.left = float(init), interval
        self.growth, self.backoff, self.interval = growth, backoff, interval
        self.unscaled = self.overflow = False

    def scale(self, loss):
        return self.now * loss

    def unscale_(self, opt):
        if self.unscaled:
            raise RuntimeError("the gradients have been divided already")
        params = [p for group in opt.param_groups for p in group["params"]]
        grads = [p.grad for p in params if p.grad is not None]
        self.overflow = any(not torch.isfinite(g).all() for g in grads)
        for g in grads:
            g.mul_(1 / self.now)
        self.unscaled = True

    def step(self, opt):
        if not self.unscaled:
            self.unscale_(opt)
        if not self.overflow:
            opt.step()

    def update(self):
        if self.overflow:
            self.now, self.left = self.now * self.backoff, self.interval
        else:
            self.left -= 1
            if self.left == 0:
                self.now, self.left = self.now * self.growth, self.interval
        self.unscaled = self.overflow = False


@alternative("search")
def random_search(space, objective, n, rng):
    if n <= 0:
        raise ValueError("at least one trial")
    columns = {}
    for name, values in space.items():
        if isinstance(values, list):
            columns[name] = [values[i] for i in rng.integers(0, len(values), n)]
        elif values[0] == "log":
            low, high = np.log(values[1:])
            columns[name] = np.exp(rng.uniform(low, high, n)).tolist()
        elif values[0] == "uniform":
            columns[name] = rng.uniform(values[1], values[2], n).tolist()
        else:
            raise ValueError(f"what is {values[0]}?")
    configs = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    trials = [(objective(config), config) for config in configs]
    failed = [t for t in trials if t[0] != t[0]]
    good = [t for t in trials if t[0] == t[0]]
    good.sort(key=lambda t: -t[0])
    return good + failed


@alternative("search")
def neighbourhood(best, radius, objective, k):
    import statistics

    if not radius > 0:
        raise ValueError("the radius should be positive")
    scores = []
    for name in best:
        if type(best[name]) is not float:
            continue
        for j in range(1, k + 1):
            factor = math.exp(math.log(1 + radius) * j / k)
            for value in (best[name] * factor, best[name] / factor):
                neighbour = dict(best)
                neighbour[name] = value
                scores.append(objective(neighbour))
    if not scores:
        raise ValueError("nothing to change")
    return float(statistics.median(scores))


@alternative("measure")
def throughput(fn, batch, repeats, warmup):
    import statistics

    if repeats <= 0:
        raise ValueError("at least one repeat")
    seconds = []
    for i in range(-warmup, repeats):
        if batch.is_cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        fn(batch)
        if batch.is_cuda:
            torch.cuda.synchronize()
        if i >= 0:
            seconds.append(time.perf_counter() - start)
    return len(batch) / statistics.median(seconds)


@alternative("measure")
def optimizer_bytes(opt):
    total = 0
    for entries in opt.state.values():
        for value in entries.values():
            if isinstance(value, torch.Tensor):
                total += value.nbytes
    return total


@alternative("debug")
def mean_loss(net, batches):
    x = torch.cat([x for x, _ in batches])
    y = torch.cat([y for _, y in batches])
    mode = net.training
    with torch.inference_mode():
        loss = torch.nn.functional.cross_entropy(net.eval()(x), y)
    net.train(mode)
    return loss.item()
