#!/usr/bin/env python3
"""polykv beside llama.cpp: same model file, document, threads and depth, in turn, in one run; prints a Markdown table.

  compare.py --polykv build/polykv --model FILE.gguf --document FILE [--threads 2] [--rounds 3] [--json FILE]

Needs the Python packages llama-cpp-python and numpy. Machines are noisy: each figure is the best of the rounds, which
go in turn, and the ratio is what counts. llama.cpp's figures leave out the start of Python; polykv's are whole
processes where the table says so.
"""

import argparse
import json
import os
import pathlib
import platform
import signal
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
QUESTION = "Who is the author of this text? Answer in one sentence."
NUM_AGENTS = 15
NUM_PROCESSES = 8


def output_of(command, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)
    if done.returncode != 0:
        sys.exit(f"{command[0]}: status {done.returncode}: {done.stderr.strip()[-300:]}")
    return done.stdout


class Llama:
    def __init__(self, options, state):
        self.options, self.state = options, state

    def run(self, mode, **more):
        command = [sys.executable, HERE / "llama_cpp_worker.py", mode, "--model", self.options.model,
                   "--document", self.options.document, "--threads", self.options.threads]  # fmt: skip
        for name, value in more.items():
            command += [f"--{name}", value]
        return json.loads(output_of(command, stderr=None).splitlines()[-1])


class Polykv:
    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        self.pool = folder / "document.pkv"

    def build(self, document, pool):
        return json.loads(output_of([self.options.polykv, "build", document, "-o", pool, "-m", self.options.model,
                                     "-t", self.options.threads, "--json", "--force"]))  # fmt: skip

    def ask_command(self, pool, tokens, threads, *more):
        return [self.options.polykv, "ask", pool, *more, "-m", self.options.model, "-n", tokens, "-t", threads]

    def ask(self, pool, tokens):
        start = time.perf_counter()
        line = json.loads(output_of(self.ask_command(pool, tokens, self.options.threads, QUESTION, "--json")))
        line["process_s"] = time.perf_counter() - start
        return line

    def agents(self, tokens):
        # Questions without an end, so that no agent is done before the others.
        questions = "".join(f"Write a very long story about number {i}.\n" for i in range(NUM_AGENTS))
        command = self.ask_command(self.pool, tokens, self.options.threads, "--jsonl", "--agents", NUM_AGENTS)
        lines = [json.loads(line) for line in output_of(command, input=questions).splitlines()]
        # Each agent's own rate, from its first token to its last: all of them were at work at once.
        return sum(line["decode_tok_s"] for line in lines)


def pss_of(pids):
    total = 0
    for pid in pids:
        for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total / 1e6


def polykv_memory(polykv):
    """PSS in MB of processes about 128 tokens (some 500 characters) into their answers, one thread each."""
    command = polykv.ask_command(polykv.pool, 400, 1, "Write a long story about a cat and a dog.")
    processes = [
        subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE) for _ in range(NUM_PROCESSES)
    ]
    for process in processes:
        seen = 0
        while seen < 500 and (data := os.read(process.stdout.fileno(), 4096)):
            seen += len(data)
        process.send_signal(signal.SIGSTOP)
    total = pss_of([process.pid for process in processes])
    for process in processes:
        process.kill()
        process.wait()
    return total


def llama_memory(llama):
    command = [sys.executable, HERE / "llama_cpp_worker.py", "hold", "--model", llama.options.model, "--threads", "1",
               "--state", llama.state, "--tokens", "128"]  # fmt: skip
    processes = [
        subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )  # fmt: skip
        for _ in range(NUM_PROCESSES)
    ]
    for process in processes:
        process.stdout.readline()
    total = pss_of([process.pid for process in processes])
    for process in processes:
        process.communicate(b"\n")
    return total


def measure(options, folder):
    """{row: [polykv's best, llama.cpp's best, True if more is better]}"""
    llama, polykv = Llama(options, folder / "llama.state"), Polykv(options, folder)
    tiny = folder / "tiny.txt"
    tiny.write_text("The cat sat on the mat. It was happy.\n")
    polykv.build(tiny, folder / "tiny.pkv")
    rows = {}

    def note(name, ours, theirs, more_is_better=True):
        best = max if more_is_better else min
        old = rows.get(name)
        rows[name] = [best(ours, old[0]) if old else ours, best(theirs, old[1]) if old else theirs, more_is_better]
        print(f"{name}: {ours:.3g} and {theirs:.3g}", file=sys.stderr, flush=True)

    for _ in range(options.rounds):
        built = polykv.build(options.document, polykv.pool)
        read = llama.run("prefill", state=llama.state)
        note("prefill of the document, tok/s", built["prefill_tok_s"], read["tokens"] / read["prefill_s"])
        note(
            "decode at its depth, f16 KV there, tok/s",
            polykv.ask(polykv.pool, 64)["decode_tok_s"],
            read["decode_tok_s"],
        )
        note(
            "compress and save it, s",
            (built["quantize_ms"] + built["plan_ms"] + built["probe_ms"]) / 1000,
            read["save_s"],
            more_is_better=False,
        )
        quantized = llama.run("prefill", kv="q8_0")
        note("the same, q8_0 KV there, tok/s", polykv.ask(polykv.pool, 64)["decode_tok_s"], quantized["decode_tok_s"])
        empty = Llama(argparse.Namespace(**{**vars(options), "document": str(tiny)}), "").run("prefill", tokens=128)
        note(
            "decode with nothing before it, tok/s",
            polykv.ask(folder / "tiny.pkv", 128)["decode_tok_s"],
            empty["decode_tok_s"],
        )
        note(f"{NUM_AGENTS} agents on the document in one process, tok/s in all", polykv.agents(64),
             llama.run("agents", agents=NUM_AGENTS, tokens=64)["tok_s"])  # fmt: skip
        saved = llama.run("answer", state=llama.state, tokens=9)
        answered = polykv.ask(polykv.pool, 9)
        note(
            "open it with the model (there: load the state alone), s",
            answered["load_ms"] / 1000,
            saved["load_s"],
            False,
        )
        note("9 tokens from it, whole process, s", answered["process_s"], saved["answer_s"], False)
    note("the saved pool or state, MB", polykv.pool.stat().st_size / 1e6, os.path.getsize(llama.state) / 1e6, False)
    note(
        f"PSS of {NUM_PROCESSES} processes, 128 tokens into their answers, MB",
        polykv_memory(polykv),
        llama_memory(llama),
        False,
    )
    return rows, built["tokens"]


def cpu_name():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--polykv", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--document", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="write the figures here too")
    options = parser.parse_args()
    import llama_cpp

    with tempfile.TemporaryDirectory() as folder:
        rows, tokens = measure(options, pathlib.Path(folder))
    version = output_of([options.polykv, "--version"]).strip()
    print(
        f"{cpu_name()}, {options.threads} threads, {tokens} tokens; "
        f"{version}; llama-cpp-python {llama_cpp.__version__}\n"
    )
    print("| | polykv | llama.cpp | polykv is |\n|---|---|---|---|")
    for name, (ours, theirs, more_is_better) in rows.items():
        ratio = ours / theirs if more_is_better else theirs / ours
        print(f"| {name} | {ours:.4g} | {theirs:.4g} | {ratio:.2f} x |")
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps({"tokens": tokens, "rows": rows}, indent=2))


main()
