"""Eight processes on one pool: what the kernel says they cost in all, one killed, the pool replaced by another build.

The bound on PSS: the weights once, the pool once, and for each process 7 MB (its own memory, its part of the program
and of the libraries) beside its tail, 2 bytes for each value of the positions that it added.
"""

import json
import pathlib
import signal
import subprocess
import sys

from program import MODEL, Workplace, expect
from reader import Reader

MAKE_POOL = sys.argv[2]
NUM_PROCESSES = 8
TOKENS, OTHER_TOKENS = 4000, 100
QUESTIONS = ["Who pays?", "Where was it found?", "When does it end?"]
ANSWER_TOKENS = 12
OWN_BYTES = 7_000_000
TAIL_BYTES_A_TOKEN = 2 * 2 * 30 * 3 * 64  # keys and values, float16, layers, kv_heads, head_dim

if not MODEL.exists():
    print("SKIPPED: the default model is not there: ./dev setup fetches it")
    sys.exit(0)


def make_pool(place, tokens, seed):
    subprocess.run([MAKE_POOL, MODEL, place.path / "work/a.pkv", str(tokens), str(seed)], check=True)


def live(place):
    out, err = place.run("stats", "a.pkv", "--live", "--json", "-q")
    expect(err == "", err)
    return json.loads(out)


def start(place):
    return Reader(place, "a.pkv", "--jsonl", "-n", str(ANSWER_TOKENS))


def take(reader):
    answer = json.loads(reader.line())
    expect(answer["error"] is None, answer)
    return answer["answer"], answer["prompt_tokens"] + answer["generated_tokens"]


with Workplace() as place:
    # What the answers are: one process alone.
    make_pool(place, TOKENS, 1)
    alone = start(place)
    answers = []
    for question in QUESTIONS:
        alone.ask(question)
        answers.append(take(alone)[0])
    expect(alone.finish()[::2] == (0, ""), "alone: not well")
    expect(len(set(answers)) > 1, f"answers that cannot be told apart: {answers}")

    readers = [start(place) for _ in range(NUM_PROCESSES)]
    for reader in readers:
        reader.ask(QUESTIONS[0])
    tail_tokens = 0
    for reader in readers:
        answer, tokens = take(reader)
        expect(answer == answers[0], f"{answer!r}, alone {answers[0]!r}")
        tail_tokens = max(tail_tokens, tokens)

    # None of them has LibTorch in it: it would cost each 0.2 s and 59 MB.
    for reader in readers:
        maps = pathlib.Path(f"/proc/{reader.process.pid}/maps").read_text()
        expect("a.pkv" in maps, "the pool is not mapped")
        expect("torch" not in maps and "libc10" not in maps, f"LibTorch is mapped:\n{maps}")

    # All of them, and no more than one copy.
    stats = live(place)
    pids = {reader.process.pid for reader in readers}
    expect({process["pid"] for process in stats["live"]} == pids, f"{stats['live']}, expected {pids}")
    total, pool_bytes, model_bytes = stats["live_total"], stats["pool_bytes"], MODEL.stat().st_size
    for name in ("pss_bytes", "private_bytes", "shared_bytes"):
        expect(total[name] == sum(process[name] for process in stats["live"]), f"{name} does not add up: {stats}")
    bound = model_bytes + pool_bytes + NUM_PROCESSES * (OWN_BYTES + tail_tokens * TAIL_BYTES_A_TOKEN)
    print(f"PSS in all {total['pss_bytes']:,}, bound {bound:,}, with copies {total['without_sharing_bytes']:,}")
    expect(total["pss_bytes"] <= bound, f"PSS in all is {total['pss_bytes']}, above {bound}: {stats}")
    # Nobody shares the pool with others than these, and all of its pages that an answer needs are there, once.
    pool_pss = sum(process["pool_pss_bytes"] for process in stats["live"])
    expect(0.9 * stats["kv_bytes"] <= pool_pss <= pool_bytes + 4096, f"the pool counts {pool_pss} of {pool_bytes}")
    expect(total["without_sharing_bytes"] >= NUM_PROCESSES * pool_bytes, f"copies: {total}")
    expect(total["without_sharing_bytes"] > 4 * total["pss_bytes"], f"copies: {total}")

    # One is killed while all of them answer, and another build takes the pool's place.
    for reader in readers:
        reader.ask(QUESTIONS[1])
    expect(readers[0].kill() == -signal.SIGKILL, "not killed")
    make_pool(place, OTHER_TOKENS, 2)
    for question, wanted in zip(QUESTIONS[1:], answers[1:], strict=True):
        for reader in readers[1:]:
            if question != QUESTIONS[1]:
                reader.ask(question)
        for reader in readers[1:]:
            answer, _ = take(reader)
            expect(answer == wanted, f"after the kill and the rename: {answer!r}, alone {wanted!r}")

    # They stay on the old pool; who comes now gets the new one.
    new = start(place)
    new.ask(QUESTIONS[0])
    cached = json.loads(new.line())["cached_tokens"]
    expect(cached == OTHER_TOKENS, f"the new reader has {cached} tokens")
    stats = live(place)
    expect([process["pid"] for process in stats["live"]] == [new.process.pid], f"on the new pool: {stats['live']}")
    older = stats["live_total"]["older_pool_processes"]
    expect(older == NUM_PROCESSES - 1, f"{older} processes on the old pool")
    out, _ = place.run("stats", "a.pkv", "--live", "-q")
    expect("  live                1 process maps the pool: PSS " in out, out)
    expect("                      7 processes still map an older pool of this path\n" in out, out)

    for reader in [new, *readers[1:]]:
        status, rest, err = reader.finish()
        expect((status, rest, err) == (0, b"", ""), f"{status}: {rest} {err}")
    stats = live(place)
    expect(stats["live"] == [] and stats["live_total"]["older_pool_processes"] == 0, f"left: {stats}")
