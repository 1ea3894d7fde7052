#include "resnet_runtime/manifest.hpp"

#include <algorithm>
#include <set>

#include "digest.hpp"
#include "fields.hpp"
#include "resnet_runtime/error.hpp"
#include "strict_json.hpp"

namespace resnet {

namespace {

using json::Fields;

constexpr const char* known_schema = "resnet-bundle/1";
constexpr std::size_t max_faults = 50;
constexpr double rounding = 1e-9;  // points that 100 (eager - measured) may be off, computed from two quotients

const Fields::Choices precisions{"fp32", "bf16", "fp16", "int8"};
const Fields::Choices schemes{"tensorrt", "cpu"};
const Fields::Choices layouts{"NCHW", "NHWC"};
const Fields::Choices dtypes{"float32", "uint8"};
const Fields::Choices color_orders{"RGB", "BGR", "L"};
const Fields::Choices interpolations{"nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"};
const Fields::Choices resize_modes{"shorter", "exact"};
const Fields::Choices alpha_rules{"drop", "white", "black"};
const Fields::Choices exif_rules{"apply", "ignore"};

bool is_alphanumeric(char c) {
  return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
}

/// Relative, of plain characters, without "." and "..".
bool is_path(const std::string& text) {
  bool first = true;
  for (const char c : text) {
    if (c == '/') {
      if (first) return false;
      first = true;
      continue;
    }
    if (!is_alphanumeric(c) && (first || (c != '.' && c != '-'))) return false;
    first = false;
  }
  return !text.empty() && !first;
}

bool is_digest(const std::string& text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

FileRecord file(Fields& f) {
  FileRecord made;
  made.path = f.text("path", {}, is_path);
  made.sha256 = f.text("sha256", {}, is_digest);
  made.size = f.integer("size");
  return made;
}

Source source(Fields& f) {
  Source made;
  made.name = f.text("name");
  made.sha256 = f.text("sha256", {}, is_digest);
  made.size = f.integer("size");
  return made;
}

Assumption assumption(Fields& f) {
  Assumption made;
  made.subject = f.text("subject");
  made.value = f.text("value");
  made.option = f.text("option");
  return made;
}

Model model(Fields& f) {
  Model made;
  made.architecture = f.text("architecture");
  made.parameters = f.integer("parameters");
  made.source = f.record("source", source);
  made.traced_by = f.text("traced_by");
  made.assumptions = f.records("assumptions", assumption);
  return made;
}

Batch batch(Fields& f) {
  Batch made;
  made.smallest = f.integer("smallest", 1);
  made.optimal = f.integer("optimal", 1);
  made.largest = f.integer("largest", 1);
  if (made.smallest > made.optimal || made.optimal > made.largest) {
    f.fault("", "does not go up from smallest over optimal to largest");
  }
  return made;
}

Input input(Fields& f) {
  Input made;
  made.shape = f.integers("shape", 3);
  made.name = f.text("name");
  made.layout = f.text("layout", layouts);
  made.dtype = f.text("dtype", dtypes);
  made.batch = f.record("batch", batch);
  if (made.dtype == "uint8" && made.layout == "NCHW") f.fault("layout", "is NCHW, and a uint8 input is NHWC");
  return made;
}

Output output(Fields& f) {
  Output made;
  made.name = f.text("name");
  made.shape = f.integers("shape");
  return made;
}

Resize resize(Fields& f) {
  Resize made;
  made.mode = f.text("mode", resize_modes);
  made.size = f.integers("size");
  made.interpolation = f.text("interpolation", interpolations);
  made.antialias = f.boolean("antialias");
  if (made.size.size() != (made.mode == "shorter" ? 1U : 2U)) {
    f.fault("size", "has " + std::to_string(made.size.size()) + " items, which does not fit the mode " +
                        json::quoted(made.mode));
  }
  const auto& kind = made.interpolation;
  if (!made.antialias && !kind.empty() && kind != "nearest" && kind != "bilinear" && kind != "bicubic") {
    f.fault("antialias", "is false, and " + kind + " is not defined without");
  }
  return made;
}

Preprocessing preprocessing(Fields& f) {
  Preprocessing made;
  const bool whole = f.is_null("crop");
  made.exif = f.text("exif", exif_rules);
  made.alpha = f.text("alpha", alpha_rules);
  made.color_order = f.text("color_order", color_orders);
  made.resize = f.optional_record("resize", resize);
  if (!whole) made.crop = f.integers("crop", 2);
  made.scale = f.number("scale");
  made.mean = f.numbers("mean");
  made.std = f.numbers("std");
  made.in_graph = f.boolean("in_graph");
  if (std::any_of(made.std.begin(), made.std.end(), [](double value) { return value <= 0; })) {
    f.fault("std", "has a value that is not positive");
  }
  return made;
}

Limits limits(Fields& f) {
  Limits made;
  made.max_error = f.optional_number("max_error");
  made.mean_error = f.optional_number("mean_error");
  made.centred_cosine = f.optional_number("centred_cosine");
  made.top1_agreement = f.optional_number("top1_agreement");
  return made;
}

Parity parity(Fields& f) {
  Parity made;
  made.samples = f.integer("samples", 1);
  made.undecided = f.integer("undecided");
  made.max_error = f.number("max_error");
  made.mean_error = f.number("mean_error");
  made.centred_cosine = f.number("centred_cosine");
  made.snr_db = f.number("snr_db");
  made.top1_agreement = f.number("top1_agreement");
  made.top5_agreement = f.number("top5_agreement");
  return made;
}

Accuracy accuracy(Fields& f) {
  Accuracy made;
  made.samples = f.integer("samples", 1);
  made.labelled = f.boolean("labelled");
  made.eager = f.number("eager");
  made.measured = f.number("measured");
  made.max_drop = f.optional_number("max_drop");
  for (const auto& [key, value] : {std::pair{"eager", made.eager}, std::pair{"measured", made.measured}}) {
    if (!(value >= 0 && value <= 1)) f.fault(key, "is " + json::general(value) + ", not between 0 and 1");
  }
  if (made.max_drop && !(*made.max_drop >= 0 && *made.max_drop <= 100)) {
    f.fault("max_drop", "is " + json::general(*made.max_drop) + ", not between 0 and 100 points");
  }
  return made;
}

Gate gate(Fields& f) {
  Gate made;
  made.passed = f.boolean("passed");
  made.executor = f.text("executor");
  made.emulated = f.boolean("emulated");
  made.limits = f.record("limits", limits);
  made.parity = f.record("parity", parity);
  made.accuracy = f.optional_record("accuracy", accuracy, true);
  return made;
}

KeptLayer kept(Fields& f) {
  KeptLayer made;
  made.node = f.text("node");
  made.precision = f.text("precision", precisions);
  made.reason = f.text("reason");
  return made;
}

Speed speed(Fields& f) {
  Speed made;
  made.backend = f.text("backend");
  made.against = f.text("against");
  made.ratio = f.positive("ratio");
  made.batch = f.integer("batch", 1);
  made.instructions = f.text("instructions");
  return made;
}

Variant variant(Fields& f) {
  Variant made;
  made.id = f.text("id");
  made.precision = f.text("precision", precisions);
  made.scheme = f.optional_text("scheme", schemes);
  made.file = f.record("file", file);
  made.gate = f.record("gate", gate);
  made.kept_higher = f.records("kept_higher", kept);
  made.speeds = f.records("speeds", speed, true);
  return made;
}

Engine engine(Fields& f) {
  Engine made;
  made.id = f.text("id");
  made.variant = f.text("variant");
  made.file = f.record("file", file);
  made.builder = f.text("builder");
  made.builder_version = f.text("builder_version");
  made.platform = f.text("platform");
  made.gpu = f.optional_text("gpu");
  made.compute_capabilities = f.texts("compute_capabilities");
  made.compatibility = f.text("compatibility");
  made.profiles = f.records("profiles", batch);
  made.verified_on = f.optional_text("verified_on");
  return made;
}

Manifest manifest(Fields& f) {
  Manifest made;
  made.schema = f.text("schema");
  made.tools = f.mapping("tools");
  made.model = f.record("model", model);
  made.input = f.record("input", input);
  made.outputs = f.records("outputs", output);
  made.preprocessing = f.record("preprocessing", preprocessing);
  made.variants = f.records("variants", variant);
  made.engines = f.records("engines", engine);
  made.check = f.record("check", file);
  made.report = f.record("report", file);
  made.labels = f.optional_record("labels", file);
  made.calibration = f.optional_record("calibration", file, true);
  f.text("sha256", {}, is_digest);
  f.done();
  return made;
}

template <typename Records, typename Name>
void find_twice(const std::string& what, const Records& records, Name name, std::vector<std::string>& faults) {
  std::set<std::string> seen, twice;
  for (const auto& record : records) {
    if (!seen.insert(name(record)).second) twice.insert(name(record));
  }
  for (const auto& one : twice) faults.push_back(what + " holds " + json::quoted(one) + " twice");
}

/// What a variant says of itself and of the others.
void check_variant(const Variant& one, const Manifest& parsed, std::vector<std::string>& faults) {
  const std::string name = "variants: " + json::quoted(one.id);
  if (one.precision == "int8" && !one.scheme) {
    faults.push_back(name + " is int8 and has no scheme: it is one of tensorrt, cpu");
  }
  if (one.precision != "int8" && one.scheme) {
    faults.push_back(name + " is " + one.precision + " and has the scheme " + json::quoted(*one.scheme) +
                     ", which int8 alone has");
  }
  if (!one.gate.passed) faults.push_back(name + " did not pass its gate");
  for (const auto& measured : one.speeds) {
    if (measured.against == one.id || parsed.variant(measured.against) == nullptr) {
      faults.push_back(name + " has a speed against " + json::quoted(measured.against) +
                       ", which is not another one of variants");
    }
  }
  if (!one.gate.accuracy) return;
  const Accuracy& found = *one.gate.accuracy;
  if (!found.labelled && found.eager != 1) {
    faults.push_back(name + " was evaluated without labels, where eager's accuracy is 1, not " +
                     json::general(found.eager));
  }
  const double drop = 100 * (found.eager - found.measured);
  if (found.max_drop && drop > *found.max_drop + rounding) {
    faults.push_back(name + " loses " + json::general(drop) + " points of accuracy, and " +
                     json::general(*found.max_drop) + " are allowed");
  }
}

void check_files(const Manifest& parsed, std::vector<std::string>& faults) {
  std::vector<FileRecord> records;
  for (const auto& one : parsed.variants) records.push_back(one.file);
  for (const auto& one : parsed.engines) records.push_back(one.file);
  records.push_back(parsed.check);
  records.push_back(parsed.report);
  if (parsed.labels) records.push_back(*parsed.labels);
  if (parsed.calibration) records.push_back(*parsed.calibration);
  std::map<std::string, FileRecord> seen;
  for (const auto& record : records) {
    const auto known = seen.emplace(record.path, record).first;
    if (!(known->second == record)) {
      faults.push_back(json::quoted(record.path) + " stands with two digests or sizes");
    }
  }
}

/// What one record says of another.
void check_references(const Manifest& parsed, std::vector<std::string>& faults) {
  find_twice("variants", parsed.variants, [](const Variant& one) { return one.id; }, faults);
  find_twice("engines", parsed.engines, [](const Engine& one) { return one.id; }, faults);
  find_twice("outputs", parsed.outputs, [](const Output& one) { return one.name; }, faults);
  if (parsed.outputs.empty()) faults.emplace_back("outputs is empty");
  if (parsed.variants.empty()) faults.emplace_back("variants is empty");
  for (const auto& one : parsed.engines) {
    if (parsed.variant(one.variant) == nullptr) {
      faults.push_back("engines: " + json::quoted(one.id) + " is of the variant " + json::quoted(one.variant) +
                       ", which is not in variants");
    }
  }
  for (const auto& one : parsed.variants) check_variant(one, parsed, faults);
  const auto& rules = parsed.preprocessing;
  const auto channels = parsed.input.channels();
  const std::string count = std::to_string(channels);
  if (channels != (rules.color_order == "L" ? 1 : 3)) {
    faults.push_back("preprocessing.color_order " + rules.color_order + " does not give " + count + " channels");
  }
  for (const auto& [name, values] : {std::pair{"mean", &rules.mean}, std::pair{"std", &rules.std}}) {
    if (values->size() != static_cast<std::size_t>(channels)) {
      faults.push_back(std::string("preprocessing.") + name + " has " + std::to_string(values->size()) +
                       " items, and the input has " + count + " channels");
    }
  }
  if (rules.in_graph != (parsed.input.dtype == "uint8")) {
    faults.push_back("preprocessing.in_graph does not fit an input of dtype " + parsed.input.dtype);
  }
  check_files(parsed, faults);
}

/// SHA-256 of the file's bytes with the digits of its own `sha256` line replaced by zeros.
std::string own_digest(std::string data) {
  static const std::string begin = "  \"sha256\": \"";
  for (std::size_t at = 0; at != std::string::npos && at < data.size();) {
    const std::size_t digits = at + begin.size(), close = digits + 64;
    if (data.compare(at, begin.size(), begin) == 0 && close < data.size() && data[close] == '"' &&
        is_digest(data.substr(digits, 64))) {
      const std::size_t rest = close + 1 + (close + 1 < data.size() && data[close + 1] == ',' ? 1 : 0);
      if (rest == data.size() || data[rest] == '\n') {
        data.replace(digits, 64, 64, '0');
        break;
      }
    }
    at = data.find('\n', at);
    if (at != std::string::npos) ++at;
  }
  return sha256_of(data);
}

}  // namespace

const Engine* Manifest::engine(const std::string& id) const {
  for (const auto& one : engines) {
    if (one.id == id) return &one;
  }
  return nullptr;
}

const Variant* Manifest::variant(const std::string& id) const {
  for (const auto& one : variants) {
    if (one.id == id) return &one;
  }
  return nullptr;
}

Manifest Manifest::from_bytes(const std::string& data, const std::string& name) {
  json::Value value;
  try {
    value = json::parse(data);
  } catch (const json::Fault& fault) {
    throw Error(ErrorKind::manifest, name + " is not valid: " + fault.what());
  }
  if (value.kind != json::Value::Kind::object) {
    throw Error(ErrorKind::manifest,
                name + " is not valid: it holds a JSON " + json::kind_of(value) + ", not an object");
  }
  const json::Value* found = value.find("schema");
  if (found == nullptr || found->kind != json::Value::Kind::string || found->string != known_schema) {
    throw Error(ErrorKind::manifest, name + " has the schema " + json::shortened(found ? *found : json::Value{}) +
                                         ", and this version reads '" + known_schema +
                                         "': install the resnet-export version that wrote it, or export the model "
                                         "again");
  }
  std::vector<std::string> faults;
  Fields fields(value, "", faults);
  Manifest parsed = manifest(fields);
  if (faults.empty()) check_references(parsed, faults);
  if (!faults.empty()) {
    const std::string count = faults.size() == 1 ? "one fault" : std::to_string(faults.size()) + " faults";
    std::vector<std::string> others(faults.begin() + 1,
                                    faults.begin() + static_cast<std::ptrdiff_t>(std::min(faults.size(), max_faults)));
    if (faults.size() > max_faults) others.push_back("and " + std::to_string(faults.size() - max_faults) + " more");
    throw Error(ErrorKind::manifest, name + " is not valid, with " + count + ": " + faults[0], others);
  }
  if (value.find("sha256")->string != own_digest(data)) {
    throw Error(ErrorKind::manifest,
                name + " does not match its own SHA-256: it was changed after it was written; copy the bundle again");
  }
  return parsed;
}

}  // namespace resnet
