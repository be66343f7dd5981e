"""The Python package (cli/python) and transformers: a pool goes on as its own cache would, and a cache becomes a pool.

Run with a Python that has torch and transformers 4.57.6 (./dev test sets it up).
"""

import json
import os
import pathlib
import re
import sys

import torch
import transformers
from program import MODEL, ROOT, Workplace, expect

sys.path[:0] = [str(ROOT / "cli/python/src"), str(ROOT / "tests/tools")]

import make_logits  # noqa: E402
import polykv  # noqa: E402

SMALL = ROOT / "fixtures/models/llama-gqa-bf16"
expect(transformers.__version__ == "4.57.6", f"transformers {transformers.__version__}, expected 4.57.6")


def greedy(model, cache, prompt, count=20):
    """What the model says after `prompt`, all but its last tokens being in `cache`."""
    tokens = model.generate(
        torch.tensor([prompt]), past_key_values=cache, max_new_tokens=count, do_sample=False, pad_token_id=0
    )
    return tokens[0, len(prompt) :].tolist()


def rounded(cache, dtype=torch.float16):
    """A cache of the same values in float16, in float32 again."""
    copy = transformers.DynamicCache()
    for number, layer in enumerate(cache.layers):
        copy.update(layer.keys.to(dtype).float(), layer.values.to(dtype).float(), number)
    return copy


def same_values(a, b):
    return len(a.layers) == len(b.layers) and all(
        torch.equal(x.keys, y.keys) and torch.equal(x.values, y.values) for x, y in zip(a.layers, b.layers, strict=True)
    )


def refused(error, words, **arguments):
    try:
        polykv.from_dynamic_cache(**arguments)
    except error as caught:
        expect(words in str(caught), f"{caught}: expected {words}")
    else:
        expect(False, f"taken: expected {words}")


def build(place, text, name, model, *more):
    place.run("build", "-", "-o", name, "-m", model, "--prefill-type", "f32", *more, stdin=text.encode())
    return polykv.load(place.path / "work" / name)


def check_small_model(place):
    text = "The keeper of the light wrote in the book every evening. " * 3
    model = transformers.AutoModelForCausalLM.from_pretrained(SMALL, dtype=torch.float32)
    f16, k8v3 = (build(place, text, f"{codec}.pkv", SMALL, "--codec", codec) for codec in ("f16", "k8v3"))
    tokens, more = f16.tokens.tolist(), [11, 12, 13]
    with torch.inference_mode():
        own = model(torch.tensor([tokens]), use_cache=True).past_key_values

    # A pool of transformers' own cache holds its values, rounded to float16, and goes on as they do.
    path = place.path / "work/own.pkv"
    files = place.files()
    pool = polykv.from_dynamic_cache(own, like=k8v3, path=path)
    expect(place.files() == sorted([*files, "own.pkv"]), f"left: {place.files()}")
    expect(same_values(pool.to_dynamic_cache(), rounded(own)), "the pool's values are not those of the cache")
    mine = greedy(model, polykv.load(path).to_dynamic_cache(), [*tokens, *more])
    theirs = greedy(model, rounded(own), [*tokens, *more])
    expect(mine == theirs, f"from the pool {mine}, from the cache itself {theirs}")
    expect(pool.identity["prefill.type"] == "f32" and pool.source_text == text, f"{pool.identity}")
    place.run("verify", "--digest", "own.pkv")
    half = pool.to_dynamic_cache(torch.bfloat16)
    expect(half.layers[0].keys.dtype == torch.bfloat16, f"{half.layers[0].keys.dtype}")
    expect(same_values(rounded(half, torch.float32), rounded(rounded(own), torch.bfloat16)), "in bfloat16")

    # The program's own float16 pool comes back as itself, and answers as it did; of k8v3 the values stay.
    for times in (1, 2, 3):  # a few positions as a bitmap, more as a range
        name = f"f16-{times}.pkv"
        pool = f16 if times == 3 else build(place, text[: len(text) // 3 * times], name, SMALL, "--codec", "f16")
        path = place.path / f"work/again-{times}.pkv"
        again = polykv.from_dynamic_cache(pool.to_dynamic_cache(), like=pool, path=path)
        print(pool.num_tokens, "tokens")
        expect(again.file_id == pool.file_id, f"{pool.num_tokens} tokens that went through a cache: another file_id")
    answers = [place.run("ask", name, "Who wrote?", "-m", SMALL, "-n", "20")[0] for name in ("f16.pkv", "again-3.pkv")]
    expect(answers[0] == answers[1] and len(answers[0]) > 5, f"answers: {answers}")
    again = polykv.from_dynamic_cache(k8v3.to_dynamic_cache(), like=k8v3, path=place.path / "work/k.pkv")
    expect(same_values(again.to_dynamic_cache(), rounded(k8v3.to_dynamic_cache())), "k8v3 in float16")
    check_refusals(place, own, k8v3)


def check_refusals(place, own, like):
    path = place.path / "work/no.pkv"
    files = place.files()
    refused(FileExistsError, "force=True", cache=own, like=like, path=place.path / "work/own.pkv")
    refused(ValueError, "go together", cache=own, like=like, path=path, tokens=[1, 2])
    long = transformers.DynamicCache()
    for number, layer in enumerate(own.layers):
        long.update(torch.cat([layer.keys, layer.keys], 2), torch.cat([layer.values, layer.values], 2), number)
    refused(ValueError, "cache.crop", cache=long, like=like, path=path)
    short = transformers.DynamicCache()
    short.update(own.layers[0].keys, own.layers[0].values, 0)
    refused(ValueError, "layers", cache=short, like=like, path=path)
    ranges, count = like.text_ranges.copy(), like.num_tokens
    ranges[-1, 1] = len(like.source_bytes) + 1
    parts = {"tokens": like.tokens, "text": like.source_text}
    refused(polykv.PoolError, "after the text", cache=own, like=like, path=path, text_ranges=ranges, **parts)
    refused(ValueError, "[n, 2]", cache=own, like=like, path=path, text_ranges=ranges[1:], **parts)
    negative = {"tokens": [-1] * count, "text": like.source_text, "text_ranges": like.text_ranges}
    refused(ValueError, "negative", cache=own, like=like, path=path, **negative)
    large = transformers.DynamicCache()
    for number, layer in enumerate(own.layers):
        large.update(layer.keys, layer.values + (70000 if number == 1 else 0), number)
    refused(polykv.PoolError, "values of layer 1", cache=large, like=like, path=path)
    expect(place.files() == files, f"left: {place.files()}")


def check_readme(place):
    """The examples of cli/python/README.md, as they stand there."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "cli/python/README.md").read_text(), re.S)
    expect(len(blocks) == 4, f"{len(blocks)} examples")
    place.run("ask", "f16.pkv", "Who?", "-m", SMALL, "-n", "3", "--save", "step1.pkv")
    code = "\n".join(blocks).replace("contract.pkv", "f16.pkv").replace("again.pkv", "from-readme.pkv")
    os.chdir(place.path / "work")
    exec(code, {"MODEL_DIR": str(SMALL), "MORE_TOKENS": [11, 12, 13]})
    expect(polykv.load("from-readme.pkv").file_id == polykv.load("f16.pkv").file_id, "the last example's pool")


def check_cards(place):
    """What transformers goes on with after a chain of polykv's, and a card of what it added."""
    model = transformers.AutoModelForCausalLM.from_pretrained(SMALL, dtype=torch.float32)
    place.run("ask", "f16.pkv", "Who wrote?", "-m", SMALL, "-n", "9", "--bits", "4", "--save", "step.pkv")
    work = place.path / "work"
    step = polykv.load(work / "step.pkv")
    tokens, more = step.chain_tokens.tolist(), [11, 12, 13, 14, 15]
    cache = step.to_dynamic_cache()
    expect(cache.get_seq_length() == len(tokens) > len(polykv.load(work / "f16.pkv").tokens), "the chain's length")
    with torch.inference_mode():
        cache = model(torch.tensor([more]), past_key_values=cache, use_cache=True).past_key_values
    parts = {"parent": step, "path": work / "theirs.pkv", "tokens": more, "text": "more", "turn": "answer"}
    card = polykv.card_from_dynamic_cache(cache, **parts)
    expect(card.first_position == len(tokens) and card.num_tokens == 5, f"{card.first_position}")
    loaded = polykv.load(work / "theirs.pkv")
    expect([pool.num_tokens for pool in loaded.chain] == [pool.num_tokens for pool in card.chain], "the chain")
    # Of the card's own positions, values rounded to float16; before them, those of the chain that it was made from.
    for layer, (mine, theirs) in enumerate(zip(loaded.to_dynamic_cache().layers, cache.layers, strict=True)):
        same = torch.equal(mine.keys[:, :, -5:], theirs.keys[:, :, -5:].half().float())
        same &= torch.equal(mine.keys[:, :, :-5], theirs.keys[:, :, :-5])
        same &= torch.equal(mine.values[:, :, -5:], theirs.values[:, :, -5:].half().float())
        expect(same, f"layer {layer} of the card")
    prompt = [*tokens, *more, 16, 17]
    last = transformers.DynamicCache()
    for number, layer in enumerate(cache.layers):
        sides = [
            torch.cat([side[:, :, : len(tokens)], side[:, :, len(tokens) :].half().float()], 2)
            for side in (layer.keys, layer.values)
        ]
        last.update(*sides, number)
    mine, theirs = greedy(model, loaded.to_dynamic_cache(), prompt), greedy(model, last, prompt)
    expect(mine == theirs, f"from the chain {mine}, from the same values {theirs}")
    place.run("verify", "--digest", "theirs.pkv")
    out, err = place.run("ask", "theirs.pkv", "And?", "-m", SMALL, "-n", "5", "--json")
    expect(json.loads(out)["cached_tokens"] == len(tokens) + 5 and err == "", out + err)
    files = place.files()
    for words, changes in (
        ("'answer' or None", {"turn": "user"}),
        ("shape", {"tokens": [1, 2]}),
        ("[n, 2]", {"tokens": []}),
    ):
        try:
            polykv.card_from_dynamic_cache(cache, **{**parts, "path": work / "no.pkv", **changes})
            expect(False, f"taken: expected {words}")
        except ValueError as error:
            expect(words in str(error), str(error))
    expect(place.files() == files, f"left: {place.files()}")


def check_dropped(place):
    text = "The keeper of the light wrote in the book every evening. " * 14
    pool = build(place, text, "dropped.pkv", SMALL, "--retain", "streamingllm", "--keep", "50", "--accept-loss")
    expect(pool.drops_positions and not pool.kept(0).all(), "it keeps everything")
    try:
        pool.to_dynamic_cache()
        expect(False, "a cache of a pool that drops positions")
    except polykv.PoolError as error:
        expect(error.code == "kUnsupportedFeature" and "dropped.pkv" in str(error), str(error))


def check_default_model(place):
    """Prefilled by transformers, answered by polykv: another document than the pool that the identity is taken from."""
    text = (ROOT / "fixtures/text/lighthouse.txt").read_text()[:3000]
    like = build(place, "Something else. " * 20, "like.pkv", MODEL, "--codec", "k5v4", "--no-probe")
    wanted = build(place, text, "wanted.pkv", MODEL, "--codec", "f16", "--no-probe")
    config, tensors, divisors, _ = make_logits.load_gguf(str(MODEL))
    model = make_logits.build(config, tensors, divisors)
    with torch.inference_mode():
        own = model(torch.from_numpy(wanted.tokens)[None], use_cache=True).past_key_values
    parts = {"tokens": wanted.tokens.tolist(), "text": text, "text_ranges": wanted.text_ranges}
    polykv.from_dynamic_cache(own, like=pathlib.Path(like.path), path=place.path / "work/hf.pkv", **parts)
    question = "What is the lighthouse called?"
    answers = [
        json.loads(place.run("ask", name, question, "-n", "40", "--json")[0]) for name in ("wanted.pkv", "hf.pkv")
    ]
    for answer in answers:
        print(answer["answer"])
    expect(answers[0]["answer"] == answers[1]["answer"], f"{answers}")
    expect(answers[1]["cached_tokens"] == len(wanted.tokens), f"{answers[1]}")


with Workplace() as place:
    check_small_model(place)
    check_readme(place)
    check_cards(place)
    check_dropped(place)
    check_default_model(place)
