#include "cli/help.h"

#include <cstdlib>
#include <fstream>
#include <iterator>

#include "tests/support/catch.h"
#include "tests/unit/cli/capture.h"

namespace polykv::cli {
namespace {

std::string file_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST_CASE("the man pages in the tree are what the option table says (else: man/update)") {
  const std::string folder = POLYKV_SOURCE_DIR "/man/";
  CHECK(file_text(folder + "polykv.1") == man_page(nullptr));
  for (const CommandSpec& command : commands()) {
    if (std::string_view(command.name) == "help") continue;  // polykv.1 says all there is to say
    INFO(command.name);
    CHECK(file_text(folder + "polykv-" + command.name + ".1") == man_page(&command));
  }
}

// An option's name as a man page's source has it.
std::string roff(const std::string& name) {
  std::string out;
  for (const char c : name) out += c == '-' ? "\\-" : std::string(1, c);
  return out;
}

TEST_CASE("every option is in --help, in the man page and in each completion") {
  const std::string bash = completion_script("bash"), zsh = completion_script("zsh"), fish = completion_script("fish");
  for (const CommandSpec& command : commands()) {
    const std::string help = help_text(&command, true), man = man_page(&command);
    for (const OptionSpec* row : options_of(&command)) {
      INFO(command.name << " --" << row->name);
      const std::string name = row->name;
      const bool shown = !row->hidden;
      if (name.empty()) continue;
      CHECK((help.find("--" + name) != std::string::npos) == shown);
      CHECK((bash.find("--" + name) != std::string::npos) == shown);
      CHECK((zsh.find("'--" + name + "[") != std::string::npos || zsh.find("'*--" + name + "[") != std::string::npos) ==
            shown);
      CHECK((fish.find(" -l " + name + " ") != std::string::npos) == shown);
      CHECK((man.find(".It") != std::string::npos));
      CHECK((man.find("\\-" + roff(name)) != std::string::npos) == shown);
    }
  }
}

TEST_CASE("what is not offered yet is in no help") {
  std::string all = help_text(nullptr, true) + man_page(nullptr) + completion_script("bash");
  for (const CommandSpec& command : commands()) all += help_text(&command, true) + man_page(&command);
  for (const char* absent : {"--deep"}) {
    CHECK(all.find(absent) == std::string::npos);
  }
}

TEST_CASE("help fits a terminal of 80 columns and starts with examples") {
  std::vector<std::string> texts = {help_text(nullptr, true), help_text(nullptr, false)};
  for (const CommandSpec& command : commands()) {
    texts.push_back(help_text(&command, true));
    CHECK(texts.back().find("Examples:") < texts.back().find("Usage:"));
    texts.push_back(help_text(&command, false));
    CHECK(texts.back().size() < help_text(&command, true).size());
  }
  for (const std::string& text : texts) {
    std::size_t begin = 0;
    for (std::size_t end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
      INFO(text.substr(begin, end - begin));
      CHECK(end - begin <= 80);
      CHECK((end == begin || text[end - 1] != ' '));
    }
    CHECK(begin == text.size());
  }
}

TEST_CASE("wrapping") {
  CHECK(wrapped("one two three", 2, 9) == "  one two\n  three\n");
  CHECK(wrapped("averyveryverylongword x", 1, 5) == " averyveryverylongword\n x\n");
  CHECK(wrapped("", 0, 10) == "\n");
}

// Completes "polykv WORDS..." in bash and returns what is offered, sorted.
std::string complete_in_bash(const std::string& words, int index) {
  const tests::TemporaryFolder folder;
  std::ofstream(folder / "completion") << completion_script("bash");
  std::ofstream(folder / "alpha.pkv") << "";
  const std::string command = "cd '" + folder.path().string() + "' && bash -c '. ./completion; COMP_WORDS=(polykv " +
                              words + "); COMP_CWORD=" + std::to_string(index) +
                              "; _polykv 2>/dev/null; printf \"%s\\n\" \"${COMPREPLY[@]}\" | sort | tr \"\\n\" \" \"'";
  std::FILE* pipe = popen(command.c_str(), "r");
  REQUIRE(pipe != nullptr);
  std::string text;
  char buffer[4096];
  for (std::size_t count; (count = std::fread(buffer, 1, sizeof buffer, pipe)) > 0;) text.append(buffer, count);
  REQUIRE(pclose(pipe) == 0);
  return text;
}

TEST_CASE("bash completes commands, options, values and files") {
  CHECK(complete_in_bash("ver", 1) == "verify ");
  CHECK(complete_in_bash("ask --js", 2) == "--json --jsonl ");
  CHECK(complete_in_bash("build --prefill-type b", 3) == "bf16 ");
  CHECK(complete_in_bash("completion z", 2) == "zsh ");
  CHECK(complete_in_bash("help in", 2) == "inspect ");
  CHECK(complete_in_bash("verify al", 2) == "alpha.pkv ");
  CHECK(complete_in_bash("build -o al", 3) == "alpha.pkv ");
  CHECK(complete_in_bash("-q verify --dig", 3) == "--digest ");
}

}  // namespace
}  // namespace polykv::cli
