#include "check.hpp"

#include <new>

#include "npz.hpp"
#include "words.hpp"

namespace resnet {

namespace {

struct CheckData {
  npz::Array inputs;
  std::vector<Answers> outputs;

  std::int64_t samples() const { return inputs.shape.front(); }
};

/// Whether the array is (N, ...) of those axes, N being at least 1.
bool holds(const npz::Array& array, const std::vector<std::int64_t>& axes) {
  return !array.shape.empty() && array.shape.front() > 0 &&
         std::vector<std::int64_t>(array.shape.begin() + 1, array.shape.end()) == axes;
}

CheckData check_data(const Bundle& bundle) {
  const Manifest& manifest = bundle.manifest();
  const std::string& path = manifest.check.path;
  const std::string data = bundle.read(manifest.check);
  CheckData made;
  try {
    made.inputs = npz::array_from_npz(data, "input");
    if (!holds(made.inputs, manifest.input.shape) || made.inputs.type != manifest.input.dtype) {
      throw Error(ErrorKind::bundle, bundle.path() + ": the inputs in " + path + " are " + shape_text(made.inputs.shape) +
                                         " " + made.inputs.type + ", which does not fit the manifest's input");
    }
    for (const auto& output : manifest.outputs) {
      const npz::Array answers = npz::array_from_npz(data, "output." + output.name);
      if (!holds(answers, output.shape) || answers.shape.front() != made.samples()) {
        throw Error(ErrorKind::bundle,
                    bundle.path() + ": output." + output.name + " in " + path + " does not fit its inputs");
      }
      made.outputs.push_back({static_cast<std::size_t>(made.samples()), answers.doubles()});
    }
  } catch (const npz::Fault& fault) {
    throw Error(ErrorKind::bundle, bundle.path() + ": " + path + " cannot be read: " + fault.what());
  } catch (const std::bad_alloc&) {  // the file says how much it would take
    throw Error(ErrorKind::bundle, bundle.path() + ": " + path + " cannot be read: it does not fit into memory");
  }
  return made;
}

}  // namespace

Parity parity_of(const Session& session, double tie) {
  const CheckData data = check_data(session.bundle());
  const TensorSpec& input = session.signature().input;
  TensorView view;
  view.data = data.inputs.bytes.data();
  view.type = input.type;
  view.shape = data.inputs.shape;
  const Outputs outputs = session.infer(view);
  std::vector<Answers> actual;
  for (const auto& spec : session.signature().outputs) {
    const auto& values = outputs.at(spec.name).values;
    actual.push_back({static_cast<std::size_t>(data.samples()), {values.begin(), values.end()}});
  }
  return parity_of(data.outputs, actual, tie);
}

}  // namespace resnet
