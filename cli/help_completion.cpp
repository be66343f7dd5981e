// Completion scripts for bash, zsh and fish. The words come from the option table; nothing in them needs quoting but
// the help texts of zsh and fish.
#include "cli/help.h"

namespace polykv::cli {
namespace {

std::string words(const std::vector<const char*>& list) {
  std::string text;
  for (const char* word : list) text += (text.empty() ? "" : " ") + std::string(word);
  return text;
}

std::string command_names() {
  std::string text;
  for (const CommandSpec& command : commands()) text += (text.empty() ? "" : " ") + std::string(command.name);
  return text;
}

// "-o --output", as the shell sees them.
std::vector<std::string> spellings(const OptionSpec& row) {
  std::vector<std::string> list;
  if (row.letter != 0) list.push_back(std::string("-") + row.letter);
  if (row.name[0] != 0) list.push_back(std::string("--") + row.name);
  return list;
}

std::string all_spellings(const CommandSpec* command) {
  std::string text;
  for (const OptionSpec* row : options_of(command)) {
    if (row->hidden) continue;
    for (const std::string& spelling : spellings(*row)) text += (text.empty() ? "" : " ") + spelling;
  }
  return text;
}

// The help's first clause, without what zsh and fish give a meaning.
std::string short_text(const char* help) {
  std::string text = first_clause(help);
  std::erase_if(text, [](char c) { return std::string_view("'[]\"\\$`:").find(c) != std::string_view::npos; });
  return text;
}

// What to offer after an option that takes a value.
std::string bash_value_cases(const CommandSpec& command) {
  std::string text;
  for (const OptionSpec* row : options_of(&command)) {
    if (row->hidden || row->kind == ValueKind::kFlag) continue;
    std::string patterns;
    for (const std::string& spelling : spellings(*row)) {
      patterns += (patterns.empty() ? "" : "|") + std::string(command.name) + ":" + spelling;
    }
    text += "        " + patterns + ") ";
    if (row->kind == ValueKind::kPath) {
      text += "_polykv_files; return ;;\n";
    } else {
      text += "COMPREPLY=($(compgen -W \"" + words(row->choices) + "\" -- \"$word\")); return ;;\n";
    }
  }
  return text;
}

std::string bash_script() {
  std::string text =
      "# bash completion for polykv, made by `polykv completion bash`.\n"
      "_polykv_files() {\n"
      "    COMPREPLY=($(compgen -f -- \"$word\"))\n"
      "    compopt -o filenames 2>/dev/null\n"
      "}\n"
      "_polykv() {\n"
      "    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} command= i\n"
      "    COMPREPLY=()\n"
      "    for ((i = 1; i < COMP_CWORD; i++)); do\n"
      "        case ${COMP_WORDS[i]} in -*) ;; *) command=${COMP_WORDS[i]}; break ;; esac\n"
      "    done\n"
      "    case $command:$before in\n";
  for (const CommandSpec& command : commands()) text += bash_value_cases(command);
  text += "    esac\n    case $command in\n        '') COMPREPLY=($(compgen -W \"" + command_names() + " " +
          all_spellings(nullptr) + "\" -- \"$word\")) ;;\n";
  for (const CommandSpec& command : commands()) {
    text += "        " + std::string(command.name) + ")\n            if [[ $word == -* ]]; then\n" +
            "                COMPREPLY=($(compgen -W \"" + all_spellings(&command) +
            "\" -- \"$word\"))\n            else\n";
    if (command.operand_kind == ValueKind::kPath) {
      text += "                _polykv_files\n";
    } else {
      text += "                COMPREPLY=($(compgen -W \"" + words(command.operand_choices) + "\" -- \"$word\"))\n";
    }
    text += "            fi ;;\n";
  }
  return text + "    esac\n}\ncomplete -F _polykv polykv\n";
}

std::string zsh_value(const OptionSpec& row) {
  if (row.kind == ValueKind::kFlag) return "";
  const std::string title = std::string(":") + row.value + ":";
  if (row.kind == ValueKind::kPath) return title + "_files";
  return row.choices.empty() ? title : title + "(" + words(row.choices) + ")";
}

std::string zsh_options(const CommandSpec* command) {
  std::string text;
  for (const OptionSpec* row : options_of(command)) {
    if (row->hidden) continue;
    const bool repeats = std::holds_alternative<std::vector<std::string> Options::*>(row->target);
    for (const std::string& spelling : spellings(*row)) {
      text += "            '" + std::string(repeats ? "*" : "") + spelling + "[" + short_text(row->help) + "]" +
              zsh_value(*row) + "' \\\n";
    }
  }
  return text;
}

std::string zsh_script() {
  std::string text =
      "#compdef polykv\n"
      "# zsh completion for polykv, made by `polykv completion zsh`.\n"
      "_polykv() {\n"
      "    local context state state_descr line\n"
      "    typeset -A opt_args\n"
      "    if (( CURRENT == 2 )); then\n"
      "        local -a commands=(\n";
  for (const CommandSpec& command : commands()) {
    text += "            '" + std::string(command.name) + ":" + short_text(command.summary) + "'\n";
  }
  text += "        )\n        _describe command commands\n        _arguments \\\n" + zsh_options(nullptr) +
          "            && return\n        return\n    fi\n    local command=${words[2]}\n    shift words\n"
          "    (( CURRENT-- ))\n    case $command in\n";
  for (const CommandSpec& command : commands()) {
    const std::string operands =
        command.operand_kind == ValueKind::kPath
            ? std::string("'*:") + command.operand_name + ":_files'"
            : std::string("':") + command.operand_name + ":(" + words(command.operand_choices) + ")'";
    text += "        " + std::string(command.name) + ")\n            _arguments \\\n" + zsh_options(&command) +
            "            " + operands + " ;;\n";
  }
  return text +
         "    esac\n}\n"
         "if [[ $zsh_eval_context[-1] == loadautofunc ]]; then\n    _polykv \"$@\"\nelse\n"
         "    compdef _polykv polykv\nfi\n";
}

std::string fish_option(const std::string& condition, const OptionSpec& row) {
  std::string text = "complete -c polykv -n '" + condition + "'";
  if (row.letter != 0) text += std::string(" -s ") + row.letter;
  if (row.name[0] != 0) text += std::string(" -l ") + row.name;
  if (row.kind == ValueKind::kPath) {
    text += " -r -F";
  } else if (row.kind != ValueKind::kFlag) {
    text += row.choices.empty() ? " -x" : " -x -a '" + words(row.choices) + "'";
  }
  return text + " -d '" + short_text(row.help) + "'\n";
}

std::string fish_script() {
  const std::string without = "__fish_use_subcommand";
  std::string text = "# fish completion for polykv, made by `polykv completion fish`.\ncomplete -c polykv -f\n";
  for (const OptionSpec* row : options_of(nullptr)) text += fish_option(without, *row);
  for (const CommandSpec& command : commands()) {
    text +=
        "complete -c polykv -n '" + without + "' -a " + command.name + " -d '" + short_text(command.summary) + "'\n";
    const std::string inside = "__fish_seen_subcommand_from " + std::string(command.name);
    if (command.operand_kind == ValueKind::kPath) {
      text += "complete -c polykv -n '" + inside + "' -F\n";
    } else {
      text += "complete -c polykv -n '" + inside + "' -a '" + words(command.operand_choices) + "'\n";
    }
    for (const OptionSpec* row : options_of(&command)) {
      if (!row->hidden) text += fish_option(inside, *row);
    }
  }
  return text;
}

}  // namespace

std::string completion_script(std::string_view shell) {
  if (shell == "bash") return bash_script();
  return shell == "zsh" ? zsh_script() : fish_script();
}

}  // namespace polykv::cli
