"""Write the golden files of fixtures/models/golden: what transformers computes from the same weights, in float32.

usage: make_logits.py MODELS_DIR [NAME=MODEL.gguf ...]
  MODELS_DIR     fixtures/models: every folder with a config.json and every .gguf in it
  NAME=...       one more GGUF with ChatML control tokens, written as golden/NAME.json; NAME is all that is kept of it
needs: torch==2.13.0 transformers==4.57.6 gguf==0.19.0 safetensors==0.8.0 tokenizers==0.22.2

It reads the model files itself and shares no code with make_models.py, so that a mistake there is not repeated here.
golden/NAME.json: tokens; at some positions the ten largest logits; 24 tokens of greedy continuation, with the smallest
gap between the first and the second logit on the way (a runner whose logits are off by less than half of it must give
the same tokens). golden/tensors.json: per model and tensor the SHA-256 of its float32 values in stored order.
golden/rope.json: inverse frequencies of transformers for RoPE settings of known models.
"""

import hashlib
import json
import os
import re
import sys

import numpy as np
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors import safe_open
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

CLASSES = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}
NUM_TOKENS, NUM_GREEDY, TOP = 96, 24, 10
PARAGRAPH = """The bridge was closed for repairs in the spring of 1994, and for eleven months the two halves of the town
had to learn to live apart. Children who went to school on the far bank were lodged with aunts and cousins; the baker,
who lived on the near side and baked on the other, took to sleeping among his sacks of flour. Every Friday a boat
carried letters, medicine and gossip across, and every Friday the whole town came down to see who had written."""
QUESTION = "Where did the baker sleep while the bridge was closed?"

HF_NAMES = [
    ("token_embd", "model.embed_tokens"),
    ("output_norm", "model.norm"),
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
]


def hf_name(name):
    if name == "output.weight":
        return "lm_head.weight"
    name = re.sub(r"^blk\.", "model.layers.", name)
    return next((name.replace(a, b) for a, b in HF_NAMES if re.search(rf"(^|\.){a}\.", name)), name)


def half_split(value, heads):
    """Rows of each head from pairs (2i, 2i + 1) to (i, i + head_dim / 2)."""
    heads_first = value.reshape(heads, value.shape[0] // heads, -1)
    return np.concatenate([heads_first[:, 0::2], heads_first[:, 1::2]], axis=1).reshape(value.shape)


def load_gguf(path):
    """Returns the config's fields, Hugging Face tensors, RoPE divisors or None, and stored tensors."""
    reader = GGUFReader(path)
    arch = reader.fields["general.architecture"].contents()

    def get(key, default=None):
        field = reader.fields.get(f"{arch}.{key}")
        return default if field is None else field.contents()

    heads, hidden = get("attention.head_count"), get("embedding_length")
    config = {
        "model_type": arch,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": get("attention.head_count_kv", heads),
        "num_hidden_layers": get("block_count"),
        "intermediate_size": get("feed_forward_length"),
        "max_position_embeddings": get("context_length"),
        "rms_norm_eps": get("attention.layer_norm_rms_epsilon"),
        "rope_theta": get("rope.freq_base", 10000.0),
        "head_dim": get("attention.key_length", hidden // heads),
    }
    if get("rope.scaling.type") == "linear":
        config["rope_scaling"] = {"rope_type": "linear", "factor": get("rope.scaling.factor")}
    stored, tensors, divisors = {}, {}, None
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        stored[tensor.name] = (tensor.tensor_type.name, values)
        if tensor.name == "rope_freqs.weight":
            divisors = values
            continue
        if arch == "llama" and re.search(r"attn_[qk]\.", tensor.name):
            values = half_split(values, heads if "attn_q." in tensor.name else config["num_key_value_heads"])
        tensors[hf_name(tensor.name)] = values
    config["vocab_size"] = tensors["model.embed_tokens.weight"].shape[0]
    config["tie_word_embeddings"] = "lm_head.weight" not in tensors
    return config, tensors, divisors, stored


def load_folder(path):
    config = json.load(open(f"{path}/config.json", encoding="utf-8"))
    if "rope_parameters" in config:  # transformers 5; 4.57 says the same in two fields
        parameters = config.pop("rope_parameters")
        config["rope_theta"] = parameters.pop("rope_theta")
        config["rope_scaling"] = parameters
    stored = {}
    for file in sorted(f for f in os.listdir(path) if f.endswith(".safetensors")):
        with safe_open(f"{path}/{file}", "pt") as tensors:
            for name in tensors.keys():
                tensor = tensors.get_tensor(name)
                kind = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}[tensor.dtype]
                stored[name] = (kind, tensor.to(torch.float32).numpy())
    return config, {name: values for name, (_, values) in stored.items()}, None, stored


def build(config, tensors, divisors):
    config_class, model_class = CLASSES[config["model_type"]]
    has_bias = any(name.endswith("q_proj.bias") for name in tensors)
    if config["model_type"] == "llama":
        config = config | {"attention_bias": has_bias}
    model = model_class(config_class(**config, attn_implementation="eager")).to(torch.float32).eval()
    state = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in tensors.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    # transformers gives llama's o_proj a bias whenever the others have one; the files here never do.
    for name in missing:
        assert name == "lm_head.weight" or name.endswith("o_proj.bias"), name
        if name.endswith("o_proj.bias"):
            model.get_parameter(name).data.zero_()
    assert not unexpected, unexpected
    model.tie_weights()
    if divisors is not None:
        model.model.rotary_emb.inv_freq /= torch.from_numpy(divisors)
    return model


def golden(model, tokens, positions):
    with torch.inference_mode():
        logits = model(torch.tensor([tokens])).logits[0]
        top = []
        for position in positions:
            values, ids = logits[position].topk(TOP)
            top.append({"position": position, "ids": ids.tolist(), "logits": [round(v, 6) for v in values.tolist()]})
        greedy, gap, step, cache = [], float("inf"), list(tokens), None
        for _ in range(NUM_GREEDY):
            output = model(torch.tensor([step]), past_key_values=cache, use_cache=True)
            values, ids = output.logits[0, -1].topk(2)
            gap = min(gap, float(values[0] - values[1]))
            greedy.append(int(ids[0]))
            step, cache = greedy[-1:], output.past_key_values
    return {"tokens": tokens, "top": top, "greedy": greedy, "greedy_gap": round(gap, 6)}


def random_tokens(vocab_size):
    """Fixed ids below the three control tokens; the first half comes again, so that attention has something to find."""
    state, out = 12345, []
    for _ in range(NUM_TOKENS * 2 // 3):
        state = (state * 1103515245 + 12345) % 2**31
        out.append((state >> 8) % (vocab_size - 3))
    return out + out[: NUM_TOKENS - len(out)]


def chatml_tokens(path):
    """PARAGRAPH and QUESTION as one user turn, as the model's template gives them; each digit is a token of its own."""
    fields = GGUFReader(path).fields
    assert fields["tokenizer.ggml.pre"].contents() == "smollm"
    vocab = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    tokenizer = Tokenizer(models.BPE(vocab={text: i for i, text in enumerate(vocab)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [
        text for text, kind in zip(vocab, fields["tokenizer.ggml.token_type"].contents(), strict=True) if kind == 3
    ]
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in control])
    text = (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        f"<|im_start|>user\n{PARAGRAPH}\n\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    )
    return text, tokenizer.encode(text).ids, tokenizer


ROPE = [
    {"theta": 10000.0, "head_dim": 64},
    {"theta": 1e6, "head_dim": 40},
    {"theta": 10000.0, "head_dim": 128, "rope_type": "linear", "factor": 4.0},
    {
        "theta": 500000.0,
        "head_dim": 128,
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },  # Llama 3.1 8B
    {
        "theta": 500000.0,
        "head_dim": 64,
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
]  # Llama 3.2 1B


def rope_frequencies(settings):
    scaling = {key: value for key, value in settings.items() if key not in ("theta", "head_dim")}
    config = LlamaConfig(
        hidden_size=settings["head_dim"],
        num_attention_heads=1,
        rope_theta=settings["theta"],
        max_position_embeddings=131072,
        rope_scaling=scaling or None,
    )
    frequencies, _ = ROPE_INIT_FUNCTIONS[settings.get("rope_type", "default")](config, "cpu")
    return settings | {"inverse_frequencies": [float(f"{value:.9g}") for value in frequencies.tolist()]}


def write(path, value):
    text = json.dumps(value, indent=1, ensure_ascii=False)
    text = re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda m: "[" + re.sub(r",\s+", ", ", m.group(1)) + "]", text)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text + "\n")


def main(folder, extra):
    out = f"{folder}/golden"
    os.makedirs(out, exist_ok=True)
    all_stored = {}
    for entry in sorted(os.listdir(folder)):
        path = f"{folder}/{entry}"
        if entry.endswith(".gguf"):
            config, tensors, divisors, stored = load_gguf(path)
        elif os.path.exists(f"{path}/config.json"):
            config, tensors, divisors, stored = load_folder(path)
        else:
            continue
        all_stored[entry] = {
            name: {
                "type": kind,
                "shape": list(values.shape),
                "sha256": hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest(),
                "first": [float(v) for v in values.flatten()[:4]],
            }
            for name, (kind, values) in sorted(stored.items())
        }
        tokens = random_tokens(config["vocab_size"])
        result = golden(build(config, tensors, divisors), tokens, [0, 1, 7, 31, 63, 64, 95])
        write(f"{out}/{entry.removesuffix('.gguf')}.json", {"model": entry} | result)
        print(f"{entry}: gap {result['greedy_gap']}, greedy {result['greedy'][:8]}")
    write(f"{out}/tensors.json", all_stored)
    write(f"{out}/rope.json", [rope_frequencies(settings) for settings in ROPE])
    for pair in extra:
        name, path = pair.split("=", 1)
        config, tensors, divisors, _ = load_gguf(path)
        text, tokens, tokenizer = chatml_tokens(path)
        positions = [0, 1, 15, 63, len(tokens) // 2, len(tokens) - 1]
        result = golden(build(config, tensors, divisors), tokens, positions)
        write(f"{out}/{name}.json", {"model": name, "text": text} | result)
        print(f"{name}: {len(tokens)} tokens, gap {result['greedy_gap']}: {tokenizer.decode(result['greedy'])!r}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
