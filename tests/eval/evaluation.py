"""What the evaluation scripts share: running the programs, and means with their errors."""

import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "POLYKV_NO_PROBE": "1"}  # pools built here are measured here


def fail(message, status=1):
    print(f"{pathlib.Path(sys.argv[0]).stem}: {message}", file=sys.stderr)
    sys.exit(status)


def progress(message):
    print(message, file=sys.stderr, flush=True)


def run(program, *arguments, stdin="", allowed=(0,)):
    """The finished process; any other exit status ends the script with the program's own message."""
    command = [str(part) for part in (program, *arguments)]
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    except OSError as error:
        fail(f"{program}: {error.strerror}; build it first, or name it", 3)
    if done.returncode not in allowed:
        fail(f"{' '.join(command[:3])} ...: status {done.returncode}: {done.stderr.strip()[-500:]}")
    return done


def add_programs(parser, *names):
    """--polykv, --fidelity and --handoff, where the build puts them."""
    places = {"polykv": "build/polykv", "fidelity": "build/tests/fidelity", "handoff": "build/tests/handoff"}
    for name in names:
        parser.add_argument(
            f"--{name}",
            type=pathlib.Path,
            default=ROOT / places[name],
            metavar="PROGRAM",
            help=f"the program {name}; else {places[name]} in the tree",
        )
    parser.add_argument("-m", "--model", default=None, help="the model; else POLYKV_MODEL, else the default one")


def data_file(given, name):
    """`given`, or NAME in $POLYKV_DATA or ../shared/data."""
    path = pathlib.Path(given or pathlib.Path(os.environ.get("POLYKV_DATA", ROOT.parent / "shared/data")) / name)
    if not path.is_file():
        fail(f"{path}: not there; name the file, or set POLYKV_DATA to the folder with {name}", 3)
    return path


class Pools:
    """Pools of one document at several codecs, in a folder that goes when the block ends."""

    def __init__(self, polykv, model, document, template="auto", options=()):
        self.polykv, self.document, self.template = polykv, document, template
        self.options = [*options, *(["-m", model] if model else [])]

    def __enter__(self):
        self.temporary = tempfile.TemporaryDirectory(prefix="polykv-")
        self.folder = pathlib.Path(self.temporary.name)
        (self.folder / "document.txt").write_text(self.document, encoding="utf-8")
        return self

    def __exit__(self, *_):
        self.temporary.cleanup()

    def build(self, codec):
        """What `build --json` prints; None if the document is too long for the model.

        auto:BITS and CODEC/POLICY:KEEP as in `fidelity`; what that loses is what is measured, so it is accepted.
        """
        name, _, retain = codec.partition("/")
        name, _, bits = name.partition(":")
        policy, _, keep = retain.partition(":")
        done = run(
            self.polykv, "build", self.folder / "document.txt", "-o", self.pool(codec), "--codec", name,
            *(["--bits", bits] if bits else []), *(["--retain", policy, "--keep", keep] if retain else []),
            "--accept-loss", "--template", self.template, "--json", *self.options, allowed=(0, 1),
        )  # fmt: skip
        if done.returncode == 0:
            return json.loads(done.stdout)
        if "fit the model's context" in done.stderr:
            return None
        fail(f"build: {done.stderr.strip()[-500:]}")

    def pool(self, codec):
        return self.folder / f"{codec.replace(':', '-').replace('/', '-')}.pkv"

    def ask(self, codec, questions, tokens, *more):
        """The answers, in order."""
        lines = "".join(json.dumps({"id": i, "question": text}) + "\n" for i, text in enumerate(questions))
        done = run(self.polykv, "ask", self.pool(codec), "--jsonl", "-n", tokens, *more, *self.options, stdin=lines)
        return [json.loads(line)["answer"] for line in done.stdout.splitlines()]

    def export(self, codec):
        path = self.pool(codec).with_suffix(".safetensors")
        run(self.polykv, "export", self.pool(codec), "-o", path)
        return path


def mean_and_error(values):
    """Mean and the standard error of it; (nan, nan) of none."""
    values = list(values)
    if not values:
        return math.nan, math.nan
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, math.nan
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))


def plus_minus(values, digits=4):
    mean, error = mean_and_error(values)
    return f"{mean:.{digits}f}" if math.isnan(error) else f"{mean:.{digits}f} +- {error:.{digits}f}"
