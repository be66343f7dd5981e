#!/usr/bin/env python3
"""Trains a tiny byte-level BPE vocabulary and tokenizes hard texts with Hugging Face's tokenizers, under each rule.

    make_tokenizer_vectors.py > tests/unit/tokenizer/tokenizer_vectors.json

The vocabulary lacks three byte tokens that valid text can need. One entry is made by no merge (for ignore_merges).
Needs tokenizers (0.22.2 made the committed file; it is the same for the same version).
"""

import json
import random
import sys

from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

CORPUS = [
    "The keeper of the lamp writes down the weather three times a day: wind, rain, and how far one can see.",
    "They're sure that he'd seen it; we've not, and I'm told she'll come. It's Tom's, isn't it? THEY'RE LATE!",
    "In 1872 the tower was 34 metres high, and 1,250 steps (so they say) lead to the top of it.\n\n",
    "def light(lamp):\n    if lamp.is_lit:\n        return lamp.colour\n    return None\n",
    "\tfor (int i = 0; i < 10; ++i) {\r\n\t\tsum += i;\r\n\t}\r\n",
    "Żółta łódź płynie. Größe, naïve, façade, Αθήνα, Москва, 灯台守は毎日三回天気を書く。 한국어 문장.",
    "हिन्दी में एक वाक्य। ไทยไม่มีช่องว่าง ½ ² Ⅷ ٣ 🙂 👩‍🚀 …",
    "   spaces   before   and   after   ",
]

MISSING_BYTES = (0x04, 0x13, 0xF1)  # byte 0xF1 begins characters from U+40000 on
CONTROL_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
]
WHOLE_ONLY = "lighthouses"  # a piece that ignore_merges finds and merges do not make

GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
BYTES_ONLY = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def split(numbers):
    pattern = Regex(CONTRACTION + numbers + REST)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(pattern, "isolated"), BYTES_ONLY])


RULES = {
    "gpt-2": {"pre_tokenizer": GPT2},
    "smollm": {"pre_tokenizer": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), GPT2])},
    "llama-bpe": {"pre_tokenizer": split(r"\p{N}{1,3}"), "ignore_merges": True},
    "qwen2": {"pre_tokenizer": split(r"\p{N}"), "normalizer": normalizers.NFC()},
}

TEXTS = CORPUS + [
    "a",
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t \n \t",
    "a  b   c    1     2",
    "a   1",
    "12345678 a1b22c333d4444",
    "1\u0301 e\u0301 \u0065\u0323\u0307 \u1100\u1161\u11a8 \u0928\u093c",
    "A'S a'S 'Re x'\u017f y'LL z'lL 'ſ '\u212a",
    "they'r",
    "don't   stop",
    "<|im_end|> is text, and so is <|begin_of_text|>",
    "lighthouses lighthouses\nlighthouses",
    "x\u0004y !\u0004! \u0013 \u0004\u0013",
    "\U00040000 \U0010ffff",
    "\u180e a\u180eb \u0085c \u00a0d \u2028e \u3000f \u200b !\u180e! \u180e\u180e b",
    "👨‍👩‍👧‍👦 🏳️‍🌈 ☕️ 1️⃣",
    "\u0000\u0001\u007f",
    "ǅ ʰ ª \u0345 \u20dd",
    "!!! ... --- ### a!b,c;d",
    "  \n  \n\n   x\n",
    "tab\there \t\tthere",
    "\r\r\n\n\r",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
]


def train():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    missing = {byte_character(byte) for byte in MISSING_BYTES}
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = GPT2
    trainer = BpeTrainer(
        vocab_size=len(alphabet) - len(missing) + 200,
        initial_alphabet=[character for character in alphabet if character not in missing],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    assert not missing & set(model["vocab"])
    model["vocab"][WHOLE_ONLY] = len(model["vocab"])
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def byte_character(byte):
    """GPT-2's character for a byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [other for other in range(256) if other not in printable]
    return chr(byte) if byte in printable else chr(0x100 + others.index(byte))


def random_texts(count):
    """Mixtures of fragments that have their own branches in the patterns."""
    source = random.Random(20)
    fragments = [" ", "  ", "\n", "\r\n", "\t", "'", "'s", "'LL", "1", "23", "the", "Ke", "é", "e\u0301", "\u0301"]
    fragments += ["灯", "한", "ᄒ", "ᅡ", "🙂", "\u200d", "!", "...", "_", "½", "\u00a0", "\u3000", "क", "ि"]
    fragments += ["lighthouses"]
    return ["".join(source.choices(fragments, k=source.randint(3, 14))) for _ in range(count)]


def piece_ends(tokenizer, text):
    if tokenizer.normalizer is not None:
        text = tokenizer.normalizer.normalize_str(text)
    # ByteLevel gives offsets in characters of its input.
    return [len(text[:end].encode()) for _, (_, end) in tokenizer.pre_tokenizer.pre_tokenize_str(text)]


def main():
    vocab, merges = train()
    texts = TEXTS + random_texts(60)
    out = {"vocab": vocab, "merges": [" ".join(merge) for merge in merges], "control_tokens": CONTROL_TOKENS}
    out["texts"] = texts
    out["ids"] = {}
    out["piece_ends"] = {}  # in bytes of the normalized text
    for name, rule in RULES.items():
        tokenizer = Tokenizer(BPE(vocab=vocab, merges=merges, ignore_merges=rule.get("ignore_merges", False)))
        tokenizer.pre_tokenizer = rule["pre_tokenizer"]
        if "normalizer" in rule:
            tokenizer.normalizer = rule["normalizer"]
        out["ids"][name] = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        out["piece_ends"][name] = [piece_ends(tokenizer, text) for text in texts]
        tokenizer.add_special_tokens([AddedToken(token) for token in CONTROL_TOKENS])
        parts = json.loads(tokenizer.to_str())
        out.setdefault("json", {})[name] = {key: parts[key] for key in ("pre_tokenizer", "normalizer")}
    json.dump(out, sys.stdout, ensure_ascii=True, separators=(",", ":"))
    print()


if __name__ == "__main__":
    main()
