// Rows of commands that make pools or answer from them.
#include <string>

#include "cli/command_rows.h"
#include "cli/runtime/cards/card_plan.h"
#include "cli/runtime/retention/policy.h"

namespace polykv::cli {
namespace {

std::vector<const char*> policy_choices() {
  std::vector<const char*> names = {"auto"};
  for (const runtime::RetentionPolicy& policy : runtime::retention_policies()) names.push_back(policy.name);
  return names;
}

// "a, b, c" of one kind; with "*" those that are reconstructions.
std::string policy_names(runtime::PolicyKind kind) {
  std::string names;
  for (const runtime::RetentionPolicy& policy : runtime::retention_policies()) {
    if (policy.kind != kind) continue;
    names += (names.empty() ? "" : ", ") + std::string(policy.name) + (policy.is_reconstruction ? "*" : "");
  }
  return names;
}

std::vector<const char*> tail_policy_choices() {
  std::vector<const char*> names;
  for (const runtime::RetentionPolicy& policy : runtime::retention_policies())
    if (policy.tail_rows) names.push_back(policy.name);
  return names;
}

const char* tail_retain_help() {
  static const std::string help = [] {
    std::string names;
    for (const char* name : tail_policy_choices()) names += (names.empty() ? "" : ", ") + std::string(name);
    return "For long answers: an agent's own question and answer keep a part of their positions, chosen by a policy (" +
           names +
           "), or by a plan that polykv calibrate made (a name with a slash or ending in .json), without --tail-keep "
           "as "
           "much as it was calibrated with. The pool is never touched.";
  }();
  return help.c_str();
}

const char* card_bits_help() {
  static const std::string help =
      std::string("With --save: bits of a value in the card: ") + runtime::kCardBitsSyntax +
      ". auto gives each token and head the bits that it needs, B on average; learned does so by the controller beside "
      "the model (see polykv calibrate --cards). Without it: each head's codecs are those of the base pool.";
  return help.c_str();
}

const char* retain_help() {
  static const std::string help = [] {
    using Kind = runtime::PolicyKind;
    return "Keep a part of the positions, chosen by a policy. auto: each head's by the one that loses least. Safe for "
           "any question to come: " +
           policy_names(Kind::kAgnostic) +
           ". Made for a text that ends with its question: " + policy_names(Kind::kAware) +
           " (* reconstructed from descriptions). Controls: " + policy_names(Kind::kControl) +
           ". +ada after a name shares a layer's budget out among its heads, +chunk keeps whole chunks of 20 "
           "positions. "
           "With --keep; or with --bits or --size, and positions and bits are chosen together. Or a plan that polykv "
           "calibrate made (a name with a slash or ending in .json): each layer by its own policy, and the budget by "
           "the plan, without --keep as much as it was calibrated with; +uniform after it gives all layers the same.";
  }();
  return help.c_str();
}

}  // namespace

CommandSpec build_command() {
  return {
      .name = "build",
      .operands = "DOC...",
      .min_operands = 1,
      .max_operands = SIZE_MAX,
      .operand_name = "document",
      .operand_kind = ValueKind::kPath,
      .operand_choices = {},
      .common_options = true,
      .summary = "read documents once and keep their compressed KV cache in a pool",
      .examples = {{"polykv build contract.txt -o contract.pkv", "build a pool with the default model"},
                   {"polykv build a.md b.md -o both.pkv -m llama.gguf", "two documents, another model"},
                   {"pdftotext paper.pdf - | polykv build - -o paper.pkv", "read the document from a pipe"},
                   {"polykv build old.pkv -o new.pkv", "build again from the text that a pool keeps"}},
      .description = {"Tokenizes the documents, runs the model over them once, compresses what it computed and "
                      "publishes it as one file, atomically: an interrupted or failed build leaves nothing behind and "
                      "an existing pool untouched.",
                      "Several documents are joined by blank lines. DOC may be '-' for standard input, or a pool: its "
                      "own text is built again. A document is UTF-8 text; whatever looks like a control token in it is "
                      "just text.",
                      "Anyone who can read the pool can recover the document, so a pool is readable by its owner alone "
                      "unless --mode says otherwise."},
      .options =
          {{.letter = 'o',
            .name = "output",
            .value = "POOL",
            .target = &Options::output,
            .kind = ValueKind::kPath,
            .required = true,
            .help = "The pool to write. An existing file is refused before any work unless --force is given."},
           model_option(),
           {.name = "codec",
            .value = "NAME",
            .target = &Options::codec,
            .kind = ValueKind::kCodec,
            .fallback = "auto",
            .environment = "POLYKV_CODEC",
            .choices = {"auto", "k4v3", "k4v4", "k5v4", "k6v4", "k8v3", "f16"},
            .help =
                "How keys and values are stored: auto, a plan made on the document, which gives each head the bits "
                "that it needs; kAvB, A bits for a key's value and B bits for a value's everywhere, each 1 to 8; or "
                "f16, uncompressed."},
           {.name = "retain",
            .value = "NAME",
            .target = &Options::retain,
            .kind = ValueKind::kHint,
            .choices = policy_choices(),
            .help = retain_help()},
           {.name = "keep",
            .value = "TOKENS|PERCENT",
            .target = &Options::keep,
            .kind = ValueKind::kText,
            .help = "With --retain: how many positions a head keeps on average, the first four among them, or which "
                    "share of the document's (25%)."},
           {.name = "accept-loss",
            .target = &Options::accept_loss,
            .help = "With --retain: write the pool even if the model can no longer repeat passages that it could with "
                    "everything kept."},
           {.name = "bits",
            .value = "B",
            .target = &Options::bits,
            .kind = ValueKind::kNumber,
            .environment = "POLYKV_BITS",
            .minimum = 0.25,
            .maximum = 16,
            .help = "With --codec auto: at most B bits a value, everything counted. Without this and the next two: "
                    "4.25. Below 3 positions are dropped too, which ones and how coarsely the others are rounded being "
                    "chosen "
                    "together; --retain fullkv drops none."},
           {.name = "size",
            .value = "BYTES",
            .target = &Options::size,
            .kind = ValueKind::kBytes,
            .environment = "POLYKV_SIZE",
            .help = "With --codec auto: a pool of at most BYTES, as 20M (20 x 1024 x 1024) or 20MB (20,000,000)."},
           {.name = "max-kld",
            .value = "X",
            .target = &Options::max_kld,
            .kind = ValueKind::kNumber,
            .environment = "POLYKV_MAX_KLD",
            .minimum = 1e-6,
            .maximum = 10,
            .help = "With --codec auto: the smallest pool found whose tail probe measures a mean KL divergence of at "
                    "most X. Quantizes and measures a few times."},
           {.name = "no-probe",
            .target = &Options::no_probe,
            .environment = "POLYKV_NO_PROBE",
            .help = "Do not measure what compression did to the model's output. The build takes about a quarter less "
                    "time, and stats has nothing to say about fidelity."},
           {.name = "template",
            .value = "NAME",
            .target = &Options::template_name,
            .kind = ValueKind::kHint,
            .fallback = "auto",
            .environment = "POLYKV_TEMPLATE",
            .choices = {"auto", "none", "chatml", "llama3"},
            .help = "The chat template: auto recognises the model's own, none leaves it out, NAME takes a family's."},
           {.name = "system",
            .value = "TEXT",
            .target = &Options::system,
            .kind = ValueKind::kText,
            .environment = "POLYKV_SYSTEM",
            .help = "The system turn. Without it: what the template itself inserts."},
           prefill_type_option(),
           force_option(),
           mode_option(),
           threads_option(),
           json_option("Print one JSON object (schema polykv.build/1) instead of text.")},
  };
}

CommandSpec append_command() {
  return {
      .name = "append",
      .operands = "POOL DOC...",
      .min_operands = 2,
      .max_operands = SIZE_MAX,
      .operand_name = "pool or document",
      .operand_kind = ValueKind::kPath,
      .operand_choices = {},
      .common_options = true,
      .summary = "read more documents after a pool's, without reading those again",
      .examples = {{"polykv append contract.pkv annex.txt -o with-annex.pkv", "contract and annex"},
                   {"tail -n +1000 log.txt | polykv append log.pkv - -o longer.pkv", "what has come since"},
                   {"polykv append other.pkv step1.pkv --graft -o here.pkv", "a card from another prefix"}},
      .description =
          {"Runs the model over the documents with the pool's keys and values before them and writes a pool that "
           "extends it: POOL stays as it is and is needed to use the new one (polykv flatten makes one of both). "
           "Asking "
           "the new pool is asking about all of the text, as if it had been built at once but for what rounding the "
           "first part does to the second.",
           "After a card that ends with an answer the documents open a new turn. A pool that dropped positions "
           "(build --retain) cannot be appended to."},
      .options = {{.letter = 'o',
                   .name = "output",
                   .value = "POOL",
                   .target = &Options::output,
                   .kind = ValueKind::kPath,
                   .required = true,
                   .help = "The pool to write. An existing file is refused before any work unless --force is given."},
                  model_option(),
                  card_bits_option(
                      "Bits of a value: 1 to 8, 16, or auto:B with B from 2 to 16, which gives each head the bits that "
                      "it needs, B on average, as build measured the base pool's heads. Without it: each head's codecs "
                      "are those of the base pool."),
                  sender_option("Who made it, as inspect shows it."),
                  {.name = "graft",
                   .target = &Options::graft,
                   .help =
                       "DOC is a card on another prefix: take its keys and values as they are, keys turned to their "
                       "new positions, instead of running the model. They were computed from the other prefix; the "
                       "pool is marked, and what that does to answers is measured and kept in it."},
                  prefill_type_option(),
                  force_option(),
                  mode_option(),
                  pool_path_option(),
                  threads_option(),
                  json_option("Print one JSON object (schema polykv.append/1) instead of text.")},
  };
}

CommandSpec ask_command() {
  return {
      .name = "ask",
      .operands = "POOL [QUESTION...]",
      .min_operands = 1,
      .max_operands = SIZE_MAX,
      .operand_name = "pool",
      .operand_kind = ValueKind::kPath,
      .operand_choices = {},
      .common_options = true,
      .summary = "answer questions about a pool's document",
      .examples = {{"polykv ask contract.pkv \"Who pays for insurance?\"", "one question"},
                   {"polykv ask contract.pkv < questions.txt", "one question a line"},
                   {"cut -f2 questions.tsv | polykv ask contract.pkv --jsonl > answers.jsonl",
                    "one JSON object an answer, in order"},
                   {"polykv ask contract.pkv --jsonl --agents 15 < questions.txt", "15 questions at a time"},
                   {"polykv ask contract.pkv --temp 0.7 --seed 1 \"Summarise it.\"", "sample, repeatably"},
                   {"polykv ask contract.pkv \"Who pays?\" --save step1.pkv", "keep question and answer as a card"},
                   {"polykv ask step1.pkv \"And when?\"", "go on from there"}},
      .description =
          {"Maps the pool, attends on its compressed pages in place and prints each answer as it comes. Each "
           "question is answered on its own: it sees the document and nothing else.",
           "Questions come from the arguments or, without any, one a line from standard input. A line that "
           "starts with '{' is a JSON object with \"question\" and \"id\"; any other line is a question "
           "whose id is the number of the line. Several answers in text form are parted by a blank line. A "
           "question that fails does not stop the others; the exit status is then 1. A line of more than 4 MiB fails "
           "and is the last one: nothing after it is read.",
           "With --agents N, N questions are in work at once; the next one is taken as soon as one of them is "
           "answered, and no work waits for input. Answers are printed in the order of the questions: one that is "
           "ready early waits for those before it.",
           "--save keeps what the question added, compressed, as a card: a small pool that extends POOL, so that "
           "asking "
           "it goes on after that answer. Cards may extend cards, and any number may extend the same one. What a card "
           "extends is found by its fingerprint: beside the card, in --pool-path, or in your index of pools; if it is "
           "not found, or is another, the card is refused (exit status 10).",
           "The model must be the one that the pool was built with: another one is refused with the first "
           "field that differs (exit status 10).",
           "Pool and model are used in place, so a change to either while it is in use ends ask before it prints "
           "another token: with status 4 if the pool became shorter, with 5 for any other change of its or the "
           "model's size or modification time. Replacing a file by rename, as build does, or deleting it is no "
           "change: what is mapped stays. A program that writes through a map of its own can leave the modification "
           "time as it was; such a change is not noticed, so do not do that to a pool or a model."},
      .options =
          {model_option(),
           {.letter = 'n',
            .name = "max-tokens",
            .value = "N",
            .target = &Options::max_tokens,
            .kind = ValueKind::kCount,
            .fallback = "512",
            .environment = "POLYKV_MAX_TOKENS",
            .minimum = 1,
            .maximum = 1u << 30,
            .help = "Stop an answer after so many tokens."},
           {.name = "tail-retain",
            .value = "NAME",
            .target = &Options::tail_retain,
            .kind = ValueKind::kHint,
            .choices = tail_policy_choices(),
            .help = tail_retain_help()},
           {.name = "tail-keep",
            .value = "N",
            .target = &Options::tail_keep,
            .kind = ValueKind::kCount,
            .minimum = 1,
            .maximum = 1u << 30,
            .help = "With --tail-retain: how many positions of its own an agent keeps, a head on average; looked at "
                    "every 64."},
           {.name = "temp",
            .value = "T",
            .target = &Options::temperature,
            .kind = ValueKind::kNumber,
            .fallback = "0",
            .environment = "POLYKV_TEMP",
            .maximum = 100,
            .help = "Temperature. 0 always takes the likeliest token, so that an answer repeats exactly; the next four "
                    "options matter only above 0."},
           {.name = "top-k",
            .value = "K",
            .target = &Options::top_k,
            .kind = ValueKind::kCount,
            .fallback = "0",
            .environment = "POLYKV_TOP_K",
            .help = "Sample among the K likeliest tokens; 0: among all."},
           {.name = "top-p",
            .value = "P",
            .target = &Options::top_p,
            .kind = ValueKind::kNumber,
            .fallback = "1",
            .environment = "POLYKV_TOP_P",
            .maximum = 1,
            .help = "Sample among the likeliest tokens that together reach probability P; 1: among all."},
           {.name = "min-p",
            .value = "P",
            .target = &Options::min_p,
            .kind = ValueKind::kNumber,
            .fallback = "0",
            .environment = "POLYKV_MIN_P",
            .maximum = 1,
            .help = "Leave out tokens less likely than P times the likeliest; 0: none."},
           {.name = "seed",
            .value = "N",
            .target = &Options::seed,
            .kind = ValueKind::kCount,
            .environment = "POLYKV_SEED",
            .maximum = 0x1p64,
            .help = "Seed of the sampler, which starts anew with each question. Without it: a fresh one, which --json "
                    "reports."},
           {.name = "stop",
            .value = "TEXT",
            .target = &Options::stop,
            .kind = ValueKind::kText,
            .help = "End an answer before TEXT, which is not printed. May be given several times."},
           {.name = "template",
            .value = "none",
            .target = &Options::template_name,
            .kind = ValueKind::kChoice,
            .choices = {"none"},
            .help = "State that the pool was built without a chat template; refused if it was built with one."},
           {.name = "save",
            .value = "CARD",
            .target = &Options::save,
            .kind = ValueKind::kPath,
            .help = "Keep the question and its answer as a card, a small pool that extends POOL: the next ask goes on "
                    "from it. For one question."},
           card_bits_option(card_bits_help()),
           sender_option("With --save: who made the card, as inspect shows it."),
           force_option(),
           pool_path_option(),
           json_option("Print JSON (schema polykv.ask/1) instead of text."),
           {.name = "jsonl",
            .target = &Options::jsonl,
            .help = "Print one JSON object a line for each answer, in order, as soon as it is complete."},
           {.name = "agents",
            .value = "N",
            .target = &Options::agents,
            .kind = ValueKind::kCount,
            .fallback = "1",
            .environment = "POLYKV_AGENTS",
            .minimum = 1,
            .maximum = 64,
            .help =
                "Work on N questions at once, 1 to 64, which makes more tokens a second in all. The answers are the "
                "same, and printed in the same order."},
           threads_option()},
  };
}

CommandSpec flatten_command() {
  return {
      .name = "flatten",
      .operands = "CARD",
      .min_operands = 1,
      .max_operands = 1,
      .operand_name = "card",
      .operand_kind = ValueKind::kPath,
      .operand_choices = {},
      .common_options = true,
      .summary = "make one pool of a card and all that it extends",
      .examples = {{"polykv flatten step3.pkv -o talk.pkv", "a pool to send to somebody"}},
      .description = {"Copies keys and values of the whole chain into one pool that needs no other. Nothing is "
                      "computed or quantized again, so it answers as the chain does. What was measured of the parts "
                      "is not carried over: polykv stats --measure measures the whole."},
      .options = {{.letter = 'o',
                   .name = "output",
                   .value = "POOL",
                   .target = &Options::output,
                   .kind = ValueKind::kPath,
                   .required = true,
                   .help = "The pool to write. An existing file is refused unless --force is given."},
                  force_option(),
                  mode_option(),
                  pool_path_option(),
                  json_option("Print one JSON object (schema polykv.flatten/1) instead of text.")}};
}

CommandSpec calibrate_command() {
  return {
      .name = "calibrate",
      .operands = "TEXT...",
      .min_operands = 1,
      .max_operands = SIZE_MAX,
      .operand_name = "text",
      .operand_kind = ValueKind::kPath,
      .operand_choices = {},
      .common_options = true,
      .summary = "measure what can be spared: positions, or bits of a card",
      .examples = {{"polykv calibrate a.txt b.txt -o plan.json", "a plan for the default model"},
                   {"polykv build doc.txt -o doc.pkv --retain plan.json", "build with it"},
                   {"polykv build doc.txt -o doc.pkv --retain plan.json --keep 25%", "the same, another budget"},
                   {"polykv ask doc.pkv --tail-retain plan.json", "and for what an agent adds in a long session"},
                   {"polykv calibrate --cards a.pkv b.pkv -o model.controller.json", "a controller for cards' bits"}},
      .description =
          {"Makes a plan for build --retain and ask --tail-retain: for each layer of the model a retention policy, and "
           "how much of the positions it should get. Texts are of the kind that pools will be built from, but not the "
           "documents themselves; of each the first 2,048 tokens count, and 384 are needed. TEXT may be '-' or a pool, "
           "as for build.",
           "The method is Algorithm 1 of \"Heterogeneous Retention and Allocation for KV Cache Compression\" (arXiv "
           "2606.15157). The first seven eighths of a text are read; then, for every layer and every policy, that "
           "layer alone keeps --keep positions a head of them by that policy (the prefill: what a pool keeps), or "
           "--tail-keep of what comes after (the decode: what an agent's own tail keeps). The rest of the text, and "
           "passages of it that are quoted, show what that does. Nothing is quantized.",
           "It runs the model over the rest of a text once for each policy and layer, so it takes minutes a text. What "
           "is finished of it is kept beside the plan, in PLAN.part, and the same command goes on from there if it was "
           "interrupted; PLAN.part goes when the plan is written. The plan is readable JSON (schema "
           "polykv.retention-plan/1) with all that was measured, and is for this one model.",
           "With --cards the operands are two or more pools of one model, and what is made is the controller of "
           "\"QKVShare\" (arXiv 2605.03884) for ask --save --bits learned:B: a perceptron of 512 parameters that tells "
           "from six numbers of a card's token what rounding it does to the next agent. On each pool three questions "
           "are answered; of each question and answer every token alone is rounded to 2 bits, and the answer to "
           "another question after it shows what that does: about a minute a pool. ask looks for the controller beside "
           "the model: model.gguf has model.controller.json, a folder controller.json in it (schema "
           "polykv.card-controller/1)."},
      .options =
          {{.letter = 'o',
            .name = "output",
            .value = "PLAN",
            .target = &Options::output,
            .kind = ValueKind::kPath,
            .required = true,
            .help = "The plan to write, a name ending in .json. An existing file is refused before any work unless "
                    "--force is given."},
           model_option(),
           {.name = "cards",
            .target = &Options::cards,
            .kind = ValueKind::kFlag,
            .help = "Make a controller for ask --bits learned:B instead, of pools: see above. Of the other options -m, "
                    "-t, --force and --json count."},
           {.name = "keep",
            .value = "N",
            .target = &Options::keep_tokens,
            .kind = ValueKind::kCount,
            .fallback = "512",
            .minimum = 36,
            .maximum = 1u << 20,
            .help = "Positions a head of the layer in question keeps, the first four among them; no more than half of "
                    "what is read of a text."},
           {.name = "tail-keep",
            .value = "N",
            .target = &Options::tail_keep,
            .kind = ValueKind::kCount,
            .fallback = "64",
            .minimum = 36,
            .maximum = 1u << 20,
            .help = "The same of the rest of the text, for what an agent's own tail keeps."},
           {.name = "preference",
            .value = "SIGNAL",
            .target = &Options::preference,
            .kind = ValueKind::kChoice,
            .fallback = "cosine",
            .choices = {"cosine", "perplexity", "kld", "recall"},
            .help =
                "What a layer's policy is chosen by: cosine, of the layer's output with that of everything kept; "
                "perplexity, of the rest of the text; or, besides the published two, kld, the divergence of the next "
                "token there; or recall, how much of passages that are quoted after it is repeated."},
           {.name = "sensitivity",
            .value = "SIGNAL",
            .target = &Options::sensitivity,
            .kind = ValueKind::kChoice,
            .fallback = "perplexity",
            .choices = {"entropy", "perplexity"},
            .help = "What a layer's share of the positions goes by: entropy, of its attention; or perplexity, the most "
                    "that any policy but a reconstruction adds in it."},
           force_option(),
           threads_option(),
           json_option("Print one JSON object (schema polykv.calibrate/1) instead of text.")},
  };
}

}  // namespace polykv::cli
