#include "cli/options.h"

#include <map>
#include <set>

#include "tests/support/catch.h"

namespace polykv::cli {
namespace {

using format::ErrorCode;
using Words = std::vector<std::string>;

format::Result<Options> parse(const Words& words, const std::map<std::string, std::string>& environment = {}) {
  return parse_options(words, [&](const char* name) {
    const auto found = environment.find(name);
    return found == environment.end() ? nullptr : found->second.c_str();
  });
}

Options parsed(const Words& words, const std::map<std::string, std::string>& environment = {}) {
  auto options = parse(words, environment);
  INFO((options ? "" : options.error().message));
  REQUIRE(options.has_value());
  return *std::move(options);
}

std::string refusal(const Words& words, const std::map<std::string, std::string>& environment = {}) {
  const auto options = parse(words, environment);
  REQUIRE_FALSE(options.has_value());
  CHECK(options.error().code == ErrorCode::kUsage);
  CHECK(options.error().message.find('\n') == std::string::npos);
  return options.error().message;
}

TEST_CASE("build: defaults") {
  const Options options = parsed({"build", "a.txt", "-o", "a.pkv"});
  CHECK(options.command == find_command("build"));
  CHECK(options.operands == Words{"a.txt"});
  CHECK(options.output == "a.pkv");
  CHECK(options.model.empty());
  CHECK(options.codec == "auto");
  CHECK(options.template_name == "auto");
  CHECK_FALSE(options.system.has_value());
  CHECK(options.prefill_type.empty());
  CHECK(options.mode == 0600);
  CHECK(options.threads == 0);
  CHECK_FALSE((options.force || options.json || options.quiet || options.no_progress || options.trust));
}

TEST_CASE("build: every option, in every spelling") {
  const Options options = parsed({"build",
                                  "-",
                                  "-fq",
                                  "b.txt",
                                  "--output=x.pkv",
                                  "-mmodel.gguf",
                                  "--codec",
                                  "k8v3",
                                  "--template",
                                  "llama3",
                                  "--system=",
                                  "--prefill-type",
                                  "bf16",
                                  "--mode",
                                  "640",
                                  "-t2",
                                  "--json",
                                  "--no-progress",
                                  "--trust",
                                  "--kernels=scalar"});
  CHECK(options.operands == Words{"-", "b.txt"});
  CHECK(options.output == "x.pkv");
  CHECK(options.model == "model.gguf");
  CHECK(options.codec == "k8v3");
  CHECK(options.template_name == "llama3");
  REQUIRE(options.system.has_value());
  CHECK(options.system->empty());
  CHECK(options.prefill_type == "bf16");
  CHECK(options.mode == 0640);
  CHECK(options.threads == 2);
  CHECK(options.kernels == "scalar");
  CHECK((options.force && options.json && options.quiet && options.no_progress && options.trust));
}

TEST_CASE("ask: defaults are greedy, and questions come as they are") {
  const Options options = parsed({"ask", "a.pkv", "[who, what]", "--", "--json", "-", "++"});
  CHECK(options.operands == Words{"a.pkv", "[who, what]", "--json", "-", "++"});
  CHECK_FALSE(options.json);
  CHECK(options.max_tokens == 512);
  CHECK(options.temperature == 0.0);
  CHECK(options.top_k == 0);
  CHECK(options.top_p == 1.0);
  CHECK(options.min_p == 0.0);
  CHECK_FALSE(options.seed.has_value());
  CHECK(options.stop.empty());
  CHECK(options.template_name.empty());
}

TEST_CASE("ask: every option") {
  const Options options = parsed({"ask",
                                  "a.pkv",
                                  "-n",
                                  "7",
                                  "--temp",
                                  "0.5",
                                  "--top-k=40",
                                  "--top-p",
                                  "0.9",
                                  "--min-p",
                                  "0.1",
                                  "--seed",
                                  "18446744073709551615",
                                  "--stop",
                                  "[a,b]",
                                  "--stop",
                                  "\n",
                                  "--template",
                                  "none",
                                  "--jsonl",
                                  "-5 degrees?"});
  CHECK(options.operands == Words{"a.pkv", "-5 degrees?"});
  CHECK(options.max_tokens == 7);
  CHECK(options.temperature == 0.5);
  CHECK(options.top_k == 40);
  CHECK(options.top_p == 0.9);
  CHECK(options.min_p == 0.1);
  CHECK(options.seed == UINT64_MAX);
  CHECK(options.stop == Words{"[a,b]", "\n"});
  CHECK(options.template_name == "none");
  CHECK(options.jsonl);
}

TEST_CASE("the last of an option given twice counts") {
  CHECK(parsed({"build", "a", "-o", "x", "-o", "y"}).output == "y");
}

TEST_CASE("options may stand in front of the command") {
  const Options options = parsed({"-q", "--kernels", "scalar", "verify", "a.pkv"});
  CHECK(options.command == find_command("verify"));
  CHECK(options.quiet);
  CHECK(options.kernels == "scalar");
  CHECK(parsed({"--help", "ask"}).help);
}

TEST_CASE("help needs nothing else, version no command") {
  CHECK(parsed({"build", "--help"}).help);
  CHECK(parsed({"build", "-h"}).short_help);
  CHECK(parsed({"--help"}).command == nullptr);
  CHECK(parsed({"--version", "-v"}).verbose);
  CHECK(parsed({"help"}).operands.empty());
  CHECK(parsed({"help", "ask"}).operands == Words{"ask"});
}

TEST_CASE("a variable stands in for an option, and a flag wins") {
  const std::map<std::string, std::string> environment = {{"POLYKV_MODEL", "m.gguf"},
                                                          {"POLYKV_THREADS", "3"},
                                                          {"POLYKV_QUIET", "1"},
                                                          {"POLYKV_TRUST", "0"},
                                                          {"POLYKV_CODEC", ""}};
  const Options options = parsed({"build", "a", "-o", "b", "-t", "1"}, environment);
  CHECK(options.model == "m.gguf");
  CHECK(options.threads == 1);
  CHECK(options.quiet);
  CHECK_FALSE(options.trust);
  CHECK(options.codec == "auto");
  CHECK(refusal({"verify", "a"}, {{"POLYKV_QUIET", "perhaps"}}) ==
        "verify: POLYKV_QUIET: 'perhaps' is neither 1 nor 0");
  CHECK(refusal({"ask", "a"}, {{"POLYKV_TEMP", "hot"}}) == "ask: POLYKV_TEMP: 'hot' is not a number from 0 to 100");
  // build's template may be in the environment without every `ask` being refused.
  CHECK(parsed({"ask", "a"}, {{"POLYKV_TEMPLATE", "chatml"}}).template_name.empty());
}

TEST_CASE("sizes in bytes, with units of 1024 and of 1000") {
  const auto size_of = [](const char* text) { return parsed({"build", "a", "-o", "b", "--size", text}).size; };
  CHECK(size_of("20000000") == 20000000);
  CHECK(size_of("20M") == 20u << 20);
  CHECK(size_of("1.5MB") == 1500000);
  CHECK(size_of("3K") == 3072);
  CHECK_FALSE(parsed({"build", "a", "-o", "b"}).size.has_value());
  for (const char* text : {"0", "-3", "M", "3Q", "3MBB", "1e300G", "3 M"}) {
    CHECK(refusal({"build", "a", "-o", "b", "--size", text}) ==
          "build: --size: '" + std::string(text) +
              "' is not a size: bytes, or a number with K, M, G, kB, MB or GB, such as 20M");
  }
}

TEST_CASE("usage errors are one line with the nearest name") {
  CHECK(refusal({}) == "no command; try 'polykv --help'");
  CHECK(refusal({"-v"}) == "-v goes with --version");
  CHECK(refusal({"verfy", "a"}) == "unknown command 'verfy'; did you mean 'verify'?");
  CHECK(refusal({"frobnicate"}) == "unknown command 'frobnicate'; try 'polykv --help'");
  CHECK(refusal({"build", "a", "-o", "b", "--froce"}) == "build: unknown option '--froce'; did you mean '--force'?");
  CHECK(refusal({"ask", "a", "--jsno=1"}) == "ask: unknown option '--jsno'; did you mean '--json'?");
  CHECK(refusal({"verify", "-x", "a"}).starts_with("verify: unknown option '-x'"));
  CHECK(refusal({"verify"}) == "verify: needs a pool; try 'polykv verify --help'");
  CHECK(refusal({"build", "a"}) == "build: needs --output POOL; try 'polykv build --help'");
  CHECK(refusal({"export", "a", "b", "-o", "c"}) == "export: unexpected argument 'b'; try 'polykv export --help'");
  CHECK(refusal({"build", "a", "-o"}) == "build: option '--output' needs a value");
  CHECK(refusal({"verify", "--json=1", "a"}) == "verify: option '--json' takes no value");
  CHECK(refusal({"ask", "a", "--json", "--jsonl"}) == "ask: --json and --jsonl exclude each other");
  CHECK(refusal({"completion", "bsh"}) == "completion: unknown shell 'bsh'; did you mean 'bash'?");
  CHECK(refusal({"help", "me"}).starts_with("help: unknown command 'me'"));
}

TEST_CASE("values are checked where they are read") {
  const auto build = [](const char* option, const char* value) {
    return refusal({"build", "a", "-o", "b", option, value});
  };
  CHECK(build("--codec", "k9v1") ==
        "build: --codec: 'k9v1' is not a codec: auto, f16, or kAvB with A and B from 1 to 8, such as k5v4");
  CHECK(build("--mode", "0888").starts_with("build: --mode: '0888' is not a mode"));
  CHECK(build("--mode", "0200").starts_with("build: --mode"));
  CHECK(build("--mode", "01777").starts_with("build: --mode"));
  CHECK(build("-t", "0") == "build: --threads: '0' is not a whole number from 1 to 1024");
  CHECK(build("-t", "2x").starts_with("build: --threads"));
  CHECK(build("--prefill-type", "f16") == "build: --prefill-type: 'f16' is not f32 or bf16");
  CHECK(build("-m", "") == "build: --model: '' is not a path");
  for (const char* temperature : {"-1", "nan", "inf", "1e9", "", "0,5"}) {
    CHECK(refusal({"ask", "a", "--temp", temperature}).starts_with("ask: --temp"));
  }
  CHECK(refusal({"ask", "a", "--top-p", "1.5"}).starts_with("ask: --top-p"));
  CHECK(refusal({"ask", "a", "--seed", "18446744073709551616"}).starts_with("ask: --seed"));
  CHECK(refusal({"ask", "a", "--template", "chatml"}).starts_with("ask: --template"));
  CHECK(refusal({"stats", "a", "--agents", "0"}).starts_with("stats: --agents"));
  for (const char* agents : {"0", "65", "-1", "many"}) {
    CHECK(refusal({"ask", "a", "--agents", agents}).starts_with("ask: --agents"));
  }
}

TEST_CASE("what is not offered yet is unknown") {
  for (const Words& words : {Words{"verify", "a", "--deep"}}) {
    CHECK(refusal(words).find("unknown option") != std::string::npos);
  }
}

TEST_CASE("nearest knows typing errors and leaves other words alone") {
  const std::vector<std::string_view> names = {"build", "ask", "inspect", "verify"};
  CHECK(nearest("biuld", names) == "build");
  CHECK(nearest("inspekt", names) == "inspect");
  CHECK(nearest("verif", names) == "verify");
  CHECK(nearest("sak", names) == "ask");
  CHECK(nearest("destroy", names).empty());
  CHECK(nearest("", names).empty());
}

TEST_CASE("the table is sound") {
  std::set<std::string> command_names;
  for (const CommandSpec& command : commands()) {
    CHECK(command_names.insert(command.name).second);
    CHECK_FALSE(command.examples.empty());
    std::set<std::string> names;
    for (const OptionSpec* row : options_of(&command)) {
      INFO(command.name << " " << row->name);
      if (row->letter != 0) CHECK(names.insert(std::string(1, row->letter)).second);
      if (row->name[0] != 0) CHECK(names.insert(row->name).second);
      CHECK((row->kind == ValueKind::kFlag) == (row->value[0] == 0));
      CHECK(std::string_view(row->help).ends_with('.'));
      const std::string_view variable = row->environment;
      CHECK((variable.empty() || variable.starts_with("POLYKV_")));
    }
  }
  const CommandSpec& help = *find_command("help");
  CHECK(std::set<std::string>(help.operand_choices.begin(), help.operand_choices.end()) == command_names);
}

}  // namespace
}  // namespace polykv::cli
