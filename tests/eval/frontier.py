"""The README's picture: bits per value against mean divergence, presets and plans with their errors, peers as points.

  fidelity k6v4 k5v4 k4v4 k4v3 k3v3 k8v3 --json > presets.json
  frontier.py presets.json plans.json -o frontier.svg

Reads what `fidelity --json` prints, any number of files. Presets (k8v3, ...) are points with a name; lines are plans of
bits alone (auto:BITS), of positions alone, the default codec for what is kept (auto/POLICY:KEEP), and of both together
(joint:BITS/POLICY). The bars are one standard error, over windows where there are several. Needs nothing but Python.
"""

import argparse
import json
import math
import pathlib
import sys
from html import escape

# Peers: the same model, text and protocol; mean divergence and the bits per value that they really hold.
PEERS = [
    ("llama.cpp q8_0", 8.5, 0.0039),
    ("llama.cpp q8_0/q4_0", 6.5, 0.0098),
    ("llama.cpp q4_0", 4.5, 0.048),
    ("polykv-llm", 8.1, 0.0057),
]
# What polykv set out to reach.
REACH = [(5.25, 0.0002), (4.75, 0.0004), (4.25, 0.0009), (3.75, 0.0018), (3.25, 0.0040), (2.75, 0.0090), (2.25, 0.025)]

# Kinds of lines, and what they are called.
LINES = [
    ("kept", "positions alone"),
    ("plan", "a plan of bits for the document"),
    ("joint", "bits and positions together"),
]

WIDTH, HEIGHT = 760, 460
LEFT, RIGHT, TOP, BOTTOM = 74, 26, 20, 56

# Colours that read on white and on black; where a viewer says which it is, text and grid follow.
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #3a3f47 }
  .grid { stroke: #c9ced6; stroke-width: 1 }
  .frame { stroke: #6b7280; stroke-width: 1; fill: none }
  .plan { stroke: #1a7fd4; fill: none; stroke-width: 2.5 }
  .plan-dot, .plan-bar { fill: #1a7fd4; stroke: #1a7fd4 }
  .preset-dot, .preset-bar { fill: #2a9d62; stroke: #2a9d62 }
  .joint { stroke: #c2337f; fill: none; stroke-width: 2.5 }
  .joint-dot, .joint-bar { fill: #c2337f; stroke: #c2337f }
  .kept { stroke: #8b8f97; fill: none; stroke-width: 2 }
  .kept-dot, .kept-bar { fill: #8b8f97; stroke: #8b8f97 }
  .joint-name { fill: #c2337f } .kept-name { fill: #6b7280 }
  .reach { stroke: #8a63d2; fill: none; stroke-width: 1.5; stroke-dasharray: 6 4 }
  .peer-dot { fill: none; stroke: #d9662b; stroke-width: 2.5 }
  .plan-name { fill: #1a7fd4 } .preset-name { fill: #2a9d62 }
  .peer-name { fill: #d9662b } .reach-name { fill: #8a63d2 }
  @media (prefers-color-scheme: dark) {
    text { fill: #d3d8df } .grid { stroke: #3d434c } .frame { stroke: #8b939f }
    .joint-name { fill: #ee7ab5 } .kept-name { fill: #a9afb9 }
    .plan-name { fill: #5cb0f2 } .preset-name { fill: #4fc78a }
    .peer-name { fill: #f08a52 } .reach-name { fill: #ab8cec }
  }
"""


def stop(message, status):
    print(f"frontier: {message}", file=sys.stderr)
    sys.exit(status)


def read_points(paths):
    """{name: (bits, mean, error)} of all codecs but float16, which has no divergence."""
    points = {}
    for path in paths:
        try:
            report = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            stop(f"{path}: {error}", 3)
        if report.get("schema") != "polykv.fidelity/1":
            stop(f"{path}: not what fidelity --json prints", 1)
        for codec in report["codecs"]:
            if codec["kld_mean"] > 0:
                error = codec["kld_window_stderr"] or codec["kld_stderr"]
                points[codec["codec"]] = (codec["bits_per_value"], codec["kld_mean"], error)
    return points


class Scale:
    """Bits to x, linear; divergence to y, logarithmic."""

    def __init__(self, points):
        bits, klds = [point[0] for point in points], [point[1] for point in points]
        self.bits = (math.floor(2 * min(bits)) / 2 - 0.25, math.ceil(2 * max(bits)) / 2 + 0.5)
        self.powers = (math.log10(min(klds) / 1.6), math.log10(max(klds) * 1.6))

    def x(self, bits):
        low, high = self.bits
        return LEFT + (bits - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, kld):
        low, high = self.powers
        power = max(low, math.log10(kld) if kld > 0 else low)
        return HEIGHT - BOTTOM - (power - low) / (high - low) * (HEIGHT - TOP - BOTTOM)


def grid(scale):
    out = []
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    for bits in range(math.ceil(scale.bits[0]), math.floor(scale.bits[1]) + 1):
        x = scale.x(bits)
        out.append(f'<path class="grid" d="M{x:.1f} {TOP}V{bottom}"/>')
        out.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{bits}</text>')
    for power in range(math.floor(scale.powers[0]), math.ceil(scale.powers[1]) + 1):
        for step in (1, 2, 5):
            value = step * 10.0**power
            if scale.powers[0] <= math.log10(value) <= scale.powers[1]:
                y = scale.y(value)
                out.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>')
                label = f"{value:.5f}".rstrip("0")
                out.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    middle = (TOP + bottom) / 2
    out.append(f'<rect class="frame" x="{LEFT}" y="{TOP}" width="{right - LEFT}" height="{bottom - TOP}"/>')
    out.append(
        f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 14}" text-anchor="middle">bits per value, all counted</text>'
    )
    out.append(
        f'<text x="16" y="{middle}" text-anchor="middle" transform="rotate(-90 16 {middle})">'
        "mean KL divergence (nats), less is better</text>"
    )
    return out


def with_bar(scale, kind, point):
    bits, mean, error = point
    x, low, high = scale.x(bits), scale.y(mean - error), scale.y(mean + error)
    return [
        f'<path class="{kind}-bar" stroke-width="1.5" d="M{x:.1f} {low:.1f}V{high:.1f}M{x - 3:.1f} {low:.1f}h6'
        f'M{x - 3:.1f} {high:.1f}h6"/>',
        f'<circle class="{kind}-dot" cx="{x:.1f}" cy="{scale.y(mean):.1f}" r="3.5"/>',
    ]


def line(scale, kind, points):
    path = "L".join(f"{scale.x(bits):.1f} {scale.y(kld):.1f}" for bits, kld, *_ in sorted(points))
    return [f'<path class="{kind}" d="M{path}"/>']


def name(scale, kind, text, bits, kld, dx=8, dy=-6, anchor="start"):
    x, y = scale.x(bits) + dx, scale.y(kld) + dy
    return [f'<text class="{kind}-name" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>']


def draw(points):
    scale = Scale([*points.values(), *(peer[1:] for peer in PEERS), *REACH])
    lines = {kind: {} for kind, _ in LINES}
    presets = {}
    for key, point in points.items():
        kind = "joint" if key.startswith("joint") else "kept" if "/" in key else "plan"
        (lines[kind] if key.startswith(("auto", "joint", "@")) else presets)[key] = point
    out = grid(scale) + line(scale, "reach", REACH)
    out += name(scale, "reach", "what we set out to reach", *REACH[-1], dx=8, dy=4)
    for text, bits, kld in PEERS:
        x, y = scale.x(bits), scale.y(kld)
        out.append(f'<path class="peer-dot" d="M{x - 5:.1f} {y - 5:.1f}l10 10m0 -10l-10 10"/>')
        to_left = bits > 7.5
        out += name(
            scale, "peer", text, bits, kld, dx=-10 if to_left else 10, dy=4, anchor="end" if to_left else "start"
        )
    for text, point in presets.items():
        out += with_bar(scale, "preset", point) + name(scale, "preset", text, *point[:2])
    for kind, words in LINES:
        if not lines[kind]:
            continue
        out += line(scale, kind, lines[kind].values())
        for point in lines[kind].values():
            out += with_bar(scale, kind, point)
        if kind == "kept":
            out += name(scale, kind, words, *min(lines[kind].values())[:2], dx=12, dy=4)
        else:
            to_left = kind == "joint"
            out += name(
                scale, kind, words, *max(lines[kind].values())[:2],
                dx=-10 if to_left else 10, dy=16, anchor="end" if to_left else "start",
            )  # fmt: skip
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", metavar="JSON", help="of fidelity --json")
    parser.add_argument("-o", "--output", required=True, metavar="SVG")
    arguments = parser.parse_args()
    points = read_points(arguments.reports)
    if not points:
        stop("no codec with a divergence in the reports", 1)
    body = "\n".join(draw(points))
    picture = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" aria-label="Bits per value against divergence">\n<style>{STYLE}</style>\n{body}\n</svg>\n'
    )
    try:
        pathlib.Path(arguments.output).write_text(picture, encoding="utf-8")
    except OSError as error:
        stop(f"{arguments.output}: {error.strerror}", 3)


if __name__ == "__main__":
    main()
