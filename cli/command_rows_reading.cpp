// Rows of commands that read pools, and of those about the program.
#include "cli/command_rows.h"

namespace polykv::cli {
namespace {

CommandSpec pools_command(const char* name, const char* summary, std::vector<Example> examples,
                          std::vector<const char*> description, std::vector<OptionSpec> options) {
  return {.name = name,
          .operands = "POOL...",
          .min_operands = 1,
          .max_operands = SIZE_MAX,
          .operand_name = "pool",
          .operand_kind = ValueKind::kPath,
          .operand_choices = {},
          .common_options = true,
          .summary = summary,
          .examples = std::move(examples),
          .description = std::move(description),
          .options = std::move(options)};
}

}  // namespace

CommandSpec inspect_command() {
  return pools_command(
      "inspect", "say what is in a pool",
      {{"polykv inspect contract.pkv", "what it holds, made by which model"},
       {"polykv inspect --json *.pkv | jq .identity", "one JSON object a line for each pool"}},
      {"Needs no model and takes milliseconds, however large the pool: header, section table and metadata are read and "
       "checked, pages are not. It prints no text of the document. Where heads have different codecs, a chart "
       "shows the bits of each one's keys and values, a row a layer. Of a card it says what it extends, whether that "
       "is "
       "found, and, where precision differs, the bits of each token. Where positions were dropped, another shows "
       "along the document which share of them each layer keeps; in JSON that is kept[layer][cell], where cell c of "
       "n begins at token c * tokens / n. With several pools the worst exit status wins."},
      {pool_path_option(), json_option("Print one JSON object (schema polykv.inspect/1) a pool, each on a line.")});
}

CommandSpec verify_command() {
  return pools_command(
      "verify", "check every byte of a pool",
      {{"polykv verify contract.pkv", "checksums of every byte"},
       {"polykv verify --digest *.pkv && echo all good", "SHA-256 as well; the worst exit status wins"}},
      {"Reads the whole file and checks every checksum, every structural rule and every padding byte. It reports each "
       "pool and goes on; the worst exit status wins: 4 for a file that is no pool or was cut short, 5 for a damaged "
       "one, 6 for one that needs another version of polykv, 10 for a card whose own bytes are good but whose parent "
       "is "
       "missing or another.",
       "Checksums find accidents. They do not prove who made a pool."},
      {{.name = "digest", .target = &Options::digest, .help = "Check the tree of SHA-256 digests as well."},
       pool_path_option(),
       json_option("Print one JSON object (schema polykv.verify/1) a pool, each on a line.")});
}

CommandSpec stats_command() {
  return pools_command(
      "stats", "say what a pool costs, and what compression did to the answers",
      {{"polykv stats contract.pkv", "bytes by part, bits per value, fidelity"},
       {"polykv stats --agents 15 contract.pkv", "with and without sharing, for 15 agents"},
       {"polykv stats --live contract.pkv", "the processes that use it now, and their memory"},
       {"polykv stats --measure contract.pkv", "measure fidelity again and compare with what the pool says"},
       {"polykv stats --measure --text notes.txt contract.pkv", "measure on a text of your own"},
       {"polykv stats contract.pkv --html contract.html", "a page with pictures of plan and fidelity"}},
      {"Memory: the file by part; the bytes needed to restore keys and values, in bits per value and against float16; "
       "and for N agents. Ratios are rounded down and bits up.",
       "Fidelity: how far the model's next-token probabilities are with the compressed cache from those with the "
       "uncompressed one, as measured when the pool was built. Three probes: tail, the document's last tokens, given "
       "only what is before them; answers, a few general questions; recall, passages that the model is to repeat after "
       "their first tokens (hits: how many of the tokens it ranked first). For each: how many tokens; the mean KL "
       "divergence in nats with its standard error, what 99 % of the tokens do not exceed, and the largest; how often "
       "the likeliest token is the same; the root mean square change of the text's own token's probability; the change "
       "of perplexity. The floor is what summing in another order does to the uncompressed cache.",
       "--measure reads the document again, which takes as long as building, makes the same probes against the pool as "
       "it is, and shows both. They agree if no probe's mean differs from the stored one by more than three times the "
       "larger standard error and what the prefills of two machines may differ by (0.0002 in bf16, 0.00001 in f32); "
       "else the exit status is 1. On the machine that built the pool they are equal. With --text a text of yours is "
       "scored instead, as a continuation of the document after a blank line.",
       "--live adds every process that maps the pool now, as the kernel counts its memory: a page that only it maps is "
       "private, one that others map too is shared, and PSS counts a page that N processes map as an N-th of it in "
       "each, "
       "so that PSS adds up. \"With copies of their own\" (without_sharing_bytes) is, summed over these processes, the "
       "pool's size and all else that a process has in memory, private or shared. A pool that was replaced stays with "
       "the processes that map it; these are said to map an older pool and are not counted. Processes of other users "
       "can be looked at by root alone; a line on standard error names those that were not.",
       "--html FILE writes a page for one pool besides: which bits each head's keys and values got, the damage "
       "expected of each layer, what the tail probe measured at each position, and size against fidelity, with the "
       "pool among the plans it could have had. The page is one file without scripts; it shows what the pool holds, "
       "and says what it does not hold. It names model and documents. Where positions were dropped, it has the "
       "documents' text as well, each token shaded by how many heads keep it; else it has no text of theirs."},
      {{.name = "agents",
        .value = "N",
        .target = &Options::agents,
        .kind = ValueKind::kCount,
        .fallback = "1",
        .environment = "POLYKV_AGENTS",
        .minimum = 1,
        .maximum = 1000000,
        .help = "Say what N agents need that share the pool, and what they would need without sharing it."},
       {.name = "live",
        .target = &Options::live,
        .help = "Measure the processes that map the pool now: PSS, private and shared bytes, each and in all."},
       {.name = "measure",
        .target = &Options::measure,
        .help = "Measure fidelity again, with the model, and compare it with what the pool says."},
       {.name = "text",
        .value = "FILE",
        .target = &Options::text,
        .kind = ValueKind::kPath,
        .help = "With --measure: score this text as a continuation of the document, instead of the three probes."},
       model_option(),
       threads_option(),
       {.name = "html",
        .value = "FILE",
        .target = &Options::html,
        .kind = ValueKind::kPath,
        .help = "Write a page with pictures as well; '-' is standard output, and nothing else is printed then. An "
                "existing file is refused unless --force is given."},
       force_option(),
       pool_path_option(),
       json_option("Print one JSON object (schema polykv.stats/1) a pool, each on a line.")});
}

CommandSpec export_command() {
  return {.name = "export",
          .operands = "POOL",
          .min_operands = 1,
          .max_operands = 1,
          .operand_name = "pool",
          .operand_kind = ValueKind::kPath,
          .operand_choices = {},
          .common_options = true,
          .summary = "write a pool's keys and values as a safetensors file",
          .examples = {{"polykv export contract.pkv -o contract.safetensors", "a file that other tools read"},
                       {"polykv export contract.pkv -o - | sha256sum", "to standard output"}},
          .description =
              {"Dequantizes keys and values, one layer at a time and of a card the whole chain's, into what a Hugging "
               "Face DynamicCache holds: tensors "
               "layers.N.keys and layers.N.values of shape [1, num_kv_heads, num_tokens, head_dim], keys after RoPE, "
               "and tokens, the token ids. The numbers are float16, or float32 where one does not fit float16; the "
               "metadata says which."},
          .options = {{.letter = 'o',
                       .name = "output",
                       .value = "FILE",
                       .target = &Options::output,
                       .kind = ValueKind::kPath,
                       .required = true,
                       .help = "The file to write; '-' is standard output. An existing file is refused unless --force "
                               "is given."},
                      force_option(),
                      pool_path_option()}};
}

CommandSpec bench_command() {
  return {
      .name = "bench",
      .operands = "POOL",
      .min_operands = 1,
      .max_operands = 1,
      .operand_name = "pool",
      .operand_kind = ValueKind::kPath,
      .operand_choices = {},
      .common_options = true,
      .summary = "measure how fast this machine answers from a pool",
      .examples = {{"polykv bench contract.pkv", "speed, start and memory, in about 20 seconds"},
                   {"polykv bench contract.pkv -t 1", "with one thread"},
                   {"polykv bench contract.pkv --json | jq .step", "the same numbers for a program"}},
      .description =
          {"Measures with the pool and its model what the README states in numbers. Each time is the shortest of "
           "several runs; on a machine that is busy with other things it is still too long.",
           "Memory speed: a buffer of 256 MiB, summed by all threads. Attention: every layer's, of one row an agent, "
           "at depths of 1,024, 4,096 and 8,192 positions where the pool has as many and at its end; the bytes of its "
           "pages a second, also as a share of the memory speed (more than 100 % where they fit the cache); and how "
           "many times longer it takes on float16 pages of the same shape. Step: a token for each of 1, 4, 15 and 64 "
           "agents with tails of up to 64 tokens, logits included, sampling not.",
           "Start: opening pool and model, and the same with a first step of one token, which checks and reads all of "
           "the pool. For the cold start polykv asks the system to forget pool and model; if another process maps one "
           "of them, or their file system lives in memory, it is not measured (null in JSON).",
           "Memory: what the first start changed or allocated beside the tail, which is what each further process on "
           "the same pool and model costs, and the bytes of a token in an agent's tail."},
      .options = {model_option(), threads_option(),
                  json_option("Print one JSON object (schema polykv.bench/1) instead of a table.")}};
}

CommandSpec completion_command() {
  return {.name = "completion",
          .operands = "SHELL",
          .min_operands = 1,
          .max_operands = 1,
          .operand_name = "shell",
          .operand_kind = ValueKind::kChoice,
          .operand_choices = {"bash", "zsh", "fish"},
          .common_options = false,
          .summary = "print a completion script for bash, zsh or fish",
          .examples = {{"eval \"$(polykv completion bash)\"", "complete in this bash"},
                       {"polykv completion zsh > ~/.zfunc/_polykv", "for a folder of zsh's fpath"},
                       {"polykv completion fish > ~/.config/fish/completions/polykv.fish", "for fish"}},
          .description = {"An installed polykv has its completions in the usual places already."},
          .options = {}};
}

CommandSpec help_command() {
  return {.name = "help",
          .operands = "[COMMAND]",
          .min_operands = 0,
          .max_operands = 1,
          .operand_name = "command",
          .operand_kind = ValueKind::kChoice,
          .operand_choices = {"build", "append", "ask", "flatten", "inspect", "verify", "stats", "export", "bench",
                              "calibrate", "completion", "help"},
          .common_options = false,
          .summary = "explain polykv or one of its commands",
          .examples = {{"polykv help", "all commands"}, {"polykv help ask", "the same as polykv ask --help"}},
          .description = {},
          .options = {
              {.name = "man", .target = &Options::man, .hidden = true, .help = "Print the source of the man page."}}};
}

}  // namespace polykv::cli
