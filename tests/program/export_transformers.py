"""The README's Hugging Face snippet, as it stands there: an exported pool goes on in transformers.

Run with a Python that has torch and transformers 4.57.6 (./dev test sets it up).
"""

import contextlib
import io
import os
import re

import torch
import transformers
from program import ROOT, Workplace, expect
from safetensors import safe_open

MODEL_DIR = ROOT / "fixtures/models/llama-gqa-bf16"
MORE_TOKENS = [11, 12, 13]
expect(transformers.__version__ == "4.57.6", f"transformers {transformers.__version__}, expected 4.57.6")
snippet = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[1]


def continue_from(export):
    """What the snippet prints."""
    printed = io.StringIO()
    code = snippet.replace("contract.safetensors", str(export))
    with contextlib.redirect_stdout(printed):
        exec(code, {"MODEL_DIR": str(MODEL_DIR), "MORE_TOKENS": MORE_TOKENS})
    return [int(number) for number in re.findall(r"\d+", printed.getvalue())]


with Workplace() as place:
    work = place.path / "work"
    os.chdir(work)
    text = "The keeper of the light wrote in the book every evening. " * 3
    for codec, expected_equal in (("f16", True), ("k8v3", None)):
        place.run(
            "build",
            "-",
            "-o",
            f"{codec}.pkv",
            "-m",
            MODEL_DIR,
            "--codec",
            codec,
            "--prefill-type",
            "f32",
            stdin=text.encode(),
        )
        place.run("export", f"{codec}.pkv", "-o", f"{codec}.safetensors")
        mine = continue_from(work / f"{codec}.safetensors")
        with safe_open(work / f"{codec}.safetensors", "pt") as file:
            tokens = file.get_tensor("tokens")
            keys = file.get_tensor("layers.0.keys")
            expect(sorted(file.keys())[0].startswith("layers."), file.keys())
        model = transformers.AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32)
        prompt = torch.tensor([[*tokens.tolist(), *MORE_TOKENS]])
        own = model(prompt[:, : len(tokens)], use_cache=True).past_key_values
        own_keys = own.layers[0].keys
        expect(keys.shape == own_keys.shape, f"{keys.shape}, expected {own_keys.shape}")
        # float16: half a unit in the last place, 2^-11 of the largest; k8: half a step of 1/127 of a block's largest.
        bound = own_keys.abs().max() * (2**-11 if codec == "f16" else 0.5 / 127 + 2**-11)
        difference = (keys.float() - own_keys).abs().max()
        expect(difference <= bound, f"{codec}: keys differ by {difference}, bound {bound}")
        theirs = model.generate(prompt, max_new_tokens=20, do_sample=False)[0, prompt.shape[1] :].tolist()
        expect(expected_equal is None or mine == theirs, f"{codec}: {mine}, transformers itself {theirs}")
        print(codec, "tokens alike:", sum(a == b for a, b in zip(mine, theirs, strict=False)), "of", len(theirs))
