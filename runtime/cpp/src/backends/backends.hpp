// The backends that are compiled in.
#pragma once

#include <memory>
#include <set>
#include <string>

#include "../selection.hpp"
#include "resnet_runtime/backend.hpp"
#include "resnet_runtime/bundle.hpp"
#include "resnet_runtime/session.hpp"

namespace resnet {

#ifdef RESNET_WITH_OPENVINO
namespace openvino {
/// Of the precisions that a bundle has.
BackendFacts facts(const std::set<std::string>& wanted);
std::unique_ptr<Backend> open(const Bundle& bundle, const Variant& variant, const Options& options);
}  // namespace openvino
#endif

#ifdef RESNET_WITH_TENSORRT
namespace tensorrt {
/// Of the precisions that a bundle has.
BackendFacts facts(const std::set<std::string>& wanted);
std::unique_ptr<Backend> open(const Bundle& bundle, const Engine& engine);
}  // namespace tensorrt
#endif

}  // namespace resnet
