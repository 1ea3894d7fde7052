// A session's answers to check.npz, and eager's.
#pragma once

#include <string>
#include <vector>

#include "parity.hpp"
#include "resnet_runtime/session.hpp"

namespace resnet {

/// What the session does with the bundle's own inputs. Throws Error (bundle, backend).
/// @param tie  as `parity_of` takes it
Parity parity_of(const Session& session, double tie);

}  // namespace resnet
