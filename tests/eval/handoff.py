"""Hand-offs between agents through cards: what precision costs, from hop to hop.

  handoff.py fairytaleqa --chains 10 --results fairytaleqa.jsonl
  handoff.py gsm8k --chains 10 --variants 4 auto:4 8 auto:8 --results gsm8k.jsonl
  handoff.py controller --results controller.json
  handoff.py --show fairytaleqa.jsonl --plot handoff.svg

A chain: a base pool and questions, each asked by an agent that reads the cards of those before it; agent h + 1 reads h
cards, and is the row "h hops". The reference hands on float16 cards. Every variant is compared with it twice: reading
the reference's own questions and answers (same token, KL divergence), and answering for itself (same answers, tokens
until the first difference). FairytaleQA: a story, six of its questions. GSM8K: worked problems, then a problem, four
times "check it", and the answer alone. The controller is made on other texts, passages of a novel and of WikiText-2.
Goes on where it was stopped: a chain whose variants are all there is not run.
"""

import argparse
import collections
import json
import math
import pathlib
import re
import tempfile
from html import escape

from answers import best_f1
from evaluation import ENVIRONMENT, add_programs, data_file, fail, mean_and_error, progress, run

VARIANTS = ("16", "8", "auto:8", "base", "4", "auto:4", "heads:4", "tokens:4")
QUESTIONS = 6
WORDS = (800, 2200)  # of a story
WORKED = 4  # problems in the base pool
PASSAGES = (("books/frankenstein.txt", 5, "\n\n"), ("wikitext2/wiki.test.raw", 3, "\n"))  # how many, what begins one
PASSAGE = 6000  # characters
CHECKS = (
    "Check the solution step by step.",
    "Is every number right? Check again.",
    "Look for a mistake and correct it.",
    "Check it once more.",
)


def fairytales(path):
    """Stories with their questions and answers, three chains each."""
    for line in path.read_text(encoding="utf-8").splitlines():
        story = json.loads(line)
        if not WORDS[0] < len(story["document"].split()) < WORDS[1]:
            continue
        for number in range(len(story["questions"]) // QUESTIONS):
            asked = story["questions"][QUESTIONS * number :][:QUESTIONS]
            yield {
                "id": f"{story['name']}/{number}",
                "document": story["document"],
                "questions": [question["question"] for question in asked],
                "answers": [question["answers"] for question in asked],
            }


def sums(path):
    problems = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    worked = "\n\n".join(
        f"Problem: {problem['question']}\nSolution: {re.sub('<<.*?>>', '', problem['answer'])}"
        for problem in problems[-WORKED:]
    )
    for number, problem in enumerate(problems[:-WORKED]):
        yield {
            "id": f"gsm8k/{number}",
            "document": "Problems with their solutions.\n\n" + worked,
            "questions": [
                f"Solve this problem step by step: {problem['question']}",
                *CHECKS,
                "What is the answer? Say the number alone.",
            ],
            "answers": [problem["answer"].split("####")[1].strip().replace(",", "")],
        }


def make_controller(arguments):
    """Pools of passages at even depths, and what polykv calibrate --cards makes of them."""
    with tempfile.TemporaryDirectory(prefix="polykv-handoff-") as folder:
        pools = []
        for name, count, paragraph in PASSAGES:
            text = data_file(None, name).read_text(encoding="utf-8")
            for number in range(count):
                begin = text.index(paragraph, int(len(text) * (number + 0.5) / count))
                pools.append(pathlib.Path(folder, f"{pathlib.Path(name).stem}-{number}.pkv"))
                passage = text[begin : begin + PASSAGE].strip()
                run(arguments.polykv, "build", "-", "-o", pools[-1], "-q", stdin=passage)
        progress(run(arguments.polykv, "calibrate", "--cards", *pools, "-o", arguments.results).stderr.strip())


DATA = {"fairytaleqa": (fairytales, "fairytaleqa/test.jsonl", 48), "gsm8k": (sums, "gsm8k/test.jsonl", 96)}


def last_number(text):
    numbers = re.findall(r"-?\d[\d,]*\.?\d*", text)
    return numbers[-1].replace(",", "").rstrip(".") if numbers else None


def score(chain, hops, answer):
    """F1 of an answer of a story; whether the last agent has the right number; None where nothing is asked."""
    if len(chain["answers"]) == QUESTIONS:
        return best_f1(answer, chain["answers"][hops])
    return float(last_number(answer) == chain["answers"][0]) if hops == QUESTIONS - 1 else None


def read_rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def measure(arguments):
    ENVIRONMENT.pop("POLYKV_NO_PROBE", None)  # what probes measure of the base's heads is what mixed plans go by
    make, name, max_tokens = DATA[arguments.data]
    chains = list(make(data_file(None, name)))
    step = max(1, len(chains) // arguments.chains) if arguments.data == "fairytaleqa" else 1
    done = collections.Counter((row["chain"], row["variant"]) for row in read_rows(arguments.results))
    with tempfile.TemporaryDirectory(prefix="polykv-handoff-") as folder, arguments.results.open("a") as results:
        bases = {}
        for chain in chains[::step][: arguments.chains]:
            missing = [variant for variant in arguments.variants if done[chain["id"], variant] < QUESTIONS]
            if not missing:
                continue
            if chain["document"] not in bases:
                bases[chain["document"]] = pathlib.Path(folder, f"{len(bases)}.pkv")
                run(arguments.polykv, "build", "-", "-o", bases[chain["document"]], "-q", stdin=chain["document"])
            progress(f"{chain['id']}: {' '.join(missing)}")
            request = json.dumps({**chain, "base": str(bases[chain["document"]])})
            by = ["--controller", arguments.controller] if arguments.controller else []
            out = run(arguments.handoff, *missing, "-n", max_tokens, *by, stdin=request + "\n").stdout
            for row in map(json.loads, out.splitlines()):
                row["score"] = score(chain, row["hops"], row["answer"])
                results.write(json.dumps(row) + "\n")
            results.flush()


def means(rows, value):
    """By variant and hops, over chains."""
    values = collections.defaultdict(list)
    for row in rows:
        if value(row) is not None:
            values[row["variant"], row["hops"]].append(value(row))
    return {key: mean_and_error(of_key) for key, of_key in values.items()}


def paired(rows, variant, other):
    """Means over hops 1 and on of log KLD and same token, `variant` less `other`, over chains that have both."""
    by = collections.defaultdict(dict)
    for row in rows:
        if row["hops"] > 0:
            by[row["chain"], row["variant"]][row["hops"]] = row["forced"]
    changes = []
    for chain in {chain for chain, _ in by}:
        mine, theirs = by.get((chain, variant)), by.get((chain, other))
        if mine and theirs and len(mine) == len(theirs) == QUESTIONS - 1:
            kld = [sum(hop["kld"] for hop in hops.values()) for hops in (mine, theirs)]
            same = [sum(hop["same_top"] for hop in hops.values()) / len(hops) for hops in (mine, theirs)]
            if min(kld) > 0:
                changes.append((math.log(kld[0] / kld[1]), 100 * (same[0] - same[1])))
    return [mean_and_error([change[i] for change in changes]) for i in (0, 1)] if len(changes) > 1 else None


def show(rows):
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    klds, same = means(rows, lambda row: row["forced"]["kld"]), means(rows, lambda row: 100 * row["forced"]["same_top"])
    identical = means(rows, lambda row: 100.0 * row["identical"])
    print(f"{len({row['chain'] for row in rows})} chains\n")
    header = " | ".join(f"{hops} hop{'s' * (hops > 1)}" for hops in range(1, QUESTIONS))
    for title, table, form in (
        ("KLD, in nats", klds, lambda pair: f"{pair[0]:.5f} ± {pair[1]:.5f}"),
        ("same token as the reference, %", same, lambda pair: f"{pair[0]:.1f} ± {pair[1]:.1f}"),
        ("the same answer, %", identical, lambda pair: f"{pair[0]:.0f}"),
    ):
        print(f"| {title} | {header} |\n|{'---|' * QUESTIONS}")
        for variant in variants:
            print(f"| {variant} | " + " | ".join(form(table[variant, hops]) for hops in range(1, QUESTIONS)) + " |")
        print()
    bits = means(rows, lambda row: row["card"]["bits"])
    scores = means([{**row, "hops": 0} for row in rows], lambda row: row["score"])
    tokens = means([{**row, "hops": 0} for row in rows if row["hops"]], lambda row: float(row["same_tokens"]))
    print("| | bits a value | tokens until an answer differs | score | log KLD against 4 | same token against 4, % |")
    print(f"|{'---|' * 6}")
    for variant in variants:
        size = sum(bits[variant, hops][0] for hops in range(QUESTIONS)) / QUESTIONS
        against = paired(rows, variant, "4") if variant != "4" else None
        changes = [f"{mean:+.2f} ± {error:.2f}" for mean, error in against] if against else ["", ""]
        told = f"{scores[variant, 0][0]:.3f} ± {scores[variant, 0][1]:.3f}" if (variant, 0) in scores else ""
        print(f"| {variant} | {size:.2f} | {tokens[variant, 0][0]:.0f} | {told} | {changes[0]} | {changes[1]} |")


WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 420, 78, 150, 20, 50
COLOURS = ("#1a7fd4", "#c2337f", "#2a9d62", "#d9662b", "#8a63d2", "#8b8f97", "#b58900")
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #3a3f47 } .grid { stroke: #c9ced6 }
  @media (prefers-color-scheme: dark) { text { fill: #d3d8df } .grid { stroke: #3d434c } }
"""


def plot(rows, path):
    """Divergence by hops, a line a variant, its error as a bar."""
    klds = means(rows, lambda row: row["forced"]["kld"])
    variants = [name for name in dict.fromkeys(row["variant"] for row in rows) if klds[name, 1][0] > 1e-7]
    every = [klds[name, hops][0] for name in variants for hops in range(1, QUESTIONS)]
    low, high = math.floor(math.log10(min(every))), math.ceil(math.log10(max(every)))

    def x(hops):
        return LEFT + (hops - 1) / (QUESTIONS - 2) * (WIDTH - LEFT - RIGHT)

    def y(kld):
        return TOP + (high - math.log10(max(kld, 10**low))) / (high - low) * (HEIGHT - TOP - BOTTOM)

    out = []
    for power in range(low, high + 1):
        at = y(10.0**power)
        out.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        out.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{10.0**power:g}</text>')
    for hops in range(1, QUESTIONS):
        out.append(f'<text x="{x(hops):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{hops}</text>')
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">cards handed on</text>')
    out.append(f'<text x="14" y="{(TOP + HEIGHT - BOTTOM) / 2}" transform="rotate(-90 14 '
               f'{(TOP + HEIGHT - BOTTOM) / 2})" text-anchor="middle">KL divergence, nats</text>')  # fmt: skip
    ends = []
    for name, colour in zip(variants, COLOURS * 3, strict=False):
        points = [(x(hops), klds[name, hops]) for hops in range(1, QUESTIONS)]
        line = "L".join(f"{at:.1f} {y(kld):.1f}" for at, (kld, _) in points)
        out.append(f'<path d="M{line}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        for at, (kld, error) in points:
            out.append(f'<path d="M{at:.1f} {y(kld - error):.1f}V{y(kld + error):.1f}" stroke="{colour}"/>')
        ends.append([y(points[-1][1][0]), name, colour])
    below = -math.inf
    for end in sorted(ends):  # names that would lie on each other move down
        below = max(end[0], below + 15)
        text = f'<text x="{WIDTH - RIGHT + 8}" y="{below + 4:.1f}" style="fill:{end[2]}">{escape(end[1])}</text>'
        out.append(text)
    body = "\n".join(out)
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" aria-label="Divergence by hops">\n<style>{STYLE}</style>\n{body}\n</svg>\n',
        encoding="utf-8",
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", choices=(*DATA, "controller"))
    parser.add_argument("--chains", type=int, default=10, metavar="N", help="how many; 10 take about 6 minutes")
    parser.add_argument("--variants", nargs="+", default=VARIANTS, metavar="NAME", help="of handoff --help")
    parser.add_argument("--controller", metavar="FILE", help="for variants ...@learned and ...@local (see controller)")
    parser.add_argument("--results", type=pathlib.Path, metavar="FILE", help="lines of JSON, added to; the controller")
    parser.add_argument("--show", type=pathlib.Path, metavar="FILE", help="only tables of results")
    parser.add_argument("--plot", type=pathlib.Path, metavar="SVG", help="with --show: a picture too")
    add_programs(parser, "polykv", "handoff")
    arguments = parser.parse_args()
    if bool(arguments.data) == bool(arguments.show) or (arguments.data and not arguments.results):
        fail("give data and --results, or --show FILE", 2)
    if arguments.model:
        ENVIRONMENT["POLYKV_MODEL"] = arguments.model
    if arguments.data == "controller":
        make_controller(arguments)
        return
    if arguments.data:
        measure(arguments)
    rows = read_rows(arguments.show or arguments.results)
    if not rows:
        fail("no results", 1)
    show(rows)
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
