#!/usr/bin/env python3
"""Renders chat templates with jinja2, set up as transformers sets it up, into template_vectors.json.

    make_template_vectors.py DATA_DIR [MODEL.gguf ...] > tests/unit/tokenizer/template_vectors.json

DATA_DIR/chat-templates/*.jinja and the templates of the GGUF files are read; only their digests and what they print are
written. `strftime_now` stays undefined: polykv renders no date of today (cli/runtime/tokenizer/jinja.h).
Needs jinja2 and, for GGUF files, gguf.
"""

import hashlib
import json
import pathlib
import sys

import jinja2
import jinja2.ext
import jinja2.sandbox

SYSTEMS = [None, "Answer in one short sentence.", "  Padded\tsystem. \n", "", "Is <|im_end|> a word?\n\u00e9\u3000"]
USERS = ["Who keeps the lamp?", "\n First line,\n\nsecond line. \u2028\t", "{{ 1 + 1 }} <|im_end|> {% if %}"]
# polykv refuses these, so what they print is not written: only that they are these texts.
REFUSED = ("SmolLM3", "Qwen3", "gemma", "Phi", "Mistral")
SPECIAL_TOKENS = {"bos_token": "<|begin_of_text|>"}


def render(template, system, user):
    """The prompt, or None where the template itself refuses."""

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    environment.globals["raise_exception"] = raise_exception
    messages = [] if system is None else [{"role": "system", "content": system}]
    messages.append({"role": "user", "content": user})
    try:
        return environment.from_string(template).render(
            messages=messages, tools=None, documents=None, add_generation_prompt=True, **SPECIAL_TOKENS
        )
    except jinja2.exceptions.TemplateError:
        return None


def vectors(name, template):
    cases = [
        {"system": system, "user": user, "rendered": render(template, system, user)}
        for system in SYSTEMS
        for user in USERS
        if not any(word in name for word in REFUSED)
    ]
    return {"name": name, "sha256": hashlib.sha256(template.encode()).hexdigest(), "cases": cases}


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    found = []
    for path in sorted(pathlib.Path(sys.argv[1], "chat-templates").glob("*.jinja")):
        found.append(vectors(path.stem, path.read_text(encoding="utf-8")))
    for path in map(pathlib.Path, sys.argv[2:]):
        import gguf

        template = gguf.GGUFReader(path).get_field("tokenizer.chat_template").contents()
        found.append(vectors(path.name, template))
    json.dump({"bos_token": SPECIAL_TOKENS["bos_token"], "templates": found}, sys.stdout, ensure_ascii=True, indent=1)
    print()


if __name__ == "__main__":
    main()
