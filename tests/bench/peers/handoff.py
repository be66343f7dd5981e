#!/usr/bin/env python3
"""Time to the first token after a hand-off: from a card, against reading it all again, and llama.cpp's saved state.

  handoff.py --polykv build/polykv --model FILE.gguf --document FILE [--threads 2] [--rounds 5]

A pool of the document's beginning, and a card of a question and its answer on it; then another question. Rounds go in
turn through all ways at one length; each figure is the median. The clock runs from when a process has its arguments:

  card           polykv ask CARD QUESTION: model, pool and card are mapped, the question is read
  all cards      the same where the pool is the document's first lines and a card that append made has the rest
  re-ask         polykv ask POOL with the first question, its answer and the new question as text
  re-prefill     what polykv build takes to read the document again (its prefill alone), then as re-ask
  llama.cpp      its model is open already; loading a saved state of as many tokens, then the same question
  llama.cpp all  the same from where its process has its arguments, less the start of Python

Needs the Python packages llama-cpp-python and numpy.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
TOKENS = (500, 2000, 4000, 8000)
FIRST_LINES = 300  # characters
CARD_TOKENS = 60  # about, of which the pool leaves room for
FIRST, SECOND = "What is this text about?", "Who is the author of this text? Answer in one sentence."
WAYS = ("card", "all cards", "re-ask", "re-prefill", "llama.cpp", "llama.cpp all")


def output_of(command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{command[0]}: status {done.returncode}: {done.stderr.strip()[-300:]}")
    return done.stdout.splitlines()[-1] if done.stdout.strip() else ""


class Place:
    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        self.text, self.pool, self.card, self.state = (
            folder / name for name in ("text.txt", "base.pkv", "card.pkv", "llama.state")
        )
        self.last_card = folder / "last.pkv"  # of the chain that is all cards

    def polykv(self, *arguments):
        options = ("-m", self.options.model, "-t", self.options.threads, "--json")
        return json.loads(output_of([self.options.polykv, *arguments, *options]))

    def llama(self, mode, **more):
        command = [sys.executable, HERE / "llama_cpp_worker.py", mode, "--model", self.options.model]
        command += ["--document", self.text, "--threads", self.options.threads, "--state", self.state]
        for name, value in more.items():
            command += [f"--{name}", value]
        return json.loads(output_of(command))

    def prepare(self, document, tokens):
        """A pool of nearly so many tokens, and a card; a state of them. Returns what making the card took."""
        characters = int(4.5 * tokens)
        while True:
            self.text.write_text(document[:characters], encoding="utf-8")
            built = self.polykv("build", self.text, "-o", self.pool, "--force", "--no-probe")
            if abs(built["tokens"] + CARD_TOKENS - tokens) <= tokens / 100:
                break
            characters = int(characters * (tokens - CARD_TOKENS) / built["tokens"])
        asked = self.polykv("ask", self.pool, FIRST, "-n", 40, "--save", self.card, "--force")
        self.append_rest()
        self.first = f"{FIRST}\n{asked['answer']}\n"
        self.llama("prefill", tokens=1)
        return asked["card"]

    def append_rest(self):
        text = self.text.read_text(encoding="utf-8")
        lines, rest = self.folder / "lines.txt", self.folder / "rest.txt"
        lines.write_text(text[:FIRST_LINES], encoding="utf-8")
        rest.write_text(text[FIRST_LINES:], encoding="utf-8")
        base, longer = self.folder / "lines.pkv", self.folder / "longer.pkv"
        self.polykv("build", lines, "-o", base, "--force", "--no-probe")
        self.polykv("append", base, rest, "-o", longer, "--force")
        self.polykv("ask", longer, FIRST, "-n", 40, "--save", self.last_card, "--force")

    def measure(self):
        """Milliseconds of each way, once."""
        card = self.polykv("ask", self.card, SECOND, "-n", 1)
        all_cards = self.polykv("ask", self.last_card, SECOND, "-n", 1)
        again = self.polykv("ask", self.pool, self.first + SECOND, "-n", 1)
        scratch = self.folder / "again.pkv"
        prefill = self.polykv("build", self.text, "-o", scratch, "--force", "--no-probe", "--codec", "f16")
        state = self.llama("answer", tokens=1)
        re_ask = again["load_ms"] + again["ttft_ms"]
        return {
            "card": card["load_ms"] + card["ttft_ms"],
            "all cards": all_cards["load_ms"] + all_cards["ttft_ms"],
            "re-ask": re_ask,
            "re-prefill": prefill["prefill_ms"] + re_ask,
            "llama.cpp": 1000 * state["state_to_first_s"],
            "llama.cpp all": 1000 * state["first_token_s"],
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--polykv", type=pathlib.Path, required=True)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--document", type=pathlib.Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    document = options.document.read_text(encoding="utf-8")
    print(f"| tokens | {' | '.join(WAYS)} | card, bytes | written in, ms |\n|{'---|' * (len(WAYS) + 3)}")
    for tokens in TOKENS:
        with tempfile.TemporaryDirectory(prefix="polykv-handoff-") as folder:
            place = Place(options, pathlib.Path(folder))
            card = place.prepare(document, tokens)
            rounds = [place.measure() for _ in range(options.rounds)]
        median = {way: statistics.median(times[way] for times in rounds) for way in WAYS}
        cells = [f"{median['card']:.0f} ms"]
        cells += [f"{median[way]:.0f} ms, {median[way] / median['card']:.1f} x" for way in WAYS[1:]]
        print(f"| {tokens} | {' | '.join(cells)} | {card['bytes']:,} | {card['write_ms']:.1f} |", flush=True)


main()
