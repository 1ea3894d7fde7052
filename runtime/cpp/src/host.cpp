#include "host.hpp"

#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <system_error>

#include "digest.hpp"
#include "files.hpp"

namespace resnet {

namespace {

namespace fs = std::filesystem;

constexpr std::size_t digits = 64;
constexpr std::uintmax_t largest = std::uintmax_t{2} << 30U;  // bytes of all files together

int visible_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

std::optional<double> quota() {
  double limit = 0, period = 0;
  if (std::ifstream both("/sys/fs/cgroup/cpu.max"); both && both >> limit >> period) {
    return limit > 0 && period > 0 ? std::optional<double>(limit / period) : std::nullopt;
  }
  std::ifstream first("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), second("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  if (first >> limit && second >> period && limit > 0 && period > 0) return limit / period;
  return std::nullopt;
}

}  // namespace

std::optional<int> quota_in_cores() {
  const auto found = quota();
  if (!found) return std::nullopt;
  const int cores = std::max(1, static_cast<int>(std::ceil(*found)));
  return cores < visible_cores() ? std::optional<int>(cores) : std::nullopt;
}

std::optional<std::string> cpu_digest() {
  std::ifstream file("/proc/cpuinfo");
  Sha256 digest;
  bool any = false;
  for (std::string line; std::getline(file, line);) {
    const std::string key = line.substr(0, line.find_last_not_of(" \t:", line.find(':')) + 1);
    if (key != "model name" && key != "flags" && key != "Features" && key != "CPU part") continue;
    digest.add(line.data(), line.size());
    any = true;
  }
  for (const char* name : {"ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"}) {  // they make a library pass over what there is
    const char* value = std::getenv(name);
    const std::string limit = std::string("\n") + name + "=" + (value == nullptr ? "" : value);
    digest.add(limit.data(), limit.size());
  }
  return any ? std::optional<std::string>(digest.digits()) : std::nullopt;
}

CompiledCache::CompiledCache(const std::string& library) {
  const char* given = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  if (given != nullptr && *given != '\0') {
    folder_ = std::string(given) + "/resnet-runtime/compiled/" + library;
  } else if (home != nullptr && *home != '\0') {
    folder_ = std::string(home) + "/.cache/resnet-runtime/compiled/" + library;
  }
}

std::string CompiledCache::path(const std::string& depends_on) const {
  return folder_ + "/" + sha256_of(depends_on).substr(0, 32) + ".compiled";
}

bool CompiledCache::holds(const std::string& depends_on) const {
  std::error_code failed;
  return !folder_.empty() && fs::exists(path(depends_on), failed);
}

std::optional<std::string> CompiledCache::load(const std::string& depends_on) const {
  if (folder_.empty()) return std::nullopt;
  const std::string name = path(depends_on);
  const Descriptor file(name, O_NONBLOCK | O_NOFOLLOW);
  struct stat about {};
  // A library runs what it holds: another user's is not taken, wherever the folder is.
  if (file.number() < 0 || fstat(file.number(), &about) != 0 || !S_ISREG(about.st_mode) || about.st_uid != getuid() ||
      static_cast<std::uintmax_t>(about.st_size) > largest) {
    return std::nullopt;
  }
  std::string data(static_cast<std::size_t>(about.st_size), '\0');
  try {
    data.resize(file.read(data.data(), data.size()));
  } catch (const std::system_error&) {
    return std::nullopt;
  }
  if (data.size() <= digits) return std::nullopt;
  Sha256 digest;
  digest.add(data.data() + digits, data.size() - digits);
  if (data.compare(0, digits, digest.digits()) != 0) return std::nullopt;
  std::error_code ignored;
  fs::last_write_time(name, fs::file_time_type::clock::now(), ignored);
  data.erase(0, digits);
  return data;
}

void CompiledCache::store(const std::string& depends_on, const std::string& data) const {
  if (folder_.empty() || data.size() > largest) return;
  std::error_code failed;
  fs::create_directories(folder_, failed);
  std::string temporary = folder_ + "/tmp" + std::string(6, 'X');  // mkstemp puts a name of its own there
  const int descriptor = mkstemp(temporary.data());
  if (descriptor < 0) return;
  ::close(descriptor);
  {
    std::ofstream file(temporary, std::ios::binary);
    file << sha256_of(data) << data;
    if (!file.flush()) failed = std::make_error_code(std::errc::io_error);
  }
  const std::string name = path(depends_on);
  if (!failed) fs::rename(temporary, name, failed);
  if (failed) {
    fs::remove(temporary, failed);
    return;
  }
  prune(name);
}

void CompiledCache::prune(const std::string& newest) const {
  struct Item {
    fs::file_time_type used;
    std::uintmax_t size;
    fs::path path;
  };
  std::vector<Item> items;
  std::uintmax_t total = 0;
  std::error_code failed;
  for (fs::directory_iterator entry(folder_, failed), end; !failed && entry != end; entry.increment(failed)) {
    std::error_code one;
    if (entry->path().filename().string().rfind("tmp", 0) == 0) {  // of a process that was killed while it wrote
      const auto age = fs::file_time_type::clock::now() - entry->last_write_time(one);
      if (!one && age > std::chrono::hours(1)) fs::remove(entry->path(), one);
      continue;
    }
    if (entry->path().extension() != ".compiled") continue;
    items.push_back({entry->last_write_time(one), entry->file_size(one), entry->path()});
    if (one) items.pop_back();
  }
  for (const auto& item : items) total += item.size;
  std::sort(items.begin(), items.end(), [](const Item& a, const Item& b) { return a.used < b.used; });
  for (const auto& item : items) {
    if (total <= largest) return;
    if (item.path == newest) continue;
    fs::remove(item.path, failed);
    total -= item.size;
  }
}

}  // namespace resnet
