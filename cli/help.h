// --help, man pages and completions, made from the option table.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "cli/options.h"

namespace polykv::cli {

// `command` null: the program. `whole`: --help, with examples first; else -h, a line an option.
std::string help_text(const CommandSpec* command, bool whole);

// The source of polykv.1 (null) or polykv-COMMAND.1, in mdoc. man/update writes them into the tree.
std::string man_page(const CommandSpec* command);

// `shell` is "bash", "zsh" or "fish".
std::string completion_script(std::string_view shell);

// Variables that mirror no option.
struct EnvironmentRow {
  const char* name;
  const char* says;
};
std::span<const EnvironmentRow> environment_rows();

// "-m, --model PATH", "    --json".
std::string option_title(const OptionSpec& row);
// The sentences of help, then default and variable as sentences.
std::string option_text(const OptionSpec& row);
// Up to the first full stop, semicolon or colon, without it: the option in a line.
std::string first_clause(std::string_view text);

// Words of `text` in lines of at most `width` columns, each after `indent` spaces (the first too), each ended.
std::string wrapped(std::string_view text, std::size_t indent, std::size_t width);

}  // namespace polykv::cli
