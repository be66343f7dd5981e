// The one option table: parsing, --help, the man pages and the shell completions are all made from it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "format/status.h"

namespace polykv::cli {

struct CommandSpec;

// Everything a command line can say, defaults filled in. Each command reads what its rows of the table set.
struct Options {
  const CommandSpec* command = nullptr;  // null for `polykv --version`
  // build: the documents. calibrate: the texts. ask: the pool, then the questions. inspect, verify, stats: the pools.
  // export, bench: the pool. completion: the shell. help: the command, or nothing.
  std::vector<std::string> operands;

  // Every command.
  std::string kernels;  // empty: the best table this machine has
  bool quiet = false;
  bool no_progress = false;
  bool trust = false;
  bool help = false;        // --help
  bool short_help = false;  // -h
  bool version = false;
  bool verbose = false;  // -v, with --version

  // build, export and calibrate.
  std::string output;  // "-" is stdout, for export only
  bool force = false;  // stats too, for its page

  // build, ask, stats, bench and calibrate.
  std::string model;          // a path; empty: the user's index, then the default model
  std::string template_name;  // build: "auto", "none" or a family. ask: "" (as the pool says) or "none"
  std::uint32_t threads = 0;  // 0: what affinity and cgroup quota allow

  // build.
  std::string retain;  // a policy with modifiers, or a plan's file, or empty: everything is kept
  std::string keep;    // with it: positions, or a share
  bool accept_loss = false;
  std::string codec;                  // "auto" or a name core::parse_codec_name knows
  double bits = 0;                    // 0: not given
  std::optional<std::uint64_t> size;  // bytes
  double max_kld = 0;                 // 0: not given
  std::optional<std::string> system;  // nullopt: what the template itself inserts
  std::string prefill_type;           // "f32", "bf16"; empty: the faster one on this CPU
  std::uint32_t mode = 0;             // permission bits of the pool
  bool no_probe = false;

  // calibrate.
  bool cards = false;
  std::uint32_t keep_tokens = 0;
  std::string preference;   // "cosine", "perplexity"
  std::string sensitivity;  // "entropy", "perplexity"

  // ask.
  std::uint32_t max_tokens = 0;
  double temperature = 0;             // 0: greedy
  std::uint32_t top_k = 0;            // 0: all
  double top_p = 0;                   // 1: all
  double min_p = 0;                   // 0: all
  std::optional<std::uint64_t> seed;  // nullopt: a fresh one, reported in --json
  std::vector<std::string> stop;
  std::string tail_retain;      // a policy; empty: the tail keeps everything
  std::uint32_t tail_keep = 0;  // positions; 0: not given
  bool jsonl = false;
  std::string save;  // the card to write; empty: none

  // ask and append: the card.
  std::string card_bits;  // empty: each head as it is in the base pool
  std::string sender;
  bool graft = false;  // append: of a card, its keys and values instead of its text

  // Wherever a pool that extends others is read: folders.
  std::vector<std::string> pool_path;

  // Where offered.
  bool json = false;
  bool digest = false;       // verify
  std::uint32_t agents = 0;  // ask: questions in work at once; stats: readers to reckon with
  bool live = false;         // stats
  bool measure = false;      // stats
  std::string text;          // stats: a file; empty: none
  std::string html;          // stats: a page to write; "-" is stdout, empty: none
  bool man = false;          // help: print the man page's source
};

enum class ValueKind : std::uint8_t {
  kFlag,
  kText,
  kHint,  // text; `choices` are only offered by completion
  kPath,
  kChoice,  // one of `choices`
  kCodec,   // auto, or a codec pair's name
  kCount,   // an integer, minimum to maximum
  kNumber,  // minimum to maximum
  kBytes,   // a size: a number, and K, M, G (1024) or kB, MB, GB (1000)
  kOctal,   // permission bits
};

// Where a parsed value goes.
using Target = std::variant<bool Options::*, std::string Options::*, std::optional<std::string> Options::*,
                            std::uint32_t Options::*, std::optional<std::uint64_t> Options::*, double Options::*,
                            std::vector<std::string> Options::*>;

struct OptionSpec {
  char letter = 0;         // 0: only the long name
  const char* name = "";   // without dashes; empty: only the letter
  const char* value = "";  // name of the value in help; empty for a flag
  Target target;
  ValueKind kind = ValueKind::kFlag;
  const char* fallback = "";     // the default, parsed like a value; empty: none
  const char* environment = "";  // the variable that mirrors it; empty: none
  bool required = false;
  bool hidden = false;  // neither in help, man pages nor completions
  std::vector<const char*> choices = {};
  double minimum = 0;
  double maximum = 4294967295.0;
  const char* help = "";  // one or two sentences
};

struct Example {
  const char* line;  // as typed
  const char* says;  // what it does
};

struct CommandSpec {
  const char* name;
  const char* operands;  // as in the usage line: "POOL [QUESTION...]"
  std::size_t min_operands;
  std::size_t max_operands;
  const char* operand_name;  // for "needs a ..."
  ValueKind operand_kind;    // kPath or kChoice
  std::vector<const char*> operand_choices;
  bool common_options;  // kernels, -q, --no-progress, --trust
  const char* summary;  // one line, no full stop
  std::vector<Example> examples;
  std::vector<const char*> description;  // paragraphs
  std::vector<OptionSpec> options;
};

// In the order of --help.
std::span<const CommandSpec> commands();
const CommandSpec* find_command(std::string_view name);  // null: no such command
std::span<const OptionSpec> common_options();            // with every command that has common_options
std::span<const OptionSpec> help_options();              // -h and --help, with every command
std::span<const OptionSpec> program_options();           // --version and -v, without a command

// All rows that apply to `command` (null: without one), own rows first.
std::vector<const OptionSpec*> options_of(const CommandSpec* command);

using Environment = std::function<const char*(const char* name)>;  // getenv

// `arguments` without the program's name. A flag wins over its environment variable, that over the default.
// kUsage, in one line with the nearest name where one is near. With --help or -h nothing else is checked.
format::Result<Options> parse_options(std::span<const std::string> arguments, const Environment& environment);

// The candidate nearest to `word`, if near enough to be meant; empty if none.
std::string_view nearest(std::string_view word, std::span<const std::string_view> candidates);

}  // namespace polykv::cli
