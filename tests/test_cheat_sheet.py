"""The cheat sheet runs as it stands, and says the truth where it gives a result."""

import re
import warnings
from pathlib import Path

import torch

PAGE = Path(__file__).parents[1] / "book" / "cheat-sheet.md"


def test_it_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) >= 12
    names = {"__name__": "sheet"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number, block in enumerate(blocks):
            exec(compile(block, f"block {number}", "exec"), names)
    net, conv, images = (names[name] for name in ("net", "conv", "images"))
    assert conv(images).shape == (2, 8, 16, 16)
    assert names["F"].unfold(images, 3, padding=1).shape == (2, 27, 1024)
    assert names["scores"].shape == (2, 3, 32, 32)
    kept = names["ops"].nms(names["boxes"], torch.tensor([0.9, 0.8, 0.7]), iou_threshold=0.5)
    assert kept.tolist() == [0, 2]
    a = torch.arange(12.0).reshape(3, 4)
    assert a.stride() == (4, 1)
    for view in (a.t(), a[:, None], a.expand(2, 3, 4)):
        assert view.data_ptr() == a.data_ptr()
    for copy in (a.clone(), a[[0, 1]], a.t().reshape(12)):
        assert copy.data_ptr() != a.data_ptr()
    # The weighted pieces give the gradient of the whole batch.
    x, y, F = names["x"], names["y"], names["F"]
    pieces = [p.grad.clone() for p in net.parameters()]
    assert names["optimizer"] is not None and all(piece.abs().sum() > 0 for piece in pieces)
    whole = torch.autograd.grad(F.cross_entropy(net(x), y), [*net.parameters()])
    net.zero_grad()
    for inputs, labels in zip(x.split(25), y.split(25), strict=True):
        (F.cross_entropy(net(inputs), labels) * len(inputs) / len(x)).backward()
    for p, expected in zip(net.parameters(), whole, strict=True):
        torch.testing.assert_close(p.grad, expected)
