"""Retention: every policy alone, and positions and bits chosen together, at equal bytes; the gap that is recovered.

  retention.py --windows 8 > retention.json
  retention.py --budgets 256 512 --policies h2o snapkv --joint h2o --windows 4
  retention.py --plan plan.json --windows 4 --budgets 256    polykv calibrate's plan, and what else its numbers give
  retention.py --table retention.json
  retention.py --table retention.json --policies h2o snapkv    the gap above the best of these alone

Runs `fidelity --recall`: KL divergence of the tokens after 1,536 of WikiText-2, and the share of passages of these that
the model repeats. A single policy keeps BUDGET positions a head in the default codec; the joint plan gets the bytes of
the largest single policy of that budget, position sets and all. Gap recovered, as the paper has it (arXiv 2606.15157):
(plan - best single) / (full - best single), full being all positions in the default codec; for the divergence with the
signs turned. Errors are a jackknife's over windows, with the best single policy chosen anew each time.

With --plan the layers are routed among the policies that the paper has, and among all that were calibrated, by each
preference; sensitivities share the budget out among layers, `+uniform` gives all the same. The plan must not have been
calibrated on the windows' text.
"""

import argparse
import json
import math
import pathlib
import sys
import tempfile

from evaluation import add_programs, fail, progress, run

SINGLES = """kvzip streamingllm h2o tova snapkv snapkv+ada pyramidkv cake d2o scissorhands cam
expected-attention compactor keydiff lagkv observed knorm random""".split()
PAPER = "streamingllm h2o tova snapkv pyramidkv cake d2o scissorhands cam".split()
SIGNS = {"cosine": 1, "perplexity": -1, "kld": -1, "recall": 1}  # of a preference: is more or less better
BUDGETS = [128, 256, 512, 768, 1024]
FULL = "auto"


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budgets", nargs="+", default=[str(b) for b in BUDGETS], help="positions of 1,536, or shares")
    parser.add_argument("--policies", nargs="+", default=SINGLES)
    parser.add_argument("--joint", nargs="*", default=["auto"], help="policies whose scores joint plans go by")
    parser.add_argument("--plan", type=pathlib.Path, help="by polykv calibrate, its sensitivity entropy")
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--prefill", default="bf16", choices=["f32", "bf16"])
    parser.add_argument("--table", type=pathlib.Path, help="print the table of an earlier run's JSON, and run nothing")
    add_programs(parser, "fidelity")
    return parser.parse_args()


def measure(arguments, names):
    model = ["-m", arguments.model] if arguments.model else []
    command = [arguments.fidelity, "--json", "--recall", "--windows", arguments.windows, "--prefill", arguments.prefill]
    report = json.loads(run(*command, *model, *names).stdout)
    return {row["codec"]: row for row in report["codecs"]}


def preferred(layer, names, preference):
    return max(names, key=lambda name: (SIGNS[preference] * layer[preference][name], -layer["kld"][name]))


def layer_plans(path, folder):
    """The plan's own numbers read in every way, as files in `folder`: their paths by what they are."""
    plan = json.loads(path.read_text(encoding="utf-8"))
    layers = plan["phases"]["prefill"]["layers"]
    entropy = [layer["sensitivity"] for layer in layers]
    paths = {}
    candidates = {"paper": PAPER, "paper less CaM": [name for name in PAPER if name != "cam"]}
    candidates["all"] = list(layers[0]["cosine"])
    for among, names in candidates.items():
        for preference in SIGNS:
            for sensitivity in ("perplexity", "entropy") if preference == "cosine" else ("perplexity",):
                for layer, of_attention in zip(layers, entropy, strict=True):
                    layer["policy"] = preferred(layer, names, preference)
                    largest = max(0, *(layer["perplexity"][name] for name in names))
                    layer["sensitivity"] = of_attention if sensitivity == "entropy" else largest
                plan["calibration"] |= {"preference": preference, "sensitivity": sensitivity}
                file = folder / f"{among.replace(' ', '-')}-{preference}-{sensitivity}.json"
                file.write_text(json.dumps(plan), encoding="utf-8")
                paths[f"{preference} among {among}, {sensitivity}"] = f"{file}"
                paths[f"{preference} among {among}, uniform"] = f"{file}+uniform"
    return paths


def measure_plans(arguments, paths, names_of_budgets):
    """Rows by what the plans are, at each budget; their names are added to `names_of_budgets`."""
    named = {f"{FULL}/{path}:{b}": f"{what}:{b}" for what, path in paths.items() for b in names_of_budgets}
    rows = {named[name]: row | {"codec": named[name]} for name, row in measure(arguments, list(named)).items()}
    for budget, names in names_of_budgets.items():
        names.extend(name for name in rows if name.endswith(f":{budget}"))
    return rows


def values(row, name):
    return [window[name] for window in row["windows"]]


def mean(numbers):
    return sum(numbers) / len(numbers)


def error(numbers):
    if len(numbers) < 2:
        return math.nan
    middle = mean(numbers)
    return math.sqrt(sum((x - middle) ** 2 for x in numbers) / (len(numbers) - 1) / len(numbers))


def gap(full, singles, plan, sign):
    """Recovered share, from the means of each; sign is +1 where more is better."""
    best = max(singles, key=lambda x: sign * x)
    return (plan - best) / (full - best) if full != best else math.nan


def gap_with_error(full, singles, plan, sign):
    """All are lists over the windows."""
    count = len(plan)
    left_out = [[x for j, x in enumerate(plan) if j != i] for i in range(count)] if count > 1 else []

    def at(skip):
        def part(numbers):
            return mean([x for j, x in enumerate(numbers) if j != skip])

        return gap(part(full), [part(single) for single in singles], part(plan), sign)

    whole = at(None)
    if not left_out:
        return whole, math.nan
    parts = [at(i) for i in range(count)]
    middle = mean(parts)
    return whole, math.sqrt((count - 1) / count * sum((x - middle) ** 2 for x in parts))


def print_table(report, policies):
    rows, budgets = report["rows"], report["budgets"]
    full = rows[FULL]
    print("| budget | what | bits | KLD | recall | gap of KLD recovered | gap of recall recovered |")
    print("|---|---|---|---|---|---|---|")

    def line(budget, row, gaps=("", "")):
        kld, hits = values(row, "kld_mean"), values(row, "hits")
        print(
            f"| {budget} | {row['codec']} | {row['bits_per_value']:.2f} | {mean(kld):.4f} ± {error(kld):.4f} "
            f"| {mean(hits):.3f} ± {error(hits):.3f} | {gaps[0]} | {gaps[1]} |"
        )

    line("all", full)
    for budget in budgets:
        names = [f"{FULL}/{policy}:{budget}" for policy in policies]
        singles = [rows[name] for name in report["singles"][budget] if name in names]
        for row in singles:
            line(budget, row)
        for name in report["plans"][budget] + report["joint"][budget]:
            gaps = []
            for measure_name, sign in (("kld_mean", -1), ("hits", 1)):
                share, its_error = gap_with_error(
                    values(full, measure_name), [values(row, measure_name) for row in singles],
                    values(rows[name], measure_name), sign,
                )  # fmt: skip
                gaps.append(f"{100 * share:.0f} ± {100 * its_error:.0f} %")
            line(budget, rows[name], gaps)


def main():
    arguments = options()
    if arguments.table:
        return print_table(json.loads(arguments.table.read_text(encoding="utf-8")), arguments.policies)
    report = {"schema": "polykv.retention/1", "windows": arguments.windows, "budgets": arguments.budgets}
    report["singles"] = {budget: [f"{FULL}/{p}:{budget}" for p in arguments.policies] for budget in arguments.budgets}
    progress(f"{len(arguments.policies)} policies at {len(arguments.budgets)} budgets")
    rows = measure(arguments, [FULL, *(name for names in report["singles"].values() for name in names)])
    report["plans"] = {budget: [] for budget in arguments.budgets}
    if arguments.plan:
        progress("plans by layer")
        with tempfile.TemporaryDirectory() as folder:
            rows |= measure_plans(arguments, layer_plans(arguments.plan, pathlib.Path(folder)), report["plans"])
    report["joint"] = {}
    for budget, names in report["singles"].items():
        bits = max(rows[name]["bits_per_value"] for name in names)
        report["joint"][budget] = [f"joint:{bits:.4f}/{policy}" for policy in arguments.joint]
    progress("joint plans at the same bytes")
    joint = [name for names in report["joint"].values() for name in names]
    if joint:
        rows |= measure(arguments, joint)
    report["rows"] = rows
    json.dump(report, sys.stdout, indent=1)
    print()
    return None


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        fail("standard output is closed")
