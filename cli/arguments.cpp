// parse_options: CLI11 takes the command line apart by the option table; values are read and checked here.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <map>

#include "cli/options.h"
#include "core/codec.h"

namespace polykv::cli {
namespace {

using format::Error;
using format::ErrorCode;
using format::Result;
using format::Status;

Error usage_error(const CommandSpec* command, const std::string& message) {
  return Error(ErrorCode::kUsage, command == nullptr ? message : std::string(command->name) + ": " + message);
}

std::string dashed(const OptionSpec& row) {
  return row.name[0] != 0 ? std::string("--") + row.name : std::string("-") + row.letter;
}

// "; did you mean 'verify'?", or `otherwise`.
std::string suggestion(std::string_view word, std::span<const std::string_view> candidates, std::string otherwise) {
  const std::string_view near = nearest(word, candidates);
  return near.empty() ? otherwise : "; did you mean '" + std::string(near) + "'?";
}

std::string joined(const std::vector<const char*>& words) {
  std::string text;
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (i > 0) text += i + 1 == words.size() ? " or " : ", ";
    text += words[i];
  }
  return text;
}

// Reading one value: the error says what it is not.

// The whole of `text` as a number.
template <typename Number, typename... Base>
std::optional<Number> read_whole(std::string_view text, Base... base) {
  Number number{};
  const auto result = std::from_chars(text.data(), text.data() + text.size(), number, base...);
  if (result.ec != std::errc() || result.ptr != text.data() + text.size()) return std::nullopt;
  return number;
}

std::string shortest(double number) {
  char text[32];
  return std::string(text, std::to_chars(text, text + sizeof text, number).ptr);
}

Result<std::uint64_t> read_count(const OptionSpec& row, std::string_view text) {
  const auto number = read_whole<std::uint64_t>(text);
  const auto least = static_cast<std::uint64_t>(row.minimum);
  const auto most = row.maximum < 0x1p64 ? static_cast<std::uint64_t>(row.maximum) : UINT64_MAX;
  if (!number || *number < least || *number > most) {
    return Error(ErrorCode::kUsage,
                 "is not a whole number from " + std::to_string(least) + " to " + std::to_string(most));
  }
  return *number;
}

// "20000000", "20M", "1.5GB".
Result<std::uint64_t> read_bytes(std::string_view text) {
  static constexpr std::array<std::pair<std::string_view, double>, 7> kUnits{
      {{"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"K", 0x1p10}, {"M", 0x1p20}, {"G", 0x1p30}, {"", 1.0}}};
  for (const auto& [unit, factor] : kUnits) {
    if (!text.ends_with(unit)) continue;
    const auto number = read_whole<double>(text.substr(0, text.size() - unit.size()));
    if (number && *number > 0 && *number * factor < 0x1p53) return static_cast<std::uint64_t>(*number * factor);
    break;
  }
  return Error(ErrorCode::kUsage, "is not a size: bytes, or a number with K, M, G, kB, MB or GB, such as 20M");
}

Result<double> read_number(const OptionSpec& row, std::string_view text) {
  const auto number = read_whole<double>(text);
  if (!number || !std::isfinite(*number) || *number < row.minimum || *number > row.maximum) {
    return Error(ErrorCode::kUsage, "is not a number from " + shortest(row.minimum) + " to " + shortest(row.maximum));
  }
  return *number;
}

Result<std::uint32_t> read_mode(std::string_view text) {
  const auto mode = read_whole<std::uint32_t>(text, 8);
  if (!mode || *mode > 0777 || (*mode & 0400) == 0) {
    return Error(ErrorCode::kUsage, "is not a mode from 0400 to 0777 that lets the owner read");
  }
  return *mode;
}

Status check_text(const OptionSpec& row, std::string_view text) {
  if (row.kind == ValueKind::kChoice) {
    const bool known =
        std::any_of(row.choices.begin(), row.choices.end(), [text](const char* choice) { return text == choice; });
    if (!known) return Error(ErrorCode::kUsage, "is not " + joined(row.choices));
  }
  if (row.kind == ValueKind::kCodec && text != "auto" && !core::parse_codec_name(text)) {
    return Error(ErrorCode::kUsage, "is not a codec: auto, f16, or kAvB with A and B from 1 to 8, such as k5v4");
  }
  if (row.kind == ValueKind::kPath && text.empty()) return Error(ErrorCode::kUsage, "is not a path");
  return {};
}

// One overload a type that a Target may have.
struct Store {
  const OptionSpec& row;
  const std::string& text;
  Options& options;

  Status operator()(bool Options::*field) const {
    options.*field = true;
    return {};
  }
  Status operator()(std::uint32_t Options::*field) const {
    if (row.kind == ValueKind::kOctal) {
      POLYKV_TRY(options.*field, read_mode(text));
    } else {
      POLYKV_TRY(const std::uint64_t number, read_count(row, text));
      options.*field = static_cast<std::uint32_t>(number);
    }
    return {};
  }
  Status operator()(std::optional<std::uint64_t> Options::*field) const {
    POLYKV_TRY(options.*field, row.kind == ValueKind::kBytes ? read_bytes(text) : read_count(row, text));
    return {};
  }
  Status operator()(double Options::*field) const {
    POLYKV_TRY(options.*field, read_number(row, text));
    return {};
  }
  Status operator()(std::string Options::*field) const {
    POLYKV_CHECK_STATUS(check_text(row, text));
    options.*field = text;
    return {};
  }
  Status operator()(std::optional<std::string> Options::*field) const {
    POLYKV_CHECK_STATUS(check_text(row, text));
    options.*field = text;
    return {};
  }
  Status operator()(std::vector<std::string> Options::*field) const {
    POLYKV_CHECK_STATUS(check_text(row, text));
    (options.*field).push_back(text);
    return {};
  }
};

Status store(const OptionSpec& row, const std::string& text, Options& options) {
  return std::visit(Store{row, text, options}, row.target);
}

// The variable's value for a flag: whether it is set, or nullopt if it says neither.
std::optional<bool> read_switch(std::string_view text) {
  for (const std::string_view yes : {"1", "true", "yes", "on"}) {
    if (text == yes) return true;
  }
  for (const std::string_view no : {"0", "false", "no", "off"}) {
    if (text == no) return false;
  }
  return std::nullopt;
}

Status store_from_environment(const OptionSpec& row, const std::string& text, Options& options) {
  if (row.kind == ValueKind::kFlag) {
    const auto on = read_switch(text);
    if (!on) return Error(ErrorCode::kUsage, "is neither 1 nor 0");
    if (!*on) return {};
  }
  return store(row, text, options);
}

// The command line, taken apart: what each row was given, and the operands.
struct Parts {
  std::map<const OptionSpec*, std::vector<std::string>> values;
  std::vector<std::string> operands;
};

// Operands are kept from CLI11, which would split one like "[who, what]" at its commas; "--" ends the options.
Result<Parts> take_apart(const CommandSpec* command, std::span<const std::string> arguments) {
  const auto rows = options_of(command);
  const auto end_of_options = std::find(arguments.begin(), arguments.end(), "--");
  CLI::App app;
  app.set_help_flag();
  app.allow_extras();
  std::vector<CLI::Option*> options;
  for (const OptionSpec* row : rows) {
    std::string names = row->letter == 0 ? "" : std::string("-") + row->letter;
    if (row->name[0] != 0) names += (names.empty() ? "--" : ",--") + std::string(row->name);
    if (row->kind == ValueKind::kFlag) {
      options.push_back(app.add_flag(names)->disable_flag_override());
    } else {
      options.push_back(app.add_option(names, [](const CLI::results_t&) { return true; })
                            ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll));
      options.back()->expected(1)->allow_extra_args(false);
    }
  }
  std::vector<std::string> reversed;  // as CLI11 wants them; "--name=" as "--name" and an empty value
  for (auto it = arguments.begin(); it != end_of_options; ++it) {
    const bool empty_value = it->starts_with("--") && it->find('=') == it->size() - 1;
    reversed.push_back(empty_value ? it->substr(0, it->size() - 1) : *it);
    if (empty_value) reversed.emplace_back();
  }
  std::reverse(reversed.begin(), reversed.end());
  try {
    app.parse(std::move(reversed));
  } catch (const CLI::ArgumentMismatch& error) {
    const std::string text = error.what();
    std::string name = text.substr(0, text.find_first_of(": "));
    if (!name.starts_with('-')) name.insert(0, name.size() == 1 ? 1 : 2, '-');
    return usage_error(command, text.find("required") != std::string::npos ? "option '" + name + "' needs a value"
                                                                           : "option '" + name + "' takes no value");
  } catch (const CLI::ParseError& error) {
    return usage_error(command, error.what());
  }
  Parts parts;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (options[i]->count() > 0) parts.values[rows[i]] = options[i]->results();
  }
  parts.operands = app.remaining();
  for (const std::string& word : parts.operands) {
    const bool number = word.size() > 1 && word[0] == '-' && word[1] >= '0' && word[1] <= '9';
    if (word.size() < 2 || word[0] != '-' || number) continue;
    std::vector<std::string> names;
    for (const OptionSpec* row : rows) {
      if (!row->hidden) names.push_back(dashed(*row));
    }
    const std::vector<std::string_view> candidates(names.begin(), names.end());
    const std::string bare = word.substr(0, word.find('='));
    const std::string name = command == nullptr ? "" : std::string(command->name) + " ";
    return usage_error(
        command, "unknown option '" + bare + "'" + suggestion(bare, candidates, "; try 'polykv " + name + "--help'"));
  }
  if (end_of_options != arguments.end()) {
    parts.operands.insert(parts.operands.end(), end_of_options + 1, arguments.end());
  }
  return parts;
}

Status fill(const CommandSpec* command, const Parts& parts, const Environment& environment, Options& options) {
  for (const OptionSpec* row : options_of(command)) {
    if (const auto given = parts.values.find(row); given != parts.values.end()) {
      for (const std::string& text : given->second) {
        if (const Status status = store(*row, text, options); !status) {
          return usage_error(command, dashed(*row) + ": '" + text + "' " + status.error().message);
        }
      }
      continue;
    }
    const char* variable = row->environment[0] == 0 ? nullptr : environment(row->environment);
    if (variable != nullptr && variable[0] != 0) {
      if (const Status status = store_from_environment(*row, variable, options); !status) {
        return usage_error(command, std::string(row->environment) + ": '" + variable + "' " + status.error().message);
      }
    } else if (row->fallback[0] != 0) {
      POLYKV_CHECK_STATUS(store(*row, row->fallback, options));
    }
  }
  return {};
}

Status check_complete(const CommandSpec& command, const Parts& parts, const Options& options) {
  const std::string see = "; try 'polykv " + std::string(command.name) + " --help'";
  if (options.operands.size() < command.min_operands) {
    return usage_error(&command, std::string("needs a ") + command.operand_name + see);
  }
  if (options.operands.size() > command.max_operands) {
    return usage_error(&command, "unexpected argument '" + options.operands[command.max_operands] + "'" + see);
  }
  for (const OptionSpec& row : command.options) {
    if (row.required && !parts.values.contains(&row)) {
      return usage_error(&command, "needs " + dashed(row) + " " + row.value + see);
    }
  }
  if (options.json && options.jsonl) return usage_error(&command, "--json and --jsonl exclude each other");
  if (command.operand_kind == ValueKind::kChoice && !options.operands.empty()) {
    const std::vector<std::string_view> choices(command.operand_choices.begin(), command.operand_choices.end());
    const std::string& word = options.operands.front();
    if (std::find(choices.begin(), choices.end(), word) == choices.end()) {
      return usage_error(&command, std::string("unknown ") + command.operand_name + " '" + word + "'" +
                                       suggestion(word, choices, "; there are " + joined(command.operand_choices)));
    }
  }
  return {};
}

// Where the command's name stands among the arguments; options in front of it belong to every command.
std::size_t command_index(std::span<const std::string> arguments) {
  std::size_t i = 0;
  while (i < arguments.size() && arguments[i].size() > 1 && arguments[i][0] == '-' && arguments[i] != "--") {
    const bool takes_next = std::any_of(common_options().begin(), common_options().end(), [&](const OptionSpec& row) {
      return row.kind != ValueKind::kFlag && arguments[i] == dashed(row);
    });
    i += takes_next ? 2 : 1;
  }
  return std::min(i, arguments.size());
}

}  // namespace

format::Result<Options> parse_options(std::span<const std::string> arguments, const Environment& environment) {
  Options options;
  const std::size_t index = command_index(arguments);
  std::vector<std::string> rest(arguments.begin(), arguments.begin() + static_cast<std::ptrdiff_t>(index));
  if (index < arguments.size()) {
    const std::string& name = arguments[index];
    options.command = find_command(name);
    if (options.command == nullptr) {
      std::vector<std::string_view> names;
      for (const CommandSpec& command : commands()) names.emplace_back(command.name);
      return usage_error(nullptr, "unknown command '" + name + "'" + suggestion(name, names, "; try 'polykv --help'"));
    }
    rest.insert(rest.end(), arguments.begin() + static_cast<std::ptrdiff_t>(index) + 1, arguments.end());
  }
  POLYKV_TRY(Parts parts, take_apart(options.command, rest));
  for (const OptionSpec& row : help_options()) {
    if (parts.values.contains(&row)) POLYKV_CHECK_STATUS(store(row, "", options));
  }
  if (options.help || options.short_help) return options;
  POLYKV_CHECK_STATUS(fill(options.command, parts, environment, options));
  options.operands = std::move(parts.operands);
  if (options.command != nullptr) {
    POLYKV_CHECK_STATUS(check_complete(*options.command, parts, options));
  } else if (!options.version) {
    return usage_error(nullptr, options.verbose ? "-v goes with --version" : "no command; try 'polykv --help'");
  }
  return options;
}

std::string_view nearest(std::string_view word, std::span<const std::string_view> candidates) {
  std::string_view best;
  std::size_t best_distance = word.size() / 3 + 1;  // typing errors, not other words
  for (const std::string_view candidate : candidates) {
    // Edits (insert, delete, replace, swap of neighbours) between prefixes; three rows of the table are enough.
    std::vector<std::size_t> before(candidate.size() + 1), above(candidate.size() + 1), row(candidate.size() + 1);
    for (std::size_t j = 0; j <= candidate.size(); ++j) above[j] = j;
    for (std::size_t i = 1; i <= word.size(); ++i) {
      row[0] = i;
      for (std::size_t j = 1; j <= candidate.size(); ++j) {
        const std::size_t changed = word[i - 1] == candidate[j - 1] ? 0 : 1;
        row[j] = std::min({above[j] + 1, row[j - 1] + 1, above[j - 1] + changed});
        const bool swapped = i > 1 && j > 1 && word[i - 1] == candidate[j - 2] && word[i - 2] == candidate[j - 1];
        if (swapped) row[j] = std::min(row[j], before[j - 2] + 1);
      }
      before.swap(above);
      above.swap(row);
    }
    if (above.back() <= best_distance && (best.empty() || above.back() < best_distance)) {
      best = candidate;
      best_distance = above.back();
    }
  }
  return best;
}

}  // namespace polykv::cli
