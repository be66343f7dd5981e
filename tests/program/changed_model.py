"""A model that changes while a pool is built from it: exit status 5, one line, and neither a pool nor a temporary file
is left. Replacing the model by rename and deleting it change nothing."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

from changes import MODEL_CHANGES, NO_CHANGES
from program import MODEL, PROGRAM, ROOT, Workplace, environment, expect

TEXT = ROOT / "fixtures/text/lighthouse.txt"
AT_ONCE = ["--codec", "k5v4", "--no-probe"]  # pages go to the temporary file from the first layer on


def has_temporary(process):
    """Has it opened its temporary file, with a name or without? It does so right before the prefill."""
    for link in pathlib.Path(f"/proc/{process.pid}/fd").iterdir():
        try:
            if ".a.pkv.tmp." in os.readlink(link):
                return True
        except OSError:  # closed meanwhile
            pass
    return False


def build_through(place, change, options):
    """Builds work/a.pkv; `change` comes while the prefill runs. Exit status and standard error."""
    work = place.path / "work"
    for name in place.files():
        (work / name).unlink()
    shutil.copy(MODEL, place.path / "m.gguf")
    time.sleep(0.01)  # past the file system's clock tick
    process = subprocess.Popen(
        [PROGRAM, "build", TEXT, "-o", "a.pkv", "-m", place.path / "m.gguf", *options],
        cwd=work,
        env=environment(place.path),
        stderr=subprocess.PIPE,
        text=True,
    )
    while not has_temporary(process):
        expect(process.poll() is None, "the build ended early")
        time.sleep(0.001)
    process.send_signal(signal.SIGSTOP)
    expect("a.pkv" not in place.files(), "the build was done before the change")
    change(place.path / "m.gguf")
    process.send_signal(signal.SIGCONT)
    _, err = process.communicate(timeout=300)
    return process.returncode, err


if not MODEL.exists():
    print("SKIPPED: the default model is not there: ./dev setup fetches it")
    sys.exit()

with Workplace() as place:
    # At once: a page that is gone (SIGBUS) while the temporary file has a name, and a change that only fstat notices.
    for options, changes in (([], MODEL_CHANGES), (AT_ONCE, [MODEL_CHANGES[0], MODEL_CHANGES[-1]])):
        for change, wanted, words in changes:
            case = f"{change.__name__} ({words}), {options}"
            status, err = build_through(place, change, options)
            expect(status == wanted, f"{case}: status {status}, expected {wanted}: {err}")
            expect(err.startswith("polykv: ") and err.count("\n") == 1, f"{case}: not one line: {err}")
            expect(f"m.gguf: it {words} while in use; " in err, f"{case}: {err}")
            expect(place.files() == [], f"{case}: left behind: {place.files()}")

    pools = []
    for change in (lambda path: None, *NO_CHANGES):
        status, err = build_through(place, change, AT_ONCE)
        expect(status == 0 and place.files() == ["a.pkv"], f"{change.__name__}: status {status}: {err}")
        pools.append((place.path / "work/a.pkv").read_bytes())
    expect(all(pool == pools[0] for pool in pools), "another pool")
