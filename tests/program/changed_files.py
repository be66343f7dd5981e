"""A pool or model that changes under a running ask: which changes end it, with what status, and that nothing is printed
after one. Replacing a file by rename and deleting it change nothing."""

import shutil
import subprocess
import sys
import time

from changes import MODEL_CHANGES, NO_CHANGES, POOL_CHANGES, cut_to
from program import ROOT, Workplace, environment, expect
from reader import PIPE_BYTES, Reader

MODEL = ROOT / "fixtures/models/llama-gqa-q8_0.gguf"  # tiny: an answer takes milliseconds
MAKE_POOL = sys.argv[2]
LONGEST_TOKEN = 16  # bytes; the fixture's tokenizer has none of more than 8, and a held-back character adds 3


def ask_through(place, change, file, mid_answer):
    """One answer; then `change` while it idles, or in the middle of the next answer. What comes after the first answer
    and what fills the pipe, standard error, and the status."""
    pool, model = place.path / "work/a.pkv", place.path / "work/m.gguf"
    shutil.copy(place.path / "a.pkv", pool)
    shutil.copy(MODEL, model)
    time.sleep(0.01)  # past the file system's clock tick
    reader = Reader(place, "a.pkv", model="m.gguf")
    reader.ask("Who")
    expect(reader.read(len(first)) == first, "the first answer differs")
    if mid_answer:
        reader.block()
        reader.ask("Why")
        reader.wait_until_blocked()
        change(pool if file == "pool" else model)
    else:
        change(pool if file == "pool" else model)
        reader.ask("Why")
    status, rest, err = reader.finish()
    skipped = PIPE_BYTES if mid_answer else 0
    return status, rest[skipped:], err


with Workplace() as place:
    subprocess.run([MAKE_POOL, MODEL, place.path / "a.pkv", "64", "1"], check=True)

    def whole(*options):
        shutil.copy(place.path / "a.pkv", place.path / "work/a.pkv")
        command = [sys.argv[1], "ask", "a.pkv", "-m", MODEL, *options]
        return subprocess.run(
            command, cwd=place.path / "work", env=environment(place.path), capture_output=True, check=True
        ).stdout

    first, second = whole("Who"), b"\n" + whole("Why")
    expect(len(second) > 5 * LONGEST_TOKEN and len(second) < PIPE_BYTES, f"no good answer to cut: {second!r}")

    for file, name, changes in (("pool", "a.pkv", POOL_CHANGES), ("model", "m.gguf", MODEL_CHANGES)):
        for change, wanted, words in changes:
            for mid_answer in (False, True):
                case = f"{file}, {change.__name__} ({words}), {'mid-answer' if mid_answer else 'idle'}"
                status, out, err = ask_through(place, change, file, mid_answer)
                expect(status == wanted, f"{case}: status {status}, expected {wanted}: {err}")
                expect(err.startswith("polykv: ") and err.count("\n") == 1, f"{case}: not one line: {err}")
                expect(f"{name}: it {words} while in use; " in err, f"{case}: {err}")
                # What was computed before the change may come out, one token at most.
                expect(second.startswith(out), f"{case}: {out!r} is not the start of {second!r}")
                expect(len(out) <= (1 + LONGEST_TOKEN if mid_answer else 0), f"{case}: printed on: {out!r}")
        for change in NO_CHANGES:
            for mid_answer in (False, True):
                got = ask_through(place, change, file, mid_answer)
                expect(got == (0, second, ""), f"{file}, {change.__name__}: {got}")

    # A page that is gone in the middle of a step is met by the CPU, not by fstat: the line names the model by itself.
    _, _, err = ask_through(place, cut_to(0), "model", True)
    expect(err.startswith("polykv: m.gguf: "), f"not SIGBUS: {err}")
