#include "loading.hpp"

#include <algorithm>
#include <map>
#include <optional>

#include "check.hpp"
#include "words.hpp"

namespace resnet {

namespace {

/// Throws Error (check) where the engine answers wrongly.
void refuse_wrong(const Session& session, const Engine& engine, const EngineHost& host) {
  const Variant& variant = *session.bundle().manifest().variant(engine.variant);
  const Limits& limits = variant.gate.limits;
  const auto found = faults(parity_of(session, tie_of(limits)), limits);
  if (found.empty()) return;
  throw Error(ErrorKind::check, "the engine " + engine.id + " does not compute on " + verified_name(host) +
                                    " what the model computed: " + joined(found) + "; build one here with " +
                                    build_command(variant.precision));
}

/// What a fault of the engine's own is: nobody has promised that it runs here.
bool is_of_the_engine(ErrorKind kind) {
  return kind == ErrorKind::backend || kind == ErrorKind::check || kind == ErrorKind::unavailable;
}

}  // namespace

Session session_from_bundle(const Bundle& bundle, const std::vector<BackendFacts>& host, const Options& options,
                            const Opener& opener) {
  bundle.labels();  // whether they can be read, before anything that takes time
  std::map<std::string, std::string> refused;
  std::optional<Error> first;
  for (;;) {
    Choice choice;
    try {
      choice = choose(bundle.manifest(), host, options, refused);
    } catch (const Error& error) {
      if (first && error.kind() == ErrorKind::unavailable) throw Error(*first);
      throw;
    }
    if (!choice.engine) return {bundle, opener(bundle, choice, options), choice};
    const Engine& engine = *bundle.manifest().engine(*choice.engine);
    const auto& facts = *std::find_if(host.begin(), host.end(), [&](const BackendFacts& one) {
      return one.name == choice.backend;
    });
    const bool known = is_verified(engine, *facts.engines_on);
    try {
      Session session(bundle, opener(bundle, choice, options), choice);
      if (!known) refuse_wrong(session, engine, *facts.engines_on);
      return session;
    } catch (const Error& error) {
      if (known || !is_of_the_engine(error.kind())) throw;
      refused[engine.id] = error.what();
      if (!first) first = error;
    }
  }
}

}  // namespace resnet
