"""Checks fixtures/text: that the document is clean text and that the default model answers the questions rightly.

usage: check_demo_text.py HF_DIR [--variants f32,bf16,noise2]
needs: torch transformers; HF_DIR is the default model as a Hugging Face folder (dequantized weights, right tokenizer)

The document's keys and values are computed once in float32 and altered as each variant says: `bf16` rounds them,
`noiseN` adds to every vector Gaussian noise of N % of its norm, a stand-in for a codec (k5v4 errs by about 5 % in keys
and 10 % in values, k4v3 by 10 % and 19 %: the Lloyd-Max error of a Gaussian). Every question then starts from a copy.
Prints one line an answer: the variant, ok or WRONG, the smallest lead in log probability of a chosen token over the
next best before the wanted words were complete, the question and the answer. Exit status 1 if anything is wrong.
"""

import argparse
import math
import os.path
import pathlib
import re
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.cache_utils import DynamicCache

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "fixtures" / "text"
WORDS, TOKENS = range(2500, 3501), range(3300, 4501)
MAX_GENERATED = 64
NOISE_SEED = 1


def text_faults(raw):
    """What is wrong with the document's bytes, in words; empty if nothing is."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return [f"not UTF-8: {error}"]
    faults = []
    if odd := sorted(set(re.findall(r"[^\n -~À-ÖØ-öø-ÿ]", text))):
        faults.append(f"characters beyond ASCII and Latin-1 letters: {odd}")
    if not text.endswith("\n") or text.endswith("\n\n"):
        faults.append("does not end with exactly one newline")
    if re.search(r"[ \t]\n", text):
        faults.append("a line ends with a space")
    if len(text.split()) not in WORDS:
        faults.append(f"{len(text.split())} words, wanted {WORDS.start} to {WORDS.stop - 1}")
    return faults


def read_questions(document):
    """Rows (id, question, wanted words) and what is wrong with them."""
    rows = [line.split("\t") for line in (FOLDER / "questions.tsv").read_text(encoding="utf-8").splitlines()]
    faults = [f"questions.tsv: not three fields: {row}" for row in rows if len(row) != 3]
    if faults:
        return [], faults
    if len({row[0] for row in rows}) != len(rows):
        faults.append("questions.tsv: an id occurs twice")
    faults += [f"{row[0]}: the document says {row[1]!r} itself" for row in rows if row[1] in document]
    return rows, faults


def altered(cache, variant):
    """The layers' (keys, values) of `cache` as `variant` says."""
    generator = torch.Generator().manual_seed(NOISE_SEED)

    def alter(x):
        if variant == "f32":
            return x
        if variant == "bf16":
            return x.bfloat16().float()
        share = float(variant.removeprefix("noise")) / 100
        noise = torch.randn(x.shape, generator=generator) / math.sqrt(x.shape[-1])
        return x + share * x.norm(dim=-1, keepdim=True) * noise

    return [(alter(layer.keys), alter(layer.values)) for layer in cache.layers]


def answer(model, tokenizer, layers, token_ids, wanted):
    """The greedy answer to `token_ids` after the document's `layers`, and the smallest lead up to the wanted words."""
    cache = DynamicCache()
    for index, (keys, values) in enumerate(layers):
        cache.update(keys.clone(), values.clone(), index)
    generated, lead = [], math.inf
    while len(generated) < MAX_GENERATED:
        logits = model(torch.tensor([token_ids]), past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1]
        best = torch.log_softmax(logits, -1).topk(2)
        if wanted not in tokenizer.decode(generated):
            lead = min(lead, float(best.values[0] - best.values[1]))
        token_ids = [int(best.indices[0])]
        if token_ids[0] == tokenizer.eos_token_id:
            break
        generated += token_ids
    return tokenizer.decode(generated), lead


def main():
    parser = argparse.ArgumentParser(description="Check fixtures/text against the default model.")
    parser.add_argument("hf_dir", metavar="HF_DIR")
    parser.add_argument("--variants", default="f32,bf16,noise2", help="f32, bf16, noiseN for N percent; commas between")
    arguments = parser.parse_args()

    raw = (FOLDER / "lighthouse.txt").read_bytes()
    faults = text_faults(raw)
    document = raw.decode("utf-8", errors="replace")
    rows, more = read_questions(document)
    faults += more

    tokenizer = AutoTokenizer.from_pretrained(arguments.hf_dir)
    num_tokens = len(tokenizer(document, add_special_tokens=False).input_ids)
    print(f"{len(raw)} bytes, {len(document.split())} words, {num_tokens} tokens; {len(rows)} questions")
    if num_tokens not in TOKENS:
        faults.append(f"{num_tokens} tokens, wanted {TOKENS.start} to {TOKENS.stop - 1}")
    if faults:
        sys.exit("\n".join(faults))

    prompts = []
    for _, question, _ in rows:
        turn = [{"role": "user", "content": document + "\n\n" + question}]
        text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        prompts.append(tokenizer(text, add_special_tokens=False).input_ids)
    prefix = os.path.commonprefix(prompts)

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(arguments.hf_dir, dtype=torch.float32).eval()
    num_wrong = 0
    with torch.no_grad():
        cache = model(torch.tensor([prefix]), use_cache=True, logits_to_keep=1).past_key_values
        for variant in arguments.variants.split(","):
            layers = altered(cache, variant)
            for (_, question, wanted), prompt in zip(rows, prompts, strict=True):
                text, lead = answer(model, tokenizer, layers, prompt[len(prefix) :], wanted)
                num_wrong += wanted not in text
                verdict = "ok   " if wanted in text else "WRONG"
                print(f"{variant:8s} {verdict} {lead:5.2f}  {question} -> {text!r}", flush=True)
    print(f"{num_wrong} wrong")
    sys.exit(1 if num_wrong else 0)


if __name__ == "__main__":
    main()
