// Text from a file, made fit for a message.
#pragma once

#include <string>
#include <string_view>

namespace polykv::runtime {

// Printable ASCII as it is, any other byte as '?': a name cannot drive the terminal it is printed on. At most 64 bytes.
inline std::string shown(std::string_view text) {
  std::string out(text.substr(0, 64));
  for (char& c : out)
    if (c < 0x20 || c > 0x7e) c = '?';
  if (text.size() > 64) out += "...";
  return out;
}

}  // namespace polykv::runtime
