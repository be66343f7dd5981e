"""Bad input gets one clear line, the documented status, and leaves nothing behind."""

import os
import pathlib
import signal
import subprocess
import time

from program import MODEL, PROGRAM, ROOT, Workplace, environment, expect

TEXT = ROOT / "fixtures/text/lighthouse.txt"
OTHER_MODEL = ROOT / "fixtures/models/llama-gqa-q8_0.gguf"
OLD_POOLS = {version: ROOT / f"fixtures/pools/v{version}/k5v4.pkv" for version in ("0.1", "0.2")}


def refused(place, status, words, *arguments, **options):
    out, err = place.run(*arguments, status=status, **options)
    expect(out == "", f"{arguments}: printed {out}")
    expect(err.count("\n") == 1 and err.startswith("polykv: "), f"{arguments}: not one line: {err}")
    for word in words:
        expect(word in err, f"{arguments}: no '{word}' in: {err}")


def litter(place, *kept):
    expect(place.files() == sorted(kept), f"left behind: {place.files()}")


with Workplace() as place:
    work = place.path / "work"
    refused(place, 3, ["nothing.txt"], "build", "nothing.txt", "-o", "a.pkv")
    refused(place, 3, ["nothing.gguf"], "build", TEXT, "-o", "a.pkv", "-m", "nothing.gguf")
    refused(place, 1, ["empty"], "build", "-", "-o", "a.pkv")
    refused(place, 1, ["UTF-8", "byte 3"], "build", "-", "-o", "a.pkv", stdin=b"abc\xff")
    refused(place, 1, ["tokens", "8191 fit"], "build", "-", "-o", "a.pkv", stdin=b"one two three " * 4000)
    refused(place, 6, ["template", "chatml"], "build", TEXT, "-o", "a.pkv", "--template", "vicuna")
    refused(place, 3, ["folder"], "build", TEXT, "-o", "no/such/folder/a.pkv")
    refused(place, 1, ["token"], "build", "-", "-o", "a.pkv", "--template", "none", stdin=b"x")
    refused(place, 1, ["POLYKV_TORCH_DIR", "nowhere"], "build", "-", "-o", "a.pkv", "--prefill-type",
            "f32", stdin=b"Some text. More.", env={"POLYKV_TORCH_DIR": "nowhere"})  # fmt: skip
    litter(place)

    # A text without a stable token: the template's tokens alone make a pool, and it answers.
    place.run("build", "-", "-o", "tiny.pkv", stdin=b"x")
    place.run("ask", "tiny.pkv", "Hello?", "-n", "4")
    before = (work / "tiny.pkv").read_bytes()
    refused(place, 3, ["exists", "--force"], "build", TEXT, "-o", "tiny.pkv")
    expect((work / "tiny.pkv").read_bytes() == before, "a refused build changed the old pool")
    place.run("build", "-", "-o", "none.pkv", "--template", "none", stdin=b"Once upon a time there was a king")
    place.run("ask", "none.pkv", "who", "--template", "none", "-n", "4")

    # A pool of an earlier version is refused with the command that builds it again, and the command does.
    for version, pool in OLD_POOLS.items():
        refused(place, 6, [version, "polykv build POOL -o NEW"], "ask", pool, "Hello?", "--trust")
        place.run("build", pool, "-o", "new.pkv")
        place.run("ask", "new.pkv", "Hello?", "-n", "4")
        os.remove(work / "new.pkv")

    # Pools and models that do not fit each other name the first field.
    refused(place, 10, ["model.", "-m"], "ask", "tiny.pkv", "Hello?", "-m", OTHER_MODEL)
    refused(place, 10, ["template.name", "none"], "ask", "tiny.pkv", "Hello?", "--template", "none")
    refused(place, 3, ["nothing.gguf"], "ask", "tiny.pkv", "Hello?", "-m", "nothing.gguf")
    refused(place, 3, ["nothing.pkv"], "ask", "nothing.pkv", "Hello?")
    refused(place, 4, ["polykv build FILE -o POOL"], "ask", TEXT, "Hello?")
    refused(place, 1, ["no question"], "ask", "tiny.pkv")
    refused(place, 2, ["--jsonl"], "ask", "tiny.pkv", "One?", "Two?", "--json")

    # One question of several fails: the others are answered, the status tells.
    out, err = place.run("ask", "tiny.pkv", "--jsonl", "-n", "2", status=1, stdin=b'One?\n{"question": 5}\nTwo?\n')
    expect(out.count("\n") == 3 and '"error":null' in out and "kUnusableText" not in out, out)

    # A world-writable pool is refused, unless trusted.
    (work / "tiny.pkv").chmod(0o666)
    refused(place, 7, ["--trust"], "ask", "tiny.pkv", "Hello?")
    place.run("ask", "tiny.pkv", "Hello?", "-n", "2", "--trust")
    (work / "tiny.pkv").chmod(0o600)

    # A damaged page is found by verify, and by ask before its first output.
    damaged = bytearray(before)
    damaged[-9000 if len(damaged) > 20000 else len(damaged) // 2] ^= 1
    (work / "damaged.pkv").write_bytes(damaged)
    (work / "damaged.pkv").chmod(0o600)
    refused(place, 5, ["damaged.pkv"], "verify", "damaged.pkv")
    refused(place, 5, ["damaged.pkv"], "ask", "damaged.pkv", "Hello?")

    # Ctrl-C and SIGTERM during a build: the right status, the old pool untouched, nothing left behind.
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        process = subprocess.Popen(
            [PROGRAM, "build", TEXT, "-o", "tiny.pkv", "--force"],
            cwd=work,
            env=environment(place.path),
            stderr=subprocess.PIPE,
        )
        deadline = time.monotonic() + 120
        while not any(name.startswith(".tiny.pkv.tmp") for name in place.files()) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(number)
        _, err = process.communicate(timeout=120)
        expect(process.returncode == status, f"status {process.returncode} after signal {number}: {err}")
        expect(err.count(b"\n") == 1, err)
        expect((work / "tiny.pkv").read_bytes() == before, "the old pool changed")
    litter(place, "damaged.pkv", "none.pkv", "tiny.pkv")

    # A pipe whose reader goes away is the end, not an error.
    piped = subprocess.run(
        f"{PROGRAM} ask tiny.pkv 'Tell me a long story.' -n 200 | head -c 1 >/dev/null; exit ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", cwd=work, env=environment(place.path), capture_output=True,
    )  # fmt: skip
    expect(piped.returncode == 0 and piped.stderr == b"", piped)

    # A full disk (RLIMIT_FSIZE stands in for it).
    full = subprocess.run(
        ["bash", "-c", 'ulimit -f 64; trap "" XFSZ; exec "$@"', "-", PROGRAM, "build", TEXT, "-o", "big.pkv"],
        cwd=work, env=environment(place.path), capture_output=True,
    )  # fmt: skip
    expect(full.returncode == 3 and full.stderr.count(b"\n") == 1, full)
    litter(place, "damaged.pkv", "none.pkv", "tiny.pkv")

    # Models that are damaged or unsupported.
    model = pathlib.Path(place.path / "model.gguf")
    model.write_bytes(MODEL.read_bytes()[:50_000_000])
    refused(place, 5, ["model.gguf"], "build", TEXT, "-o", "a.pkv", "-m", model)
    model.write_bytes(b"not a model at all")
    refused(place, 5, ["model.gguf"], "build", TEXT, "-o", "a.pkv", "-m", model)
    os.remove(model)
