"""Pools that keep a part of the positions: the gate, budgets, words and numbers, on the demonstration's text."""

import json

from program import ROOT, Workplace, expect

TEXT = ROOT / "fixtures/text/lighthouse.txt"


def stats(place, pool):
    return json.loads(place.run("stats", "--json", pool)[0])


with Workplace() as place:

    def build(pool, *arguments, status=0):
        return place.run("build", TEXT, "-o", pool, *arguments, status=status)

    # The most recent part alone: what stood before cannot be repeated any more, and such a pool is not written.
    _, err = build("recent.pkv", "--retain", "streamingllm", "--keep", "15%", status=1)
    expect(err.count("\n") == 1 and "at 10 % depth" in err and "--accept-loss" in err, err)
    expect(place.files() == [], f"left behind: {place.files()}")
    build("recent.pkv", "--retain", "streamingllm", "--keep", "15%", "--accept-loss")
    recent = stats(place, "recent.pkv")
    hits, reference = (recent["fidelity"]["recall"][name] for name in ("hits", "reference_hits"))
    expect(hits[0] < reference[0] - 0.3, f"recall at 10 %: {hits}, uncompressed {reference}")
    expect(hits[2] > reference[2] - 0.3, f"recall at 90 %, which is kept: {hits}, uncompressed {reference}")
    num_tokens = recent["tokens"]
    expect(recent["kept"]["mean"] == num_tokens * 15 // 100, f"kept: {recent['kept']}")
    words = place.run("stats", "recent.pkv")[0]
    expect("a head keeps 502 on average (15.0 %)" in words and "recall falls at 10 % depth" in words, words)

    # A twentieth of float16, chosen with the bits: by itself, since nothing else fits.
    small = recent["f16_kv_bytes"] // 20
    build("small.pkv", "--size", small)
    expect((place.path / "work/small.pkv").stat().st_size <= small, "larger than asked for")
    shown = stats(place, "small.pkv")
    expect(shown["kept"]["mean"] < num_tokens, f"kept: {shown['kept']}")
    identity = json.loads(place.run("inspect", "--json", "small.pkv")[0])["identity"]
    expect(identity["retention.policy"] == "auto with bits", str(identity))
    # Measured: .01 to .035 by machine's time for the probes; bits alone cannot be that small at all.
    expect(shown["fidelity"]["tail"]["kld_mean"] < 0.1, str(shown["fidelity"]["tail"]))
    out, _ = place.run("ask", "small.pkv", "What is the rowing boat called?")
    expect("Kittiwake" in out, out)

    # Two bits: dropping too does less harm than rounding all (measured: a sixth of the KLD).
    build("joint.pkv", "--bits", "2")
    build("bits.pkv", "--bits", "2", "--retain", "fullkv")
    joint, bits = stats(place, "joint.pkv"), stats(place, "bits.pkv")
    expect("kept" in joint and "kept" not in bits, "which of them drops positions")
    expect(joint["bits_per_value"] <= 2.0 and bits["bits_per_value"] <= 2.0, "bits")
    klds = [pool["fidelity"]["tail"]["kld_mean"] for pool in (joint, bits)]
    expect(klds[0] < klds[1] / 2, f"KLD {klds}")

    # Policies by name; merging ones change what is kept, nothing else.
    build("h2o.pkv", "--retain", "h2o", "--keep", "1000", "--accept-loss", "--no-probe")
    build("cam.pkv", "--retain", "cam", "--keep", "1000", "--accept-loss", "--no-probe")
    h2o, cam = (stats(place, name) for name in ("h2o.pkv", "cam.pkv"))
    expect(h2o["kept"] == cam["kept"] and h2o["kept"]["mean"] == 1000, f"kept: {h2o['kept']}, {cam['kept']}")
    files = [json.loads(place.run("inspect", "--json", name)[0])["file_id"] for name in ("h2o.pkv", "cam.pkv")]
    expect(files[0] != files[1], "merging changed nothing")
