#!/usr/bin/env python3
"""How attention and steps get faster as pools keep fewer positions: the same document, any share of it, one run.

  kept.py --polykv build/polykv --model FILE.gguf --document FILE [--codec k4v4] [--shares 100 50 25 10] [--rounds 2]

Positions are dropped at random, which leaves the most scattered runs. Prints a Markdown table: bytes of the pages,
milliseconds of one token's attention in all layers, and of a whole step, for one agent and for fifteen at the pool's
end, each the best of the rounds, which go in turn.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile


def output_of(*command):
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--polykv", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--document", required=True)
    parser.add_argument("--codec", default="k4v4")
    parser.add_argument("--shares", nargs="+", type=int, default=[100, 50, 25, 10], help="percent of the positions")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    model = ["-m", arguments.model]
    best = {share: {} for share in arguments.shares}
    with tempfile.TemporaryDirectory() as folder:
        pools = {share: pathlib.Path(folder) / f"{share}.pkv" for share in arguments.shares}
        for share, pool in pools.items():
            output_of(arguments.polykv, "build", arguments.document, "-o", pool, *model, "--codec", arguments.codec,
                      "--retain", "random", "--keep", f"{share}%", "--accept-loss", "--no-probe", "-q")  # fmt: skip
        for _ in range(arguments.rounds):
            for share, pool in pools.items():
                report = json.loads(output_of(arguments.polykv, "bench", pool, *model, "--json"))
                depth = max(row["depth"] for row in report["attention"])
                for kind, rows in (("attention", report["attention"]), ("step", report["step"])):
                    for row in rows:
                        if row.get("depth", depth) != depth or row["agents"] not in (1, 15):
                            continue
                        key = (kind, row["agents"])
                        best[share][key] = min(best[share].get(key, row["ms"]), row["ms"])
                        if kind == "attention":
                            best[share]["bytes"] = row["page_bytes"]
    print("| kept | pages, MB | attention, ms | 15 agents | step, ms | 15 agents |")
    print("|---|---|---|---|---|---|")
    for share, found in best.items():
        times = " | ".join(f"{found[kind, agents]:.2f}" for kind in ("attention", "step") for agents in (1, 15))
        print(f"| {share} % | {found['bytes'] / 1e6:.1f} | {times} |")


if __name__ == "__main__":
    main()
