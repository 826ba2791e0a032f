"""Other right answers in the chapter on hooks and CAM."""

import contextlib
import math

import torch
import torch.nn.functional as F
from torch import nn

from course.testing import alternative


@alternative("tensor")
def clip_grad_hook(t, limit):
    if not limit > 0:
        raise ValueError("The limit should be positive.")

    def hook(grad):
        return torch.minimum(torch.maximum(grad, -grad.new_tensor(limit)), grad.new_tensor(limit))

    return t.register_hook(hook)


@alternative("tensor")
def grads_of(f, tensors):
    from functools import partial

    caught = {}
    with contextlib.ExitStack() as stack:
        for i, t in enumerate(tensors):
            handle = t.register_hook(partial(caught.__setitem__, i))
            stack.callback(handle.remove)
        f(*tensors).backward()
    return [caught.get(i) for i in range(len(tensors))]


@alternative("features")
class Features:
    """Hooks on one ExitStack; the layer is found by its path."""

    def __init__(self, model, names):
        self.model, self.names, self.stack = model, list(names), None
        for name in self.names:
            self.find(name)

    def find(self, name):
        try:
            return self.model.get_submodule(name)
        except AttributeError:
            raise KeyError(name) from None

    def __enter__(self):
        from functools import partial

        self.stack = contextlib.ExitStack()
        for name in self.names:
            hook = partial(self.note, name)
            self.stack.callback(self.find(name).register_forward_hook(hook).remove)
        return self

    def note(self, name, module, args, output):
        self.found[name] = output
        return output * 1

    def __exit__(self, kind, error, trace):
        self.stack.close()
        self.stack = None

    def __call__(self, x):
        if self.stack is None:
            raise RuntimeError("Use it in a with block.")
        self.found = {}
        self.model(x)
        return dict(self.found)


@alternative("pre")
def ablate(model, name, channels):
    layers = {n: m for n, m in model.named_modules()}

    def hook(module, args, output):
        index = torch.as_tensor(channels, device=output.device)
        return output.index_fill(1, index, 0.0)

    return layers[name].register_forward_hook(hook)


@alternative("pre")
def ablate(model, name, channels):
    def hook(module, args, output):
        mask = torch.ones(output.shape[1], dtype=output.dtype, device=output.device)
        mask[channels] = 0
        return output * mask.view(-1, *[1] * (output.dim() - 2))

    return dict(model.named_modules())[name].register_forward_hook(hook)


@alternative("pre")
def normalize_input(model, mean, std):
    def hook(module, args):
        x = args[0]
        planes = [(x[:, c] - m) / s for c, (m, s) in enumerate(zip(mean, std, strict=True))]
        return (torch.stack(planes, dim=1), *args[1:])

    return model.register_forward_pre_hook(hook)


@alternative("backward")
def gradient_norms(model, loss_fn, x):
    from functools import partial

    # Forward hooks note the tensors; autograd gives their gradients.
    seen, handles = {}, []
    for name, child in model.named_children():
        hook = partial(lambda key, m, args, out: seen.update({key: (args[0], out)}), name)
        handles.append(child.register_forward_hook(hook))
    try:
        loss = loss_fn(model(x.detach().requires_grad_()))
    finally:
        for handle in handles:
            handle.remove()
    tensors = [t for pair in seen.values() for t in pair]
    norms = iter(g.norm().item() for g in torch.autograd.grad(loss, tensors))
    return {name: (next(norms), next(norms)) for name in seen}


@alternative("cam")
def cam(features, weights, cls, size):
    rows = weights[cls].expand(len(features), -1)
    heat = (rows[:, :, None, None] * features).sum(1, keepdim=True).clamp(min=0)
    return nn.Upsample(size=tuple(size), mode="bilinear")(heat).squeeze(1)


@alternative("cam")
def gradcam(model, layer, x, cls):
    # Image by image, with a tensor hook for the gradient.
    try:
        part = model.get_submodule(layer)
    except AttributeError:
        raise KeyError(layer) from None
    modes = {module: module.training for module in model.modules()}
    classes = [cls] * len(x) if isinstance(cls, int) else cls.tolist()
    maps, grads, heats = [], [], []

    def keep(module, args, output):
        maps.append(output)
        output.register_hook(grads.append)
        return output.view_as(output).clone()

    handle = part.register_forward_hook(keep)
    try:
        model.eval()
        for image, c in zip(x, classes, strict=True):
            with torch.enable_grad():
                leaf = image[None].clone().detach().requires_grad_()
                torch.autograd.grad(model(leaf)[0, c], leaf)
            alpha = grads[-1][0].flatten(1).mean(1)
            heats.append(torch.tensordot(alpha, maps[-1][0].detach(), 1).clamp(min=0))
    finally:
        handle.remove()
        for module, mode in modes.items():
            module.training = mode
    return F.interpolate(torch.stack(heats)[:, None], x.shape[-2:], mode="bilinear")[:, 0]


@alternative("grid")
def make_grid(imgs, nrow=8, padding=2, pad_value=0.0, normalize=False, value_range=None):
    # Frame each image on its left and top, join rows, close the frame.
    if imgs.shape[0] < 1:
        raise ValueError("There are no images.")
    if imgs.shape[1] == 1:
        imgs = torch.cat([imgs] * 3, dim=1)
    if normalize:
        if value_range is None:
            value_range = imgs.min().item(), imgs.max().item()
        low, high = value_range
        imgs = (imgs.clamp(low, high) - low) / max(high - low, 1e-5)
    if len(imgs) == 1:
        return imgs[0].clone()
    columns = min(nrow, len(imgs))
    empty = imgs.new_full((-len(imgs) % columns, *imgs.shape[1:]), pad_value)
    framed = F.pad(torch.cat([imgs, empty]), (padding, 0, padding, 0), value=pad_value)
    lines = [torch.cat(list(line), dim=2) for line in framed.split(columns)]
    assert len(lines) == math.ceil(len(imgs) / columns)
    return F.pad(torch.cat(lines, dim=1), (0, padding, 0, padding), value=pad_value)


@alternative("summary")
def summary(model, x):
    # One hook for all layers; names by identity.
    names = {}
    for name, module in model.named_modules():
        if next(module.children(), None) is None:
            names.setdefault(module, name)
    rows, counted = [], []

    def note(module, args, output):
        total = 0
        for p in module.parameters():
            if not any(p is q for q in counted):
                counted.append(p)
                total += p.numel()
        rows.append((names[module], module.__class__.__name__, tuple(output.shape), total))

    modes = [module.training for module in model.modules()]
    handles = [module.register_forward_hook(note) for module in names]
    model.eval()
    try:
        with torch.inference_mode():
            model(x)
    finally:
        for module, mode in zip(model.modules(), modes, strict=True):
            module.training = mode
        for handle in handles:
            handle.remove()
    return rows


@alternative("debug")
def remember(model):
    store = {}
    handles = [
        child.register_forward_hook(
            lambda module, args, output, name=name: store.update({name: output})
        )
        for name, child in model.named_children()
    ]
    return store, handles
