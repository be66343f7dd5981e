"""Retention for questions to come: pools made when only the first question was known, asked that one and all others.

  later_questions.py --keep 10% > later.txt
  later_questions.py --keep 25% --policies snapkv kvzip --first 12

The text is the lighthouse of fixtures/text, which at its end mentions one of its questions, as policies that go by the
last tokens' attention expect it. Each policy makes a pool of it; the pool is asked that question and the eleven
others. An answer is right if it has the words that questions.tsv gives. `float16` keeps everything, `joint` gets the
bytes of the first policy's pool. Prints a Markdown table; errors are binomial over questions.
"""

import argparse
import json
import math
import pathlib
import tempfile

from evaluation import ROOT, add_programs, progress, run

TEXT = ROOT / "fixtures/text"
MENTION = "(One of the questions that this text answers is:"


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", default="10%")
    parser.add_argument("--policies", nargs="+", default=["snapkv", "tova", "h2o", "kvzip", "expected-attention"])
    parser.add_argument("--first", type=int, default=6, help="how many questions are the first one in turn")
    add_programs(parser, "polykv")
    return parser.parse_args()


class Score:
    def __init__(self):
        self.right, self.asked = 0, 0

    def add(self, is_right):
        self.right += is_right
        self.asked += 1

    def __str__(self):
        share = self.right / self.asked
        return f"{self.right} of {self.asked}, {share:.2f} ± {math.sqrt(share * (1 - share) / self.asked):.2f}"


def main():
    arguments = options()
    model = ["-m", arguments.model] if arguments.model else []
    questions = [line.split("\t") for line in (TEXT / "questions.tsv").read_text(encoding="utf-8").splitlines()]
    lines = "".join(json.dumps({"id": name, "question": question}) + "\n" for name, question, _ in questions)
    text = (TEXT / "lighthouse.txt").read_text(encoding="utf-8")
    names = ["float16", *arguments.policies, "joint"]
    scores = {name: (Score(), Score()) for name in names}
    with tempfile.TemporaryDirectory() as folder:
        document, pool = pathlib.Path(folder, "text.txt"), pathlib.Path(folder, "pool.pkv")
        for first, question, _ in questions[: arguments.first]:
            document.write_text(f"{text}\n\n{MENTION} {question})\n", encoding="utf-8")
            size = None
            for name in names:
                progress(f"{first}: {name}")
                if name == "float16":
                    how = ["--codec", "f16"]
                elif name == "joint":
                    how = ["--size", size, "--accept-loss"]
                else:
                    how = ["--retain", name, "--keep", arguments.keep, "--accept-loss"]
                run(arguments.polykv, "build", document, "-o", pool, "--force", "-q", *model, *how)
                if name == arguments.policies[0]:
                    size = pool.stat().st_size
                asked = run(arguments.polykv, "ask", pool, "--jsonl", "--temp", 0, *model, stdin=lines)
                answers = {line["id"]: line["answer"] for line in map(json.loads, asked.stdout.splitlines())}
                for other, _, wanted in questions:
                    scores[name][other != first].add(wanted in answers[other])
    print(f"| at {arguments.keep} | the question that it knew | the others |")
    print("|---|---|---|")
    for name, (known, later) in scores.items():
        print(f"| {name} | {known} | {later} |")


if __name__ == "__main__":
    main()
