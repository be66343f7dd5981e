#include "cli/help.h"

#include <algorithm>

#include "cli/error_table.h"

namespace polykv::cli {
namespace {

constexpr std::size_t kWidth = 80;
constexpr std::size_t kTextColumn = 26;  // where an option's text starts

// Title and text side by side, or the text below a title that is too long.
std::string side_by_side(const std::string& title, std::string_view text) {
  const std::string body = wrapped(text, kTextColumn, kWidth);
  const std::string head = "  " + title;
  if (head.size() + 2 > kTextColumn) return head + "\n" + body;
  return head + std::string(kTextColumn - head.size(), ' ') + body.substr(std::min(kTextColumn, body.size()));
}

std::string option_lines(std::span<const OptionSpec* const> rows, bool whole) {
  std::string text;
  for (const OptionSpec* row : rows) {
    if (row->hidden) continue;
    text += side_by_side(option_title(*row), whole ? option_text(*row) : first_clause(row->help));
  }
  return text;
}

std::vector<const OptionSpec*> pointers(std::span<const OptionSpec> rows) {
  std::vector<const OptionSpec*> list;
  for (const OptionSpec& row : rows) list.push_back(&row);
  return list;
}

std::string examples_text(std::span<const Example> examples) {
  std::string text = "Examples:\n";
  for (const Example& example : examples) {
    text += std::string("  ") + example.line + "\n" + wrapped(example.says, 6, kWidth);
  }
  return text + "\n";
}

std::string exit_status_text() {
  std::string text = "Exit status:\n";
  for (const ExitStatusRow& row : exit_statuses()) {
    const std::string remedy = row.remedy[0] == 0 ? "" : std::string("; ") + row.remedy;
    std::string line = wrapped(row.meaning + remedy, 7, kWidth);
    const std::string status = "  " + std::to_string(row.status);
    text += line.replace(0, status.size(), status);
  }
  return text;
}

std::string program_help(bool whole) {
  std::string text = wrapped(
                         "polykv keeps what a language model computed for a document in one file, a pool, which "
                         "many processes map and answer from without reading the document again.",
                         0, kWidth) +
                     "\n";
  if (whole) {
    text += examples_text(
        std::vector<Example>{{"polykv build contract.txt -o contract.pkv", "read a document once"},
                             {"polykv ask contract.pkv \"Who pays for insurance?\"", "ask as often as you like"},
                             {"polykv inspect contract.pkv", "what is in it; verify and stats say more"}});
  }
  text += "Usage:\n  polykv COMMAND [OPTIONS] ...\n\nCommands:\n";
  for (const CommandSpec& command : commands()) text += side_by_side(command.name, command.summary);
  text += "\nOptions of every command but completion and help:\n" + option_lines(pointers(common_options()), whole);
  text += "\nOptions:\n" + option_lines(options_of(nullptr), whole);
  if (!whole) return text + "\nTry 'polykv COMMAND --help'.\n";
  text += "\nEnvironment (a flag wins over its variable; a flag's variable is 1 or 0):\n";
  for (const EnvironmentRow& row : environment_rows()) text += side_by_side(row.name, row.says);
  text += "  The variables that mirror options stand beside them in each command's help.\n\n";
  return text + exit_status_text() + "\nTry 'polykv COMMAND --help' or 'man polykv'.\n";
}

std::string command_help(const CommandSpec& command, bool whole) {
  std::string text = "polykv " + std::string(command.name) + ": " + command.summary + "\n\n";
  if (whole) text += examples_text(command.examples);
  text += "Usage:\n  polykv " + std::string(command.name) + " [OPTIONS] " + command.operands + "\n";
  if (whole) {
    for (const char* paragraph : command.description) text += "\n" + wrapped(paragraph, 0, kWidth);
  }
  text += "\nOptions:\n" + option_lines(options_of(&command), whole);
  if (!whole) return text + "\nTry 'polykv " + command.name + " --help'.\n";
  return text + "\nExit statuses and all variables: polykv --help.\n";
}

}  // namespace

std::span<const EnvironmentRow> environment_rows() {
  static constexpr EnvironmentRow kRows[] = {
      {"POLYKV_TORCH_DIR", "A LibTorch to use for build instead of the one found when polykv was compiled."},
      {"XDG_CACHE_HOME", "Holds polykv/digests: digests of model files, so that they are hashed once."},
      {"XDG_DATA_HOME", "Holds polykv/models.json: which model made which pools, by fingerprint."},
      {"SOURCE_DATE_EPOCH",
       "The time that build records in a pool, in seconds since 1970; without it none is recorded."},
      {"NO_COLOR", "Has nothing to turn off: polykv writes no colours."},
  };
  return kRows;
}

std::string option_title(const OptionSpec& row) {
  std::string title = row.letter == 0 ? "    " : std::string("-") + row.letter;
  if (row.name[0] != 0) title += (row.letter == 0 ? "--" : ", --") + std::string(row.name);
  if (row.value[0] != 0) title += " " + std::string(row.value);
  return title;
}

std::string option_text(const OptionSpec& row) {
  std::string text = row.help;
  if (row.required) text += " Required.";
  if (row.fallback[0] != 0) text += " Default: " + std::string(row.fallback) + ".";
  if (row.environment[0] != 0) text += " Variable: " + std::string(row.environment) + ".";
  return text;
}

std::string first_clause(std::string_view text) {
  const std::size_t end = std::min({text.find(". "), text.find("; "), text.find(": ")});
  text = text.substr(0, end);
  if (text.ends_with('.')) text.remove_suffix(1);
  return std::string(text);
}

std::string wrapped(std::string_view text, std::size_t indent, std::size_t width) {
  std::string out, line(indent, ' ');
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(' '), text.size());
    const std::string_view word = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    const bool first = line.size() == indent;
    if (!first && line.size() + 1 + word.size() > width) {
      out += line + "\n";
      line.assign(indent, ' ');
    } else if (!first) {
      line += ' ';
    }
    line += word;
  }
  return out + line + "\n";
}

std::string help_text(const CommandSpec* command, bool whole) {
  return command == nullptr ? program_help(whole) : command_help(*command, whole);
}

}  // namespace polykv::cli
