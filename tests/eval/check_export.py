"""The outsider's check: is the divergence that polykv measures what transformers measures on the exported values?

  check_export.py k5v4
  check_export.py k4v3 --text FILE --prefix 9000

Builds a float16 pool and a pool at CODEC of the beginning of a text, exports both, and lets transformers, in float32
with the same weights, score the tokens that follow on either cache. polykv scores the same tokens on the pools
themselves. Both give KL(float16 || CODEC) at each position, which must agree.

Needs torch 2.13.0, transformers 4.57.6, gguf and safetensors, and the model as a GGUF file.
"""

import argparse
import json
import os
import sys

from evaluation import ROOT, Pools, add_programs, fail, mean_and_error, run

# How much rounding inside polykv's kernels may move a mean divergence (tests/eval/attention_accuracy_test.cpp); the
# rest of what separates two ways to compute the same thing is as often above as below, hence the error of the mean.
KERNELS = 0.00003
ERRORS = 3


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("codec", nargs="?", default="k5v4", metavar="CODEC")
    parser.add_argument(
        "--text", default=ROOT / "fixtures/text/lighthouse.txt", help="else fixtures/text/lighthouse.txt"
    )
    parser.add_argument("--prefix", type=int, default=9000, help="bytes of it that are compressed (9000)")
    parser.add_argument("--scored", type=int, default=256, help="tokens scored after them (256)")
    add_programs(parser, "polykv", "fidelity")
    return parser.parse_args()


def import_needed():
    """torch, safetensors' reader and the tree's own loader of GGUF files for transformers."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.path.insert(0, str(ROOT / "tests/tools"))
    try:
        import make_logits
        import torch
        from safetensors import safe_open
    except ImportError as error:
        fail(f"{error}: this check needs torch, transformers, gguf and safetensors; ./dev setup-tests installs them")
    return torch, safe_open, make_logits


def split(text, prefix_bytes):
    """The text's beginning, to the end of the paragraph that reaches `prefix_bytes`."""
    cut = text.encode().find(b"\n", prefix_bytes)
    if cut < 0:
        fail(f"the text has no line end after byte {prefix_bytes}: use a longer text or a smaller --prefix")
    return text.encode()[: cut + 1].decode()


def log_probabilities(torch, safe_open, model, export, fed):
    """Of `fed` after the exported cache, in double; and the cache's tokens."""
    from transformers import DynamicCache

    cache = DynamicCache()
    with safe_open(export, "pt") as file:
        tokens = file.get_tensor("tokens").tolist()
        for layer in range(model.config.num_hidden_layers):
            keys, values = (file.get_tensor(f"layers.{layer}.{name}").float() for name in ("keys", "values"))
            cache.update(keys, values, layer)
    with torch.inference_mode():
        positions = torch.arange(len(tokens), len(tokens) + len(fed))
        logits = model(torch.tensor([fed]), past_key_values=cache, cache_position=positions).logits[0]
    return torch.log_softmax(logits.double(), -1)


def pool_tokens(safe_open, export):
    with safe_open(export, "pt") as file:
        return file.get_tensor("tokens").tolist()


def measure_in_transformers(torch, safe_open, make_logits, path, exports, fed):
    config, tensors, divisors, _ = make_logits.load_gguf(path)
    model = make_logits.build(config, tensors, divisors)
    reference, got = (log_probabilities(torch, safe_open, model, export, fed) for export in exports)
    return (reference.exp() * (reference - got)).sum(-1).tolist()


def measure_in_polykv(arguments, pools, tokens):
    path = pools.folder / "next.json"
    path.write_text(json.dumps(tokens))
    more = ["-m", arguments.model] if arguments.model else []
    done = run(arguments.fidelity, "--pools", pools.pool("f16"), pools.pool(arguments.codec), "--tokens", path,
               "--json", "--positions", *more)  # fmt: skip
    return json.loads(done.stdout)["codecs"][1]["klds"]


def compare(codec, theirs, ours):
    """Prints both; whether they agree."""
    difference, error = mean_and_error(a - b for a, b in zip(ours, theirs, strict=True))
    bound = KERNELS + ERRORS * error
    for name, values in (("transformers", theirs), ("polykv", ours)):
        mean, own_error = mean_and_error(values)
        print(f"{name:12} KLD {mean:.6f} +- {own_error:.6f} (max {max(values):.4f}) over {len(values)} positions")
    print(f"{codec}: position by position, polykv - transformers {difference:+.7f} +- {error:.7f}, bound {bound:.7f}")
    return abs(difference) <= bound


def main():
    arguments = options()
    torch, safe_open, make_logits = import_needed()
    model_file = arguments.model or os.environ.get("POLYKV_MODEL")
    if not model_file:
        model_file = ROOT / ".deps/models/SmolLM2-135M-Instruct.Q4_1.gguf"
    arguments.model = str(model_file)
    if not os.path.exists(arguments.model):
        fail(f"{arguments.model} is not there: ./dev setup fetches the default model")
    text = open(arguments.text, encoding="utf-8").read()
    _, _, tokenizer = make_logits.chatml_tokens(arguments.model)
    ids = tokenizer.encode(text).ids
    with Pools(arguments.polykv, arguments.model, split(text, arguments.prefix), template="none") as pools:
        for codec in ("f16", arguments.codec):
            if pools.build(codec) is None:
                fail("the text does not fit the model's context: use a smaller --prefix")
        exports = [pools.export(codec) for codec in ("f16", arguments.codec)]
        tokens = pool_tokens(safe_open, exports[0])
        if tokens != ids[: len(tokens)] or tokens != pool_tokens(safe_open, exports[1]):
            fail("the pool's tokens are not those that the tokenizers library gives")
        following = ids[len(tokens) : len(tokens) + arguments.scored + 1]
        if len(following) != arguments.scored + 1:
            fail(f"{len(following)} tokens follow the {len(tokens)} of the pool, {arguments.scored + 1} are needed")
        theirs = measure_in_transformers(torch, safe_open, make_logits, arguments.model, exports, following[:-1])
        ours = measure_in_polykv(arguments, pools, following)
    print(f"{len(tokens)} tokens in the pools, the same as the tokenizers library's")
    if not compare(arguments.codec, theirs, ours):
        fail("polykv and transformers disagree")


if __name__ == "__main__":
    main()
