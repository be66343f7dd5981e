"""The demonstration: every question of fixtures/text is answered rightly, compressed and in float16."""

import json

from program import ROOT, Workplace, expect

TEXT = ROOT / "fixtures/text"
questions = [line.split("\t") for line in (TEXT / "questions.tsv").read_text().splitlines()]
lines = "".join(json.dumps({"id": name, "question": question}) + "\n" for name, question, _ in questions)

with Workplace() as place:
    for codec in ("k5v4", "f16"):
        pool = f"{codec}.pkv"
        out, err = place.run("build", TEXT / "lighthouse.txt", "-o", pool, "--codec", codec, "--json")
        built = json.loads(out)
        expect(err == "", f"build wrote to stderr: {err}")
        expect(built["tokens"] == 3351, f"{built['tokens']} tokens")
        ask = ("ask", pool, "--jsonl")
        out, _ = place.run(*ask, stdin=lines.encode())
        answers = [json.loads(line) for line in out.splitlines()]
        expect([answer["id"] for answer in answers] == [name for name, _, _ in questions], "answers out of order")
        for (name, question, wanted), answer in zip(questions, answers, strict=True):
            expect(wanted in answer["answer"], f"{codec}, {question}: {answer['answer']}")
            expect(answer["cached_tokens"] == 3351, f"{name}: the pool was not used")
            expect(answer["stop_reason"] == "eos", f"{name}: {answer['stop_reason']}")
        # Fifteen at a time: the same answers, in the same order.
        together = [json.loads(line) for line in place.run(*ask, "--agents", 15, stdin=lines.encode())[0].splitlines()]
        for one, other in zip(answers, together, strict=True):
            for name in ("id", "answer", "stop_reason", "generated_tokens", "prompt_tokens"):
                expect(one[name] == other[name], f"{codec}: --agents changed {name}: {one} {other}")
        print(codec, "answers", len(answers), "of", len(questions))

    # The same again: same bytes out, whatever the number of threads; text mode prints the answer and nothing else.
    out, err = place.run("ask", "k5v4.pkv", questions[0][1], "-t", "1")
    expect((out, err) == (answers_text := place.run("ask", "k5v4.pkv", questions[0][1], "-t", "3")), answers_text)
    expect(out.count("\n") == 1 and questions[0][2] in out, out)
    expect(err == "", err)

    # A stop string ends an answer before it; a seed repeats.
    out, _ = place.run("ask", "k5v4.pkv", questions[0][1], "--stop", " pays", "--json")
    expect(json.loads(out)["answer"] == "The Harbour Cooperative" and json.loads(out)["stop_reason"] == "stop", out)
    sampled = [
        place.run("ask", "k5v4.pkv", "Tell me a story.", "--temp", "1", "--seed", "7", "-n", "12") for _ in range(2)
    ]
    expect(sampled[0] == sampled[1], sampled)

    # The pool's own text builds the same pool again, but for how it was named.
    out, _ = place.run("build", "k5v4.pkv", "-o", "again.pkv", "--json")
    first, again = (json.loads(place.run("inspect", pool, "--json")[0]) for pool in ("k5v4.pkv", "again.pkv"))
    expect(first["fingerprints"]["tokens"] == again["fingerprints"]["tokens"], "another text came out")
