// Man pages in mdoc: the structure and the options come from the table, so that pages and program cannot disagree.
#include <set>

#include "cli/error_table.h"
#include "cli/help.h"

namespace polykv::cli {
namespace {

// The day the words of the pages last changed.
constexpr const char* kDate = "November 22, 2026";

// Free text: one sentence a line, lines that roff would take for a request made harmless.
std::string paragraph(std::string_view text) {
  std::string lines;
  while (!text.empty()) {
    const std::size_t end = text.find(". ");
    const std::string_view sentence = text.substr(0, end == std::string_view::npos ? text.size() : end + 1);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 2);
    lines += wrapped(sentence, 0, 78);
  }
  std::string out;
  bool at_line_start = true;
  for (const char c : lines) {
    if (at_line_start && (c == '.' || c == '\'')) out += "\\&";
    at_line_start = c == '\n';
    if (c == '\\') {
      out += "\\e";
    } else if (c == '-') {
      out += "\\-";
    } else {
      out += c;
    }
  }
  return out;
}

// Text inside a macro line or a literal block, where words must not be taken for macros.
std::string literal(std::string_view text) {
  std::string out = "\\&";
  for (const char c : text) {
    if (c == '\\') {
      out += "\\e";
    } else if (c == '-') {
      out += "\\-";
    } else if (c == '"') {
      out += "\\(dq";
    } else {
      out += c;
    }
  }
  return out;
}

std::string head(const std::string& name, const std::string& summary) {
  std::string title = name;
  for (char& c : title) c = c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
  return std::string(".\\\" Made by man/update from the option table; changes belong in cli/command_rows*.cpp.\n.Dd ") +
         kDate + "\n.Dt " + title + " 1\n.Os\n.Sh NAME\n.Nm " + name + "\n.Nd " + summary + "\n";
}

std::string option_item(const OptionSpec& row) {
  std::string item = ".It";
  if (row.letter != 0) item += std::string(" Fl ") + row.letter;
  if (row.letter != 0 && row.name[0] != 0) item += " ,";
  if (row.name[0] != 0) item += " Fl \\-" + literal(row.name).substr(2);
  if (row.value[0] != 0) item += std::string(" Ar ") + row.value;
  return item + "\n" + paragraph(option_text(row));
}

std::string option_list(std::span<const OptionSpec* const> rows) {
  std::string text = ".Bl -tag -width Ds\n";
  for (const OptionSpec* row : rows) {
    if (!row->hidden) text += option_item(*row);
  }
  return text + ".El\n";
}

std::string examples_section(std::span<const Example> examples) {
  std::string text = ".Sh EXAMPLES\n.Bl -tag -width Ds\n";
  for (const Example& example : examples) {
    text += ".It Li \"" + literal(example.line) + "\"\n" + paragraph(example.says);
  }
  return text + ".El\n";
}

std::string exit_status_section() {
  std::string text = ".Sh EXIT STATUS\n.Bl -tag -width Ds\n";
  for (const ExitStatusRow& row : exit_statuses()) {
    text += ".It " + std::to_string(row.status) + "\n" + paragraph(row.meaning);
    if (row.remedy[0] != 0) text += std::string("Remedy: ") + paragraph(row.remedy);
  }
  return text +
         ".El\n.Pp\nWhere a command goes on after an error, the highest status wins.\n"
         "A reader of standard output that goes away is no error.\n";
}

std::string diagnostics_section() {
  std::string text =
      ".Sh DIAGNOSTICS\nAn error is one line on standard error:\n"
      ".Dl polykv: FILE: what is wrong, where, and what to do\n"
      "With\n.Fl \\-json\nits code is given too; the exit status is the code divided by 100.\n"
      ".Bl -tag -width 14300\n";
  for (const ErrorCodeRow& row : error_codes()) {
    text += ".It " + std::to_string(static_cast<std::uint32_t>(row.code)) + "\n" + paragraph(row.meaning);
  }
  return text + ".El\n";
}

std::string see_also(const std::vector<std::string>& pages) {
  std::string text = ".Sh SEE ALSO\n";
  for (std::size_t i = 0; i < pages.size(); ++i) text += ".Xr " + pages[i] + (i + 1 < pages.size() ? " ,\n" : "\n");
  return text;
}

std::string environment_section() {
  std::string text =
      ".Sh ENVIRONMENT\nA flag wins over the variable that mirrors it.\n"
      "The variable of a flag without a value is 1 or 0.\n.Bl -tag -width Ds\n";
  std::set<std::string> seen;
  const auto add = [&](const OptionSpec& row, const std::string& where) {
    if (row.environment[0] == 0 || !seen.insert(row.environment).second) return;
    text +=
        std::string(".It Ev ") + row.environment + "\n.Fl \\-" + literal(row.name).substr(2) + "\n" + paragraph(where);
  };
  for (const OptionSpec& row : common_options()) add(row, "of every command");
  for (const CommandSpec& command : commands()) {
    for (const OptionSpec& row : command.options) {
      std::vector<std::string> names;
      for (const CommandSpec& other : commands()) {
        for (const OptionSpec& same : other.options) {
          if (row.environment[0] != 0 && std::string_view(same.environment) == row.environment)
            names.emplace_back(other.name);
        }
      }
      std::string where = "of ";
      for (std::size_t i = 0; i < names.size(); ++i) where += (i > 0 ? " and " : "") + names[i];
      add(row, where);
    }
  }
  for (const EnvironmentRow& row : environment_rows())
    text += std::string(".It Ev ") + row.name + "\n" + paragraph(row.says);
  return text + ".El\n";
}

std::string program_page() {
  std::string text = head("polykv", "answer questions from a document's compressed KV cache");
  text += ".Sh SYNOPSIS\n.Nm\n.Ar command\n.Op Ar options\n.Ar ...\n.Nm\n.Fl \\-version\n.Op Fl v\n.Sh DESCRIPTION\n";
  text += paragraph(
      "A language model reads a long document once. What it computed for the document, the KV cache, is "
      "compressed and kept in one file, a pool. From then on any number of processes map that file, share "
      "one copy of it in memory, and answer questions without reading the document again and without "
      "decompressing the pool.");
  text += ".Ss Commands\n.Bl -tag -width Ds\n";
  for (const CommandSpec& command : commands()) {
    text += std::string(".It Ic ") + command.name + "\n" + paragraph(std::string(command.summary) + ".");
    if (std::string_view(command.name) != "help") text += std::string("See\n.Xr polykv-") + command.name + " 1 .\n";
  }
  text += ".El\n.Ss Common options\nEvery command but completion and help takes these.\n";
  std::vector<const OptionSpec*> rows;
  for (const OptionSpec& row : common_options()) rows.push_back(&row);
  text += option_list(rows) + ".Ss Options without a command\n" + option_list(options_of(nullptr));
  text += ".Ss Output\n" +
          paragraph(
              "Results go to standard output, everything else to standard error. There is a progress line only if "
              "standard error is a terminal. JSON has a schema number, names in snake_case, raw numbers, and units "
              "in the names; a name never changes its meaning within a schema number.");
  text += ".Ss Privacy\n" + paragraph(
                                "Anyone who can read a pool can recover the document. Never share one pool across "
                                "people who may not read the same documents.");
  text += environment_section() + exit_status_section();
  text += examples_section(std::vector<Example>{
      {"polykv build contract.txt -o contract.pkv", "Read a document once."},
      {"polykv ask contract.pkv \"Who pays for insurance?\"", "Ask as often as you like."},
      {"polykv inspect contract.pkv; polykv verify contract.pkv", "What is in it, and whether it is whole."}});
  std::vector<std::string> pages;
  for (const char* name : {"ask", "bench", "build", "completion", "export", "inspect", "stats", "verify"}) {
    pages.push_back("polykv-" + std::string(name) + " 1");
  }
  pages.emplace_back("polykv-pool 5");
  return text + diagnostics_section() + see_also(pages);
}

std::string command_page(const CommandSpec& command) {
  const std::string name = "polykv-" + std::string(command.name);
  std::string text = head(name, command.summary);
  text += std::string(".Sh SYNOPSIS\n.Nm polykv ") + command.name + "\n.Op Ar options\n.Ar " +
          literal(command.operands) + "\n.Sh DESCRIPTION\n";
  for (const char* part : command.description) text += paragraph(part) + ".Pp\n";
  text += "The options are:\n" + option_list(options_of(&command));
  text += ".Sh EXIT STATUS\nSee\n.Xr polykv 1 ,\nwhich also lists the environment variables and the codes of errors.\n";
  text += examples_section(command.examples);
  return text + see_also({"polykv 1", "polykv-pool 5"});
}

}  // namespace

std::string man_page(const CommandSpec* command) {
  return command == nullptr ? program_page() : command_page(*command);
}

}  // namespace polykv::cli
