// SPDX-License-Identifier: Apache-2.0
#include "runtime/engine_file.h"

#include <filesystem>
#include <fstream>
#include <iterator>

#include "runtime/error.h"
#include "runtime/sha256.h"

namespace deeplab::runtime {
namespace {

constexpr int64_t kSchemaVersion = 1;

std::string read_file(const std::string& path, const char* hint) {
  std::ifstream stream(path, std::ios::binary);
  std::string data{std::istreambuf_iterator<char>(stream), {}};
  require(stream.is_open() && !stream.bad(), DEEPLAB_MODEL_FILE, path, ": cannot be read", hint);
  return data;
}

// A name of a file beside the engine, not a way out of its folder.
std::filesystem::path beside(const std::string& path, const std::string& name) {
  require(!name.empty() && std::filesystem::path(name).filename() == name, DEEPLAB_MODEL_FILE, "it names '", name,
          "', which is not a file beside it");
  return std::filesystem::path(path).parent_path() / name;
}

EngineFile engine_of(const std::string& path, const Json& values) {
  const double version = values["schema_version"].as_number("schema_version");
  require(version == kSchemaVersion, DEEPLAB_MODEL_FILE, "it has version ", version, ", this deeplab runtime reads ",
          "version ", kSchemaVersion);
  EngineFile engine{};
  engine.manifest = manifest_of(values["manifest"]);
  engine.flavour = values["flavour"].as_string("flavour");
  require(values["weights"].as_string("weights") == "inside", DEEPLAB_MODEL_FILE,
          "it has no weights, which only Python's runtime puts back; build it with its weights");
  for (const Json& profile : values["profiles"].as_array("profiles")) {
    engine.profiles.push_back({range_of(profile, "batch"), range_of(profile, "height"), range_of(profile, "width")});
  }
  for (const Json& name : values["plugins"].as_array("plugins")) {
    engine.plugins.push_back(beside(path, name.as_string("plugins")).string());
  }
  return engine;
}

}  // namespace

EngineFile read_engine_file(const std::string& path) {
  const std::string text = read_file(path + ".json", "; copy an engine together with its .json");
  try {
    const Json values = Json::parse(text);
    EngineFile engine = engine_of(path, values);
    engine.plan = read_file(path, "");
    require(sha256_hex(engine.plan) == values["plan_sha256"].as_string("plan_sha256"), DEEPLAB_MODEL_FILE,
            "it describes another engine (truncated, or replaced)");
    return engine;
  } catch (const StatusError& error) {
    throw StatusError(error.status(), message(path, ".json: the engine's manifest cannot be used: ", error.what(),
                                              "; build the engine again"));
  }
}

}  // namespace deeplab::runtime
