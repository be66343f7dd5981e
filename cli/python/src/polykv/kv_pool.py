"""A pool, checked, and its keys and values as NumPy arrays."""

import json
import os
import stat

import numpy as np

from .dynamic_cache import to_dynamic_cache
from .errors import PoolError, refuse_if
from .page_codecs import dequantize_run
from .pool_container import FIDELITY, IDENTITY, LAYOUT, MEANS, PAGES, SINKS, SOURCE, TOKENS, Container
from .pool_contents import (
    FINGERPRINT_GROUPS,
    Layout,
    decode_utf8,
    document_fingerprint,
    fingerprints,
    parse_identity,
    parse_source,
    parse_source_start,
    parse_tokens,
)

FINGERPRINT_OFFSETS = {
    "model_fingerprint": 72, "tokenizer_fingerprint": 104, "tokens_fingerprint": 168, "codec_fingerprint": 200,
    "file_id": 56,
}  # fmt: skip


def load_alone(path):
    """A pool without those that it extends."""
    path = os.fspath(path)
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise PoolError("kNotAPool", "it is not a regular file", path=path)
        contents = file.read()
    try:
        return Pool(contents, path)
    except PoolError as error:
        error.path = path
        raise


class Pool:
    """What `load` returns. Where it extends another one, `parent` is that, and all but what begins with chain_ is of
    this file alone: positions 0 to num_tokens - 1 here are first_position and on in the chain.

    tokens       int64 [num_tokens], the token ids; position i of the cache is that of tokens[i]
    text_ranges  int64 [num_tokens, 2], the bytes of the source text that each token covers
    identity     {name: value}: model, tokenizer, template, codec and what else the builder noted
    num_layers, num_kv_heads, head_dim, num_tokens, num_sinks, file_id (hex), fingerprints ({name: hex})
    parent       the pool that this one extends, or None; first_position: where it ends
    """

    parent = None

    def __init__(self, contents, path=None):
        self.path = path
        container = self._container = Container(contents)
        superblock = container.superblock
        self.num_layers, self.num_kv_heads = superblock.num_layers, superblock.num_kv_heads
        self.head_dim, self.num_tokens = superblock.head_dim, superblock.num_tokens
        self.num_sinks, self.file_id = superblock.num_sinks, superblock.file_id.hex()
        self.first_position = superblock.first_position
        by_kind = container.by_kind
        container.check_chunks(by_kind[IDENTITY])
        self.identity = parse_identity(container.contents(IDENTITY), container.offset(IDENTITY))
        container.check_chunks(by_kind[SOURCE], 1)
        text_bytes = parse_source_start(container.contents(SOURCE), container.offset(SOURCE))
        container.check_chunks(by_kind[TOKENS])
        self.tokens, self.text_ranges = parse_tokens(
            container.contents(TOKENS), container.offset(TOKENS), self.num_tokens, text_bytes
        )
        container.check_chunks(by_kind[LAYOUT])
        self._layout = Layout(container.contents(LAYOUT), container.offset(LAYOUT), superblock)
        self._layout.check_sections(container)
        self._fidelity = self._read_fidelity()
        self._check_fingerprints()
        container.check_rest()
        self._text = None

    def __repr__(self):
        shape = f"{self.num_layers} layers, {self.num_kv_heads} kv_heads, head_dim {self.head_dim}"
        return f"<polykv.Pool {self.path}: {self.num_tokens} tokens, {shape}>"

    def _read_fidelity(self):
        container = self._container
        if FIDELITY not in container.by_kind:
            return None
        container.check_chunks(container.by_kind[FIDELITY])
        return decode_utf8(container.contents(FIDELITY), "kMalformed", "fidelity", container.offset(FIDELITY))

    def _check_fingerprints(self):
        superblock = self._container.superblock
        computed = fingerprints(
            self.identity,
            self.tokens,
            self._container.digest,
            superblock.first_position,
            superblock.parent_tokens_fingerprint,
        )
        for name, offset in FINGERPRINT_OFFSETS.items():
            differs = computed[name] != getattr(superblock, name)
            refuse_if(differs, "kBadFingerprint", f"{name} is not that of the contents", offset)

    @property
    def fingerprints(self):
        names = [*FINGERPRINT_GROUPS, "tokens_fingerprint", "document_fingerprint"]
        return {name: getattr(self._container.superblock, name).hex() for name in names}

    @property
    def fidelity(self):
        """What compression did to the model's answers, as measured when the pool was built: a dict, or None."""
        try:
            return None if self._fidelity is None else json.loads(self._fidelity)
        except (ValueError, RecursionError):
            raise PoolError("kMalformed", "fidelity is not JSON", self._container.offset(FIDELITY), self.path) from None

    @property
    def source_bytes(self):
        """The text as bytes, which is what text_ranges counts."""
        if self._text is None:
            container = self._container
            try:
                text = parse_source(container.contents(SOURCE), container.offset(SOURCE))
                expected = document_fingerprint(container.superblock.file_id, text)
                differs = expected != container.superblock.document_fingerprint
                refuse_if(differs, "kBadFingerprint", "document_fingerprint is not that of the text", 136)
            except PoolError as error:
                error.path = self.path
                raise
            self._text = text
        return self._text

    @property
    def source_text(self):
        """The documents, joined by blank lines."""
        return self.source_bytes.decode("utf-8")

    @property
    def open_text(self):
        """The bytes after the last token: tokenized together with what follows."""
        return self.source_bytes[int(self.text_ranges[-1, 1]) :]

    def _check_layer(self, layer):
        if not 0 <= layer < self.num_layers:
            raise IndexError(f"layer {layer} of a pool with {self.num_layers}")

    def _runs(self, layer, kv_head):
        return self._layout.heads[layer * self.num_kv_heads + kv_head]

    def kept(self, layer):
        """bool [num_kv_heads, num_tokens]: the positions that each head keeps; all, unless build dropped some."""
        self._check_layer(layer)
        mask = np.zeros((self.num_kv_heads, self.num_tokens), bool)
        mask[:, : self.num_sinks] = True
        for kv_head in range(self.num_kv_heads):
            for run in self._runs(layer, kv_head):
                mask[kv_head, self._layout.positions(run)] = True
        return mask

    @property
    def drops_positions(self):
        """Whether any head keeps fewer than all positions."""
        all_but_sinks = self.num_tokens - self.num_sinks
        return any(sum(run.num_positions for run in head) != all_but_sinks for head in self._layout.heads)

    @property
    def chain(self):
        """The pools that keys and values of all positions are in: the base first, this one last."""
        return [*(self.parent.chain if self.parent else ()), self]

    @property
    def chain_tokens(self):
        """int64 [positions of the chain]: the ids of all tokens."""
        return np.concatenate([pool.tokens for pool in self.chain])

    def chain_keys(self, layer, dropped=None):
        """As keys, of all positions of the chain."""
        return np.concatenate([pool.keys(layer, dropped) for pool in self.chain], axis=1)

    def chain_values(self, layer, dropped=None):
        """The same of values."""
        return np.concatenate([pool.values(layer, dropped) for pool in self.chain], axis=1)

    def keys(self, layer, dropped=None):
        """float32 [num_kv_heads, num_tokens, head_dim], after RoPE, dimension i rotated with i + head_dim / 2. A layer
        that drops positions is refused, as `polykv export` refuses it, unless `dropped` says what to put there, such as
        nan; kept(layer) tells where."""
        return self._side(layer, 0, dropped)

    def values(self, layer, dropped=None):
        """The same of values."""
        return self._side(layer, 1, dropped)

    def _side(self, layer, want, dropped):
        self._check_layer(layer)
        out = np.empty((self.num_kv_heads, self.num_tokens, self.head_dim), np.float32)
        for kv_head in range(self.num_kv_heads):
            runs = self._runs(layer, kv_head)
            kept = self.num_sinks + sum(run.num_positions for run in runs)
            if kept != self.num_tokens:
                if dropped is None:
                    reason = f"layer {layer}, kv_head {kv_head} keeps {kept} of {self.num_tokens} positions: say what "
                    raise PoolError("kUnsupportedFeature", reason + "to put in place of the others", path=self.path)
                out[kv_head] = dropped
            self._dequantize_head(layer, kv_head, want, out[kv_head])
        return out

    def _dequantize_head(self, layer, kv_head, want, out):
        container, head = self._container, layer * self.num_kv_heads + kv_head
        if self.num_sinks:
            sinks = np.frombuffer(container.contents(SINKS), "<f2").reshape(-1, 2, self.num_sinks, self.head_dim)
            out[: self.num_sinks] = sinks[head, want]
        transform = None
        for owner in self.chain:  # of which one has means, or none
            if MEANS in owner._container.by_kind:
                means = np.frombuffer(owner._container.contents(MEANS), "<f2").reshape(-1, 3, self.head_dim)
                transform = means[head].astype(np.float32)
        runs = self._runs(layer, kv_head)
        pages = np.frombuffer(container.contents(PAGES), np.uint8) if runs else None
        for run in runs:
            values = dequantize_run(
                pages[run.pages_offset : run.pages_offset + run.pages_bytes],
                run.key_codec,
                run.value_codec,
                (run.key_exponent, run.value_exponent),
                run.num_positions,
                self.head_dim,
                transform,
                want,
            )
            out[self._layout.positions(run)] = values.T

    def to_dynamic_cache(self, dtype=None):
        """A transformers.DynamicCache of all positions of the chain, in order, as a batch of one; in torch.float32 if
        no dtype is given."""
        return to_dynamic_cache(self, dtype)
