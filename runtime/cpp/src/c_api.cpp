#include "resnet_runtime/c_api.h"

#include <cstring>
#include <new>

#include "resnet_runtime/preprocess.hpp"
#include "resnet_runtime/session.hpp"

struct resnet_session {
  resnet::Session session;
};

struct resnet_error {
  std::string message;
  const char* kind;
};

namespace {

/// What there is to return where not even an error can be made; it is never freed.
resnet_error no_memory{"out of memory", "BackendError"};

resnet_error* error_of(const char* message, const char* kind, const std::vector<std::string>& details = {}) noexcept {
  try {
    std::string text = message;
    for (const auto& detail : details) text += "\n  " + detail;
    return new resnet_error{text, kind};
  } catch (...) {
    return &no_memory;
  }
}

template <typename Call>
resnet_error* guarded(Call call) noexcept {
  try {
    call();
    return nullptr;
  } catch (const resnet::Error& error) {
    return error_of(error.what(), resnet::name_of(error.kind()), error.details());
  } catch (const std::bad_alloc&) {
    return &no_memory;
  } catch (const std::exception& error) {
    return error_of(error.what(), "BackendError");
  } catch (...) {
    return error_of("something was thrown that is no exception", "BackendError");
  }
}

std::string text_or(const char* text, const char* otherwise) {
  return text == nullptr || *text == '\0' ? otherwise : text;
}

resnet_tensor_info info_of(const resnet::TensorSpec& spec) {
  return {spec.name.c_str(), spec.type == resnet::DataType::float32 ? 0 : 1, spec.shape.size(), spec.shape.data(),
          spec.elements()};
}

}  // namespace

const char* resnet_version() { return resnet::version(); }

resnet_error* resnet_session_load(const char* path, const resnet_options* options, resnet_session** session) {
  return guarded([&] {
    if (path == nullptr || session == nullptr) {
      throw resnet::Error(resnet::ErrorKind::input, "the path or the place for the session is NULL");
    }
    *session = nullptr;
    resnet::Options chosen;
    if (options != nullptr) {
      chosen.backend = text_or(options->backend, "auto");
      chosen.precision = text_or(options->precision, "auto");
      chosen.intent = text_or(options->intent, "latency");
      chosen.threads = options->threads;
    }
    *session = new resnet_session{resnet::Session::load(path, chosen)};
  });
}

void resnet_session_free(resnet_session* session) { delete session; }

const char* resnet_session_description(const resnet_session* session) {
  try {
    return session->session.description().c_str();
  } catch (const std::exception&) {
    return "a session of another process";
  }
}

resnet_tensor_info resnet_session_input(const resnet_session* session) {
  return info_of(session->session.signature().input);
}

size_t resnet_session_output_count(const resnet_session* session) {
  return session->session.signature().outputs.size();
}

resnet_tensor_info resnet_session_output(const resnet_session* session, size_t index) {
  const auto& outputs = session->session.signature().outputs;
  return index < outputs.size() ? info_of(outputs[index]) : resnet_tensor_info{};
}

const char* resnet_session_label(const resnet_session* session, size_t index) {
  const auto& labels = session->session.labels();
  return labels && index < labels->size() ? (*labels)[index].c_str() : nullptr;
}

resnet_error* resnet_session_infer(const resnet_session* session, const void* batch, int64_t count,
                                   float* const* outputs) {
  return guarded([&] {
    if (session == nullptr || outputs == nullptr) {
      throw resnet::Error(resnet::ErrorKind::input, "the session or the list of outputs is NULL");
    }
    const resnet::Signature& signature = session->session.signature();
    resnet::TensorView view;
    view.data = batch;
    view.type = signature.input.type;
    view.shape = {count};
    view.shape.insert(view.shape.end(), signature.input.shape.begin(), signature.input.shape.end());
    session->session.infer_into(view, outputs, signature.outputs.size());
  });
}

resnet_error* resnet_session_preprocess(const resnet_session* session, const char* const* paths, size_t count,
                                        void* batch) {
  return guarded([&] {
    if (session == nullptr || paths == nullptr || batch == nullptr) {
      throw resnet::Error(resnet::ErrorKind::input, "the session, the paths or the place for the batch is NULL");
    }
    const resnet::Manifest& manifest = session->session.bundle().manifest();
    const std::vector<std::string> names(paths, paths + count);
    const resnet::ImageBatch made = resnet::batch_from_files(names, manifest.preprocessing, manifest.input);
    const bool floats = made.type == resnet::DataType::float32;
    if (count != 0) std::memcpy(batch, made.view().data, floats ? made.floats.size() * 4 : made.bytes.size());
  });
}

const char* resnet_error_message(const resnet_error* error) { return error->message.c_str(); }
const char* resnet_error_kind(const resnet_error* error) { return error->kind; }
void resnet_error_free(resnet_error* error) {
  if (error != &no_memory) delete error;
}
