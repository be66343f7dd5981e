"""Agents in processes of their own hand cards on: three in a pipeline, eight on one card, some killed while they write.

cards.py POLYKV MAKE_MODEL_POOL
"""

import json
import random
import signal
import subprocess
import sys
import time

from program import MODEL, PROGRAM, ROOT, Workplace, environment, expect

SMALL = ROOT / "fixtures/models/llama-gqa-q8_0.gguf"
model = MODEL if MODEL.exists() else SMALL
FORKS = 8


def start(place, *arguments):
    return subprocess.Popen(
        [PROGRAM, *map(str, arguments), "-t", "1", "-m", model],
        cwd=place.path / "work",
        env=environment(place.path),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def save(place, pool, question, card, *options):
    return start(place, "ask", pool, question, "-n", "12", "--save", card, *options)


def check_pipeline(place):
    """As a shell joins them: each runs when the one before has ended well."""
    steps = [
        f'"{PROGRAM}" ask base.pkv "Who kept it?" -n 12 --save one.pkv',
        f'"{PROGRAM}" ask one.pkv "And then?" -n 12 --save two.pkv --bits 8',
        f'"{PROGRAM}" ask two.pkv "Why?" -n 12 --json',
    ]
    done = subprocess.run(
        ["sh", "-c", " && ".join(steps)],
        cwd=place.path / "work",
        env={**environment(place.path), "POLYKV_MODEL": str(model)},
        capture_output=True,
        text=True,
    )
    expect(done.returncode == 0 and done.stderr == "", done.stderr)
    last = json.loads(done.stdout.splitlines()[-1])
    cards = [json.loads(place.run("inspect", "--json", f"{name}.pkv")[0]) for name in ("one", "two")]
    expect(last["cached_tokens"] == 150 + sum(card["tokens"] for card in cards), f"{last}")
    expect(cards[1]["first_position"] == 150 + cards[0]["tokens"], "where the second card begins")


def check_fork(place):
    """Many on the same card at once; each has its own, and the card is what it was."""
    before = (place.path / "work/one.pkv").read_bytes()
    alone, _ = save(place, "one.pkv", "Why 3?", "alone.pkv").communicate(timeout=300)
    agents = [save(place, "one.pkv", f"Why {i}?", f"fork-{i}.pkv") for i in range(FORKS)]
    answers = [agent.communicate(timeout=300) for agent in agents]
    expect(all(agent.returncode == 0 for agent in agents), str(answers))
    expect(answers[3][0] == alone, f"{answers[3][0]} among others, {alone} alone")
    work = place.path / "work"
    expect((work / "fork-3.pkv").read_bytes() == (work / "alone.pkv").read_bytes(), "a card made among others differs")
    place.run("verify", "--digest", *[f"fork-{i}.pkv" for i in range(FORKS)])
    expect((work / "one.pkv").read_bytes() == before, "the card that they forked from changed")


def check_kill(place):
    """Killed at any moment, an agent leaves a whole card or none, and nothing that hinders the next."""
    noise, cards = random.Random(5), 0
    begin = time.monotonic()
    save(place, "one.pkv", "Where?", "timed.pkv").communicate(timeout=300)
    whole = time.monotonic() - begin
    for number in range(12):
        agents = [save(place, "one.pkv", "Where?", f"kill-{number}-{i}.pkv") for i in range(3)]
        time.sleep(whole * noise.uniform(0.5, 1.5))
        agents[1].send_signal(signal.SIGKILL)
        for agent in agents:
            agent.communicate(timeout=300)
        expect(agents[0].returncode == 0 and agents[2].returncode == 0, "the others did not end well")
        name = f"kill-{number}-1.pkv"
        if (place.path / "work" / name).exists():
            cards += 1
            place.run("verify", "--digest", name)
        else:
            out, err = save(place, "one.pkv", "Where?", name).communicate(timeout=300)
            expect(err == b"" and (place.path / "work" / name).exists(), f"after a kill: {err}")
        place.run("verify", "--digest", f"kill-{number}-0.pkv", f"kill-{number}-2.pkv")
    print(f"{cards} of 12 killed agents had written their card")
    left = [name for name in place.files() if not name.endswith(".pkv")]
    expect(left == [], f"left: {left}")


with Workplace() as place:
    subprocess.run([sys.argv[2], model, place.path / "work/base.pkv", "150", "1"], check=True)
    check_pipeline(place)
    check_fork(place)
    check_kill(place)
