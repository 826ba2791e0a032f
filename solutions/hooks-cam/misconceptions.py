"""Wrong answers in the chapter on hooks and CAM, each with the hint it deserves."""

import math

import torch
import torch.nn.functional as F

from course.testing import misconception

# --- tensor ----------------------------------------------------------------------------------


@misconception(
    "tensor",
    hint="`clamp_` changes the gradient in place. Other tensors may share that very gradient, as "
    "both terms of a sum do. Return a new tensor instead.",
)
def clip_grad_hook(t, limit):
    if limit <= 0:
        raise ValueError("The limit should be positive.")
    return t.register_hook(lambda grad: grad.clamp_(-limit, limit))


@misconception(
    "tensor",
    hint="The gradient has two sides: entries below -limit are to be clipped as well.",
)
def clip_grad_hook(t, limit):
    if limit <= 0:
        raise ValueError("The limit should be positive.")
    return t.register_hook(lambda grad: grad.clamp(max=limit))


@misconception(
    "tensor",
    hint="This limits the norm of the whole gradient. Here every entry is clipped on its own.",
)
def clip_grad_hook(t, limit):
    if limit <= 0:
        raise ValueError("The limit should be positive.")
    return t.register_hook(lambda grad: grad * min(1.0, limit / grad.norm().item()))


@misconception(
    "tensor",
    hint="The hook computes the clipped gradient but does not return it, so the old one goes on.",
)
def clip_grad_hook(t, limit):
    if limit <= 0:
        raise ValueError("The limit should be positive.")

    def hook(grad):
        grad.clamp(-limit, limit)

    return t.register_hook(hook)


@misconception(
    "tensor",
    hint="All your hooks share the loop's variable, and read it only when they run: after the "
    "loop. Give each a value of its own.",
)
def grads_of(f, tensors):
    grads, handles = [None] * len(tensors), []
    for i, t in enumerate(tensors):
        handles.append(t.register_hook(lambda grad: grads.__setitem__(i, grad)))
    try:
        f(*tensors).backward()
    finally:
        for handle in handles:
            handle.remove()
    return grads


@misconception(
    "tensor",
    hint="The gradients arrive in the order of the backward pass, not in that of your list, and "
    "an unused tensor does not arrive at all. Give each hook its place.",
)
def grads_of(f, tensors):
    grads = []
    handles = [t.register_hook(lambda grad: grads.append(grad)) for t in tensors]
    try:
        f(*tensors).backward()
    finally:
        for handle in handles:
            handle.remove()
    return grads


@misconception(
    "tensor",
    hint="The hooks are never removed: they will write into this list in every later backward "
    "pass. Keep the handles, and remove them in `finally`.",
)
def grads_of(f, tensors):
    grads = [None] * len(tensors)
    for i, t in enumerate(tensors):
        t.register_hook(lambda grad, i=i: grads.__setitem__(i, grad))
    f(*tensors).backward()
    return grads


@misconception(
    "tensor",
    hint="A tensor on which the value does not depend gets no gradient at all: its hook is never "
    "called, and None says so. Zero would be a gradient.",
)
def grads_of(f, tensors):
    grads, handles = [torch.zeros_like(t) for t in tensors], []
    for i, t in enumerate(tensors):
        handles.append(t.register_hook(lambda grad, i=i: grads.__setitem__(i, grad)))
    try:
        f(*tensors).backward()
    finally:
        for handle in handles:
            handle.remove()
    return grads


@misconception(
    "tensor",
    hint="The hooks are removed, but only if nothing goes wrong: when f raises, they stay. "
    "Remove them in `finally`.",
)
def grads_of(f, tensors):
    grads, handles = [None] * len(tensors), []
    for i, t in enumerate(tensors):
        handles.append(t.register_hook(lambda grad, i=i: grads.__setitem__(i, grad)))
    f(*tensors).backward()
    for handle in handles:
        handle.remove()
    return grads


# --- features --------------------------------------------------------------------------------


@misconception(
    "features",
    hint="You keep the tensor that the next layer may overwrite in place. The hook can hand on "
    "something else instead of it.",
)
class Features:
    def __init__(self, model, names):
        layers = dict(model.named_modules())
        self.model = model
        self.layers = {name: layers[name] for name in names}
        self.handles, self.kept = [], {}

    def keep(self, name):
        def hook(module, args, output):
            self.kept[name] = output

        return hook

    def __enter__(self):
        for name, layer in self.layers.items():
            self.handles.append(layer.register_forward_hook(self.keep(name)))
        return self

    def __exit__(self, *error):
        for handle in self.handles:
            handle.remove()
        self.handles = []

    def __call__(self, x):
        if not self.handles:
            raise RuntimeError("Features works inside a with block.")
        self.kept = {}
        self.model(x)
        return self.kept


@misconception(
    "features",
    hint="You keep a copy. Its values are right, but the model goes on with another tensor, so no "
    "gradient can be taken with respect to yours. Keep the output itself, hand on the clone.",
)
class Features:
    def __init__(self, model, names):
        layers = dict(model.named_modules())
        self.model = model
        self.layers = {name: layers[name] for name in names}
        self.handles, self.kept = [], {}

    def keep(self, name):
        def hook(module, args, output):
            self.kept[name] = output.detach().clone().requires_grad_()

        return hook

    def __enter__(self):
        for name, layer in self.layers.items():
            self.handles.append(layer.register_forward_hook(self.keep(name)))
        return self

    def __exit__(self, *error):
        for handle in self.handles:
            handle.remove()
        self.handles = []

    def __call__(self, x):
        if not self.handles:
            raise RuntimeError("Features works inside a with block.")
        self.kept = {}
        self.model(x)
        return self.kept


@misconception(
    "features",
    hint="Every hook writes under the loop's last name: a function reads `name` when it runs, not "
    "when it is made.",
)
class Features:
    def __init__(self, model, names):
        layers = dict(model.named_modules())
        self.model = model
        self.layers = {name: layers[name] for name in names}
        self.handles, self.kept = [], {}

    def __enter__(self):
        for name, layer in self.layers.items():

            def hook(module, args, output):
                self.kept[name] = output
                return output.clone()

            self.handles.append(layer.register_forward_hook(hook))
        return self

    def __exit__(self, *error):
        for handle in self.handles:
            handle.remove()
        self.handles = []

    def __call__(self, x):
        if not self.handles:
            raise RuntimeError("Features works inside a with block.")
        self.kept = {}
        self.model(x)
        return self.kept


@misconception(
    "features",
    hint="`__exit__` clears the layers' dictionaries of hooks, and with them the hooks of other "
    "people. Remove your own, by their handles.",
)
class Features:
    def __init__(self, model, names):
        layers = dict(model.named_modules())
        self.model = model
        self.layers = {name: layers[name] for name in names}
        self.inside, self.kept = False, {}

    def keep(self, name):
        def hook(module, args, output):
            self.kept[name] = output
            return output.clone()

        return hook

    def __enter__(self):
        self.inside = True
        for name, layer in self.layers.items():
            layer.register_forward_hook(self.keep(name))
        return self

    def __exit__(self, *error):
        self.inside = False
        for layer in self.layers.values():
            layer._forward_hooks.clear()

    def __call__(self, x):
        if not self.inside:
            raise RuntimeError("Features works inside a with block.")
        self.kept = {}
        self.model(x)
        return self.kept


@misconception(
    "features",
    hint="Each call clears and fills the same dict, so that the result of the call before "
    "changes under its owner's hands. Begin with a new one.",
)
class Features:
    def __init__(self, model, names):
        layers = dict(model.named_modules())
        self.model = model
        self.layers = {name: layers[name] for name in names}
        self.handles, self.kept = [], {}

    def keep(self, name):
        def hook(module, args, output):
            self.kept[name] = output
            return output.clone()

        return hook

    def __enter__(self):
        for name, layer in self.layers.items():
            self.handles.append(layer.register_forward_hook(self.keep(name)))
        return self

    def __exit__(self, *error):
        for handle in self.handles:
            handle.remove()
        self.handles = []

    def __call__(self, x):
        if not self.handles:
            raise RuntimeError("Features works inside a with block.")
        self.kept.clear()
        self.model(x)
        return self.kept


@misconception(
    "features",
    hint="A layer that is not there is silently left out. Say so with a KeyError, at once.",
)
class Features:
    def __init__(self, model, names):
        self.model = model
        self.layers = {name: m for name, m in model.named_modules() if name in names}
        self.handles, self.kept = [], {}

    def keep(self, name):
        def hook(module, args, output):
            self.kept[name] = output
            return output.clone()

        return hook

    def __enter__(self):
        for name, layer in self.layers.items():
            self.handles.append(layer.register_forward_hook(self.keep(name)))
        return self

    def __exit__(self, *error):
        for handle in self.handles:
            handle.remove()
        self.handles = []

    def __call__(self, x):
        if not self.handles:
            raise RuntimeError("Features works inside a with block.")
        self.kept = {}
        self.model(x)
        return self.kept


@misconception(
    "features",
    hint="`detach()` cuts what you keep off from the graph: no gradient can be taken with respect "
    "to it. Keep the output itself, hand on the clone.",
)
class Features:
    def __init__(self, model, names):
        layers = dict(model.named_modules())
        self.model = model
        self.layers = {name: layers[name] for name in names}
        self.handles, self.kept = [], {}

    def keep(self, name):
        def hook(module, args, output):
            self.kept[name] = output.detach()
            return output.clone()

        return hook

    def __enter__(self):
        for name, layer in self.layers.items():
            self.handles.append(layer.register_forward_hook(self.keep(name)))
        return self

    def __exit__(self, *error):
        for handle in self.handles:
            handle.remove()
        self.handles = []

    def __call__(self, x):
        if not self.handles:
            raise RuntimeError("Features works inside a with block.")
        self.kept = {}
        self.model(x)
        return self.kept


@misconception(
    "features",
    hint="`get_submodule` raises an AttributeError for an unknown name. The docstring promises a "
    "KeyError; looking the name up in a dictionary of `named_modules()` raises one.",
)
class Features:
    def __init__(self, model, names):
        self.model = model
        self.layers = {name: model.get_submodule(name) for name in names}
        self.handles, self.kept = [], {}

    def keep(self, name):
        def hook(module, args, output):
            self.kept[name] = output
            return output.clone()

        return hook

    def __enter__(self):
        for name, layer in self.layers.items():
            self.handles.append(layer.register_forward_hook(self.keep(name)))
        return self

    def __exit__(self, *error):
        for handle in self.handles:
            handle.remove()
        self.handles = []

    def __call__(self, x):
        if not self.handles:
            raise RuntimeError("Features works inside a with block.")
        self.kept = {}
        self.model(x)
        return self.kept


@misconception(
    "features",
    hint="The model is switched to eval mode. It should run in the mode that it is in.",
)
class Features:
    def __init__(self, model, names):
        layers = dict(model.named_modules())
        self.model = model
        self.layers = {name: layers[name] for name in names}
        self.handles, self.kept = [], {}

    def keep(self, name):
        def hook(module, args, output):
            self.kept[name] = output
            return output.clone()

        return hook

    def __enter__(self):
        for name, layer in self.layers.items():
            self.handles.append(layer.register_forward_hook(self.keep(name)))
        return self

    def __exit__(self, *error):
        for handle in self.handles:
            handle.remove()
        self.handles = []

    def __call__(self, x):
        if not self.handles:
            raise RuntimeError("Features works inside a with block.")
        self.kept = {}
        self.model.eval()
        self.model(x)
        return self.kept


@misconception(
    "features",
    hint="After the block the object still believes that its hooks are there. Forget the handles "
    "in `__exit__`, so that a call knows it is outside.",
)
class Features:
    def __init__(self, model, names):
        layers = dict(model.named_modules())
        self.model = model
        self.layers = {name: layers[name] for name in names}
        self.handles, self.kept = [], {}

    def keep(self, name):
        def hook(module, args, output):
            self.kept[name] = output
            return output.clone()

        return hook

    def __enter__(self):
        for name, layer in self.layers.items():
            self.handles.append(layer.register_forward_hook(self.keep(name)))
        return self

    def __exit__(self, *error):
        for handle in self.handles:
            handle.remove()

    def __call__(self, x):
        if not self.handles:
            raise RuntimeError("Features works inside a with block.")
        self.kept = {}
        self.model(x)
        return self.kept


# --- pre -------------------------------------------------------------------------------------


@misconception(
    "pre",
    hint="The zeros are written into the layer's own output. Where a layer returns its input, "
    "you have just changed the data. Change a clone, and return it.",
)
def ablate(model, name, channels):
    def hook(module, args, output):
        output[:, channels] = 0
        return output

    return dict(model.named_modules())[name].register_forward_hook(hook)


@misconception(
    "pre",
    hint="A changed clone helps nobody unless the hook returns it.",
)
def ablate(model, name, channels):
    def hook(module, args, output):
        output = output.clone()
        output[:, channels] = 0

    return dict(model.named_modules())[name].register_forward_hook(hook)


@misconception(
    "pre",
    hint="The first axis counts the images of the batch. The channels are the second axis.",
)
def ablate(model, name, channels):
    def hook(module, args, output):
        keep = [i for i in range(len(output)) if i not in channels]
        mask = torch.zeros(len(output), *[1] * (output.dim() - 1)).to(output)
        mask[keep] = 1
        return output * mask

    return dict(model.named_modules())[name].register_forward_hook(hook)


@misconception(
    "pre",
    hint="This cuts channels of the layer's *input*: a pre-hook runs before the layer. The output "
    "is the forward hook's.",
)
def ablate(model, name, channels):
    def hook(module, args):
        x = args[0].clone()
        x[:, [c for c in channels if c < x.shape[1]]] = 0
        return (x,)

    return dict(model.named_modules())[name].register_forward_pre_hook(hook)


@misconception(
    "pre",
    hint="The new input replaces *all* inputs of the model; further ones are lost. Return a tuple "
    "with the rest of them.",
)
def normalize_input(model, mean, std):
    def hook(module, args):
        x = args[0]
        m = torch.as_tensor(mean, dtype=x.dtype, device=x.device).view(-1, 1, 1)
        s = torch.as_tensor(std, dtype=x.dtype, device=x.device).view(-1, 1, 1)
        return (x - m) / s

    return model.register_forward_pre_hook(hook)


@misconception(
    "pre",
    hint="Divide by the standard deviation; here the input is multiplied by it.",
)
def normalize_input(model, mean, std):
    def hook(module, args):
        x, *rest = args
        m = torch.as_tensor(mean, dtype=x.dtype, device=x.device).view(-1, 1, 1)
        s = torch.as_tensor(std, dtype=x.dtype, device=x.device).view(-1, 1, 1)
        return ((x - m) * s, *rest)

    return model.register_forward_pre_hook(hook)


@misconception(
    "pre",
    hint="`sub_` and `div_` change the caller's images in place: run the model twice, and they "
    "are normalised twice.",
)
def normalize_input(model, mean, std):
    def hook(module, args):
        x, *rest = args
        m = torch.as_tensor(mean, dtype=x.dtype, device=x.device).view(-1, 1, 1)
        s = torch.as_tensor(std, dtype=x.dtype, device=x.device).view(-1, 1, 1)
        return (x.sub_(m).div_(s), *rest)

    return model.register_forward_pre_hook(hook)


@misconception(
    "pre",
    hint="`torch.tensor` of Python numbers is float32. For an input of float64 mean and std are "
    "rounded; make them with the dtype and the device of x.",
)
def normalize_input(model, mean, std):
    def hook(module, args):
        x, *rest = args
        m = torch.tensor(mean, device=x.device).view(-1, 1, 1)
        s = torch.tensor(std, device=x.device).view(-1, 1, 1)
        return (x - m) / s, *rest

    return model.register_forward_pre_hook(hook)


# --- backward --------------------------------------------------------------------------------


@misconception(
    "backward",
    hint="`register_backward_hook` is the deprecated one: it hangs on the last operation of a "
    "module, so its grad_input is not the module's. Take the full backward hook.",
)
def gradient_norms(model, loss_fn, x):
    norms = {name: None for name, _ in model.named_children()}

    def note(name):
        def hook(module, grad_input, grad_output):
            known = next((g for g in grad_input if g is not None), grad_output[0])
            norms[name] = (known.norm().item(), grad_output[0].norm().item())

        return hook

    handles = [c.register_backward_hook(note(n)) for n, c in model.named_children()]
    try:
        x = x.detach().requires_grad_()
        torch.autograd.grad(loss_fn(model(x)), x)
    finally:
        for handle in handles:
            handle.remove()
    return norms


@misconception(
    "backward",
    hint="Look at the order again: a backward hook gets grad_input first, then grad_output.",
)
def gradient_norms(model, loss_fn, x):
    norms = {name: None for name, _ in model.named_children()}

    def note(name):
        def hook(module, grad_output, grad_input):
            norms[name] = (grad_input[0].norm().item(), grad_output[0].norm().item())

        return hook

    handles = [c.register_full_backward_hook(note(n)) for n, c in model.named_children()]
    try:
        x = x.detach().requires_grad_()
        torch.autograd.grad(loss_fn(model(x)), x)
    finally:
        for handle in handles:
            handle.remove()
    return norms


@misconception(
    "backward",
    hint="`backward()` adds to the `.grad` of all parameters. A report should not: "
    "`torch.autograd.grad` with respect to the input runs the same pass without it.",
)
def gradient_norms(model, loss_fn, x):
    norms = {name: None for name, _ in model.named_children()}

    def note(name):
        def hook(module, grad_input, grad_output):
            norms[name] = (grad_input[0].norm().item(), grad_output[0].norm().item())

        return hook

    handles = [c.register_full_backward_hook(note(n)) for n, c in model.named_children()]
    try:
        loss_fn(model(x.detach().requires_grad_())).backward()
    finally:
        for handle in handles:
            handle.remove()
    return norms


@misconception(
    "backward",
    hint="If loss_fn raises, your hooks stay on the model. Remove them in `finally`.",
)
def gradient_norms(model, loss_fn, x):
    norms = {name: None for name, _ in model.named_children()}

    def note(name):
        def hook(module, grad_input, grad_output):
            norms[name] = (grad_input[0].norm().item(), grad_output[0].norm().item())

        return hook

    handles = [c.register_full_backward_hook(note(n)) for n, c in model.named_children()]
    x = x.detach().requires_grad_()
    torch.autograd.grad(loss_fn(model(x)), x)
    for handle in handles:
        handle.remove()
    return norms


@misconception(
    "backward",
    hint="This makes the caller's own x require gradients. Work on `x.detach()`, a tensor of its "
    "own that shares the numbers.",
)
def gradient_norms(model, loss_fn, x):
    norms = {name: None for name, _ in model.named_children()}

    def note(name):
        def hook(module, grad_input, grad_output):
            norms[name] = (grad_input[0].norm().item(), grad_output[0].norm().item())

        return hook

    handles = [c.register_full_backward_hook(note(n)) for n, c in model.named_children()]
    try:
        x.requires_grad_()
        torch.autograd.grad(loss_fn(model(x)), x)
    finally:
        for handle in handles:
            handle.remove()
    return norms


@misconception(
    "backward",
    hint="`named_modules()` also walks into the children, and starts with the model itself. The "
    "report has the children only.",
)
def gradient_norms(model, loss_fn, x):
    norms = {name: None for name, _ in model.named_modules()}

    def note(name):
        def hook(module, grad_input, grad_output):
            norms[name] = (grad_input[0].norm().item(), grad_output[0].norm().item())

        return hook

    handles = [c.register_full_backward_hook(note(n)) for n, c in model.named_modules()]
    try:
        x = x.detach().requires_grad_()
        torch.autograd.grad(loss_fn(model(x)), x)
    finally:
        for handle in handles:
            handle.remove()
    return norms


@misconception(
    "backward",
    hint="The hooks are never removed: they run in every later backward pass of this model. Keep "
    "the handles, and remove them in `finally`.",
)
def gradient_norms(model, loss_fn, x):
    norms = {name: None for name, _ in model.named_children()}

    def note(name):
        def hook(module, grad_input, grad_output):
            norms[name] = (grad_input[0].norm().item(), grad_output[0].norm().item())

        return hook

    for name, child in model.named_children():
        child.register_full_backward_hook(note(name))
    x = x.detach().requires_grad_()
    torch.autograd.grad(loss_fn(model(x)), x)
    return norms


@misconception(
    "backward",
    hint="The report is in the order of the backward pass, last child first. Sort it by "
    "`named_children()`, or make the dictionary before the pass.",
)
def gradient_norms(model, loss_fn, x):
    norms = {}

    def note(name):
        def hook(module, grad_input, grad_output):
            norms[name] = (grad_input[0].norm().item(), grad_output[0].norm().item())

        return hook

    handles = [c.register_full_backward_hook(note(n)) for n, c in model.named_children()]
    try:
        x = x.detach().requires_grad_()
        torch.autograd.grad(loss_fn(model(x)), x)
    finally:
        for handle in handles:
            handle.remove()
    return norms


# --- cam -------------------------------------------------------------------------------------


@misconception(
    "cam",
    hint="Negative evidence is left in the map. Cut it off at zero before you enlarge.",
)
def cam(features, weights, cls, size):
    if isinstance(cls, int):
        cls = torch.full((len(features),), cls, device=features.device)
    heat = torch.einsum("nk,nkij->nij", weights[cls], features)
    return F.interpolate(heat[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


@misconception(
    "cam",
    hint="The order matters: cut at zero first, then enlarge. Interpolating mixes positive and "
    "negative cells.",
)
def cam(features, weights, cls, size):
    if isinstance(cls, int):
        cls = torch.full((len(features),), cls, device=features.device)
    heat = torch.einsum("nk,nkij->nij", weights[cls], features)
    heat = F.interpolate(heat[:, None], size=size, mode="bilinear", align_corners=False)
    return heat[:, 0].relu()


@misconception(
    "cam",
    hint="This enlarges with align_corners=True, which pins the outermost cells to the outermost "
    "pixels and moves everything in between.",
)
def cam(features, weights, cls, size):
    if isinstance(cls, int):
        cls = torch.full((len(features),), cls, device=features.device)
    heat = torch.einsum("nk,nkij->nij", weights[cls], features).relu()
    return F.interpolate(heat[:, None], size=size, mode="bilinear", align_corners=True)[:, 0]


@misconception(
    "cam",
    hint="The weights of a map are the *mean* of its gradients over all positions; here they are "
    "summed.",
)
def gradcam(model, layer, x, cls):
    modes = [(module, module.training) for module in model.modules()]
    kept = []

    def keep(module, args, output):
        kept.append(output)
        return output.clone()

    handle = dict(model.named_modules())[layer].register_forward_hook(keep)
    try:
        with torch.enable_grad():
            scores = model.eval()(x.detach().requires_grad_())
            score = scores[torch.arange(len(x)), cls].sum()
            (grad,) = torch.autograd.grad(score, kept)
    finally:
        handle.remove()
        for module, mode in modes:
            module.training = mode
    heat = (grad.sum((2, 3), keepdim=True) * kept[0].detach()).sum(1, keepdim=True).relu()
    return F.interpolate(heat, size=x.shape[2:], mode="bilinear", align_corners=False)[:, 0]


@misconception(
    "cam",
    hint="This takes the gradient of the softmax probability, which mixes in the other classes and "
    "vanishes where the network is sure. Take the score.",
)
def gradcam(model, layer, x, cls):
    modes = [(module, module.training) for module in model.modules()]
    kept = []

    def keep(module, args, output):
        kept.append(output)
        return output.clone()

    handle = dict(model.named_modules())[layer].register_forward_hook(keep)
    try:
        with torch.enable_grad():
            scores = model.eval()(x.detach().requires_grad_()).softmax(1)
            score = scores[torch.arange(len(x)), cls].sum()
            (grad,) = torch.autograd.grad(score, kept)
    finally:
        handle.remove()
        for module, mode in modes:
            module.training = mode
    heat = (grad.mean((2, 3), keepdim=True) * kept[0].detach()).sum(1, keepdim=True).relu()
    return F.interpolate(heat, size=x.shape[2:], mode="bilinear", align_corners=False)[:, 0]


@misconception(
    "cam",
    hint="Gradient times map, position by position: that is another method. Grad-CAM first "
    "averages the gradient over the positions, one number for each map.",
)
def gradcam(model, layer, x, cls):
    modes = [(module, module.training) for module in model.modules()]
    kept = []

    def keep(module, args, output):
        kept.append(output)
        return output.clone()

    handle = dict(model.named_modules())[layer].register_forward_hook(keep)
    try:
        with torch.enable_grad():
            scores = model.eval()(x.detach().requires_grad_())
            score = scores[torch.arange(len(x)), cls].sum()
            (grad,) = torch.autograd.grad(score, kept)
    finally:
        handle.remove()
        for module, mode in modes:
            module.training = mode
    heat = (grad * kept[0].detach()).sum(1, keepdim=True).relu()
    return F.interpolate(heat, size=x.shape[2:], mode="bilinear", align_corners=False)[:, 0]


@misconception(
    "cam",
    hint="A ReLU behind the layer may work in place, and then the tensor that you kept holds the "
    "ReLU's output. Hand on a clone.",
)
def gradcam(model, layer, x, cls):
    modes = [(module, module.training) for module in model.modules()]
    kept = []
    handle = dict(model.named_modules())[layer].register_forward_hook(
        lambda module, args, output: kept.append(output)
    )
    try:
        with torch.enable_grad():
            scores = model.eval()(x.detach().requires_grad_())
            score = scores[torch.arange(len(x)), cls].sum()
            (grad,) = torch.autograd.grad(score, kept)
    finally:
        handle.remove()
        for module, mode in modes:
            module.training = mode
    heat = (grad.mean((2, 3), keepdim=True) * kept[0].detach()).sum(1, keepdim=True).relu()
    return F.interpolate(heat, size=x.shape[2:], mode="bilinear", align_corners=False)[:, 0]


@misconception(
    "cam",
    hint="`model.train(mode)` sets all parts to one mode. A part that was in eval mode on its own, "
    "such as a frozen batch normalisation, is not any more. Note every module's mode.",
)
def gradcam(model, layer, x, cls):
    mode, kept = model.training, []

    def keep(module, args, output):
        kept.append(output)
        return output.clone()

    handle = dict(model.named_modules())[layer].register_forward_hook(keep)
    try:
        with torch.enable_grad():
            scores = model.eval()(x.detach().requires_grad_())
            score = scores[torch.arange(len(x)), cls].sum()
            (grad,) = torch.autograd.grad(score, kept)
    finally:
        handle.remove()
        model.train(mode)
    heat = (grad.mean((2, 3), keepdim=True) * kept[0].detach()).sum(1, keepdim=True).relu()
    return F.interpolate(heat, size=x.shape[2:], mode="bilinear", align_corners=False)[:, 0]


@misconception(
    "cam",
    hint="`weights` has a row for each class, as `nn.Linear` stores it: shape (classes, K). Take "
    "`weights[cls]`, not a column.",
)
def cam(features, weights, cls, size):
    if isinstance(cls, int):
        cls = torch.full((len(features),), cls, device=features.device)
    heat = (weights[:, cls].T[:, :, None, None] * features).sum(1, keepdim=True).relu()
    return F.interpolate(heat, size=size, mode="bilinear", align_corners=False)[:, 0]


@misconception(
    "cam",
    hint="The scores of the batch are averaged, so that every gradient is divided by the number "
    "of images. With their sum each image gets its own gradient.",
)
def gradcam(model, layer, x, cls):
    modes = [(module, module.training) for module in model.modules()]
    kept = []

    def keep(module, args, output):
        kept.append(output)
        return output.clone()

    handle = dict(model.named_modules())[layer].register_forward_hook(keep)
    try:
        with torch.enable_grad():
            scores = model.eval()(x.detach().requires_grad_())
            score = scores[torch.arange(len(x)), cls].mean()
            (grad,) = torch.autograd.grad(score, kept)
    finally:
        handle.remove()
        for module, mode in modes:
            module.training = mode
    heat = (grad.mean((2, 3), keepdim=True) * kept[0].detach()).sum(1, keepdim=True).relu()
    return F.interpolate(heat, size=x.shape[2:], mode="bilinear", align_corners=False)[:, 0]


@misconception(
    "cam",
    hint="The weighted maps are averaged over the channels. A class activation map is their sum.",
)
def gradcam(model, layer, x, cls):
    modes = [(module, module.training) for module in model.modules()]
    kept = []

    def keep(module, args, output):
        kept.append(output)
        return output.clone()

    handle = dict(model.named_modules())[layer].register_forward_hook(keep)
    try:
        with torch.enable_grad():
            scores = model.eval()(x.detach().requires_grad_())
            score = scores[torch.arange(len(x)), cls].sum()
            (grad,) = torch.autograd.grad(score, kept)
    finally:
        handle.remove()
        for module, mode in modes:
            module.training = mode
    heat = (grad.mean((2, 3), keepdim=True) * kept[0].detach()).mean(1, keepdim=True).relu()
    return F.interpolate(heat, size=x.shape[2:], mode="bilinear", align_corners=False)[:, 0]


@misconception(
    "cam",
    hint="The model runs in the mode that it is in. In train mode batch normalisation mixes the "
    "images of a batch, and moves its running statistics. Switch to eval mode, and back.",
)
def gradcam(model, layer, x, cls):
    modes = [(module, module.training) for module in model.modules()]
    kept = []

    def keep(module, args, output):
        kept.append(output)
        return output.clone()

    handle = dict(model.named_modules())[layer].register_forward_hook(keep)
    try:
        with torch.enable_grad():
            scores = model(x.detach().requires_grad_())
            score = scores[torch.arange(len(x)), cls].sum()
            (grad,) = torch.autograd.grad(score, kept)
    finally:
        handle.remove()
        for module, mode in modes:
            module.training = mode
    heat = (grad.mean((2, 3), keepdim=True) * kept[0].detach()).sum(1, keepdim=True).relu()
    return F.interpolate(heat, size=x.shape[2:], mode="bilinear", align_corners=False)[:, 0]


@misconception(
    "cam",
    hint="Within `torch.no_grad()` no graph is recorded, and there is nothing to take a gradient "
    "of. Run the model under `torch.enable_grad()`.",
)
def gradcam(model, layer, x, cls):
    modes = [(module, module.training) for module in model.modules()]
    kept = []

    def keep(module, args, output):
        kept.append(output)
        return output.clone()

    handle = dict(model.named_modules())[layer].register_forward_hook(keep)
    try:
        with torch.set_grad_enabled(torch.is_grad_enabled()):
            scores = model.eval()(x.detach().requires_grad_())
            score = scores[torch.arange(len(x)), cls].sum()
            (grad,) = torch.autograd.grad(score, kept)
    finally:
        handle.remove()
        for module, mode in modes:
            module.training = mode
    heat = (grad.mean((2, 3), keepdim=True) * kept[0].detach()).sum(1, keepdim=True).relu()
    return F.interpolate(heat, size=x.shape[2:], mode="bilinear", align_corners=False)[:, 0]


# --- grid ------------------------------------------------------------------------------------


@misconception(
    "grid",
    hint="`nrow` is the number of images in a row, not the number of rows.",
)
def make_grid(imgs, nrow=8, padding=2, pad_value=0.0, normalize=False, value_range=None):
    if len(imgs) == 0:
        raise ValueError("There are no images.")
    if imgs.shape[1] == 1:
        imgs = imgs.expand(-1, 3, -1, -1)
    if normalize:
        low, high = value_range or (imgs.min().item(), imgs.max().item())
        imgs = (imgs.clamp(low, high) - low) / max(high - low, 1e-5)
    n, c, h, w = imgs.shape
    if n == 1:
        return imgs[0].clone()
    lines = min(nrow, n)
    columns = math.ceil(n / lines)
    grid = imgs.new_full(
        (c, lines * (h + padding) + padding, columns * (w + padding) + padding), pad_value
    )
    for i in range(n):
        top = i // columns * (h + padding) + padding
        left = i % columns * (w + padding) + padding
        grid[:, top : top + h, left : left + w] = imgs[i]
    return grid


@misconception(
    "grid",
    hint="The frame is closed on the right and at the bottom, too: one more padding than images.",
)
def make_grid(imgs, nrow=8, padding=2, pad_value=0.0, normalize=False, value_range=None):
    if len(imgs) == 0:
        raise ValueError("There are no images.")
    if imgs.shape[1] == 1:
        imgs = imgs.expand(-1, 3, -1, -1)
    if normalize:
        low, high = value_range or (imgs.min().item(), imgs.max().item())
        imgs = (imgs.clamp(low, high) - low) / max(high - low, 1e-5)
    n, c, h, w = imgs.shape
    if n == 1:
        return imgs[0].clone()
    columns = min(nrow, n)
    lines = math.ceil(n / columns)
    grid = imgs.new_full((c, lines * (h + padding), columns * (w + padding)), pad_value)
    for i in range(n):
        top = i // columns * (h + padding) + padding
        left = i % columns * (w + padding) + padding
        grid[:, top : top + h, left : left + w] = imgs[
            i, :, : grid.shape[1] - top, : grid.shape[2] - left
        ]
    return grid


@misconception(
    "grid",
    hint="The range is taken from each image. Here it is one for the whole batch, or a dark "
    "image would become as bright as the others.",
)
def make_grid(imgs, nrow=8, padding=2, pad_value=0.0, normalize=False, value_range=None):
    if len(imgs) == 0:
        raise ValueError("There are no images.")
    if imgs.shape[1] == 1:
        imgs = imgs.expand(-1, 3, -1, -1)
    if normalize:
        done = []
        for image in imgs:
            low, high = value_range or (image.min().item(), image.max().item())
            done.append((image.clamp(low, high) - low) / max(high - low, 1e-5))
        imgs = torch.stack(done)
    n, c, h, w = imgs.shape
    if n == 1:
        return imgs[0].clone()
    columns = min(nrow, n)
    lines = math.ceil(n / columns)
    grid = imgs.new_full(
        (c, lines * (h + padding) + padding, columns * (w + padding) + padding), pad_value
    )
    for i in range(n):
        top = i // columns * (h + padding) + padding
        left = i % columns * (w + padding) + padding
        grid[:, top : top + h, left : left + w] = imgs[i]
    return grid


@misconception(
    "grid",
    hint="Values outside of value_range leave [0, 1]. Clip them to the range first.",
)
def make_grid(imgs, nrow=8, padding=2, pad_value=0.0, normalize=False, value_range=None):
    if len(imgs) == 0:
        raise ValueError("There are no images.")
    if imgs.shape[1] == 1:
        imgs = imgs.expand(-1, 3, -1, -1)
    if normalize:
        low, high = value_range or (imgs.min().item(), imgs.max().item())
        imgs = (imgs - low) / max(high - low, 1e-5)
    n, c, h, w = imgs.shape
    if n == 1:
        return imgs[0].clone()
    columns = min(nrow, n)
    lines = math.ceil(n / columns)
    grid = imgs.new_full(
        (c, lines * (h + padding) + padding, columns * (w + padding) + padding), pad_value
    )
    for i in range(n):
        top = i // columns * (h + padding) + padding
        left = i % columns * (w + padding) + padding
        grid[:, top : top + h, left : left + w] = imgs[i]
    return grid


@misconception(
    "grid",
    hint="With fewer images than `nrow` the row is not filled up with empty places: it is as "
    "long as there are images.",
)
def make_grid(imgs, nrow=8, padding=2, pad_value=0.0, normalize=False, value_range=None):
    if len(imgs) == 0:
        raise ValueError("There are no images.")
    if imgs.shape[1] == 1:
        imgs = imgs.expand(-1, 3, -1, -1)
    if normalize:
        low, high = value_range or (imgs.min().item(), imgs.max().item())
        imgs = (imgs.clamp(low, high) - low) / max(high - low, 1e-5)
    n, c, h, w = imgs.shape
    if n == 1:
        return imgs[0].clone()
    columns = nrow
    lines = math.ceil(n / columns)
    grid = imgs.new_full(
        (c, lines * (h + padding) + padding, columns * (w + padding) + padding), pad_value
    )
    for i in range(n):
        top = i // columns * (h + padding) + padding
        left = i % columns * (w + padding) + padding
        grid[:, top : top + h, left : left + w] = imgs[i]
    return grid


@misconception(
    "grid",
    hint="The finished grid is normalised, and the frame with it. Normalise the images before "
    "you place them.",
)
def make_grid(imgs, nrow=8, padding=2, pad_value=0.0, normalize=False, value_range=None):
    if len(imgs) == 0:
        raise ValueError("There are no images.")
    if imgs.shape[1] == 1:
        imgs = imgs.expand(-1, 3, -1, -1)
    n, c, h, w = imgs.shape
    if n == 1:
        return imgs[0].clone()
    columns = min(nrow, n)
    lines = math.ceil(n / columns)
    grid = imgs.new_full(
        (c, lines * (h + padding) + padding, columns * (w + padding) + padding), pad_value
    )
    for i in range(n):
        top = i // columns * (h + padding) + padding
        left = i % columns * (w + padding) + padding
        grid[:, top : top + h, left : left + w] = imgs[i]
    if normalize:
        low, high = value_range or (grid.min().item(), grid.max().item())
        grid = (grid.clamp(low, high) - low) / max(high - low, 1e-5)
    return grid


@misconception(
    "grid",
    hint="Grey images stay grey, with one channel. The grid is for pictures in colour: repeat "
    "the channel three times.",
)
def make_grid(imgs, nrow=8, padding=2, pad_value=0.0, normalize=False, value_range=None):
    if len(imgs) == 0:
        raise ValueError("There are no images.")
    if normalize:
        low, high = value_range or (imgs.min().item(), imgs.max().item())
        imgs = (imgs.clamp(low, high) - low) / max(high - low, 1e-5)
    n, c, h, w = imgs.shape
    if n == 1:
        return imgs[0].clone()
    columns = min(nrow, n)
    lines = math.ceil(n / columns)
    grid = imgs.new_full(
        (c, lines * (h + padding) + padding, columns * (w + padding) + padding), pad_value
    )
    for i in range(n):
        top = i // columns * (h + padding) + padding
        left = i % columns * (w + padding) + padding
        grid[:, top : top + h, left : left + w] = imgs[i]
    return grid


@misconception(
    "grid",
    hint="One image alone gets a frame. It should come back as it is (grey as colour, normalised "
    "if asked for).",
)
def make_grid(imgs, nrow=8, padding=2, pad_value=0.0, normalize=False, value_range=None):
    if len(imgs) == 0:
        raise ValueError("There are no images.")
    if imgs.shape[1] == 1:
        imgs = imgs.expand(-1, 3, -1, -1)
    if normalize:
        low, high = value_range or (imgs.min().item(), imgs.max().item())
        imgs = (imgs.clamp(low, high) - low) / max(high - low, 1e-5)
    n, c, h, w = imgs.shape
    columns = min(nrow, n)
    lines = math.ceil(n / columns)
    grid = imgs.new_full(
        (c, lines * (h + padding) + padding, columns * (w + padding) + padding), pad_value
    )
    for i in range(n):
        top = i // columns * (h + padding) + padding
        left = i % columns * (w + padding) + padding
        grid[:, top : top + h, left : left + w] = imgs[i]
    return grid


@misconception(
    "grid",
    hint="For images of one value the range has no length, and dividing by it gives NaN. Let its "
    "length count as at least 1e-5.",
)
def make_grid(imgs, nrow=8, padding=2, pad_value=0.0, normalize=False, value_range=None):
    if len(imgs) == 0:
        raise ValueError("There are no images.")
    if imgs.shape[1] == 1:
        imgs = imgs.expand(-1, 3, -1, -1)
    if normalize:
        low, high = value_range or (imgs.min().item(), imgs.max().item())
        imgs = (imgs.clamp(low, high) - low) / (high - low)
    n, c, h, w = imgs.shape
    if n == 1:
        return imgs[0].clone()
    columns = min(nrow, n)
    lines = math.ceil(n / columns)
    grid = imgs.new_full(
        (c, lines * (h + padding) + padding, columns * (w + padding) + padding), pad_value
    )
    for i in range(n):
        top = i // columns * (h + padding) + padding
        left = i % columns * (w + padding) + padding
        grid[:, top : top + h, left : left + w] = imgs[i]
    return grid


# --- summary ---------------------------------------------------------------------------------


@misconception(
    "summary",
    hint="A parameter that two layers share is counted twice. Remember which ones you have "
    "already counted.",
)
def summary(model, x):
    rows = []
    modes = [(module, module.training) for module in model.modules()]

    def note(name):
        def hook(module, args, output):
            count = sum(p.numel() for p in module.parameters())
            rows.append((name, type(module).__name__, tuple(output.shape), count))

        return hook

    handles = [
        module.register_forward_hook(note(name))
        for name, module in model.named_modules()
        if not list(module.children())
    ]
    try:
        with torch.no_grad():
            model.eval()(x)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    return rows


@misconception(
    "summary",
    hint="The run happens in train mode, so batch normalisation moves its running statistics: "
    "looking at the model has changed it.",
)
def summary(model, x):
    rows, seen = [], set()

    def note(name):
        def hook(module, args, output):
            fresh = [p for p in module.parameters() if id(p) not in seen]
            seen.update(id(p) for p in fresh)
            count = sum(p.numel() for p in fresh)
            rows.append((name, type(module).__name__, tuple(output.shape), count))

        return hook

    handles = [
        module.register_forward_hook(note(name))
        for name, module in model.named_modules()
        if not list(module.children())
    ]
    try:
        with torch.no_grad():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    return rows


@misconception(
    "summary",
    hint="The model is left in eval mode, and training goes on without dropout and with frozen "
    "statistics. Restore each module's mode.",
)
def summary(model, x):
    rows, seen = [], set()

    def note(name):
        def hook(module, args, output):
            fresh = [p for p in module.parameters() if id(p) not in seen]
            seen.update(id(p) for p in fresh)
            count = sum(p.numel() for p in fresh)
            rows.append((name, type(module).__name__, tuple(output.shape), count))

        return hook

    handles = [
        module.register_forward_hook(note(name))
        for name, module in model.named_modules()
        if not list(module.children())
    ]
    try:
        with torch.no_grad():
            model.eval()(x)
    finally:
        for handle in handles:
            handle.remove()
    return rows


@misconception(
    "summary",
    hint="Containers such as nn.Sequential get rows as well, and count what their layers have "
    "counted. Only modules without children are layers.",
)
def summary(model, x):
    rows, seen = [], set()
    modes = [(module, module.training) for module in model.modules()]

    def note(name):
        def hook(module, args, output):
            fresh = [p for p in module.parameters() if id(p) not in seen]
            seen.update(id(p) for p in fresh)
            count = sum(p.numel() for p in fresh)
            rows.append((name, type(module).__name__, tuple(output.shape), count))

        return hook

    handles = [m.register_forward_hook(note(n)) for n, m in model.named_modules()]
    try:
        with torch.no_grad():
            model.eval()(x)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    return rows


@misconception(
    "summary",
    hint="`numel` of the weight alone: a layer's bias is a parameter, too, and some layers have "
    "no weight at all.",
)
def summary(model, x):
    rows, seen = [], set()
    modes = [(module, module.training) for module in model.modules()]

    def note(name):
        def hook(module, args, output):
            weight = getattr(module, "weight", None)
            count = 0 if weight is None or id(weight) in seen else weight.numel()
            seen.add(id(weight))
            rows.append((name, type(module).__name__, tuple(output.shape), count))

        return hook

    handles = [
        module.register_forward_hook(note(name))
        for name, module in model.named_modules()
        if not list(module.children())
    ]
    try:
        with torch.no_grad():
            model.eval()(x)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    return rows


@misconception(
    "summary",
    hint="Layers without parameters, such as ReLU, pooling and flattening, are missing. A layer "
    "is any module without children.",
)
def summary(model, x):
    rows, seen = [], set()
    modes = [(module, module.training) for module in model.modules()]

    def note(name):
        def hook(module, args, output):
            fresh = [p for p in module.parameters() if id(p) not in seen]
            seen.update(id(p) for p in fresh)
            count = sum(p.numel() for p in fresh)
            rows.append((name, type(module).__name__, tuple(output.shape), count))

        return hook

    handles = [
        module.register_forward_hook(note(name))
        for name, module in model.named_modules()
        if list(module.parameters(recurse=False))
    ]
    try:
        with torch.no_grad():
            model.eval()(x)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    return rows


@misconception(
    "summary",
    hint="`model.train(mode)` sets all parts to one mode. A part that was in eval mode on its "
    "own is not any more. Note every module's mode, and restore it.",
)
def summary(model, x):
    rows, seen = [], set()
    modes = [(module, module.training) for module in model.modules()]

    def note(name):
        def hook(module, args, output):
            fresh = [p for p in module.parameters() if id(p) not in seen]
            seen.update(id(p) for p in fresh)
            count = sum(p.numel() for p in fresh)
            rows.append((name, type(module).__name__, tuple(output.shape), count))

        return hook

    handles = [
        module.register_forward_hook(note(name))
        for name, module in model.named_modules()
        if not list(module.children())
    ]
    try:
        with torch.no_grad():
            model.eval()(x)
    finally:
        for handle in handles:
            handle.remove()
        model.train(modes[0][1])
    return rows


@misconception(
    "summary",
    hint="The run records a graph that nobody needs, and it costs memory. Run the model under "
    "`torch.no_grad()`.",
)
def summary(model, x):
    rows, seen = [], set()
    modes = [(module, module.training) for module in model.modules()]

    def note(name):
        def hook(module, args, output):
            fresh = [p for p in module.parameters() if id(p) not in seen]
            seen.update(id(p) for p in fresh)
            count = sum(p.numel() for p in fresh)
            rows.append((name, type(module).__name__, tuple(output.shape), count))

        return hook

    handles = [
        module.register_forward_hook(note(name))
        for name, module in model.named_modules()
        if not list(module.children())
    ]
    try:
        model.eval()(x)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    return rows


@misconception(
    "summary",
    hint="Frozen parameters are left out. They belong to the layer, too, whether they are "
    "trained or not.",
)
def summary(model, x):
    rows, seen = [], set()
    modes = [(module, module.training) for module in model.modules()]

    def note(name):
        def hook(module, args, output):
            fresh = [p for p in module.parameters() if p.requires_grad and id(p) not in seen]
            seen.update(id(p) for p in fresh)
            count = sum(p.numel() for p in fresh)
            rows.append((name, type(module).__name__, tuple(output.shape), count))

        return hook

    handles = [
        module.register_forward_hook(note(name))
        for name, module in model.named_modules()
        if not list(module.children())
    ]
    try:
        with torch.no_grad():
            model.eval()(x)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    return rows


# --- debug -----------------------------------------------------------------------------------


@misconception(
    "debug",
    hint="Moving `keep` does not help: it still reads the loop's `name` when it runs. Make the "
    "name an argument of a function that makes the hook.",
)
def remember(model):
    store, handles = {}, []
    for name, child in model.named_children():
        handles.append(
            child.register_forward_hook(
                lambda module, args, output: store.__setitem__(name, output)
            )
        )
    return store, handles


@misconception(
    "debug",
    hint="The kind of the module is no name: two layers of one kind share a key.",
)
def remember(model):
    store, handles = {}, []

    def keep(module, args, output):
        store[type(module).__name__] = output

    for child in model.children():
        handles.append(child.register_forward_hook(keep))
    return store, handles


@misconception(
    "debug",
    hint="`setdefault` writes only once, so a second call finds the outputs of the first one; "
    "and a lambda hands its value to the next layer. Assign `store[name] = output` in a "
    "`def`.",
)
def remember(model):
    store, handles = {}, []
    for name, child in model.named_children():
        handles.append(
            child.register_forward_hook(
                lambda module, args, output, name=name: store.setdefault(name, output)
            )
        )
    return store, handles
