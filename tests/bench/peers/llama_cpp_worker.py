#!/usr/bin/env python3
"""One measurement of llama.cpp in a process of its own, through the package llama-cpp-python; prints one JSON object.

  llama_cpp_worker.py MODE --model GGUF --document FILE --threads N
                      [--kv f16|q8_0] [--tokens N] [--agents N] [--state FILE]

prefill   the document, then --tokens tokens greedily at that depth; saves the state if --state is given
agents    the document once, its cache shared by --agents sequences, then --tokens tokens each, a batch a step
answer    from the model file and a saved state to --tokens tokens: what a shell pipeline would wait for
hold      like answer, then waits for a line on stdin, so that memory can be read from outside
"""

import argparse
import ctypes
import json
import sys
import time

import llama_cpp
import numpy

KV_TYPES = {"f16": llama_cpp.GGML_TYPE_F16, "q8_0": llama_cpp.GGML_TYPE_Q8_0}


class Llama:
    def __init__(self, options, num_sequences=1):
        llama_cpp.llama_backend_init()
        model_params = llama_cpp.llama_model_default_params()
        model_params.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(options.model.encode(), model_params)
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = 8192
        params.n_batch = 512
        params.n_ubatch = 512
        params.n_seq_max = num_sequences
        params.kv_unified = True
        params.n_threads = params.n_threads_batch = options.threads
        params.type_k = params.type_v = KV_TYPES[options.kv]
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.batch = llama_cpp.llama_batch_init(512, 0, 1)

    def tokenize(self, text):
        data = text.encode()
        tokens = (llama_cpp.llama_token * len(data))()
        count = llama_cpp.llama_tokenize(self.vocab, data, len(data), tokens, len(data), False, False)
        return list(tokens[:count])

    def decode(self, rows):
        """rows: (token, position, sequence, wants logits)"""
        self.batch.n_tokens = len(rows)
        for i, (token, position, sequence, wants_logits) in enumerate(rows):
            self.batch.token[i] = token
            self.batch.pos[i] = position
            self.batch.n_seq_id[i] = 1
            self.batch.seq_id[i][0] = sequence
            self.batch.logits[i] = wants_logits
        if llama_cpp.llama_decode(self.context, self.batch) != 0:
            sys.exit("llama_decode failed")

    def read(self, tokens):
        for first in range(0, len(tokens), 512):
            block = tokens[first : first + 512]
            last = len(tokens) - 1
            self.decode([(token, first + i, 0, first + i == last) for i, token in enumerate(block)])

    def greedy(self, row):
        size = llama_cpp.llama_vocab_n_tokens(self.vocab)
        logits = llama_cpp.llama_get_logits_ith(self.context, row)
        array = ctypes.cast(logits, ctypes.POINTER(ctypes.c_float * size)).contents
        return int(numpy.frombuffer(array, dtype=numpy.float32).argmax())

    def generate(self, token, position, count):
        for i in range(count):
            self.decode([(token, position + i, 0, True)])
            token = self.greedy(0)
        return token


def prefill(options):
    llama = Llama(options)
    tokens = llama.tokenize(open(options.document).read())
    start = time.perf_counter()
    llama.read(tokens)
    read = time.perf_counter()
    save_s = None
    if options.state:
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        llama_cpp.llama_state_save_file(llama.context, options.state.encode(), array, len(tokens))
        save_s = time.perf_counter() - read
    token = llama.greedy(len(tokens) % 512 - 1 if len(tokens) % 512 else 511)
    before = time.perf_counter()
    llama.generate(token, len(tokens), options.tokens)
    end = time.perf_counter()
    return {
        "tokens": len(tokens),
        "prefill_s": read - start,
        "save_s": save_s,
        "decode_tok_s": options.tokens / (end - before),
    }


def agents(options):
    llama = Llama(options, options.agents)
    tokens = llama.tokenize(open(options.document).read())
    llama.read(tokens)
    memory = llama_cpp.llama_get_memory(llama.context)
    for sequence in range(1, options.agents):
        llama_cpp.llama_memory_seq_cp(memory, 0, sequence, 0, len(tokens))
    last = [tokens[-1 - sequence] for sequence in range(options.agents)]  # unlike, so that the answers are
    start = time.perf_counter()
    for step in range(options.tokens):
        llama.decode([(last[s], len(tokens) + step, s, True) for s in range(options.agents)])
        last = [llama.greedy(s) for s in range(options.agents)]
    end = time.perf_counter()
    return {"agents": options.agents, "tok_s": options.agents * options.tokens / (end - start)}


def answer(options):
    start = time.perf_counter()
    llama = Llama(options)
    tokens = (llama_cpp.llama_token * 8192)()
    count = ctypes.c_size_t()
    before = time.perf_counter()
    if not llama_cpp.llama_state_load_file(llama.context, options.state.encode(), tokens, 8192, ctypes.byref(count)):
        sys.exit("the state cannot be loaded")
    load_s = time.perf_counter() - before
    question = llama.tokenize("\n\nWho is the author of this text? Answer in one sentence.\n")
    rows = [(token, count.value + i, 0, i + 1 == len(question)) for i, token in enumerate(question)]
    llama.decode(rows)
    token = llama.greedy(len(question) - 1)
    first = time.perf_counter()
    llama.generate(token, count.value + len(question), options.tokens - 1)
    end = time.perf_counter()
    return {
        "load_s": load_s,
        "state_to_first_s": first - before,
        "first_token_s": first - start,
        "answer_s": end - start,
    }


def hold(options):
    print(json.dumps(answer(options)), flush=True)
    sys.stdin.readline()
    sys.exit(0)


def main():
    parser = argparse.ArgumentParser()
    modes = {"prefill": prefill, "agents": agents, "answer": answer, "hold": hold}
    parser.add_argument("mode", choices=modes)
    parser.add_argument("--model", required=True)
    parser.add_argument("--document", default="")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kv", choices=KV_TYPES, default="f16")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--agents", type=int, default=15)
    parser.add_argument("--state", default="")
    options = parser.parse_args()
    print(json.dumps(modes[options.mode](options)))


main()
