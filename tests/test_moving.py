"""The figures that move: every control works from the keyboard, and what they say is right."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Locator, Page, sync_playwright
from test_book import CHROMIUM, CHROMIUM_FLAGS
from torch import nn
from torchvision.ops import nms

sys.path.append(str(Path(__file__).parents[1] / "book" / "_ext"))
import moving

SCRIPT = moving.SCRIPT.read_text(encoding="utf-8")
CONTROLS = "input, select, button"
NAMES = moving.names()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("no `chromium` on the PATH")
    places = "".join(f'<div class="moving" data-figure="{name}"></div>' for name in NAMES)
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    file = tmp_path_factory.mktemp("moving") / "page.html"
    file.write_text(f"{head}{places}<script>{SCRIPT}</script>", encoding="utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        page = browser.new_page()
        page.goto(file.as_uri())
        yield page
        browser.close()


def place(page: Page, name: str) -> Locator:
    return page.locator(f'[data-figure="{name}"]')


def said(page: Page, name: str, **values: object) -> str:
    """The sentence of a figure after its controls were set; _ in a label is a space."""
    for label, value in values.items():
        controls = place(page, name).locator(".moving-controls")
        field = controls.get_by_label(label.replace("_", " "), exact=True)
        if isinstance(value, str):
            field.select_option(value)
        else:
            field.evaluate("(e, v) => { e.value = v; e.dispatchEvent(new Event('input')) }", value)
    return place(page, name).locator(".moving-says").inner_text()


@pytest.fixture(autouse=True)
def as_at_first(page):
    page.reload()


def test_there_are_many():
    assert len(NAMES) >= 10


KEYS = {"SELECT": "ArrowDown", "BUTTON": "Enter", "INPUT": "ArrowRight"}
NOT_AT_FIRST = {"groups"}  # batch norm has none


@pytest.mark.parametrize("name", NAMES)
def test_the_keyboard_moves_it(page, name):
    figure = place(page, name)
    for number in range(figure.locator(CONTROLS).count()):
        page.reload()
        control = figure.locator(CONTROLS).nth(number)
        before = figure.locator("svg").evaluate("e => e.outerHTML")
        control.focus()
        at_end = control.evaluate("e => e.type === 'range' && e.value === e.max")
        page.keyboard.press("ArrowLeft" if at_end else KEYS[control.evaluate("e => e.tagName")])
        label = control.evaluate("e => e.labels?.[0]?.textContent ?? e.textContent")
        after = figure.locator("svg").evaluate("e => e.outerHTML")
        assert after != before or label in NOT_AT_FIRST, label


# Every combination of the ends of all sliders, for the n-th option of each list.
CORNERS = """
(figure, n) => {
  const [selects, ranges] = ["select", "input"].map((kind) => [...figure.querySelectorAll(kind)]);
  for (const select of selects) {
    select.selectedIndex = n % select.options.length;
    select.dispatchEvent(new Event("change"));
  }
  const shown = [];
  for (let corner = 0; corner < 2 ** ranges.length; corner += 1) {
    for (const [bit, range] of ranges.entries()) {
      range.value = (corner >> bit) & 1 ? range.max : range.min;
      range.dispatchEvent(new Event("input"));
    }
    shown.push(figure.querySelector(".moving-says").textContent);
    shown.push(figure.querySelector("svg").outerHTML);
  }
  return shown;
}
"""  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_extreme_gives_a_picture_and_a_sentence(page, name):
    figure = place(page, name)
    counts = [select.locator("option").count() for select in figure.locator("select").all()]
    for n in range(max(counts, default=1)):
        for shown in figure.evaluate(CORNERS, n):
            assert len(shown) > 15
            assert not re.search(r"NaN|Infinity|undefined", shown), shown[:300]


@pytest.mark.parametrize("n, k, s, p, d", [(5, 3, 1, 0, 1), (8, 4, 3, 2, 1), (6, 2, 2, 1, 3)])
def test_convolution_arithmetic(page, n, k, s, p, d):
    for kind, layer in (
        ("convolution", nn.Conv2d),
        ("transposed convolution", nn.ConvTranspose2d),
    ):
        out = layer(1, 1, k, s, p, dilation=d)(torch.zeros(1, 1, n, n)).shape[-1]
        sentence = said(page, "convolution-arithmetic", layer=kind, input_n=n, kernel_k=k,
                        stride_s=s, padding_p=p, dilation_d=d)  # fmt: skip
        assert f"= {out}." in sentence


def test_receptive_field(page):
    x = torch.zeros(1, 1, 99, requires_grad=True)
    layers = [nn.Conv1d(1, 1, 3, stride=2, dilation=2**i, bias=False) for i in range(3)]
    for layer in layers:
        nn.init.ones_(layer.weight)
    nn.Sequential(*layers)(x)[0, 0, 0].backward()
    reach = (x.grad[0, 0] != 0).nonzero().max().item() + 1
    sentence = said(page, "receptive-field", layers=3, kernel=3, stride=2, dilation="1, 2, 4, …")
    assert f"sees {reach} inputs; neighbours on that layer are 8 apart" in sentence


OPTIMIZERS = {
    "SGD": lambda p, lr: torch.optim.SGD(p, lr),
    "momentum 0.9": lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9),
    "Nesterov 0.9": lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9, nesterov=True),
} | {name: getattr(torch.optim, name) for name in ("Adagrad", "RMSprop", "Adam")}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("surface", ["a narrow valley", "a bent valley"])
def test_optimizers_are_those_of_torch(page, name, surface):
    narrow = surface == "a narrow valley"
    p = torch.tensor([-3.5, 1.2] if narrow else [-1.5, 2.5], dtype=torch.float64)
    p.requires_grad_()

    def height():
        x, y = p
        return (x**2 + 20 * y**2) / 2 if narrow else (1 - x) ** 2 + 20 * (y - x**2) ** 2

    place_of_rate, rate = 1, 0.002
    optimizer = OPTIMIZERS[name]([p], rate)
    for _ in range(25):
        optimizer.zero_grad()
        height().backward()
        optimizer.step()
    sentence = said(page, "optimizer-paths", optimizer=name, surface=surface,
                    learning_rate=place_of_rate, steps=25)  # fmt: skip
    assert float(re.search(r"height is ([\d.e+-]+)\.", sentence)[1]) == pytest.approx(
        height().item(), rel=0.06
    )


def test_schedules_are_those_of_torch(page):
    def rates(make):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)
        schedule, found = make(optimizer), []
        for _ in range(100):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return found

    kinds = torch.optim.lr_scheduler
    for name, make in {
        "step: a tenth every 30": lambda o: kinds.StepLR(o, 30),
        "exponential: times 0.95": lambda o: kinds.ExponentialLR(o, 0.95),
        "linear to 0": lambda o: kinds.LinearLR(o, 1.0, 0.0, 100),
        "cosine": lambda o: kinds.CosineAnnealingLR(o, 100),
    }.items():
        expected = rates(make)
        for step in (0, 10, 45, 99):
            sentence = said(page, "learning-rates", schedule=name, step=step)
            got = float(re.search(r"the rate is ([\d.e+-]+) of", sentence)[1])
            assert got == pytest.approx(expected[step], rel=0.06, abs=1e-12), (name, step)
        total = float(re.search(r"adds up to ([\d.]+) full", sentence)[1])
        assert total == pytest.approx(sum(expected), abs=0.06)


def test_suppression_is_that_of_torchvision(page):
    code = re.search(r"const boxes = (\[\n.*?\n        \]);", SCRIPT, re.DOTALL)[1]
    found = json.loads(re.sub(r",\s*\]", "]", code))
    boxes, scores = (torch.tensor(values) for values in zip(*found, strict=True))
    for threshold in (1, 3, 5, 7, 9):
        kept = len(nms(boxes.float(), scores, threshold / 10))
        sentence = said(page, "nms", IoU_threshold=threshold, boxes_looked_at=8)
        assert f"{kept} kept" in sentence and f"{8 - kept} suppressed" in sentence


def test_softmax(page):
    logits = torch.tensor([2.0, 1.0, 0.2, -1.0])
    for heat in (-20, 0, 20):
        shares = (logits / 10 ** (heat / 20)).softmax(0)
        bits = -(shares * shares.log2()).sum()
        sentence = said(page, "softmax-temperature", temperature=heat)
        assert f"share is {shares.max():.2f}; the entropy is {bits:.2f}" in sentence


@pytest.mark.parametrize(
    "kind, means, numbers",
    [
        ("batch norm", 6, 36),
        ("layer norm", 4, 54),
        ("instance norm", 24, 9),
        ("group norm", 12, 18),
    ],
)
def test_normalization_counts(page, kind, means, numbers):
    assert f"{means} means, each of {numbers} numbers" in said(
        page, "normalization-axes", layer=kind
    )


def test_shifted_windows(page):
    sizes = {
        at: int(re.search(r"attends to (\d+) of", said(page, "swin-windows", patch=at))[1])
        for at in (1, 4, 28, 64)
    }
    # The corners of a rolled image hold four pieces: 2 x 2, 2 x 4 and 4 x 2 patches beside 4 x 4.
    assert sizes == {1: 4, 4: 8, 28: 16, 64: 4}
    assert "16 of 64" in said(page, "swin-windows", shift="none", patch=1)
