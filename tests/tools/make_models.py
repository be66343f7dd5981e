"""Make the tiny seeded random models of fixtures/models: Hugging Face folders and GGUF files.

usage: make_models.py OUT_DIR            (OUT_DIR is fixtures/models; its README.md and golden/ are left alone)
needs: numpy==2.4.6 gguf==0.19.0 safetensors==0.8.0 tokenizers==0.22.2 torch==2.13.0
Running it twice gives the same bytes. fixtures/models/README.md says what each model is for.
"""

import json
import os
import struct
import sys

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, RopeScalingType
from gguf.quants import quantize
from safetensors.torch import save
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

VOCAB = 320
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_PATTERN = QWEN2_PATTERN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
# Text of our own, enough for 61 merges.
TEXT = """The keeper of the lighthouse wrote one line in the log every evening: the wind, the ships that passed, and how
much oil was left. On the fourth of March, 1871, she wrote that the lamp had burned for 13 hours and that nobody had
come. What is the use of a light that no one sees? She did not ask; she trimmed the wick, counted the barrels, and went
down. In the morning there was a boat at the landing. "We saw you all night," said the men, "and that's why we're here."
They had 24 crates, two letters and a goat. The goat stayed, the letters were read aloud, and the crates went to the
cellar.
"""
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_tokenizer(pre):
    """A byte-level BPE of 317 entries, then three control tokens. `pre` is GGUF's name of the pre-tokenizer."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre in ("gpt-2", "smollm"))
    if pre == "gpt-2":
        tokenizer.pre_tokenizer = byte_level
    elif pre == "smollm":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    else:
        pattern = QWEN2_PATTERN if pre == "qwen2" else LLAMA3_PATTERN
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        [TEXT],
        trainers.BpeTrainer(
            vocab_size=VOCAB - len(CONTROL),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            special_tokens=[],
            show_progress=False,
        ),
    )
    assert tokenizer.get_vocab_size() == VOCAB - len(CONTROL)
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in CONTROL])
    if pre == "llama-bpe":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A",
            pair="<|endoftext|> $A <|endoftext|> $B",
            special_tokens=[("<|endoftext|>", VOCAB - 3)],
        )
    return tokenizer


class Model:
    """Shape and weights, in Hugging Face's names and order (RoPE in half-split order)."""

    def __init__(
        self,
        seed,
        arch,
        head_dim,
        heads,
        kv_heads,
        ffn=64,
        hidden=64,
        layers=2,
        tied=True,
        bias=False,
        theta=10000.0,
        context=512,
        scaling=None,
        pre="gpt-2",
    ):
        self.arch, self.head_dim, self.heads, self.kv_heads = arch, head_dim, heads, kv_heads
        self.ffn, self.hidden, self.layers, self.tied, self.bias = ffn, hidden, layers, tied, bias
        self.theta, self.context, self.scaling, self.pre = theta, context, scaling, pre
        rng = np.random.default_rng(seed)
        self.tensors = {}

        def matrix(name, rows, cols, gain=1.0):
            self.tensors[name] = (rng.standard_normal((rows, cols)) * gain / np.sqrt(cols)).astype(np.float32)

        def vector(name, size, mean, spread):
            self.tensors[name] = (mean + spread * rng.standard_normal(size)).astype(np.float32)

        # Small beside what the layers add (spread 0.25 against about 1): a tied model would only repeat its input.
        matrix("model.embed_tokens.weight", VOCAB, hidden, 0.25 * np.sqrt(hidden))
        for i in range(layers):
            layer = f"model.layers.{i}."
            vector(layer + "input_layernorm.weight", hidden, 1.0, 0.2)
            # Gain 1.5: scores have a spread of about 2, so that attention picks positions instead of averaging them.
            matrix(layer + "self_attn.q_proj.weight", heads * head_dim, hidden, 1.5)
            matrix(layer + "self_attn.k_proj.weight", kv_heads * head_dim, hidden, 1.5)
            matrix(layer + "self_attn.v_proj.weight", kv_heads * head_dim, hidden)
            matrix(layer + "self_attn.o_proj.weight", hidden, heads * head_dim)
            vector(layer + "post_attention_layernorm.weight", hidden, 1.0, 0.2)
            matrix(layer + "mlp.gate_proj.weight", ffn, hidden)
            matrix(layer + "mlp.up_proj.weight", ffn, hidden)
            matrix(layer + "mlp.down_proj.weight", hidden, ffn)
            if bias:
                vector(layer + "self_attn.q_proj.bias", heads * head_dim, 0.0, 0.5)
                vector(layer + "self_attn.k_proj.bias", kv_heads * head_dim, 0.0, 0.5)
                vector(layer + "self_attn.v_proj.bias", kv_heads * head_dim, 0.0, 0.2)
        vector("model.norm.weight", hidden, 1.0, 0.2)
        if not tied:
            matrix("lm_head.weight", VOCAB, hidden)


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.write("\n")


def to_torch(name, value, types):
    """`types` maps a part of the name to a type; the first that fits counts."""
    return torch.from_numpy(value).to(next(kind for part, kind in types if part in name))


def write_hf(folder, model, types, shards=1, shift=0, rope_parameters=False):
    os.makedirs(folder, exist_ok=True)
    classes = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}
    config = {
        "architectures": [classes[model.arch]],
        "model_type": model.arch,
        "hidden_act": "silu",
        "hidden_size": model.hidden,
        "intermediate_size": model.ffn,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_dim,
        "max_position_embeddings": model.context,
        "rms_norm_eps": 1e-05,
        "tie_word_embeddings": model.tied,
        "vocab_size": VOCAB,
        "bos_token_id": VOCAB - 3,
        "eos_token_id": VOCAB - 1,
        "attention_bias": model.bias,
    }
    if model.head_dim * model.heads == model.hidden:
        del config["head_dim"]  # so that a reader must derive it
    if model.arch == "qwen2":
        del config["attention_bias"]
        config |= {"use_sliding_window": False, "sliding_window": 128, "max_window_layers": 1}
    if rope_parameters:
        config["rope_parameters"] = {"rope_theta": model.theta} | (model.scaling or {"rope_type": "default"})
    else:
        config |= {"rope_theta": model.theta, "rope_scaling": model.scaling}
    write_json(f"{folder}/config.json", config)

    tensors = {name: to_torch(name, value, types) for name, value in model.tensors.items()}
    if shards == 1:
        write_safetensors(f"{folder}/model.safetensors", tensors, shift)
    else:
        names = sorted(tensors)
        files = {
            name: f"model-{i * shards // len(names) + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(names)
        }
        for file in sorted(set(files.values())):
            write_safetensors(f"{folder}/{file}", {n: tensors[n] for n in names if files[n] == file}, shift)
        total = sum(t.numel() * t.element_size() for t in tensors.values())
        write_json(f"{folder}/model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": files})

    make_tokenizer(model.pre).save(f"{folder}/tokenizer.json", pretty=False)
    write_json(
        f"{folder}/tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": CONTROL[0],
            "eos_token": CONTROL[2],
            "add_bos_token": model.pre == "llama-bpe",
            "chat_template": TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "model_max_length": model.context,
        },
    )
    write_json(f"{folder}/generation_config.json", {"bos_token_id": VOCAB - 3, "eos_token_id": [VOCAB - 1, VOCAB - 3]})


def write_safetensors(path, tensors, shift):
    """`shift` moves the data: the header is padded so that it begins that many bytes past a multiple of 8."""
    blob = save(tensors, metadata={"format": "pt"})
    (header_bytes,) = struct.unpack("<Q", blob[:8])
    header = blob[8 : 8 + header_bytes].rstrip(b" ")
    header += b" " * ((shift - len(header)) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header + blob[8 + header_bytes :])


GGUF_NAMES = [
    ("model.embed_tokens", "token_embd"),
    ("model.norm", "output_norm"),
    ("lm_head", "output"),
    ("model.layers", "blk"),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
]


def gguf_name(name):
    for hf, gguf in GGUF_NAMES:
        name = name.replace(hf, gguf)
    return name


def interleave(value, heads):
    """Rows of each head from half-split order (i, i + head_dim / 2) to pairs (2i, 2i + 1), as GGUF has llama's."""
    rest = value.shape[1:]
    return value.reshape(heads, 2, -1, *rest).swapaxes(1, 2).reshape(value.shape)


def llama3_divisors(model):
    s = model.scaling
    frequency = model.theta ** (-np.arange(0, model.head_dim, 2, dtype=np.float64) / model.head_dim)
    turns = s["original_max_position_embeddings"] * frequency / (2 * np.pi)  # in the context it was trained on
    share = np.clip((turns - s["low_freq_factor"]) / (s["high_freq_factor"] - s["low_freq_factor"]), 0, 1)
    return (1 / ((1 - share) / s["factor"] + share)).astype(np.float32)


def write_gguf(path, model, types, name, version=3, shift=0):
    writer = GGUFWriter(path, model.arch)
    writer.add_name(name)
    writer.add_custom_alignment(32)
    writer.add_context_length(model.context)
    writer.add_embedding_length(model.hidden)
    writer.add_block_count(model.layers)
    writer.add_feed_forward_length(model.ffn)
    writer.add_head_count(model.heads)
    writer.add_head_count_kv(model.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(model.theta)
    writer.add_rope_dimension_count(model.head_dim)
    if model.head_dim * model.heads != model.hidden:
        writer.add_key_length(model.head_dim)
        writer.add_value_length(model.head_dim)
    if model.scaling and model.scaling["rope_type"] == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(model.scaling["factor"])

    tokenizer = make_tokenizer(model.pre)
    vocab = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(model.pre)
    writer.add_token_list([text for text, _ in vocab])
    writer.add_token_types([3 if text in CONTROL else 1 for text, _ in vocab])
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_bos_token_id(VOCAB - 3)
    writer.add_eos_token_id(VOCAB - 1)
    writer.add_add_bos_token(model.pre == "llama-bpe")
    writer.add_chat_template(TEMPLATE)

    if model.scaling and model.scaling["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_divisors(model))
    for hf_name, value in model.tensors.items():
        if model.arch == "llama" and (".q_proj." in hf_name or ".k_proj." in hf_name):
            value = interleave(value, model.heads if ".q_proj." in hf_name else model.kv_heads)
        if value.ndim == 1:
            kind = GGMLQuantizationType.F32
        else:
            kind = next(kind for part, kind in types if part in hf_name)
        writer.add_tensor(gguf_name(hf_name), quantize(value, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    if version != 3 or shift:
        rewrite_gguf(path, version, shift)


def rewrite_gguf(path, version, shift):
    """Another version number (2 and 3 differ in nothing else), and all tensors `shift` bytes further on."""
    from gguf import GGUFReader

    reader = GGUFReader(path)
    blob = bytearray(open(path, "rb").read())
    blob[4:8] = struct.pack("<I", version)
    for tensor in reader.tensors:
        field = tensor.field
        at = field.offset + sum(part.nbytes for part in field.parts[:-1])  # the offset is the info's last part
        (old,) = struct.unpack_from("<Q", blob, at)
        struct.pack_into("<Q", blob, at, old + shift)
    start = reader.data_offset
    del reader
    with open(path, "wb") as file:
        file.write(bytes(blob[:start]) + b"\xaa" * shift + bytes(blob[start:]))


# Seeds are chosen so that greedy continuation wanders and is never nearly undecided (golden: greedy_gap above 0.01).
def main(out):
    os.makedirs(out, exist_ok=True)
    Q = GGMLQuantizationType
    bf16, f16, f32 = torch.bfloat16, torch.float16, torch.float32
    llama3 = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }

    write_hf(
        f"{out}/llama-gqa-bf16",
        Model(51, "llama", head_dim=16, heads=4, kv_heads=2, ffn=96, pre="smollm"),
        [("", bf16)],
    )
    write_hf(
        f"{out}/llama-mqa-sharded-f16",
        Model(
            2,
            "llama",
            head_dim=40,
            heads=2,
            kv_heads=1,
            ffn=48,
            tied=False,
            theta=500000.0,
            scaling=llama3,
            pre="llama-bpe",
        ),
        [("", f16)],
        shards=3,
    )
    write_hf(
        f"{out}/qwen2-mha-odd-mixed",
        Model(
            53,
            "qwen2",
            head_dim=64,
            heads=2,
            kv_heads=2,
            ffn=32,
            bias=True,
            theta=1e6,
            scaling={"rope_type": "linear", "factor": 4.0},
            pre="qwen2",
        ),
        [("norm", f32), ("bias", f32), ("mlp", bf16), ("", f16)],
        shift=1,
        rope_parameters=True,
    )
    write_gguf(
        f"{out}/llama-gqa-q8_0.gguf",
        Model(44, "llama", head_dim=16, heads=4, kv_heads=2, ffn=96, layers=3),
        [("", Q.Q8_0)],
        "tiny llama gqa q8_0",
    )
    write_gguf(
        f"{out}/llama-mha-q4_0-v2.gguf",
        Model(
            45,
            "llama",
            head_dim=8,
            heads=8,
            kv_heads=8,
            ffn=128,
            tied=False,
            scaling={"rope_type": "linear", "factor": 2.5},
            pre="smollm",
        ),
        [("lm_head", Q.Q8_0), ("", Q.Q4_0)],
        "tiny llama mha q4_0",
        version=2,
    )
    write_gguf(
        f"{out}/qwen2-gqa-q4_1.gguf",
        Model(6, "qwen2", head_dim=64, heads=4, kv_heads=2, ffn=96, bias=True, theta=1e6, pre="qwen2"),
        [("", Q.Q4_1)],
        "tiny qwen2 gqa q4_1",
    )
    write_gguf(
        f"{out}/llama-mqa-bias-f16.gguf",
        Model(
            27, "llama", head_dim=40, heads=3, kv_heads=1, bias=True, theta=500000.0, scaling=llama3, pre="llama-bpe"
        ),
        [("", Q.F16)],
        "tiny llama mqa f16",
    )
    write_gguf(
        f"{out}/llama-shifted-mixed.gguf",
        Model(8, "llama", head_dim=64, heads=2, kv_heads=1),
        [
            ("embed", Q.Q4_1),
            ("layers.0.self_attn.k", Q.F32),
            ("layers.0", Q.BF16),
            ("q_proj", Q.Q8_0),
            ("mlp", Q.F16),
            ("", Q.Q4_0),
        ],
        "tiny llama shifted",
        shift=32,
    )


if __name__ == "__main__":
    main(sys.argv[1])
