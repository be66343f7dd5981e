// The small Jinja: what it prints (as jinja2 3.1.6 does, checked by hand there), and what it refuses.
#include "cli/runtime/tokenizer/jinja.h"

#include <random>

#include "tests/support/catch.h"

namespace polykv::tests {
namespace {

using format::ErrorCode;
using runtime::PrintedPart;
using runtime::render_jinja;

// Prints with the user turn as USER, or [USER] where it is trimmed; "!" and the reason where it is refused.
std::string print(std::string_view source, const std::optional<std::string>& system = std::nullopt) {
  const auto parts = render_jinja(source, {.system = system, .bos_token = "<s>"});
  if (!parts) {
    CHECK(parts.error().code == ErrorCode::kUnknownTemplate);
    return "!" + parts.error().message;
  }
  std::string text;
  for (const PrintedPart& part : *parts) {
    if (part.trimmed_start) text += "[";
    text += part.source == PrintedPart::Source::kUser ? "USER" : part.text;
    if (part.trimmed_end) text += "]";
  }
  return text;
}

bool refused(std::string_view source) { return print(source).starts_with("!"); }

}  // namespace

TEST_CASE("whitespace control is transformers' (trim_blocks, lstrip_blocks)", "[template]") {
  CHECK(print("a\n{% if true %}\nb\n{% endif %}\nc\n") == "a\nb\nc");
  CHECK(print("  {% if true %}  b{% endif %}") == "  b");
  CHECK(print("x  {% if true %}b{% endif %}") == "x  b");
  CHECK(print("a\n   {% if true %}\n   {% endif %}\nb") == "a\nb");
  CHECK(print("a\n   {%+ if true %}b{% endif %}") == "a\n   b");
  CHECK(print("a  {%- if true -%}  \n b  {%- endif -%}\n\n c") == "abc");
  CHECK(print("a {{- 'b' -}} c") == "abc");
  CHECK(print("a\n  {{ 'b' }}\nc") == "a\n  b\nc");
  CHECK(print("a{# note's \"end #}\nb") == "ab");
  CHECK(print("a\n  {#- note -#}\n  b") == "ab");
  CHECK(print("a\r\nb\rc\n\n") == "a\nb\nc\n");
  CHECK(print("{{ '%}' }}{{ \"}}\" }}") == "%}}}");
}

TEST_CASE("expressions", "[template]") {
  CHECK(print("{{ 'a\\n\\'\\\\' + \"b\" ~ 'c' }}") == "a\n'\\bc");
  CHECK(print("{{ bos_token }}|{{ nothing }}|") == "<s>||");
  CHECK(print("{{ messages[0].content }}{{ messages[0]['role'] }}") == "USERuser");
  CHECK(print("{{ messages[-1].content|trim }}") == "[USER]");
  CHECK(print("{{ ('  x ' + messages[-1].content) | trim }}") == "x USER]");
  CHECK(print("{{ messages[0].content | trim + '  ' }}", "  s\n") == "s  ");
  const auto truth = [](const std::string& expression, const std::optional<std::string>& system = std::nullopt) {
    return print("{% if " + expression + " %}yes{% else %}no{% endif %}", system);
  };
  for (const char* yes : {"true",
                          "not false",
                          "'a' == 'a'",
                          "1 != 2",
                          "not 'a' == 'b'",
                          "tools is none",
                          "tools is defined",
                          "nothing is not defined",
                          "not nothing",
                          "'x' in 'axb'",
                          "'role' in messages[0]",
                          "'tool_calls' not in messages[0]",
                          "messages|length == 1",
                          "messages[1:]|length == 0",
                          "messages[5] is undefined",
                          "messages[0].name is undefined",
                          "messages[0].content",
                          "messages[0].content is string",
                          "3 - 1 == 2",
                          "-1 < 0",
                          "2 >= 2",
                          "false or 1",
                          "not (1 and '')",
                          "true or messages[0].content == 'x'",
                          "not (false and strange|filter)",
                          "nothing == missing"}) {
    CAPTURE(yes);
    CHECK(truth(yes) == "yes");
  }
  for (const char* no : {"false", "''", "0", "none", "tools", "'a' != 'a'", "1 == '1'", "messages[1:]", "1 > 1",
                         "messages[0].role == 'system'", "not true and true"}) {
    CAPTURE(no);
    CHECK(truth(no) == "no");
  }
  CHECK(truth("messages[0].content == 'Be brief.'", "Be brief.") == "yes");
  CHECK(truth("messages[0].content", "") == "no");
  CHECK(truth("'brief' in messages[0].content", "Be brief.") == "yes");
}

TEST_CASE("statements", "[template]") {
  CHECK(print("{% for m in messages %}{{ loop.index0 }}{% endfor %}").starts_with("!"));  // numbers are not printed
  CHECK(print("{% for m in messages %}{{ m.role }}{% if not loop.last %}, {% endif %}{% endfor %}", "s") ==
        "system, user");
  CHECK(print("{% for m in messages %}{% if loop.first %}1{% elif loop.index == 2 %}2{% endif %}{% endfor %}", "s") ==
        "12");
  CHECK(print("{% set a = 'x' %}{% if true %}{% set a = a + 'y' %}{% endif %}{{ a }}") == "xy");
  CHECK(print("{% set a = 'x' %}{% for m in messages %}{% set a = a + 'y' %}{{ a }}{% endfor %}{{ a }}", "s") ==
        "xyxyx");
  CHECK(print("{% set messages = messages[1:] %}{% for m in messages %}{{ m.content }}{% endfor %}", "s") == "USER");
  CHECK(print("{% if false %}{{ strange('x') }}{% elif true %}a{% else %}{{ b.c.d }}{% endif %}") == "a");
  CHECK(print("{% for m in messages %}{% for n in messages %}{{ n.role }} {% endfor %}{% endfor %}") == "user ");
}

TEST_CASE("what depends on the user's words, or is not known, is refused", "[template]") {
  for (const char* source : {"{{ messages[0].content == 'x' }}",
                             "{% if 'x' in messages[0].content %}{% endif %}",
                             "{% if messages[0].content == 'x' %}{% endif %}",
                             "{{ messages[0].content | upper }}",
                             "{{ messages[0].content.strip() }}",
                             "{{ raise_exception('no') }}",
                             "{{ strftime_now('%d') }}",
                             "{{ 'a' if true else 'b' }}",
                             "{{ 'a' * 2 }}",
                             "{{ 1 == 1 == 1 }}",
                             "{{ none }}",
                             "{{ true }}",
                             "{{ eos_token }}",
                             "{{ messages }}",
                             "{{ nothing.more }}",
                             "{{ [1] }}",
                             "{{ {} }}",
                             "{{ 'a' 'b' }}",
                             "{{ '\\x41' }}",
                             "{{ 'open }}",
                             "{{ (1 }}",
                             "{{ }}",
                             "{{ a",
                             "{% if true %}",
                             "{% endif %}",
                             "{% else %}",
                             "{% for m in messages %}{% else %}{% endfor %}",
                             "{% for a, b in messages %}{% endfor %}",
                             "{% for m in 'abc' %}{% endfor %}",
                             "{% for m in messages %}{% endif %}{% endfor %}",
                             "{% if true %}{% else %}{% elif true %}{% endif %}",
                             "{% macro f() %}{% endmacro %}",
                             "{% set ns.x = 1 %}",
                             "{% set x %}a{% endset %}",
                             "{% set a, b = 1 %}",
                             "{% raw %}{% endraw %}",
                             "{% generation %}",
                             "{{ messages[::-1] }}",
                             "{{ messages[:1] }}",
                             "{{ messages['a':] }}",
                             "{{ 99999999999 }}",
                             "{{ 1.5 }}"}) {
    CAPTURE(source);
    CHECK(refused(source));
  }
}

TEST_CASE("hostile templates end", "[template]") {
  CHECK(refused(std::string(300 * 1024, 'x')));
  CHECK(refused("{{ " + std::string(100'000, '(') + " }}"));
  CHECK(refused("{{ " + std::string(100'000, '-') + "1 }}"));
  std::string loops, ends;
  for (int i = 0; i < 60; ++i) loops += "{% for m in messages %}", ends += "{% endfor %}";
  CHECK(print(loops + "x" + ends, "s").starts_with("!"));
  CHECK(refused(loops + loops + ends + ends));
  std::string doubling = "{% set a = 'x' %}";
  for (int i = 0; i < 40; ++i) doubling += "{% set a = a + a %}";
  CHECK(refused(doubling));
  std::string nots = "{{ ";
  for (int i = 0; i < 50'000; ++i) nots += "not ";
  CHECK(refused(nots + "1 }}"));
}

TEST_CASE("random templates never break the renderer", "[template]") {
  const char* words[] = {"{{",    "}}",   "{%",   "%}",  "{#",  "#}",       "-",   "if",       "for", "in",   "endfor",
                         "endif", "else", "elif", "set", " ",   "messages", "[0]", ".content", "'a'", "(",    ")",
                         "|trim", "=",    "==",   "not", "and", "or",       "is",  "defined",  "\n",  "loop", ".first",
                         "m",     "+",    "\"",   "\\",  "[",   "]",        "1",   ":"};
  std::mt19937 random(17);
  for (int i = 0; i < 20'000; ++i) {
    std::string source;
    for (std::size_t left = random() % 30; left > 0; --left) source += words[random() % std::size(words)];
    (void)render_jinja(source, {.system = "s", .bos_token = "<s>"});
  }
}

}  // namespace polykv::tests
