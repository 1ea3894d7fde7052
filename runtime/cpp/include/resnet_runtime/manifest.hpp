// What a bundle says of itself: the records of manifest.json. Parsed means valid.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace resnet {

struct FileRecord {
  std::string path;
  std::string sha256;
  std::int64_t size = 0;

  bool operator==(const FileRecord& other) const {
    return path == other.path && sha256 == other.sha256 && size == other.size;
  }
};

struct Source {
  std::string name;
  std::string sha256;
  std::int64_t size = 0;
};

struct Assumption {
  std::string subject, value, option;
};

struct Model {
  std::string architecture;
  std::int64_t parameters = 0;
  Source source;
  std::string traced_by;
  std::vector<Assumption> assumptions;
};

struct Batch {
  std::int64_t smallest = 1, optimal = 1, largest = 1;
};

struct Input {
  std::string name, layout, dtype;
  std::vector<std::int64_t> shape;  ///< without the batch axis: (C, H, W) of NCHW, (H, W, C) of NHWC
  Batch batch;

  std::int64_t channels() const { return layout == "NCHW" ? shape[0] : shape[2]; }
  std::int64_t height() const { return layout == "NCHW" ? shape[1] : shape[0]; }
  std::int64_t width() const { return layout == "NCHW" ? shape[2] : shape[1]; }
};

struct Output {
  std::string name;
  std::vector<std::int64_t> shape;  ///< without the batch axis
};

struct Resize {
  std::string mode;
  std::vector<std::int64_t> size;
  std::string interpolation;
  bool antialias = true;
};

struct Preprocessing {
  std::string exif, alpha, color_order;
  std::optional<Resize> resize;
  std::optional<std::vector<std::int64_t>> crop;
  double scale = 1;
  std::vector<double> mean, std;
  bool in_graph = false;
};

struct Limits {
  std::optional<double> max_error, mean_error, centred_cosine, top1_agreement;
};

struct Parity {
  std::int64_t samples = 1, undecided = 0;
  double max_error = 0, mean_error = 0, centred_cosine = 0, snr_db = 0, top1_agreement = 0, top5_agreement = 0;
};

struct Accuracy {
  std::int64_t samples = 1;
  bool labelled = false;
  double eager = 0, measured = 0;
  std::optional<double> max_drop;
};

struct Gate {
  bool passed = false;
  std::string executor;
  bool emulated = false;
  Limits limits;
  Parity parity;
  std::optional<Accuracy> accuracy;
};

struct KeptLayer {
  std::string node, precision, reason;
};

struct Speed {
  std::string backend, against;
  double ratio = 0;
  std::int64_t batch = 1;
  std::string instructions;
};

struct Variant {
  std::string id, precision;
  std::optional<std::string> scheme;
  FileRecord file;
  Gate gate;
  std::vector<KeptLayer> kept_higher;
  std::vector<Speed> speeds;
};

struct Engine {
  std::string id, variant;
  FileRecord file;
  std::string builder, builder_version, platform;
  std::optional<std::string> gpu;
  std::vector<std::string> compute_capabilities;
  std::string compatibility;
  std::vector<Batch> profiles;
  std::optional<std::string> verified_on;
};

struct Manifest {
  std::string schema;
  std::map<std::string, std::string> tools;
  Model model;
  Input input;
  std::vector<Output> outputs;
  Preprocessing preprocessing;
  std::vector<Variant> variants;
  std::vector<Engine> engines;
  FileRecord check, report;
  std::optional<FileRecord> labels, calibration;

  /// The variant of that id, or null.
  const Variant* variant(const std::string& id) const;

  /// The engine of that id, or null.
  const Engine* engine(const std::string& id) const;

  /// Parse and validate. Throws Error (manifest) with the first fault in the sentence and the others in its details.
  static Manifest from_bytes(const std::string& data, const std::string& name = "manifest.json");
};

}  // namespace resnet
