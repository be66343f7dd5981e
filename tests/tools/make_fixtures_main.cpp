// polykv_make_fixtures FOLDER [--all]: writes FOLDER/pools/v0/NAME.pkv and FOLDER/broken/NAME.pkv with expected.tsv;
// with --all the broken pools too that are not kept in fixtures.
// tests/tools/make_fixtures.py runs this and adds what other programs know of the files.
#include <fstream>
#include <iostream>

#include "tests/tools/broken_pools.h"
#include "tests/tools/good_pools.h"

using namespace polykv;

namespace {

bool write_bytes(const std::filesystem::path& path, const std::vector<std::byte>& bytes) {
  std::ofstream out(path, std::ios::binary);
  out.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  return static_cast<bool>(out.flush());
}

bool write_broken(const std::filesystem::path& folder, bool all) {
  std::ofstream expected(folder / "expected.tsv");
  expected << "file\texit_status\terror\tnumber\toffset\n";
  for (const tests::BrokenPool& pool : tests::broken_pools()) {
    if (!pool.kept && !all) continue;
    if (!write_bytes(folder / (pool.name + ".pkv"), pool.bytes)) return false;
    expected << pool.name << ".pkv\t" << format::exit_status(pool.code) << '\t' << tests::code_name(pool.code) << '\t'
             << static_cast<std::uint32_t>(pool.code) << '\t' << pool.offset << '\n';
  }
  return static_cast<bool>(expected.flush());
}

}  // namespace

int main(int argc, char** argv) {
  const bool all = argc == 3 && std::string(argv[2]) == "--all";
  if (argc != 2 && !all) {
    std::cerr << "usage: polykv_make_fixtures FOLDER [--all]\n";
    return 2;
  }
  const std::filesystem::path folder = argv[1];
  std::filesystem::create_directories(folder / "pools" / "v0");
  std::filesystem::create_directories(folder / "broken");
  for (const std::string& name : tests::good_pool_names()) {
    if (const auto status = tests::write_good_pool(name, folder / "pools" / "v0"); !status) {
      std::cerr << name << ": " << status.error().message << "\n";
      return 1;
    }
  }
  if (!write_broken(folder / "broken", all)) {
    std::cerr << "cannot write " << (folder / "broken").string() << "\n";
    return 1;
  }
  return 0;
}
