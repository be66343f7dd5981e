"""calibrate: the same plan again, interrupted or not; nothing there is overwritten; build keeps what the plan says."""

import json
import signal
import subprocess
import time

from program import PROGRAM, ROOT, Workplace, environment, expect

MODEL = ROOT / "fixtures/models/llama-gqa-q8_0.gguf"
SOURCE = (ROOT / "fixtures/text/lighthouse.txt").read_text()
COMMON = ["-m", MODEL, "--keep", "64"]

with Workplace() as place:
    work = place.path / "work"
    texts = [f"{i}.txt" for i in range(5)]
    for i, name in enumerate(texts):
        (work / name).write_text(SOURCE[2000 * i : 2000 * i + 4000])

    place.run("calibrate", *texts, "-o", "plan.json", *COMMON, "--sensitivity", "entropy")
    plan = json.loads((work / "plan.json").read_text())
    expect(place.files() == sorted([*texts, "plan.json"]), f"left behind: {place.files()}")
    layers, of_tails = (plan["phases"][phase]["layers"] for phase in ("prefill", "decode"))
    expect([text["name"] for text in plan["calibration"]["texts"]] == texts, plan["calibration"])
    expect(all(text["tokens"] == 404 for text in plan["calibration"]["texts"]), plan["calibration"])
    for layer in layers + of_tails:
        best = max(layer["cosine"], key=layer["cosine"].get)
        expect(layer["policy"] == best, f"{layer['policy']} is not the best of {layer['cosine']}")
        expect(0 < layer["sensitivity"], layer)

    # The same again, by the other signals: what was measured is the same.
    out, _ = place.run(
        "calibrate", *texts, "-o", "other.json", *COMMON, "--preference", "perplexity", "--json", "-t", "1",
    )  # fmt: skip
    report, other = json.loads(out), json.loads((work / "other.json").read_text())
    expect(report["schema"] == "polykv.calibrate/1" and report["runs"] == 5 * 3 * (14 + 6), report)
    others = other["phases"]["prefill"]["layers"] + other["phases"]["decode"]["layers"]
    for layer, again in zip(layers + of_tails, others, strict=True):
        expect(layer["cosine"] == again["cosine"] and layer["perplexity"] == again["perplexity"], again)
        best = min(again["perplexity"], key=again["perplexity"].get)
        expect(again["policy"] == best, f"{again['policy']} is not the best of {again['perplexity']}")
        sure = [value for policy, value in again["perplexity"].items() if policy not in ("scissorhands", "cam")]
        expect(again["sensitivity"] == max(0, *sure), again)

    # Interrupted after a text: what is finished stays, and the same command makes the same plan.
    command = ["calibrate", *texts, "-o", "stopped.json", *map(str, COMMON), "--sensitivity", "entropy"]
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        (work / "stopped.json").unlink(missing_ok=True)
        process = subprocess.Popen(
            [PROGRAM, *command], cwd=work, env=environment(place.path), stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 120
        while not (work / "stopped.json.part").exists() and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(number)
        _, err = process.communicate(timeout=120)
        expect(process.returncode == status, f"status {process.returncode} after signal {number}: {err}")
        expect(err.count("\n") == 1 and "stopped.json.part" in err and " of 5 texts" in err, err)
        expect("stopped.json.part" in place.files() and "stopped.json" not in place.files(), place.files())
        # Another command does not take it, and does not overwrite it.
        _, err = place.run("calibrate", texts[0], "-o", "stopped.json", *COMMON, status=3)
        expect("stopped.json.part" in err and "other texts" in err and "--force" in err, err)
        _, err = place.run(*command)
        expect("going on after" in err, err)
        expect((work / "stopped.json").read_bytes() == (work / "plan.json").read_bytes(), "another plan")
        expect("stopped.json.part" not in place.files(), place.files())

    # What is in the way: a plan, something that is no part, a folder that is not there.
    before = (work / "plan.json").read_bytes()
    _, err = place.run("calibrate", texts[0], "-o", "plan.json", *COMMON, status=3)
    expect("--force" in err and (work / "plan.json").read_bytes() == before, err)
    (work / "new.json.part").write_text("mine")
    _, err = place.run("calibrate", texts[0], "-o", "new.json", *COMMON, status=3)
    expect("not valid JSON" in err and (work / "new.json.part").read_text() == "mine", err)
    place.run("calibrate", texts[0], "-o", "new.json", *COMMON, "--force")
    expect("new.json.part" not in place.files(), place.files())
    _, err = place.run("calibrate", texts[0], "-o", "no/such/plan.json", *COMMON, status=3)
    expect(err.count("\n") == 1 and "no/such" in err, err)

    # A build by the plan: each layer has its budget, floor and largest remainder; without --keep the plan's.
    (work / "doc.txt").write_text(SOURCE[:700])
    build = ["build", "doc.txt", "-m", MODEL, "--accept-loss", "--codec", "k8v8"]

    def kept(name, *retain):
        place.run(*build, "-o", name, "--retain", *retain)
        out, _ = place.run("stats", name, "--json")
        return json.loads(out)["kept"]

    def budgets(total):
        weights = [layer["sensitivity"] + 1e-6 for layer in layers]
        exact = [36 + (total - 36 * len(weights)) * weight / sum(weights) for weight in weights]
        shares = [int(share) for share in exact]
        order = sorted(range(len(exact)), key=lambda i: shares[i] - exact[i])
        for i in order[: total - sum(shares)]:
            shares[i] += 1
        return shares

    expect(kept("a.pkv", "plan.json")["by_layer"] == budgets(3 * 64), kept)
    expect(kept("b.pkv", "plan.json", "--keep", "100")["by_layer"] == budgets(3 * 100), kept)
    expect(kept("c.pkv", "plan.json+uniform", "--keep", "100")["by_layer"] == [100, 100, 100], kept)
    # A long answer by the plan: its tail is down to 40 a head after 128 positions, and the same in all runs.
    (work / "short.txt").write_text(SOURCE[:200])
    place.run("build", "short.txt", "-o", "short.pkv", "-m", MODEL, "--codec", "k8v8")
    asked = ["ask", "short.pkv", "What is it?", "-m", MODEL, "-n", "160", "--json", "--tail-retain", "plan.json"]
    answer, again = (json.loads(place.run(*asked, "--tail-keep", "40")[0]) for _ in range(2))
    seen = (answer["prompt_tokens"] + answer["generated_tokens"] - 1) // 64 * 64
    expect(seen >= 128 and answer["dropped_tokens"] == seen - 40, answer)
    expect(answer["answer"] == again["answer"], again)
    expect(json.loads(place.run(*asked)[0])["dropped_tokens"] == seen - 64, "not as much as it was calibrated with")

    out, _ = place.run("inspect", "c.pkv", "--json")
    expect('"plan ' in out and '+uniform 100 tokens"' in out, out)
