"""Wrong answers in the chapter on normalisation, each with the hint it deserves."""

# ruff: noqa: F821 (Residual is defined in a set-up cell)

import copy

import torch
from torch import nn

from course.testing import misconception

# --- bn --------------------------------------------------------------------------------------


@misconception(
    "bn",
    hint="The batch is normalised with the variance that divides by m - 1. In training the biased one is used, which divides by m; only the running variance is unbiased.",
)
class MyBatchNorm(nn.Module):
    def __init__(self, C, eps=1e-5, momentum=0.1, affine=True, track=True):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.affine, self.track = affine, track
        self.weight = nn.Parameter(torch.ones(C)) if affine else None
        self.bias = nn.Parameter(torch.zeros(C)) if affine else None
        self.register_buffer("running_mean", torch.zeros(C) if track else None)
        self.register_buffer("running_var", torch.ones(C) if track else None)
        self.register_buffer("num_batches_tracked", torch.tensor(0) if track else None)

    def forward(self, x):
        axes = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        mean, var = self.running_mean, self.running_var
        if self.training or not self.track:
            m = x.numel() // x.shape[1]
            if m == 1:
                raise ValueError("one value per channel has no variance")
            mean, var = x.mean(axes), x.var(axes)
        if self.training and self.track:
            self.num_batches_tracked += 1
            r = self.momentum
            if r is None:
                r = 1 / self.num_batches_tracked.item()
            with torch.no_grad():
                self.running_mean += r * (mean - self.running_mean)
                self.running_var += r * (var - self.running_var)
        y = (x - mean.view(shape)) / torch.sqrt(var.view(shape) + self.eps)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y


@misconception(
    "bn",
    hint="The running variance collects the biased variance of the batches. It should estimate the variance of the whole stream, so it needs the factor m / (m - 1).",
)
class MyBatchNorm(nn.Module):
    def __init__(self, C, eps=1e-5, momentum=0.1, affine=True, track=True):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.affine, self.track = affine, track
        self.weight = nn.Parameter(torch.ones(C)) if affine else None
        self.bias = nn.Parameter(torch.zeros(C)) if affine else None
        self.register_buffer("running_mean", torch.zeros(C) if track else None)
        self.register_buffer("running_var", torch.ones(C) if track else None)
        self.register_buffer("num_batches_tracked", torch.tensor(0) if track else None)

    def forward(self, x):
        axes = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        mean, var = self.running_mean, self.running_var
        if self.training or not self.track:
            m = x.numel() // x.shape[1]
            if m == 1:
                raise ValueError("one value per channel has no variance")
            mean, var = x.mean(axes), x.var(axes, correction=0)
        if self.training and self.track:
            self.num_batches_tracked += 1
            r = self.momentum
            if r is None:
                r = 1 / self.num_batches_tracked.item()
            with torch.no_grad():
                self.running_mean += r * (mean - self.running_mean)
                self.running_var += r * (var - self.running_var)
        y = (x - mean.view(shape)) / torch.sqrt(var.view(shape) + self.eps)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y


@misconception(
    "bn",
    hint="Momentum is turned around: here it is the weight of the old value. In torch it is the weight of the new one.",
)
class MyBatchNorm(nn.Module):
    def __init__(self, C, eps=1e-5, momentum=0.1, affine=True, track=True):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.affine, self.track = affine, track
        self.weight = nn.Parameter(torch.ones(C)) if affine else None
        self.bias = nn.Parameter(torch.zeros(C)) if affine else None
        self.register_buffer("running_mean", torch.zeros(C) if track else None)
        self.register_buffer("running_var", torch.ones(C) if track else None)
        self.register_buffer("num_batches_tracked", torch.tensor(0) if track else None)

    def forward(self, x):
        axes = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        mean, var = self.running_mean, self.running_var
        if self.training or not self.track:
            m = x.numel() // x.shape[1]
            if m == 1:
                raise ValueError("one value per channel has no variance")
            mean, var = x.mean(axes), x.var(axes, correction=0)
        if self.training and self.track:
            self.num_batches_tracked += 1
            r = self.momentum
            if r is None:
                r = 1 / self.num_batches_tracked.item()
            with torch.no_grad():
                self.running_mean += (1 - r) * (mean - self.running_mean)
                self.running_var += (1 - r) * (var * m / (m - 1) - self.running_var)
        y = (x - mean.view(shape)) / torch.sqrt(var.view(shape) + self.eps)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y


@misconception(
    "bn",
    hint="In training the running statistics are updated and then used to normalise. They are for evaluation; a training batch is normalised with its own mean and variance.",
)
class MyBatchNorm(nn.Module):
    def __init__(self, C, eps=1e-5, momentum=0.1, affine=True, track=True):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.affine, self.track = affine, track
        self.weight = nn.Parameter(torch.ones(C)) if affine else None
        self.bias = nn.Parameter(torch.zeros(C)) if affine else None
        self.register_buffer("running_mean", torch.zeros(C) if track else None)
        self.register_buffer("running_var", torch.ones(C) if track else None)
        self.register_buffer("num_batches_tracked", torch.tensor(0) if track else None)

    def forward(self, x):
        axes = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        mean, var = self.running_mean, self.running_var
        if self.training or not self.track:
            m = x.numel() // x.shape[1]
            if m == 1:
                raise ValueError("one value per channel has no variance")
            mean, var = x.mean(axes), x.var(axes, correction=0)
        if self.training and self.track:
            self.num_batches_tracked += 1
            r = self.momentum
            if r is None:
                r = 1 / self.num_batches_tracked.item()
            with torch.no_grad():
                self.running_mean += r * (mean - self.running_mean)
                self.running_var += r * (var * m / (m - 1) - self.running_var)
            mean, var = self.running_mean.clone(), self.running_var.clone()
        y = (x - mean.view(shape)) / torch.sqrt(var.view(shape) + self.eps)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y


@misconception(
    "bn",
    hint="In evaluation the batch's own statistics are used. Then the answer for one example depends on its company, and a batch of one fails: use the running statistics there.",
)
class MyBatchNorm(nn.Module):
    def __init__(self, C, eps=1e-5, momentum=0.1, affine=True, track=True):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.affine, self.track = affine, track
        self.weight = nn.Parameter(torch.ones(C)) if affine else None
        self.bias = nn.Parameter(torch.zeros(C)) if affine else None
        self.register_buffer("running_mean", torch.zeros(C) if track else None)
        self.register_buffer("running_var", torch.ones(C) if track else None)
        self.register_buffer("num_batches_tracked", torch.tensor(0) if track else None)

    def forward(self, x):
        axes = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        mean, var = self.running_mean, self.running_var
        if True:
            m = x.numel() // x.shape[1]
            if m == 1:
                raise ValueError("one value per channel has no variance")
            mean, var = x.mean(axes), x.var(axes, correction=0)
        if self.training and self.track:
            self.num_batches_tracked += 1
            r = self.momentum
            if r is None:
                r = 1 / self.num_batches_tracked.item()
            with torch.no_grad():
                self.running_mean += r * (mean - self.running_mean)
                self.running_var += r * (var * m / (m - 1) - self.running_var)
        y = (x - mean.view(shape)) / torch.sqrt(var.view(shape) + self.eps)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y


@misconception(
    "bn",
    hint="For pictures each position gets statistics of its own. A channel has one mean and one variance, over the batch and all positions.",
)
class MyBatchNorm(nn.Module):
    def __init__(self, C, eps=1e-5, momentum=0.1, affine=True, track=True):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.affine, self.track = affine, track
        self.weight = nn.Parameter(torch.ones(C)) if affine else None
        self.bias = nn.Parameter(torch.zeros(C)) if affine else None
        self.register_buffer("running_mean", torch.zeros(C) if track else None)
        self.register_buffer("running_var", torch.ones(C) if track else None)
        self.register_buffer("num_batches_tracked", torch.tensor(0) if track else None)

    def forward(self, x):
        axes = [0]
        shape = [1, *x.shape[1:]]
        wide = [-1] + [1] * (x.dim() - 2)
        full = torch.ones_like(x[0])
        mean = None if not self.track else self.running_mean.view(wide) * full
        var = None if not self.track else self.running_var.view(wide) * full
        if self.training or not self.track:
            m = max(x.shape[0], 2)
            if x.numel() == x.shape[1]:
                raise ValueError("one value per channel has no variance")
            mean, var = x.mean(axes), x.var(axes, correction=0)
        if self.training and self.track:
            self.num_batches_tracked += 1
            r = self.momentum
            if r is None:
                r = 1 / self.num_batches_tracked.item()
            with torch.no_grad():
                self.running_mean += (
                    r * (mean.flatten(1).mean(1) - self.running_mean)
                    if x.dim() > 2
                    else r * (mean - self.running_mean)
                )
                new = var * m / (m - 1)
                new = new.flatten(1).mean(1) if x.dim() > 2 else new
                self.running_var += r * (new - self.running_var)
        y = (x - mean.view(shape)) / torch.sqrt(var.view(shape) + self.eps)
        if self.affine:
            y = y * self.weight.view([1, -1] + [1] * (x.dim() - 2)) + self.bias.view(
                [1, -1] + [1] * (x.dim() - 2)
            )
        return y


@misconception(
    "bn",
    hint="eps is added to the standard deviation, outside the root. It belongs to the variance, below the root.",
)
class MyBatchNorm(nn.Module):
    def __init__(self, C, eps=1e-5, momentum=0.1, affine=True, track=True):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.affine, self.track = affine, track
        self.weight = nn.Parameter(torch.ones(C)) if affine else None
        self.bias = nn.Parameter(torch.zeros(C)) if affine else None
        self.register_buffer("running_mean", torch.zeros(C) if track else None)
        self.register_buffer("running_var", torch.ones(C) if track else None)
        self.register_buffer("num_batches_tracked", torch.tensor(0) if track else None)

    def forward(self, x):
        axes = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        mean, var = self.running_mean, self.running_var
        if self.training or not self.track:
            m = x.numel() // x.shape[1]
            if m == 1:
                raise ValueError("one value per channel has no variance")
            mean, var = x.mean(axes), x.var(axes, correction=0)
        if self.training and self.track:
            self.num_batches_tracked += 1
            r = self.momentum
            if r is None:
                r = 1 / self.num_batches_tracked.item()
            with torch.no_grad():
                self.running_mean += r * (mean - self.running_mean)
                self.running_var += r * (var * m / (m - 1) - self.running_var)
        y = (x - mean.view(shape)) / (torch.sqrt(var.view(shape)) + self.eps)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y


@misconception(
    "bn",
    hint="The statistics are detached, as if the mean and the variance were constants. Gradients must flow through them, in training; only the running ones carry none.",
)
class MyBatchNorm(nn.Module):
    def __init__(self, C, eps=1e-5, momentum=0.1, affine=True, track=True):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.affine, self.track = affine, track
        self.weight = nn.Parameter(torch.ones(C)) if affine else None
        self.bias = nn.Parameter(torch.zeros(C)) if affine else None
        self.register_buffer("running_mean", torch.zeros(C) if track else None)
        self.register_buffer("running_var", torch.ones(C) if track else None)
        self.register_buffer("num_batches_tracked", torch.tensor(0) if track else None)

    def forward(self, x):
        axes = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        mean, var = self.running_mean, self.running_var
        if self.training or not self.track:
            m = x.numel() // x.shape[1]
            if m == 1:
                raise ValueError("one value per channel has no variance")
            mean, var = x.detach().mean(axes), x.detach().var(axes, correction=0)
        if self.training and self.track:
            self.num_batches_tracked += 1
            r = self.momentum
            if r is None:
                r = 1 / self.num_batches_tracked.item()
            with torch.no_grad():
                self.running_mean += r * (mean - self.running_mean)
                self.running_var += r * (var * m / (m - 1) - self.running_var)
        y = (x - mean.view(shape)) / torch.sqrt(var.view(shape) + self.eps)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y


@misconception(
    "bn",
    hint="With momentum=None the step is one half each time. The plain mean of t batches needs the step 1 / t, and the layer counts its batches for that.",
)
class MyBatchNorm(nn.Module):
    def __init__(self, C, eps=1e-5, momentum=0.1, affine=True, track=True):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.affine, self.track = affine, track
        self.weight = nn.Parameter(torch.ones(C)) if affine else None
        self.bias = nn.Parameter(torch.zeros(C)) if affine else None
        self.register_buffer("running_mean", torch.zeros(C) if track else None)
        self.register_buffer("running_var", torch.ones(C) if track else None)
        self.register_buffer("num_batches_tracked", torch.tensor(0) if track else None)

    def forward(self, x):
        axes = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        mean, var = self.running_mean, self.running_var
        if self.training or not self.track:
            m = x.numel() // x.shape[1]
            if m == 1:
                raise ValueError("one value per channel has no variance")
            mean, var = x.mean(axes), x.var(axes, correction=0)
        if self.training and self.track:
            self.num_batches_tracked += 1
            r = self.momentum
            if r is None:
                r = 0.5 if self.num_batches_tracked > 1 else 1.0
            with torch.no_grad():
                self.running_mean += r * (mean - self.running_mean)
                self.running_var += r * (var * m / (m - 1) - self.running_var)
        y = (x - mean.view(shape)) / torch.sqrt(var.view(shape) + self.eps)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y


@misconception(
    "bn",
    hint="The running statistics are plain tensors or parameters, not buffers. What makes a module save and move a tensor without learning it?",
)
class MyBatchNorm(nn.Module):
    def __init__(self, C, eps=1e-5, momentum=0.1, affine=True, track=True):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.affine, self.track = affine, track
        self.weight = nn.Parameter(torch.ones(C)) if affine else None
        self.bias = nn.Parameter(torch.zeros(C)) if affine else None
        self.running_mean = torch.zeros(C) if track else None
        self.running_var = torch.ones(C) if track else None
        self.num_batches_tracked = torch.tensor(0) if track else None

    def forward(self, x):
        axes = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        mean, var = self.running_mean, self.running_var
        if self.training or not self.track:
            m = x.numel() // x.shape[1]
            if m == 1:
                raise ValueError("one value per channel has no variance")
            mean, var = x.mean(axes), x.var(axes, correction=0)
        if self.training and self.track:
            self.num_batches_tracked += 1
            r = self.momentum
            if r is None:
                r = 1 / self.num_batches_tracked.item()
            with torch.no_grad():
                self.running_mean += r * (mean - self.running_mean)
                self.running_var += r * (var * m / (m - 1) - self.running_var)
        y = (x - mean.view(shape)) / torch.sqrt(var.view(shape) + self.eps)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y


@misconception(
    "bn",
    hint="One value per channel passes through as zero, silently. It has no variance: raise a ValueError, so that nobody trains on it.",
)
class MyBatchNorm(nn.Module):
    def __init__(self, C, eps=1e-5, momentum=0.1, affine=True, track=True):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.affine, self.track = affine, track
        self.weight = nn.Parameter(torch.ones(C)) if affine else None
        self.bias = nn.Parameter(torch.zeros(C)) if affine else None
        self.register_buffer("running_mean", torch.zeros(C) if track else None)
        self.register_buffer("running_var", torch.ones(C) if track else None)
        self.register_buffer("num_batches_tracked", torch.tensor(0) if track else None)

    def forward(self, x):
        axes = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        mean, var = self.running_mean, self.running_var
        if self.training or not self.track:
            m = x.numel() // x.shape[1]
            mean, var = x.mean(axes), x.var(axes, correction=0)
        if self.training and self.track:
            self.num_batches_tracked += 1
            r = self.momentum
            if r is None:
                r = 1 / self.num_batches_tracked.item()
            with torch.no_grad():
                self.running_mean += r * (mean - self.running_mean)
                self.running_var += r * (var * m / max(m - 1, 1) - self.running_var)
        y = (x - mean.view(shape)) / torch.sqrt(var.view(shape) + self.eps)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y


@misconception(
    "bn",
    hint="The mean is detached, but not the variance. Gradients must flow through both, in training; only the running statistics carry none.",
)
class MyBatchNorm(nn.Module):
    def __init__(self, C, eps=1e-5, momentum=0.1, affine=True, track=True):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.affine, self.track = affine, track
        self.weight = nn.Parameter(torch.ones(C)) if affine else None
        self.bias = nn.Parameter(torch.zeros(C)) if affine else None
        self.register_buffer("running_mean", torch.zeros(C) if track else None)
        self.register_buffer("running_var", torch.ones(C) if track else None)
        self.register_buffer("num_batches_tracked", torch.tensor(0) if track else None)

    def forward(self, x):
        axes = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        mean, var = self.running_mean, self.running_var
        if self.training or not self.track:
            m = x.numel() // x.shape[1]
            if m == 1:
                raise ValueError("one value per channel has no variance")
            mean, var = x.detach().mean(axes), x.var(axes, correction=0)
        if self.training and self.track:
            self.num_batches_tracked += 1
            r = self.momentum
            if r is None:
                r = 1 / self.num_batches_tracked.item()
            with torch.no_grad():
                self.running_mean += r * (mean - self.running_mean)
                self.running_var += r * (var * m / (m - 1) - self.running_var)
        y = (x - mean.view(shape)) / torch.sqrt(var.view(shape) + self.eps)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y


@misconception(
    "bn",
    hint="With momentum=None the step is 1 / (t + 1): the batch is counted twice, and the start value 0 gets a weight. The first batch should have the weight 1: count first, then divide by the count.",
)
class MyBatchNorm(nn.Module):
    def __init__(self, C, eps=1e-5, momentum=0.1, affine=True, track=True):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.affine, self.track = affine, track
        self.weight = nn.Parameter(torch.ones(C)) if affine else None
        self.bias = nn.Parameter(torch.zeros(C)) if affine else None
        self.register_buffer("running_mean", torch.zeros(C) if track else None)
        self.register_buffer("running_var", torch.ones(C) if track else None)
        self.register_buffer("num_batches_tracked", torch.tensor(0) if track else None)

    def forward(self, x):
        axes = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        mean, var = self.running_mean, self.running_var
        if self.training or not self.track:
            m = x.numel() // x.shape[1]
            if m == 1:
                raise ValueError("one value per channel has no variance")
            mean, var = x.mean(axes), x.var(axes, correction=0)
        if self.training and self.track:
            self.num_batches_tracked += 1
            r = self.momentum
            if r is None:
                r = 1 / (self.num_batches_tracked.item() + 1)
            with torch.no_grad():
                self.running_mean += r * (mean - self.running_mean)
                self.running_var += r * (var * m / (m - 1) - self.running_var)
        y = (x - mean.view(shape)) / torch.sqrt(var.view(shape) + self.eps)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y


@misconception(
    "bn",
    hint="One example is refused, although it may have many positions. What counts is the number of values in a channel, batch times positions.",
)
class MyBatchNorm(nn.Module):
    def __init__(self, C, eps=1e-5, momentum=0.1, affine=True, track=True):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.affine, self.track = affine, track
        self.weight = nn.Parameter(torch.ones(C)) if affine else None
        self.bias = nn.Parameter(torch.zeros(C)) if affine else None
        self.register_buffer("running_mean", torch.zeros(C) if track else None)
        self.register_buffer("running_var", torch.ones(C) if track else None)
        self.register_buffer("num_batches_tracked", torch.tensor(0) if track else None)

    def forward(self, x):
        axes = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        mean, var = self.running_mean, self.running_var
        if self.training or not self.track:
            m = x.numel() // x.shape[1]
            if x.shape[0] == 1:
                raise ValueError("one value per channel has no variance")
            mean, var = x.mean(axes), x.var(axes, correction=0)
        if self.training and self.track:
            self.num_batches_tracked += 1
            r = self.momentum
            if r is None:
                r = 1 / self.num_batches_tracked.item()
            with torch.no_grad():
                self.running_mean += r * (mean - self.running_mean)
                self.running_var += r * (var * m / (m - 1) - self.running_var)
        y = (x - mean.view(shape)) / torch.sqrt(var.view(shape) + self.eps)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y


@misconception(
    "bn",
    hint="The running statistics carry a gradient: through them each batch would hold on to the graphs of all batches before. Detach what goes into them, or move them under `torch.no_grad()`.",
)
class MyBatchNorm(nn.Module):
    def __init__(self, C, eps=1e-5, momentum=0.1, affine=True, track=True):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.affine, self.track = affine, track
        self.weight = nn.Parameter(torch.ones(C)) if affine else None
        self.bias = nn.Parameter(torch.zeros(C)) if affine else None
        self.register_buffer("running_mean", torch.zeros(C) if track else None)
        self.register_buffer("running_var", torch.ones(C) if track else None)
        self.register_buffer("num_batches_tracked", torch.tensor(0) if track else None)

    def forward(self, x):
        axes = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        mean, var = self.running_mean, self.running_var
        if self.training or not self.track:
            m = x.numel() // x.shape[1]
            if m == 1:
                raise ValueError("one value per channel has no variance")
            mean, var = x.mean(axes), x.var(axes, correction=0)
        if self.training and self.track:
            self.num_batches_tracked += 1
            r = self.momentum
            if r is None:
                r = 1 / self.num_batches_tracked.item()
            self.running_mean = self.running_mean + r * (mean - self.running_mean)
            self.running_var = self.running_var + r * (var * m / (m - 1) - self.running_var)
        y = (x - mean.view(shape)) / torch.sqrt(var.view(shape) + self.eps)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y


@misconception(
    "bn",
    hint="Without running statistics, evaluation uses mean 0 and variance 1. With track=False the layer has nothing but the batch: use its statistics in both modes.",
)
class MyBatchNorm(nn.Module):
    def __init__(self, C, eps=1e-5, momentum=0.1, affine=True, track=True):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.affine, self.track = affine, track
        self.weight = nn.Parameter(torch.ones(C)) if affine else None
        self.bias = nn.Parameter(torch.zeros(C)) if affine else None
        self.register_buffer("running_mean", torch.zeros(C) if track else None)
        self.register_buffer("running_var", torch.ones(C) if track else None)
        self.register_buffer("num_batches_tracked", torch.tensor(0) if track else None)

    def forward(self, x):
        axes = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        mean, var = self.running_mean, self.running_var
        if not self.track:
            mean, var = torch.zeros(x.shape[1]).to(x), torch.ones(x.shape[1]).to(x)
        if self.training:
            m = x.numel() // x.shape[1]
            if m == 1:
                raise ValueError("one value per channel has no variance")
            mean, var = x.mean(axes), x.var(axes, correction=0)
        if self.training and self.track:
            self.num_batches_tracked += 1
            r = self.momentum
            if r is None:
                r = 1 / self.num_batches_tracked.item()
            with torch.no_grad():
                self.running_mean += r * (mean - self.running_mean)
                self.running_var += r * (var * m / (m - 1) - self.running_var)
        y = (x - mean.view(shape)) / torch.sqrt(var.view(shape) + self.eps)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y


@misconception(
    "bn",
    hint="The counter of batches is no integer. num_batches_tracked is an int64 buffer; floating-point buffers change their dtype with `net.double()` or `net.half()`.",
)
class MyBatchNorm(nn.Module):
    def __init__(self, C, eps=1e-5, momentum=0.1, affine=True, track=True):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.affine, self.track = affine, track
        self.weight = nn.Parameter(torch.ones(C)) if affine else None
        self.bias = nn.Parameter(torch.zeros(C)) if affine else None
        self.register_buffer("running_mean", torch.zeros(C) if track else None)
        self.register_buffer("running_var", torch.ones(C) if track else None)
        self.register_buffer("num_batches_tracked", torch.tensor(0.0) if track else None)

    def forward(self, x):
        axes = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        mean, var = self.running_mean, self.running_var
        if self.training or not self.track:
            m = x.numel() // x.shape[1]
            if m == 1:
                raise ValueError("one value per channel has no variance")
            mean, var = x.mean(axes), x.var(axes, correction=0)
        if self.training and self.track:
            self.num_batches_tracked += 1
            r = self.momentum
            if r is None:
                r = 1 / self.num_batches_tracked.item()
            with torch.no_grad():
                self.running_mean += r * (mean - self.running_mean)
                self.running_var += r * (var * m / (m - 1) - self.running_var)
        y = (x - mean.view(shape)) / torch.sqrt(var.view(shape) + self.eps)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y


# --- bnback ----------------------------------------------------------------------------------


@misconception(
    "bnback",
    hint="Mean and standard deviation are treated as constants. They depend on every x of the "
    "channel: two more terms are missing in dx.",
)
def bn_backward(dy, cache):
    xhat, gamma, std = cache
    axes = [0, *range(2, dy.dim())]
    shape = [1, -1] + [1] * (dy.dim() - 2)
    return dy * (gamma / std).view(shape), (dy * xhat).sum(axes), dy.sum(axes)


@misconception(
    "bnback",
    hint="The mean's part is there, but not that of the standard deviation: dx still points along "
    "xhat, although stretching the batch changes nothing.",
)
def bn_backward(dy, cache):
    xhat, gamma, std = cache
    axes = [0, *range(2, dy.dim())]
    shape = [1, -1] + [1] * (dy.dim() - 2)
    dx = (gamma / std).view(shape) * (dy - dy.mean(axes, keepdim=True))
    return dx, (dy * xhat).sum(axes), dy.sum(axes)


@misconception(
    "bnback",
    hint="The part through the standard deviation is there, but not that through the mean: dx "
    "does not add up to 0 in a channel.",
)
def bn_backward(dy, cache):
    xhat, gamma, std = cache
    axes = [0, *range(2, dy.dim())]
    shape = [1, -1] + [1] * (dy.dim() - 2)
    along = xhat * (dy * xhat).mean(axes, keepdim=True)
    return (gamma / std).view(shape) * (dy - along), (dy * xhat).sum(axes), dy.sum(axes)


@misconception(
    "bnback",
    hint="m is the number of values in a channel, batch times positions; here only the batch is "
    "counted.",
)
def bn_backward(dy, cache):
    xhat, gamma, std = cache
    axes = [0, *range(2, dy.dim())]
    shape = [1, -1] + [1] * (dy.dim() - 2)
    dgamma, dbeta = (dy * xhat).sum(axes), dy.sum(axes)
    along = xhat * dgamma.view(shape) + dbeta.view(shape)
    return (gamma / std).view(shape) * (dy - along / dy.shape[0]), dgamma, dbeta


@misconception(
    "bnback",
    hint="dgamma and dbeta are means. The same gamma serves every value of the channel, so the "
    "contributions add up: take sums.",
)
def bn_backward(dy, cache):
    xhat, gamma, std = cache
    axes = [0, *range(2, dy.dim())]
    shape = [1, -1] + [1] * (dy.dim() - 2)
    dgamma, dbeta = (dy * xhat).mean(axes), dy.mean(axes)
    dx = dy - xhat * dgamma.view(shape) - dbeta.view(shape)
    return (gamma / std).view(shape) * dx, dgamma, dbeta


@misconception(
    "bnback",
    hint="Gamma is missing in dx. It stands between xhat and the loss, so the gradient passes "
    "through it.",
)
def bn_backward(dy, cache):
    xhat, gamma, std = cache
    axes = [0, *range(2, dy.dim())]
    shape = [1, -1] + [1] * (dy.dim() - 2)
    mean = dy.mean(axes, keepdim=True)
    dx = (dy - mean - xhat * (dy * xhat).mean(axes, keepdim=True)) / std.view(shape)
    return dx, (dy * xhat).sum(axes), dy.sum(axes)


@misconception(
    "bnback",
    hint="dx is multiplied by the standard deviation. The forward pass divides by it, so the "
    "gradient is divided, too.",
)
def bn_backward(dy, cache):
    xhat, gamma, std = cache
    axes = [0, *range(2, dy.dim())]
    shape = [1, -1] + [1] * (dy.dim() - 2)
    mean = dy.mean(axes, keepdim=True)
    dx = (dy - mean - xhat * (dy * xhat).mean(axes, keepdim=True)) * (gamma * std).view(shape)
    return dx, (dy * xhat).sum(axes), dy.sum(axes)


@misconception(
    "bnback",
    hint="The two sums are subtracted as they are. The formula has means: divide them by the "
    "number of values in a channel.",
)
def bn_backward(dy, cache):
    xhat, gamma, std = cache
    axes = [0, *range(2, dy.dim())]
    shape = [1, -1] + [1] * (dy.dim() - 2)
    dgamma, dbeta = (dy * xhat).sum(axes), dy.sum(axes)
    dx = dy - xhat * dgamma.view(shape) - dbeta.view(shape)
    return (gamma / std).view(shape) * dx, dgamma, dbeta


@misconception(
    "bnback",
    hint="The order is wrong: first dx, then dgamma, then dbeta.",
)
def bn_backward(dy, cache):
    xhat, gamma, std = cache
    axes = [0, *range(2, dy.dim())]
    shape = [1, -1] + [1] * (dy.dim() - 2)
    mean = dy.mean(axes, keepdim=True)
    dx = dy - mean - xhat * (dy * xhat).mean(axes, keepdim=True)
    return (gamma / std).view(shape) * dx, dy.sum(axes), (dy * xhat).sum(axes)


@misconception(
    "bnback",
    hint="dx is divided by the variance. The third number of the cache is the standard deviation "
    "already, and the formula divides by it once.",
)
def bn_backward(dy, cache):
    xhat, gamma, std = cache
    axes = [0, *range(2, dy.dim())]
    shape = [1, -1] + [1] * (dy.dim() - 2)
    mean = dy.mean(axes, keepdim=True)
    dx = dy - mean - xhat * (dy * xhat).mean(axes, keepdim=True)
    return (gamma / std**2).view(shape) * dx, (dy * xhat).sum(axes), dy.sum(axes)


@misconception(
    "bnback",
    hint="The mean of g·xhat is subtracted as a constant. It belongs to the direction xhat: "
    "multiply it by xhat of each value.",
)
def bn_backward(dy, cache):
    xhat, gamma, std = cache
    axes = [0, *range(2, dy.dim())]
    shape = [1, -1] + [1] * (dy.dim() - 2)
    dx = dy - dy.mean(axes, keepdim=True) - (dy * xhat).mean(axes, keepdim=True)
    return (gamma / std).view(shape) * dx, (dy * xhat).sum(axes), dy.sum(axes)


@misconception(
    "bnback",
    hint="The two parts are added; they are taken away from the gradient, so that nothing is left "
    "of its mean and of its part along xhat.",
)
def bn_backward(dy, cache):
    xhat, gamma, std = cache
    axes = [0, *range(2, dy.dim())]
    shape = [1, -1] + [1] * (dy.dim() - 2)
    mean = dy.mean(axes, keepdim=True)
    dx = dy + mean + xhat * (dy * xhat).mean(axes, keepdim=True)
    return (gamma / std).view(shape) * dx, (dy * xhat).sum(axes), dy.sum(axes)


# --- family ----------------------------------------------------------------------------------


@misconception(
    "family",
    hint="The variance divides by n - 1. Normalisation layers use the biased one, which divides by "
    "n: `correction=0`.",
)
def normalize(x, axes, eps):
    mean = x.mean(axes, keepdim=True)
    return (x - mean) / torch.sqrt(x.var(axes, keepdim=True) + eps)


@misconception(
    "family",
    hint="eps is added to the standard deviation. It belongs to the variance, below the root.",
)
def normalize(x, axes, eps):
    mean = x.mean(axes, keepdim=True)
    return (x - mean) / (x.var(axes, keepdim=True, correction=0).sqrt() + eps)


@misconception(
    "family",
    hint="The values are divided by the variance. Only the standard deviation, its root, makes the "
    "variance 1.",
)
def normalize(x, axes, eps):
    mean = x.mean(axes, keepdim=True)
    return (x - mean) / (x.var(axes, keepdim=True, correction=0) + eps)


@misconception(
    "family",
    hint="The axes are understood the wrong way round: the statistics should be taken over the "
    "given axes, and be kept for all others.",
)
def normalize(x, axes, eps):
    given = [a % x.dim() for a in axes]
    over = tuple(a for a in range(x.dim()) if a not in given)
    if not over:
        return torch.zeros_like(x)
    mean = x.mean(over, keepdim=True)
    return (x - mean) / torch.sqrt(x.var(over, keepdim=True, correction=0) + eps)


@misconception(
    "family",
    hint="Groups are blocks of neighbouring channels; here every G-th channel belongs to one group.",
)
def group_norm(x, G, gamma, beta):
    N, C = x.shape[:2]
    if C % G:
        raise ValueError("G does not divide C")
    groups = x.reshape(N, C // G, G, -1)
    mean = groups.mean((1, 3), keepdim=True)
    var = groups.var((1, 3), keepdim=True, correction=0)
    xhat = ((groups - mean) / torch.sqrt(var + 1e-5)).reshape(x.shape)
    shape = [1, C] + [1] * (x.dim() - 2)
    return gamma.view(shape) * xhat + beta.view(shape)


@misconception(
    "family",
    hint="G is taken for the number of channels in a group. It is the number of groups; a group "
    "has C / G channels.",
)
def group_norm(x, G, gamma, beta):
    N, C = x.shape[:2]
    if C % G:
        raise ValueError("G does not divide C")
    groups = x.reshape(N, C // G, -1)
    mean = groups.mean(2, keepdim=True)
    var = groups.var(2, keepdim=True, correction=0)
    xhat = ((groups - mean) / torch.sqrt(var + 1e-5)).reshape(x.shape)
    shape = [1, C] + [1] * (x.dim() - 2)
    return gamma.view(shape) * xhat + beta.view(shape)


@misconception(
    "family",
    hint="A group's statistics are taken over the batch as well. Each example stands alone; only "
    "batch norm looks at the others.",
)
def group_norm(x, G, gamma, beta):
    N, C = x.shape[:2]
    if C % G:
        raise ValueError("G does not divide C")
    groups = x.reshape(N, G, -1)
    mean = groups.mean((0, 2), keepdim=True)
    var = groups.var((0, 2), keepdim=True, correction=0)
    xhat = ((groups - mean) / torch.sqrt(var + 1e-5)).reshape(x.shape)
    shape = [1, C] + [1] * (x.dim() - 2)
    return gamma.view(shape) * xhat + beta.view(shape)


@misconception(
    "family",
    hint="gamma and beta are forgotten. After standardising, each channel is scaled and shifted.",
)
def group_norm(x, G, gamma, beta):
    N, C = x.shape[:2]
    if C % G:
        raise ValueError("G does not divide C")
    groups = x.reshape(N, G, -1)
    mean = groups.mean(2, keepdim=True)
    var = groups.var(2, keepdim=True, correction=0)
    return ((groups - mean) / torch.sqrt(var + 1e-5)).reshape(x.shape)


@misconception(
    "family",
    hint="x itself is changed. A layer must leave its input alone: `x - mean` makes a new tensor, "
    "`x -= mean` does not.",
)
def normalize(x, axes, eps):
    std = torch.sqrt(x.var(axes, keepdim=True, correction=0) + eps)
    x -= x.mean(axes, keepdim=True)
    return x / std


@misconception(
    "family",
    hint="gamma and beta are used as they are, so that they meet the last axis. They belong to "
    "the channels: give them the shape (1, C, 1, …).",
)
def group_norm(x, G, gamma, beta):
    N, C = x.shape[:2]
    if C % G:
        raise ValueError("G does not divide C")
    groups = x.reshape(N, G, -1)
    mean = groups.mean(2, keepdim=True)
    var = groups.var(2, keepdim=True, correction=0)
    return ((groups - mean) / torch.sqrt(var + 1e-5)).reshape(x.shape) * gamma + beta


@misconception(
    "family",
    hint="Each position has statistics of its own: only the channels of a group are averaged. Its "
    "positions belong to the group, too.",
)
def group_norm(x, G, gamma, beta):
    N, C = x.shape[:2]
    if C % G:
        raise ValueError("G does not divide C")
    groups = x.reshape(N, G, C // G, -1)
    mean = groups.mean(2, keepdim=True)
    var = groups.var(2, keepdim=True, correction=0)
    xhat = ((groups - mean) / torch.sqrt(var + 1e-5)).reshape(x.shape)
    shape = [1, C] + [1] * (x.dim() - 2)
    return gamma.view(shape) * xhat + beta.view(shape)


@misconception(
    "family",
    hint="A number of groups that does not divide the channels should raise a ValueError. "
    "`reshape` does not notice it, where the positions happen to fit.",
)
def group_norm(x, G, gamma, beta):
    N, C = x.shape[:2]
    groups = x.reshape(N, G, -1)
    mean = groups.mean(2, keepdim=True)
    var = groups.var(2, keepdim=True, correction=0)
    xhat = ((groups - mean) / torch.sqrt(var + 1e-5)).reshape(x.shape)
    shape = [1, C] + [1] * (x.dim() - 2)
    return gamma.view(shape) * xhat + beta.view(shape)


# --- fold ------------------------------------------------------------------------------------


@misconception(
    "fold",
    hint="eps is missing below the root. Where a channel's variance is tiny, the factor becomes "
    "far too large.",
)
def fold_conv_bn(conv, bn):
    if bn.running_mean is None:
        raise ValueError("no running statistics")
    std = torch.sqrt(bn.running_var)
    gamma = torch.ones_like(std) if bn.weight is None else bn.weight
    beta = torch.zeros_like(std) if bn.bias is None else bn.bias
    b = torch.zeros_like(std) if conv.bias is None else conv.bias
    folded = copy.deepcopy(conv)
    folded.weight = nn.Parameter((conv.weight * (gamma / std)[:, None, None, None]).detach())
    folded.bias = nn.Parameter((gamma / std * (b - bn.running_mean) + beta).detach())
    return folded


@misconception(
    "fold",
    hint="The convolution's own bias is lost. It passes through the batch norm like everything "
    "else: b - mean, times the factor.",
)
def fold_conv_bn(conv, bn):
    if bn.running_mean is None:
        raise ValueError("no running statistics")
    std = torch.sqrt(bn.running_var + bn.eps)
    gamma = torch.ones_like(std) if bn.weight is None else bn.weight
    beta = torch.zeros_like(std) if bn.bias is None else bn.bias
    folded = copy.deepcopy(conv)
    folded.weight = nn.Parameter((conv.weight * (gamma / std)[:, None, None, None]).detach())
    folded.bias = nn.Parameter((beta - gamma / std * bn.running_mean).detach())
    return folded


@misconception(
    "fold",
    hint="The convolution's bias is added as it is. It stands in front of the batch norm, so it is "
    "scaled like the weights.",
)
def fold_conv_bn(conv, bn):
    if bn.running_mean is None:
        raise ValueError("no running statistics")
    std = torch.sqrt(bn.running_var + bn.eps)
    gamma = torch.ones_like(std) if bn.weight is None else bn.weight
    beta = torch.zeros_like(std) if bn.bias is None else bn.bias
    b = torch.zeros_like(std) if conv.bias is None else conv.bias
    folded = copy.deepcopy(conv)
    folded.weight = nn.Parameter((conv.weight * (gamma / std)[:, None, None, None]).detach())
    folded.bias = nn.Parameter((b - gamma / std * bn.running_mean + beta).detach())
    return folded


@misconception(
    "fold",
    hint="The original convolution is overwritten and returned. Whoever goes on using it gets the "
    "batch norm twice: make a new layer.",
)
def fold_conv_bn(conv, bn):
    if bn.running_mean is None:
        raise ValueError("no running statistics")
    std = torch.sqrt(bn.running_var + bn.eps)
    gamma = torch.ones_like(std) if bn.weight is None else bn.weight
    beta = torch.zeros_like(std) if bn.bias is None else bn.bias
    with torch.no_grad():
        b = torch.zeros_like(std) if conv.bias is None else conv.bias.clone()
        conv.weight *= (gamma / std)[:, None, None, None]
        conv.bias = nn.Parameter(gamma / std * (b - bn.running_mean) + beta)
    return conv


@misconception(
    "fold",
    hint="The new layer has only channels, kernel and bias of the old one. Stride, padding, "
    "dilation, groups and the padding mode belong to it, too.",
)
def fold_conv_bn(conv, bn):
    if bn.running_mean is None:
        raise ValueError("no running statistics")
    std = torch.sqrt(bn.running_var + bn.eps)
    gamma = torch.ones_like(std) if bn.weight is None else bn.weight
    beta = torch.zeros_like(std) if bn.bias is None else bn.bias
    b = torch.zeros_like(std) if conv.bias is None else conv.bias
    folded = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size).to(conv.weight)
    folded.weight = nn.Parameter((conv.weight * (gamma / std)[:, None, None, None]).detach())
    folded.bias = nn.Parameter((gamma / std * (b - bn.running_mean) + beta).detach())
    return folded


@misconception(
    "fold",
    hint="Without running statistics there is no fixed map to fold: the batch norm then always "
    "uses the batch. Raise a ValueError instead of guessing 0 and 1.",
)
def fold_conv_bn(conv, bn):
    ones = torch.ones(conv.out_channels).to(conv.weight)
    var = ones if bn.running_var is None else bn.running_var
    mean = 0 * ones if bn.running_mean is None else bn.running_mean
    std = torch.sqrt(var + bn.eps)
    gamma = torch.ones_like(std) if bn.weight is None else bn.weight
    beta = torch.zeros_like(std) if bn.bias is None else bn.bias
    b = torch.zeros_like(std) if conv.bias is None else conv.bias
    folded = copy.deepcopy(conv)
    folded.weight = nn.Parameter((conv.weight * (gamma / std)[:, None, None, None]).detach())
    folded.bias = nn.Parameter((gamma / std * (b - mean) + beta).detach())
    return folded


@misconception(
    "fold",
    hint="The weights are divided by the variance. BN divides by its root.",
)
def fold_conv_bn(conv, bn):
    if bn.running_mean is None:
        raise ValueError("no running statistics")
    std = bn.running_var + bn.eps
    gamma = torch.ones_like(std) if bn.weight is None else bn.weight
    beta = torch.zeros_like(std) if bn.bias is None else bn.bias
    b = torch.zeros_like(std) if conv.bias is None else conv.bias
    folded = copy.deepcopy(conv)
    folded.weight = nn.Parameter((conv.weight * (gamma / std)[:, None, None, None]).detach())
    folded.bias = nn.Parameter((gamma / std * (b - bn.running_mean) + beta).detach())
    return folded


@misconception(
    "fold",
    hint="eps is a fixed 1e-5. A batch norm carries its own: use `bn.eps`.",
)
def fold_conv_bn(conv, bn):
    if bn.running_mean is None:
        raise ValueError("no running statistics")
    std = torch.sqrt(bn.running_var + 1e-5)
    gamma = torch.ones_like(std) if bn.weight is None else bn.weight
    beta = torch.zeros_like(std) if bn.bias is None else bn.bias
    b = torch.zeros_like(std) if conv.bias is None else conv.bias
    folded = copy.deepcopy(conv)
    folded.weight = nn.Parameter((conv.weight * (gamma / std)[:, None, None, None]).detach())
    folded.bias = nn.Parameter((gamma / std * (b - bn.running_mean) + beta).detach())
    return folded


@misconception(
    "fold",
    hint="The factor runs along the second axis of the weight, that of the inputs. It belongs to the outputs, the first axis.",
)
def fold_conv_bn(conv, bn):
    if bn.running_mean is None:
        raise ValueError("no running statistics")
    std = torch.sqrt(bn.running_var + bn.eps)
    gamma = torch.ones_like(std) if bn.weight is None else bn.weight
    beta = torch.zeros_like(std) if bn.bias is None else bn.bias
    b = torch.zeros_like(std) if conv.bias is None else conv.bias
    folded = copy.deepcopy(conv)
    folded.weight = nn.Parameter((conv.weight * (gamma / std)[None, :, None, None]).detach())
    folded.bias = nn.Parameter((gamma / std * (b - bn.running_mean) + beta).detach())
    return folded


@misconception(
    "fold",
    hint="beta is forgotten: it is added to the new bias as it is.",
)
def fold_conv_bn(conv, bn):
    if bn.running_mean is None:
        raise ValueError("no running statistics")
    std = torch.sqrt(bn.running_var + bn.eps)
    gamma = torch.ones_like(std) if bn.weight is None else bn.weight
    b = torch.zeros_like(std) if conv.bias is None else conv.bias
    folded = copy.deepcopy(conv)
    folded.weight = nn.Parameter((conv.weight * (gamma / std)[:, None, None, None]).detach())
    folded.bias = nn.Parameter((gamma / std * (b - bn.running_mean)).detach())
    return folded


@misconception(
    "fold",
    hint="A batch norm with affine=False has no gamma and no beta: take 1 and 0.",
)
def fold_conv_bn(conv, bn):
    if bn.running_mean is None:
        raise ValueError("no running statistics")
    std = torch.sqrt(bn.running_var + bn.eps)
    gamma = bn.weight
    beta = bn.bias
    b = torch.zeros_like(std) if conv.bias is None else conv.bias
    folded = copy.deepcopy(conv)
    folded.weight = nn.Parameter((conv.weight * (gamma / std)[:, None, None, None]).detach())
    folded.bias = nn.Parameter((gamma / std * (b - bn.running_mean) + beta).detach())
    return folded


@misconception(
    "fold",
    hint="Without running statistics there is nothing to fold. Ask for them before you calculate, and raise a ValueError.",
)
def fold_conv_bn(conv, bn):
    std = torch.sqrt(bn.running_var + bn.eps)
    gamma = torch.ones_like(std) if bn.weight is None else bn.weight
    beta = torch.zeros_like(std) if bn.bias is None else bn.bias
    b = torch.zeros_like(std) if conv.bias is None else conv.bias
    folded = copy.deepcopy(conv)
    folded.weight = nn.Parameter((conv.weight * (gamma / std)[:, None, None, None]).detach())
    folded.bias = nn.Parameter((gamma / std * (b - bn.running_mean) + beta).detach())
    return folded


@misconception(
    "fold",
    hint="The padding mode is lost: the new layer pads with zeros.",
)
def fold_conv_bn(conv, bn):
    if bn.running_mean is None:
        raise ValueError("no running statistics")
    std = torch.sqrt(bn.running_var + bn.eps)
    gamma = torch.ones_like(std) if bn.weight is None else bn.weight
    beta = torch.zeros_like(std) if bn.bias is None else bn.bias
    b = torch.zeros_like(std) if conv.bias is None else conv.bias
    folded = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.dilation,
        conv.groups,
    ).to(conv.weight)
    folded.weight = nn.Parameter((conv.weight * (gamma / std)[:, None, None, None]).detach())
    folded.bias = nn.Parameter((gamma / std * (b - bn.running_mean) + beta).detach())
    return folded


@misconception(
    "fold",
    hint="Dilation and groups are lost. With groups a filter sees only a part of the input channels, so the new layer needs them, too.",
)
def fold_conv_bn(conv, bn):
    if bn.running_mean is None:
        raise ValueError("no running statistics")
    std = torch.sqrt(bn.running_var + bn.eps)
    gamma = torch.ones_like(std) if bn.weight is None else bn.weight
    beta = torch.zeros_like(std) if bn.bias is None else bn.bias
    b = torch.zeros_like(std) if conv.bias is None else conv.bias
    folded = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
    ).to(conv.weight)
    with torch.no_grad():
        folded.weight.copy_(conv.weight * (gamma / std)[:, None, None, None])
        folded.bias.copy_(gamma / std * (b - bn.running_mean) + beta)
    return folded


@misconception(
    "fold",
    hint="The new layer has torch's default dtype and device. `.to(conv.weight)` gives it the old one's.",
)
def fold_conv_bn(conv, bn):
    if bn.running_mean is None:
        raise ValueError("no running statistics")
    std = torch.sqrt(bn.running_var + bn.eps)
    gamma = torch.ones_like(std) if bn.weight is None else bn.weight
    beta = torch.zeros_like(std) if bn.bias is None else bn.bias
    b = torch.zeros_like(std) if conv.bias is None else conv.bias
    folded = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.dilation,
        conv.groups,
        padding_mode=conv.padding_mode,
    )
    with torch.no_grad():
        folded.weight.copy_(conv.weight * (gamma / std)[:, None, None, None])
        folded.bias.copy_(gamma / std * (b - bn.running_mean) + beta)
    return folded


# --- shift -----------------------------------------------------------------------------------


@misconception(
    "shift",
    hint="The ratio is upside down: asked is the variance in use, divided by that in training.",
)
def shift_ratio(e, v, keep):
    if not 0 < keep <= 1:
        raise ValueError("keep is no probability above 0")
    return ((v + e**2) / keep - e**2) / v


@misconception(
    "shift",
    hint="A variance is the mean of the square *minus the square of the mean*. The second part is "
    "missing in the training variance.",
)
def shift_ratio(e, v, keep):
    if not 0 < keep <= 1:
        raise ValueError("keep is no probability above 0")
    return v / ((v + e**2) / keep)


@misconception(
    "shift",
    hint="The mean is left out: v / keep is the training variance for mean 0 only. Dropout makes "
    "variance out of the mean, too.",
)
def shift_ratio(e, v, keep):
    if not 0 < keep <= 1:
        raise ValueError("keep is no probability above 0")
    return v / (v / keep)


@misconception(
    "shift",
    hint="keep is taken for the probability to drop. Here, as in the paper, it is the probability "
    "that a value stays.",
)
def shift_ratio(e, v, keep):
    if not 0 < keep <= 1:
        raise ValueError("keep is no probability above 0")
    return v / ((v + e**2) / (1 - keep) - e**2) if keep < 1 else 0.0


@misconception(
    "shift",
    hint="A probability of 0, or above 1, should raise a ValueError in both functions.",
)
def shift_ratio(e, v, keep):
    keep = min(max(keep, 1e-12), 1)
    return v / ((v + e**2) / keep - e**2)


@misconception(
    "shift",
    hint="The kept values are not divided by keep. Inverted dropout scales in training, so that "
    "the mean stays.",
)
def measure(keep, x, n):
    if not 0 < keep <= 1:
        raise ValueError("keep is no probability above 0")
    total = 0.0
    for _ in range(n):
        total += (x * (torch.rand_like(x) < keep)).var().item()
    return x.var().item() / (total / n)


@misconception(
    "shift",
    hint="The mask is inverted: entries are kept with probability 1 - keep.",
)
def measure(keep, x, n):
    if not 0 < keep <= 1:
        raise ValueError("keep is no probability above 0")
    total = 0.0
    for _ in range(n):
        total += (x * (torch.rand_like(x) >= keep) / keep).var().item()
    return x.var().item() / (total / n) if total else 0.0


@misconception(
    "shift",
    hint="The standard deviations are compared. The variance is their square.",
)
def measure(keep, x, n):
    if not 0 < keep <= 1:
        raise ValueError("keep is no probability above 0")
    total = 0.0
    for _ in range(n):
        total += (x * (torch.rand_like(x) < keep) / keep).std().item()
    return x.std().item() / (total / n)


@misconception(
    "shift",
    hint="All passes use the same mask. Dropout draws a new one each time, and a running variance "
    "averages over them.",
)
def measure(keep, x, n):
    if not 0 < keep <= 1:
        raise ValueError("keep is no probability above 0")
    mask, total = torch.rand_like(x) < keep, 0.0
    for _ in range(n):
        total += (x * mask / keep).var().item()
    return x.var().item() / (total / n)


@misconception(
    "shift",
    hint="The mean of n ratios is taken. Asked is the variance of x over the mean of the n "
    "variances: a running variance averages variances.",
)
def measure(keep, x, n):
    if not 0 < keep <= 1:
        raise ValueError("keep is no probability above 0")
    total = 0.0
    for _ in range(n):
        total += (x.var() / (x * (torch.rand_like(x) < keep) / keep).var()).item()
    return total / n


# --- zerogamma -------------------------------------------------------------------------------


@misconception(
    "zerogamma",
    hint="Every batch norm of a body is set to zero. Then nothing but its last beta can ever "
    "learn: only the last one should start at zero.",
)
def zero_init_last_bn(net):
    count = 0
    for block in net.modules():
        if isinstance(block, Residual):
            for m in block.body.modules():
                if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
                    nn.init.zeros_(m.weight)
                    count += 1
    return count


@misconception(
    "zerogamma",
    hint="Only the last batch norm of the whole net is set. Each block has a last one of its own.",
)
def zero_init_last_bn(net):
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    norms = [
        m
        for block in net.modules()
        if isinstance(block, Residual)
        for m in block.body.modules()
        if isinstance(m, kinds)
    ]
    if not norms:
        return 0
    nn.init.zeros_(norms[-1].weight)
    return 1


@misconception(
    "zerogamma",
    hint="The last batch norm of the block may be the one of its shortcut. Only the body should "
    "be silent; look in `block.body`.",
)
def zero_init_last_bn(net):
    kinds, count = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), 0
    for block in net.modules():
        if isinstance(block, Residual):
            norms = [m for m in block.modules() if isinstance(m, kinds)]
            if norms:
                nn.init.zeros_(norms[-1].weight)
                count += 1
    return count


@misconception(
    "zerogamma",
    hint="The first batch norm of the body is set, not the last.",
)
def zero_init_last_bn(net):
    kinds, count = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), 0
    for block in net.modules():
        if isinstance(block, Residual):
            norms = [m for m in block.body.modules() if isinstance(m, kinds)]
            if norms:
                nn.init.zeros_(norms[0].weight)
                count += 1
    return count


@misconception(
    "zerogamma",
    hint="Only the direct children of the net are looked at. Blocks may lie deeper, and the net "
    "itself may be one: `modules()` finds them all.",
)
def zero_init_last_bn(net):
    kinds, count = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), 0
    for block in net.children():
        if isinstance(block, Residual):
            norms = [m for m in block.body.modules() if isinstance(m, kinds)]
            if norms:
                nn.init.zeros_(norms[-1].weight)
                count += 1
    return count


@misconception(
    "zerogamma",
    hint="It assumes that the body ends in its batch norm. Something may follow it, it may lie in "
    "a part of the body, or there may be none.",
)
def zero_init_last_bn(net):
    count = 0
    for block in net.modules():
        if isinstance(block, Residual):
            nn.init.zeros_(block.body[-1].weight)
            count += 1
    return count


@misconception(
    "zerogamma",
    hint="The last batch norm of one block is kept for the next: a body without any is counted, too. Start the search anew in every block.",
)
def zero_init_last_bn(net):
    kinds, count = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), 0
    last = None
    for block in net.modules():
        if isinstance(block, Residual):
            for m in block.body.modules():
                last = m if isinstance(m, kinds) else last
            if last is not None:
                nn.init.zeros_(last.weight)
                count += 1
    return count


@misconception(
    "zerogamma",
    hint="beta is set to zero as well. It is 0 in a new batch norm, but not in a trained one: nothing but gamma should change.",
)
def zero_init_last_bn(net):
    kinds, count = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), 0
    for block in net.modules():
        if isinstance(block, Residual):
            norms = [m for m in block.body.modules() if isinstance(m, kinds)]
            if norms:
                nn.init.zeros_(norms[-1].weight)
                nn.init.zeros_(norms[-1].bias)
                count += 1
    return count


@misconception(
    "zerogamma",
    hint="Only nn.BatchNorm2d is looked for. There are blocks with nn.BatchNorm1d and 3d, too.",
)
def zero_init_last_bn(net):
    kinds, count = nn.BatchNorm2d, 0
    for block in net.modules():
        if isinstance(block, Residual):
            norms = [m for m in block.body.modules() if isinstance(m, kinds)]
            if norms:
                nn.init.zeros_(norms[-1].weight)
                count += 1
    return count


@misconception(
    "zerogamma",
    hint="Only the body's direct children are looked at. A batch norm may lie deeper: `modules()` finds it.",
)
def zero_init_last_bn(net):
    kinds, count = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), 0
    for block in net.modules():
        if isinstance(block, Residual):
            norms = [m for m in block.body.children() if isinstance(m, kinds)]
            if norms:
                nn.init.zeros_(norms[-1].weight)
                count += 1
    return count


@misconception(
    "zerogamma",
    hint="The net is returned. Asked is how many gammas were set; the net is changed in place.",
)
def zero_init_last_bn(net):
    kinds, count = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), 0
    for block in net.modules():
        if isinstance(block, Residual):
            norms = [m for m in block.body.modules() if isinstance(m, kinds)]
            if norms:
                nn.init.zeros_(norms[-1].weight)
                count += 1
    return net


@misconception(
    "zerogamma",
    hint="The last gamma is frozen. It starts at 0, but it has to learn: leave requires_grad alone.",
)
def zero_init_last_bn(net):
    kinds, count = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), 0
    for block in net.modules():
        if isinstance(block, Residual):
            norms = [m for m in block.body.modules() if isinstance(m, kinds)]
            if norms:
                nn.init.zeros_(norms[-1].weight).requires_grad_(False)
                count += 1
    return count


# --- debug -----------------------------------------------------------------------------------


@misconception(
    "debug",
    hint="The order is turned around: `net.train()` reaches every part, and puts the body back "
    "into training mode. Say `eval()` to the body after it.",
)
def start_epoch(net):
    net[0].eval()
    net.train()
    for p in net[0].parameters():
        p.requires_grad_(False)


@misconception(
    "debug",
    hint="The head is in evaluation mode. It should learn, whatever mode the net was in before: "
    "call `net.train()` first, then `eval()` on the body.",
)
def start_epoch(net):
    net.eval()
    for p in net[0].parameters():
        p.requires_grad_(False)


@misconception(
    "debug",
    hint="The mode is right, but the body's parameters get gradients again. Keep requires_grad_(False).",
)
def start_epoch(net):
    net.train()
    net[0].eval()
