// From a bundle to a session: which backend and variant, and whether an engine that nobody tried answers rightly.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "resnet_runtime/session.hpp"
#include "selection.hpp"

namespace resnet {

/// Opens what was chosen. Throws Error (bundle, backend, unavailable).
using Opener = std::function<std::unique_ptr<Backend>(const Bundle&, const Choice&, const Options&)>;

/// As `Session::load`, from a bundle that is open, with the facts of the backends to choose from and what opens them.
/// An engine that was never verified on such a device answers check.npz first; where it fails, the next best is taken.
Session session_from_bundle(const Bundle& bundle, const std::vector<BackendFacts>& host, const Options& options,
                            const Opener& opener);

}  // namespace resnet
