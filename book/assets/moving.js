// Figures that move, below the picture of a cell that says `moving: NAME`. Each entry of FIGURES has a title, controls
// and draw(values, picture), which fills an SVG 360 units wide and returns a sentence that says what it shows.
(() => {
  "use strict";

  // --- elements -----------------------------------------------------------------------------------------------------

  const SVG = "http://www.w3.org/2000/svg";
  const add = (node, attributes, children) => {
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };
  const html = (tag, attributes = {}, ...children) => add(document.createElement(tag), attributes, children);
  const svg = (tag, attributes = {}, ...children) => add(document.createElementNS(SVG, tag), attributes, children);
  const text = (x, y, words, attributes = {}) => svg("text", { x, y, ...attributes }, String(words));
  const rect = (x, y, width, height, kind) => svg("rect", { x, y, width, height, class: kind });
  const line = (points, kind) =>
    svg("polyline", { points: points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" "), class: kind });

  const range = (label, min, max, value, show = (v) => v, step = 1) => ({ label, min, max, value, show, step });
  const choice = (label, options) => ({ label, options });
  const again = (label) => ({ label, again: true });

  const span = (n) => Array.from({ length: n }, (_, i) => i);
  const sum = (values) => values.reduce((a, b) => a + b, 0);
  const many = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

  // The same numbers on every machine (mulberry32).
  function randoms(seed) {
    let state = seed >>> 0;
    return () => {
      state = (state + 0x6d2b79f5) >>> 0;
      let t = Math.imul(state ^ (state >>> 15), 1 | state);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
  }

  // Axes in a box of the picture; gives the functions from numbers to places.
  function axes(picture, { x, y, left = 40, top = 20, width = 305, height = 150, xlabel = "", ylabel = "" }) {
    const sx = (v) => left + ((v - x[0]) / (x[1] - x[0])) * width;
    const sy = (v) => top + height - ((v - y[0]) / (y[1] - y[0])) * height;
    picture.append(line([[left, top], [left, top + height], [left + width, top + height]], "axis"));
    for (const v of x) picture.append(text(sx(v), top + height + 14, v, { "text-anchor": "middle" }));
    for (const v of y) picture.append(text(left - 5, sy(v) + 4, v, { "text-anchor": "end" }));
    picture.append(text(left + width / 2, top + height + 26, xlabel, { "text-anchor": "middle" }));
    picture.append(text(left - 8, top - 8, ylabel));
    return [sx, sy];
  }

  // --- the figures --------------------------------------------------------------------------------------------------

  const overlap = (a, b) => {
    const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]);
    const height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
    const both = Math.max(width, 0) * Math.max(height, 0);
    const area = ([left, top, right, bottom]) => (right - left) * (bottom - top);
    return both / (area(a) + area(b) - both);
  };
  const box = ([left, top, right, bottom], kind) => rect(left, top, right - left, bottom - top, kind);

  const SURFACES = {
    "a narrow valley": {
      f: (x, y) => 0.5 * (x * x + 20 * y * y), gradient: (x, y) => [x, 20 * y],
      x: [-4, 4], y: [-1.5, 1.5], start: [-3.5, 1.2], best: [0, 0],
    },
    "a bent valley": {
      f: (x, y) => (1 - x) ** 2 + 20 * (y - x * x) ** 2,
      gradient: (x, y) => [-2 * (1 - x) - 80 * x * (y - x * x), 40 * (y - x * x)],
      x: [-2, 2], y: [-1, 3], start: [-1.5, 2.5], best: [1, 1],
    },
  };
  // One step for one coordinate: p the value, g its slope, s what the rule remembers, t the number of the step.
  const RULES = {
    "SGD": (p, g, s, lr) => p - lr * g,
    "momentum 0.9": (p, g, s, lr) => p - lr * (s.m = 0.9 * (s.m ?? 0) + g),
    "Nesterov 0.9": (p, g, s, lr) => { s.m = 0.9 * (s.m ?? 0) + g; return p - lr * (g + 0.9 * s.m); },
    "Adagrad": (p, g, s, lr) => { s.v = (s.v ?? 0) + g * g; return p - (lr * g) / (Math.sqrt(s.v) + 1e-10); },
    "RMSprop": (p, g, s, lr) => {
      s.v = 0.99 * (s.v ?? 0) + 0.01 * g * g;
      return p - (lr * g) / (Math.sqrt(s.v) + 1e-8);
    },
    "Adam": (p, g, s, lr, t) => {
      s.m = 0.9 * (s.m ?? 0) + 0.1 * g;
      s.v = 0.999 * (s.v ?? 0) + 0.001 * g * g;
      return p - (lr * (s.m / (1 - 0.9 ** t))) / (Math.sqrt(s.v / (1 - 0.999 ** t)) + 1e-8);
    },
  };
  const RATES = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.09, 0.11, 0.2, 0.5, 1];

  const cosine = (share) => (1 + Math.cos(Math.PI * share)) / 2;
  const SCHEDULES = {
    "step: a tenth every 30": (t) => 0.1 ** Math.floor(t / 30),
    "exponential: times 0.95": (t) => 0.95 ** t,
    "linear to 0": (t) => 1 - t / 100,
    "cosine": (t) => cosine(t / 100),
    "one cycle": (t) => (t < 30 ? 1 / 25 + (1 - 1 / 25) * (1 - cosine(t / 30)) : cosine((t - 30) / 70) * (1 - 4e-6) + 4e-6),
    "constant": () => 1,
  };

  const MASKS = {
    "local": (i, j, w) => Math.abs(i - j) <= w,
    "everything": () => true,
    "causal": (i, j) => j <= i,
    "dilated": (i, j, w) => Math.abs(i - j) <= 2 * w && (i - j) % 2 === 0,
    "local and global": (i, j, w) => Math.abs(i - j) <= w || i < 2 || j < 2,
    "strided": (i, j, w) => j <= i && (i - j <= w || j % (w + 1) === w),
    "blocks": (i, j, w) => Math.floor(i / (w + 1)) === Math.floor(j / (w + 1)),
    "local and random": (i, j, w, chance) => Math.abs(i - j) <= w || chance[i * 24 + j] < 0.08,
  };

  const FIGURES = {
    "convolution-arithmetic": {
      title: "the arithmetic of convolution",
      controls: {
        kind: choice("layer", ["convolution", "transposed convolution"]),
        n: range("input n", 2, 8, 5), k: range("kernel k", 1, 4, 3), s: range("stride s", 1, 3, 1),
        p: range("padding p", 0, 3, 0), d: range("dilation d", 1, 3, 1), at: range("position", 1, 64, 1),
      },
      draw({ kind, n, k, s, p, d, at }, picture) {
        // The large grid is read through windows, or written through them; each belongs to a cell of the small one.
        const back = kind !== "convolution";
        const reach = d * (k - 1) + 1;
        const large = back ? (n - 1) * s + reach : n + 2 * p;
        const small = back ? n : Math.floor((large - reach) / s) + 1;
        const inner = back ? large - 2 * p : n;
        picture.setAttribute("viewBox", "0 0 360 232");
        if (small < 1 || inner < 1) return `Nothing comes out: ${back ? "the padding crops everything" : "the kernel is larger than the padded input"}.`;
        const chosen = (at - 1) % (small * small);
        const [row, column] = [Math.floor(chosen / small), chosen % small];
        const size = Math.min(200 / large, 32);
        const [x0, y0] = [8 + (200 - size * large) / 2, 24 + (200 - size * large) / 2];
        const taps = new Set(span(k * k).map((t) => (row * s + d * Math.floor(t / k)) * large + column * s + d * (t % k)));
        for (const c of span(large * large)) {
          const [i, j] = [Math.floor(c / large), c % large];
          const border = Math.min(i, j, large - 1 - i, large - 1 - j) < p;
          const cell = rect(x0 + j * size, y0 + i * size, size, size, border ? "cell border" : "cell");
          if (taps.has(c)) cell.classList.add(back ? "warm" : "cool");
          picture.append(cell);
        }
        const tile = Math.min(120 / small, size);
        const [x1, y1] = [232 + (120 - tile * small) / 2, 24 + (200 - tile * small) / 2];
        for (const c of span(small * small)) {
          const cell = rect(x1 + (c % small) * tile, y1 + Math.floor(c / small) * tile, tile, tile, "cell");
          if (c === chosen) cell.classList.add(back ? "cool" : "warm");
          picture.append(cell);
        }
        const names = back ? ["output", "input"] : ["input", "output"];
        picture.append(text(108, 14, `${names[0]} ${inner} × ${inner}`, { "text-anchor": "middle" }));
        picture.append(text(292, 14, `${names[1]} ${small} × ${small}`, { "text-anchor": "middle" }));
        picture.append(text(220, 130, back ? "←" : "→", { "text-anchor": "middle" }));
        return back
          ? `(n − 1)·s + d·(k − 1) + 1 − 2p = ${n - 1}·${s} + ${d}·${k - 1} + 1 − ${2 * p} = ${inner}. One number is spread over ${k * k} places.`
          : `⌊(n + 2p − d·(k − 1) − 1) / s⌋ + 1 = ⌊${n + 2 * p - d * (k - 1) - 1} / ${s}⌋ + 1 = ${small}. One number comes from ${k * k} places.`;
      },
    },

    "receptive-field": {
      title: "how a receptive field grows",
      controls: {
        layers: range("layers", 1, 6, 3), k: range("kernel", 1, 5, 3), s: range("stride", 1, 2, 1),
        dilation: choice("dilation", ["1 everywhere", "1, 2, 4, …"]),
      },
      draw({ layers, k, s, dilation }, picture) {
        const wide = (l) => (dilation === "1 everywhere" ? 1 : 2 ** l);
        let [field, jump] = [1, 1];
        const spans = [[0, 0]]; // of the top unit, in the units of each layer below
        for (const l of span(layers).reverse()) {
          const [low, high] = spans[0];
          spans.unshift([low * s, high * s + wide(l) * (k - 1)]);
        }
        for (const l of span(layers)) {
          field += (k - 1) * wide(l) * jump;
          jump *= s;
        }
        const height = 30 * layers + 40;
        picture.setAttribute("viewBox", `0 0 360 ${height}`);
        const count = ([low, high]) => high - low + 1;
        const widest = count(spans[0]);
        const gap = Math.min(300 / widest, 22);
        const place = (l, i) => [200 + (i - (spans[l][0] + spans[l][1]) / 2) * gap * Math.max(1, s ** l * 0.75), height - 22 - 30 * l];
        const radius = Math.max(Math.min(gap / 3, 6), 1);
        for (const l of span(layers + 1)) {
          const [low, high] = spans[l];
          picture.append(text(4, height - 18 - 30 * l, l ? `layer ${l}` : "input"));
          for (const i of span(high - low + 1).map((n) => n + low)) {
            const [x, y] = place(l, i);
            if (l) for (const a of span(k)) {
              const below = i * s + wide(l - 1) * a;
              if (count(spans[l - 1]) <= 80) picture.append(line([[x, y], place(l - 1, below)], "thread"));
            }
            if (count(spans[l]) <= 300) picture.append(svg("circle", { cx: x, cy: y, r: radius, class: l === layers ? "warm" : "cool" }));
          }
        }
        return `One unit of layer ${layers} sees ${many(field, "input")}; neighbours on that layer are ${jump} apart.`;
      },
    },

    "optimizer-paths": {
      title: "six optimizers on two surfaces",
      controls: {
        rule: choice("optimizer", Object.keys(RULES)), surface: choice("surface", Object.keys(SURFACES)),
        rate: range("learning rate", 0, RATES.length - 1, 5, (v) => RATES[v]), steps: range("steps", 0, 150, 30),
      },
      draw({ rule, surface, rate, steps }, picture) {
        const { f, gradient, x, y, start, best } = SURFACES[surface];
        picture.setAttribute("viewBox", "0 0 360 220");
        const sx = (v) => 10 + ((v - x[0]) / (x[1] - x[0])) * 340;
        const sy = (v) => 210 - ((v - y[0]) / (y[1] - y[0])) * 200;
        const [across, down] = [48, 30];
        for (const c of span(across * down)) {
          const [i, j] = [Math.floor(c / across), c % across];
          const value = f(x[0] + ((j + 0.5) / across) * (x[1] - x[0]), y[1] - ((i + 0.5) / down) * (y[1] - y[0]));
          const band = Math.min(Math.floor(1.6 * Math.log2(1 + 4 * value)), 12);
          const tile = rect(10 + (j * 340) / across, 10 + (i * 200) / down, 340 / across, 200 / down, "height");
          tile.setAttribute("fill-opacity", (0.04 + 0.05 * band).toFixed(2));
          picture.append(tile);
        }
        const [memory, path] = [[{}, {}], [start]];
        let point = start;
        for (const t of span(steps)) {
          const slope = gradient(...point);
          point = point.map((p, axis) => RULES[rule](p, slope[axis], memory[axis], RATES[rate], t + 1));
          path.push(point);
          if (!(Math.hypot(...point) < 1e3)) break;
        }
        const inside = path.map(([a, b]) => [sx(Math.min(Math.max(a, 2 * x[0]), 2 * x[1])), sy(Math.min(Math.max(b, 2 * y[0] - 1), 2 * y[1]))]);
        picture.append(line(inside, "path"));
        for (const [a, b] of inside) picture.append(svg("circle", { cx: a, cy: b, r: 1.8, class: "warm" }));
        picture.append(text(sx(best[0]) - 4, sy(best[1]) + 4, "×"));
        const value = f(...point);
        return value < 1e4
          ? `${rule} with learning rate ${RATES[rate]}: after ${many(path.length - 1, "step")} the height is ${value.toPrecision(2)}.`
          : `${rule} with learning rate ${RATES[rate]} diverges.`;
      },
    },

    "learning-rates": {
      title: "schedules of the learning rate",
      controls: {
        kind: choice("schedule", Object.keys(SCHEDULES)), warm: range("warm-up steps", 0, 40, 0), at: range("step", 0, 100, 40),
      },
      draw({ kind, warm, at }, picture) {
        picture.setAttribute("viewBox", "0 0 360 200");
        const [sx, sy] = axes(picture, { x: [0, 100], y: [0, 1], xlabel: "step", ylabel: "rate / largest rate" });
        const rate = (t) => SCHEDULES[kind](t) * Math.min(1, (t + 1) / (warm + 1));
        // Each rate holds for its whole step.
        const corners = span(100).flatMap((t) => [[sx(t), sy(rate(t))], [sx(t + 1), sy(rate(t))]]);
        picture.append(line(corners, "path"));
        picture.append(svg("circle", { cx: sx(at), cy: sy(rate(at)), r: 4, class: "warm" }));
        const total = sum(span(100).map(rate));
        return `At step ${at} the rate is ${rate(at).toPrecision(2)} of the largest; over 100 steps it adds up to ${total.toFixed(1)} full steps.`;
      },
    },

    "softmax-temperature": {
      title: "softmax at a temperature",
      controls: {
        heat: range("temperature", -20, 20, 0, (v) => (10 ** (v / 20)).toPrecision(2)),
        first: range("first logit", -40, 60, 20, (v) => v / 10),
      },
      draw({ heat, first }, picture) {
        picture.setAttribute("viewBox", "0 0 360 190");
        const logits = [first / 10, 1, 0.2, -1];
        const temperature = 10 ** (heat / 20);
        const top = Math.max(...logits);
        const powers = logits.map((z) => Math.exp((z - top) / temperature));
        const shares = powers.map((e) => e / sum(powers));
        for (const [i, share] of shares.entries()) {
          const [x, height] = [24 + 84 * i, 130 * share];
          picture.append(rect(x, 150 - height, 60, height, i === 0 ? "warm" : "cool"));
          picture.append(text(x + 30, 144 - height, share.toFixed(2), { "text-anchor": "middle" }));
          picture.append(text(x + 30, 168, `logit ${logits[i]}`, { "text-anchor": "middle" }));
        }
        picture.append(line([[12, 150], [348, 150]], "axis"));
        const bits = -sum(shares.map((q) => (q > 0 ? q * Math.log2(q) : 0)));
        return `At temperature ${temperature.toPrecision(2)} the largest share is ${Math.max(...shares).toFixed(2)}; the entropy is ${bits.toFixed(2)} of at most 2 bits.`;
      },
    },

    "normalization-axes": {
      title: "which numbers share a mean",
      controls: {
        kind: choice("layer", ["batch norm", "layer norm", "instance norm", "group norm"]),
        groups: range("groups", 0, 2, 1, (v) => [2, 3, 6][v]), at: range("mean", 1, 24, 1),
      },
      draw({ kind, groups, at }, picture) {
        const [N, C, H, W] = [4, 6, 3, 3];
        const parts = { "batch norm": 0, "layer norm": 1, "instance norm": C, "group norm": [2, 3, 6][groups] }[kind];
        const means = parts ? N * parts : C;
        const chosen = (at - 1) % means;
        const shares = (n, c) => (parts ? n * parts + Math.floor((c * parts) / C) : c) === chosen;
        picture.setAttribute("viewBox", "0 0 360 212");
        for (const n of span(N)) {
          picture.append(text(94 + 74 * n, 16, `example ${n + 1}`, { "text-anchor": "middle" }));
          for (const c of span(C)) {
            for (const q of span(H * W)) {
              picture.append(rect(64 + 74 * n + 20 * (q % W), 24 + 31 * c + 9 * Math.floor(q / W), 19, 8, shares(n, c) ? "cell warm" : "cell"));
            }
          }
        }
        for (const c of span(C)) picture.append(text(4, 41 + 31 * c, `channel ${c + 1}`));
        const formula = parts ? `${many(C / parts, "channel")} · 9 pixels` : "4 examples · 9 pixels";
        return `${kind[0].toUpperCase()}${kind.slice(1)}: ${means} means, each of ${(N * C * H * W) / means} numbers (${formula}). Mean ${chosen + 1} is shown.`;
      },
    },

    "anchors": {
      title: "anchors and the IoU threshold",
      controls: {
        size: range("size", 20, 120, 100, (v) => `${v} px`, 5), ratio: range("width / height", -2, 2, 0, (v) => [0.25, 0.5, 1, 2, 4][v + 2]),
        threshold: range("IoU threshold", 1, 9, 4, (v) => (v / 10).toFixed(1)),
      },
      draw({ size, ratio, threshold }, picture) {
        picture.setAttribute("viewBox", "0 0 360 240");
        const truth = [130, 70, 235, 165];
        const [width, height] = [size * 2 ** (ratio / 2), size / 2 ** (ratio / 2)];
        picture.append(rect(1, 1, 358, 238, "cell"));
        let [best, hits] = [0, 0];
        const boxes = [];
        for (const c of span(54)) {
          const [x, y] = [20 + 40 * (c % 9), 20 + 40 * Math.floor(c / 9)];
          const anchor = [x - width / 2, y - height / 2, x + width / 2, y + height / 2];
          const iou = overlap(anchor, truth);
          best = Math.max(best, iou);
          if (iou >= threshold / 10) {
            hits += 1;
            boxes.push(box(anchor, "outline cool"));
          }
          picture.append(svg("circle", { cx: x, cy: y, r: 2, class: "dot" }));
        }
        picture.append(...boxes, box(truth, "outline warm"));
        return `${hits} of 54 anchors match the object (orange) at IoU ${(threshold / 10).toFixed(1)} or more; the best has ${best.toFixed(2)}.`;
      },
    },

    "nms": {
      title: "non-maximum suppression, step by step",
      controls: { threshold: range("IoU threshold", 1, 9, 5, (v) => (v / 10).toFixed(1)), step: range("boxes looked at", 0, 8, 4) },
      draw({ threshold, step }, picture) {
        const boxes = [
          [[30, 40, 130, 150], 0.95], [[40, 52, 142, 158], 0.9], [[200, 60, 300, 190], 0.85], [[20, 25, 112, 140], 0.8],
          [[215, 75, 318, 200], 0.75], [[85, 60, 175, 165], 0.7], [[190, 90, 270, 215], 0.6], [[248, 20, 345, 120], 0.5],
        ];
        picture.setAttribute("viewBox", "0 0 360 230");
        picture.append(rect(1, 1, 358, 228, "cell"));
        const kept = [];
        const gone = [];
        for (const [corners] of boxes.slice(0, step)) {
          (kept.every((other) => overlap(other, corners) <= threshold / 10) ? kept : gone).push(corners);
        }
        for (const [i, [corners, score]] of boxes.entries()) {
          const kind = kept.includes(corners) ? "outline cool" : gone.includes(corners) ? "outline gone" : "outline waiting";
          picture.append(box(corners, kind), text(corners[0] + 4, corners[1] + 13, score.toFixed(2), { class: i < step ? "" : "faint" }));
        }
        return `${step} of 8 boxes looked at, the highest score first: ${kept.length} kept (blue), ${gone.length} suppressed (dotted), since they overlap a kept one by more than ${(threshold / 10).toFixed(1)}.`;
      },
    },

    "attention-masks": {
      title: "who attends to whom",
      controls: { kind: choice("pattern", Object.keys(MASKS)), w: range("width", 1, 8, 2), at: range("query", 1, 24, 12) },
      draw({ kind, w, at }, picture) {
        picture.setAttribute("viewBox", "0 0 360 262");
        const draw = randoms(0);
        const chance = span(576).map(draw);
        let pairs = 0;
        let row = 0;
        for (const c of span(576)) {
          const [i, j] = [Math.floor(c / 24), c % 24];
          const on = MASKS[kind](i, j, w, chance);
          pairs += on;
          row += on && i === at - 1;
          picture.append(rect(62 + 10 * j, 18 + 10 * i, 9.2, 9.2, on ? (i === at - 1 ? "warm" : "cool") : "cell"));
        }
        picture.append(text(182, 12, "keys", { "text-anchor": "middle" }), text(56, 142, "queries", { "text-anchor": "end" }));
        return `${pairs} of 576 pairs are computed (${Math.round((100 * pairs) / 576)} %); query ${at} sees ${many(row, "key")}.`;
      },
    },

    "positional-encoding": {
      title: "sines and cosines of a position",
      controls: { at: range("position", 0, 63, 20), base: range("base", 1, 4, 4, (v) => (10 ** v).toLocaleString("en")) },
      draw({ at, base }, picture) {
        picture.setAttribute("viewBox", "0 0 360 256");
        const d = 24;
        const code = (t) => span(d).map((i) => (i % 2 ? Math.cos : Math.sin)(t / 10 ** ((base * (i - (i % 2))) / d)));
        const rows = span(64).map(code);
        for (const t of span(64)) {
          for (const i of span(d)) {
            const tile = rect(40 + 4.75 * t, 14 + 5 * i, 4.9, 5.1, rows[t][i] < 0 ? "warm" : "cool");
            tile.setAttribute("fill-opacity", Math.abs(rows[t][i]).toFixed(2));
            picture.append(tile);
          }
        }
        picture.append(rect(40 + 4.75 * at, 13, 4.75, 122, "outline"));
        picture.append(text(36, 78, "axis", { "text-anchor": "end" }));
        const likeness = rows.map((row) => sum(row.map((value, i) => value * rows[at][i])) / (d / 2));
        const [sx, sy] = axes(picture, { x: [0, 63], y: [-1, 1], top: 164, height: 62, xlabel: "position", ylabel: "likeness to the chosen one" });
        picture.append(line(likeness.map((value, t) => [sx(t), sy(value)]), "path"));
        const next = likeness[Math.min(at + 1, 63)];
        return `The code of position ${at} is like itself by 1, like a neighbour's by ${next.toFixed(2)}; how fast it falls depends on the distance alone.`;
      },
    },

    "swin-windows": {
      title: "windows that shift",
      controls: { size: choice("window", ["4 × 4", "2 × 2"]), shift: choice("shift", ["half a window", "none"]), at: range("patch", 1, 64, 28) },
      draw({ size, shift, at }, picture) {
        picture.setAttribute("viewBox", "0 0 360 212");
        const w = Number(size[0]);
        const move = shift === "none" ? 0 : w / 2;
        // In the rolled image a window can hold pieces from opposite edges; the mask keeps them apart.
        const rolled = (i) => (i - move + 8) % 8;
        const region = (i) => (move && i < move ? 1 : 0);
        const group = (i, j) => [Math.floor(rolled(i) / w), Math.floor(rolled(j) / w), region(i), region(j)].join();
        const mine = group(Math.floor((at - 1) / 8), (at - 1) % 8);
        let seen = 0;
        const tile = (x, y, i, j) => {
          const same = group(i, j) === mine;
          const chosen = i * 8 + j === at - 1;
          const odd = (Math.floor(rolled(i) / w) + Math.floor(rolled(j) / w)) % 2;
          return rect(x, y, 19, 19, chosen ? "cell warm" : same ? "cell cool" : odd ? "cell shade" : "cell");
        };
        for (const c of span(64)) {
          const [i, j] = [Math.floor(c / 8), c % 8];
          seen += group(i, j) === mine;
          picture.append(tile(8 + 20 * j, 26 + 20 * i, i, j));
          picture.append(tile(192 + 20 * rolled(j), 26 + 20 * rolled(i), i, j));
        }
        picture.append(text(88, 16, "the image", { "text-anchor": "middle" }), text(272, 16, "as it is computed", { "text-anchor": "middle" }));
        return `Patch ${at} attends to ${seen} of 64 patches${move ? "; a window of the rolled image that holds several pieces is masked between them" : ""}.`;
      },
    },

    "dropout-family": {
      title: "what is dropped",
      controls: {
        kind: choice("kind", ["dropout", "spatial dropout", "DropBlock", "Gaussian dropout"]),
        p: range("probability", 0, 9, 3, (v) => (v / 10).toFixed(1)), seed: again("draw again"),
      },
      draw({ kind, p, seed }, picture) {
        picture.setAttribute("viewBox", "0 0 360 220");
        const draw = randoms(seed);
        const [rate, side, block] = [p / 10, 8, 3];
        const factors = [];
        for (const channel of span(6)) {
          const whole = draw() < rate;
          const noise = span(side * side).map(() => draw());
          // As many seeds as make the expected share of dropped cells about the probability.
          const seeds = (rate / block ** 2) * (side / (side - block + 1)) ** 2;
          const hit = (i, j) => span(side * side).some((c) => {
            const [a, b] = [Math.floor(c / side), c % side];
            return a <= side - block && b <= side - block && noise[c] < seeds && i >= a && i < a + block && j >= b && j < b + block;
          });
          for (const c of span(side * side)) {
            const [i, j] = [Math.floor(c / side), c % side];
            const normal = Math.sqrt(-2 * Math.log(1 - noise[c])) * Math.cos(2 * Math.PI * draw());
            const dropped = { "dropout": noise[c] < rate, "spatial dropout": whole, "DropBlock": hit(i, j) }[kind];
            const factor = kind === "Gaussian dropout" ? 1 + Math.sqrt(rate / (1 - rate)) * normal : dropped ? 0 : 1;
            factors.push(factor);
            const cell = rect(14 + 116 * (channel % 3) + 12 * j, 8 + 106 * Math.floor(channel / 3) + 12 * i, 11.4, 11.4, factor ? (factor > 0 ? "cool" : "warm") : "cell");
            if (factor) cell.setAttribute("fill-opacity", Math.min(0.25 + 0.45 * Math.abs(factor), 1).toFixed(2));
            picture.append(cell);
          }
        }
        if (kind === "Gaussian dropout") return `Nothing is dropped: each number is multiplied by one of mean 1 and variance p / (1 − p) = ${(rate / (1 - rate)).toFixed(2)}; orange ones change their sign.`;
        const kept = factors.filter((factor) => factor > 0).length;
        return kept
          ? `${384 - kept} of 384 numbers are dropped (${Math.round((100 * (384 - kept)) / 384)} %); the others are multiplied by ${(kind === "DropBlock" ? 384 / kept : 1 / (1 - rate)).toFixed(2)}.`
          : "All are dropped this time.";
      },
    },
  };

  // --- into the page ------------------------------------------------------------------------------------------------

  let count = 0;

  function control(spec, redraw) {
    const id = `moving-${(count += 1)}`;
    const label = html("label", { for: id }, spec.label);
    if (spec.again) {
      let seed = 1;
      const button = html("button", { type: "button", class: "moving-again" }, spec.label);
      button.addEventListener("click", () => { seed += 1; redraw(); });
      return { row: [button], value: () => seed };
    }
    if (spec.options) {
      const select = html("select", { id }, ...spec.options.map((name) => html("option", {}, name)));
      select.addEventListener("change", redraw);
      return { row: [label, select], value: () => select.value };
    }
    const input = html("input", { id, type: "range", min: spec.min, max: spec.max, step: spec.step });
    input.value = spec.value;
    const shown = html("output", { for: id });
    const show = () => {
      shown.textContent = spec.show(Number(input.value));
      input.setAttribute("aria-valuetext", shown.textContent);
    };
    input.addEventListener("input", () => { show(); redraw(); });
    show();
    return { row: [label, input, shown], value: () => Number(input.value) };
  }

  function fill(place) {
    const { title, controls, draw } = FIGURES[place.dataset.figure];
    const picture = svg("svg", { role: "img" });
    const says = html("p", { class: "moving-says", "aria-live": "polite" });
    const redraw = () => {
      picture.replaceChildren();
      const values = Object.fromEntries(Object.entries(made).map(([name, { value }]) => [name, value()]));
      says.textContent = draw(values, picture);
      picture.setAttribute("aria-label", says.textContent);
    };
    const made = Object.fromEntries(Object.entries(controls).map(([name, spec]) => [name, control(spec, redraw)]));
    const rows = Object.values(made).map(({ row }) => html("div", {}, ...row));
    place.setAttribute("role", "group");
    place.setAttribute("aria-label", `Try it: ${title}`);
    place.replaceChildren(html("p", { class: "moving-title" }, `Try it: ${title}`), html("div", { class: "moving-controls" }, ...rows), picture, says);
    redraw();
  }

  for (const place of document.querySelectorAll(".moving[data-figure]")) fill(place);
})();
