"""Answers from a compressed pool beside those from a float16 pool of the same document, question by question.

  answers.py k5v4 k4v3 --documents 4 --questions 12
  answers.py k5v4 --documents 0 --needles 20 --needle-lines 10
  answers.py auto/snapkv:25% auto:2.1 --documents 4 --questions 12
  answers.py k5v4 --documents 23 --results answers.jsonl      # goes on where it was stopped

FairytaleQA: stories with questions and two annotators' answers. F1 of tokens (case, punctuation and articles left out),
the better of the two. Needles (RULER, niah_multikey_3): the right UUID among many; items that fit the model's context,
and of them those that the float16 pool gets right; of shorter haystacks a small model gets more. The default model is
small: what counts is the difference between the pools, whose error is that of paired values.
"""

import argparse
import collections
import json
import pathlib
import re
import string

from evaluation import Pools, add_programs, data_file, fail, mean_and_error, plus_minus, progress

MAX_TOKENS = 48


def normalized(text):
    """Lower case without punctuation, articles and surplus space, as SQuAD scores."""
    text = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def f1(answer, reference):
    """Harmonic mean of precision and recall over words, each counted as often as it comes."""
    words, wanted = normalized(answer).split(), normalized(reference).split()
    if not words or not wanted:
        return float(words == wanted)
    common = sum((collections.Counter(words) & collections.Counter(wanted)).values())
    return 2 * common / (len(words) + len(wanted))


def best_f1(answer, references):
    return max(f1(answer, reference) for reference in references)


class Results:
    """Lines already there are not measured again."""

    def __init__(self, path):
        self.path = path
        self.rows = []
        if path and path.exists():
            self.rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    def missing(self, kind, name, codecs, count):
        """Codecs without all of the document's rows; none for a document that is known to be too long."""
        rows = [row for row in self.rows if (row["kind"], row["name"]) == (kind, name)]
        if any("too_long" in row for row in rows):
            return []
        have = collections.Counter(row["codec"] for row in rows if row["id"] < count)
        return [codec for codec in codecs if have[codec] < count]

    def add(self, rows):
        rows = list(rows)
        self.rows += rows
        if self.path:
            with open(self.path, "a", encoding="utf-8") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    def of(self, kind, codec, count=None):
        """{(document, question): row}"""
        return {
            (row["name"], row["id"]): row
            for row in self.rows
            if (row["kind"], row["codec"]) == (kind, codec) and (count is None or row["id"] < count)
        }


def measure(arguments, results, kind, name, document, questions, score, template):
    """Asks all questions at each codec that has no results yet; score(i, answer) rates one."""
    codecs = results.missing(kind, name, ["f16", *arguments.codecs], len(questions))
    with Pools(arguments.polykv, arguments.model, document, template) as pools:
        for codec in codecs:
            if pools.build(codec) is None:
                results.add([{"kind": kind, "name": name, "codec": codec, "id": 0, "too_long": True}])
                return
            answers = pools.ask(codec, questions, MAX_TOKENS, "--agents", min(15, len(questions)))
            results.add(
                {"kind": kind, "name": name, "codec": codec, "id": i, "answer": answer, "score": score(i, answer)}
                for i, answer in enumerate(answers)
            )
            progress(f"{name}: {codec}, {len(questions)} questions")


def measure_stories(arguments, results):
    lines = data_file(arguments.stories, "fairytaleqa/test.jsonl").read_text(encoding="utf-8").splitlines()
    for line in lines[: arguments.documents]:
        story = json.loads(line)
        asked = story["questions"][: arguments.questions]
        measure(arguments, results, "story", story["name"], story["document"],
                [f"{question['question']} Answer in a few words." for question in asked],
                lambda i, answer, asked=asked: best_f1(answer, asked[i]["answers"]), "auto")  # fmt: skip


def shortened(haystack, needle, count):
    """The first line (what to do) and `count` of the others at even distances, the needle's among them; 0: all."""
    first, *lines = haystack.split("\n")
    if not count or count >= len(lines):
        return haystack
    at = next(i for i, line in enumerate(lines) if needle in line)
    kept = {at} | {i * len(lines) // count for i in range(count)}
    return "\n".join([first, *(lines[i] for i in sorted(kept))])


def measure_needles(arguments, results):
    lines = data_file(arguments.haystacks, "ruler/niah_multikey_3_4096.jsonl").read_text(encoding="utf-8").splitlines()
    for line in lines[: arguments.needles]:
        item = json.loads(line)
        name = f"item {item['index']}" + (f" of {arguments.needle_lines} lines" if arguments.needle_lines else "")
        # The question ends in the beginning of its answer; without a template the model continues it.
        document, question = item["input"].rsplit("\n", 1)
        document = shortened(document, item["outputs"][0], arguments.needle_lines)
        measure(arguments, results, "needle", name, document, [question],
                lambda _, answer, item=item: float(item["outputs"][0] in answer), "none")  # fmt: skip


def report_stories(arguments, results):
    reference = results.of("story", "f16", arguments.questions)
    reference = {key: row for key, row in reference.items() if "answer" in row}
    if not reference:
        return
    documents = {name for name, _ in reference}
    print(f"FairytaleQA: {len(reference)} questions on {len(documents)} stories; F1 against the better annotator")
    print(f"  f16      F1 {plus_minus(row['score'] for row in reference.values())}")
    for codec in arguments.codecs:
        rows = results.of("story", codec, arguments.questions)
        pairs = [(row, rows[key]) for key, row in reference.items() if key in rows]
        print(
            f"  {codec:8} F1 {plus_minus(got['score'] for _, got in pairs)}, "
            f"less f16's {plus_minus(got['score'] - row['score'] for row, got in pairs)}; same answer "
            f"{100 * mean_and_error(row['answer'] == got['answer'] for row, got in pairs)[0]:.1f} %, "
            f"F1 of the two answers {plus_minus(f1(got['answer'], row['answer']) for row, got in pairs)}"
        )


def report_needles(arguments, results):
    reference = results.of("needle", "f16")
    if not reference:
        return
    fitting = {key: row for key, row in reference.items() if "answer" in row}
    right = {key: row for key, row in fitting.items() if row["score"]}
    print(f"Needles: {len(reference)} items, {len(fitting)} fit the context, f16 gets {len(right)} right")
    for codec in arguments.codecs:
        rows = results.of("needle", codec)
        kept = sum(rows[key]["score"] > 0 for key in right)
        gained = sum(rows[key]["score"] > 0 for key in fitting if key not in right)
        same = sum(rows[key]["answer"] == fitting[key]["answer"] for key in fitting)
        print(
            f"  {codec:8} {kept} of f16's {len(right)}, {gained} of its wrong ones; "
            f"same answer {same} of {len(fitting)}"
        )


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("codecs", nargs="+", metavar="CODEC")
    parser.add_argument("--documents", type=int, default=4, help="how many stories (4; 23 are there)")
    parser.add_argument("--questions", type=int, default=12, help="how many questions of each, at most (12)")
    parser.add_argument("--needles", type=int, default=0, help="how many needle items (0; 60 are there)")
    parser.add_argument("--needle-lines", type=int, default=0, help="keep so many of an item's lines (0: all, some 80)")
    parser.add_argument("--stories", help="else fairytaleqa/test.jsonl in ../shared/data or $POLYKV_DATA")
    parser.add_argument("--haystacks", help="else ruler/niah_multikey_3_4096.jsonl there")
    parser.add_argument("--results", type=pathlib.Path, help="JSON lines: kept, and not measured again")
    add_programs(parser, "polykv")
    arguments = parser.parse_args()
    arguments.codecs = [codec for codec in dict.fromkeys(arguments.codecs) if codec != "f16"]
    if not arguments.codecs:
        fail("name a codec to compare with f16", 2)
    return arguments


def main():
    arguments = options()
    results = Results(arguments.results)
    if arguments.documents:
        measure_stories(arguments, results)
    if arguments.needles:
        measure_needles(arguments, results)
    report_stories(arguments, results)
    report_needles(arguments, results)


if __name__ == "__main__":
    main()
